from fedpredict.wire.v1 import common_pb2 as _common_pb2
from fedpredict.wire.v1 import link_pb2 as _link_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Origin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORIGIN_UNSPECIFIED: _ClassVar[Origin]
    ORIGIN_MODEL: _ClassVar[Origin]
    ORIGIN_DEFAULT_PARTIAL: _ClassVar[Origin]
    ORIGIN_FALLBACK_MODEL: _ClassVar[Origin]
ORIGIN_UNSPECIFIED: Origin
ORIGIN_MODEL: Origin
ORIGIN_DEFAULT_PARTIAL: Origin
ORIGIN_FALLBACK_MODEL: Origin

class PredictRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "model_id", "mode", "sample_ids", "inputs")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    model_id: str
    mode: _common_pb2.Mode
    sample_ids: _common_pb2.SampleIds
    inputs: Inputs
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., model_id: _Optional[str] = ..., mode: _Optional[_Union[_common_pb2.Mode, str]] = ..., sample_ids: _Optional[_Union[_common_pb2.SampleIds, _Mapping]] = ..., inputs: _Optional[_Union[Inputs, _Mapping]] = ...) -> None: ...

class Inputs(_message.Message):
    __slots__ = ("names", "values", "texts")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    values: _common_pb2.Matrix
    texts: _containers.RepeatedCompositeFieldContainer[InputTexts]
    def __init__(self, names: _Optional[_Iterable[str]] = ..., values: _Optional[_Union[_common_pb2.Matrix, _Mapping]] = ..., texts: _Optional[_Iterable[_Union[InputTexts, _Mapping]]] = ...) -> None: ...

class InputTexts(_message.Message):
    __slots__ = ("name", "texts", "positions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    positions: bytes
    def __init__(self, name: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., positions: _Optional[bytes] = ...) -> None: ...

class PredictReply(_message.Message):
    __slots__ = ("request_id", "manifest_sha256", "status", "predictions", "origin", "classes", "parties", "simulated")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    manifest_sha256: bytes
    status: bytes
    predictions: _common_pb2.Matrix
    origin: bytes
    classes: _containers.RepeatedScalarFieldContainer[str]
    parties: _containers.RepeatedCompositeFieldContainer[PartyReport]
    simulated: bool
    def __init__(self, request_id: _Optional[str] = ..., manifest_sha256: _Optional[bytes] = ..., status: _Optional[bytes] = ..., predictions: _Optional[_Union[_common_pb2.Matrix, _Mapping]] = ..., origin: _Optional[bytes] = ..., classes: _Optional[_Iterable[str]] = ..., parties: _Optional[_Iterable[_Union[PartyReport, _Mapping]]] = ..., simulated: _Optional[bool] = ...) -> None: ...

class PredictCall(_message.Message):
    __slots__ = ("id", "remaining_ms", "predict", "arrow", "cancel", "traceparent", "more")
    ID_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    ARROW_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    id: int
    remaining_ms: int
    predict: PredictRequest
    arrow: ArrowRequest
    cancel: _link_pb2.Cancel
    traceparent: str
    more: _containers.RepeatedCompositeFieldContainer[PredictCall]
    def __init__(self, id: _Optional[int] = ..., remaining_ms: _Optional[int] = ..., predict: _Optional[_Union[PredictRequest, _Mapping]] = ..., arrow: _Optional[_Union[ArrowRequest, _Mapping]] = ..., cancel: _Optional[_Union[_link_pb2.Cancel, _Mapping]] = ..., traceparent: _Optional[str] = ..., more: _Optional[_Iterable[_Union[PredictCall, _Mapping]]] = ...) -> None: ...

class PredictAnswer(_message.Message):
    __slots__ = ("id", "reply", "arrow", "failure", "drain", "more")
    ID_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    ARROW_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    id: int
    reply: PredictReply
    arrow: ArrowReply
    failure: _common_pb2.Failure
    drain: _link_pb2.Drain
    more: _containers.RepeatedCompositeFieldContainer[PredictAnswer]
    def __init__(self, id: _Optional[int] = ..., reply: _Optional[_Union[PredictReply, _Mapping]] = ..., arrow: _Optional[_Union[ArrowReply, _Mapping]] = ..., failure: _Optional[_Union[_common_pb2.Failure, _Mapping]] = ..., drain: _Optional[_Union[_link_pb2.Drain, _Mapping]] = ..., more: _Optional[_Iterable[_Union[PredictAnswer, _Mapping]]] = ...) -> None: ...

class ArrowRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "model_id", "mode", "table")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    model_id: str
    mode: _common_pb2.Mode
    table: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., model_id: _Optional[str] = ..., mode: _Optional[_Union[_common_pb2.Mode, str]] = ..., table: _Optional[bytes] = ...) -> None: ...

class ArrowReply(_message.Message):
    __slots__ = ("request_id", "manifest_sha256", "table", "classes", "parties", "simulated")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    manifest_sha256: bytes
    table: bytes
    classes: _containers.RepeatedScalarFieldContainer[str]
    parties: _containers.RepeatedCompositeFieldContainer[PartyReport]
    simulated: bool
    def __init__(self, request_id: _Optional[str] = ..., manifest_sha256: _Optional[bytes] = ..., table: _Optional[bytes] = ..., classes: _Optional[_Iterable[str]] = ..., parties: _Optional[_Iterable[_Union[PartyReport, _Mapping]]] = ..., simulated: _Optional[bool] = ...) -> None: ...

class PartyReport(_message.Message):
    __slots__ = ("party", "status", "oldest_event_time_us", "round_trip_s", "elapsed_s", "problem", "reasons")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_S_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    party: str
    status: bytes
    oldest_event_time_us: int
    round_trip_s: float
    elapsed_s: float
    problem: str
    reasons: _common_pb2.ReasonCodes
    def __init__(self, party: _Optional[str] = ..., status: _Optional[bytes] = ..., oldest_event_time_us: _Optional[int] = ..., round_trip_s: _Optional[float] = ..., elapsed_s: _Optional[float] = ..., problem: _Optional[str] = ..., reasons: _Optional[_Union[_common_pb2.ReasonCodes, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("protocol_version",)
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    def __init__(self, protocol_version: _Optional[int] = ...) -> None: ...

class ListModelsReply(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("model_id", "ready", "problem", "kind", "classes", "parties", "manifest_sha256", "n_outputs", "link")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    N_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    ready: bool
    problem: str
    kind: _common_pb2.Kind
    classes: _containers.RepeatedScalarFieldContainer[str]
    parties: _containers.RepeatedScalarFieldContainer[str]
    manifest_sha256: bytes
    n_outputs: int
    link: str
    def __init__(self, model_id: _Optional[str] = ..., ready: _Optional[bool] = ..., problem: _Optional[str] = ..., kind: _Optional[_Union[_common_pb2.Kind, str]] = ..., classes: _Optional[_Iterable[str]] = ..., parties: _Optional[_Iterable[str]] = ..., manifest_sha256: _Optional[bytes] = ..., n_outputs: _Optional[int] = ..., link: _Optional[str] = ...) -> None: ...
