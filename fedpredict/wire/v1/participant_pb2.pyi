from fedpredict.wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PopulationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POPULATION_STATE_UNSPECIFIED: _ClassVar[PopulationState]
    POPULATION_STATE_RECEIVING: _ClassVar[PopulationState]
    POPULATION_STATE_PROPOSED: _ClassVar[PopulationState]
    POPULATION_STATE_ACCEPTED: _ClassVar[PopulationState]
    POPULATION_STATE_REVOKED: _ClassVar[PopulationState]
POPULATION_STATE_UNSPECIFIED: PopulationState
POPULATION_STATE_RECEIVING: PopulationState
POPULATION_STATE_PROPOSED: PopulationState
POPULATION_STATE_ACCEPTED: PopulationState
POPULATION_STATE_REVOKED: PopulationState

class HelloRequest(_message.Message):
    __slots__ = ("protocol_version", "nonce", "instance", "worker", "workers", "wants_offline_link", "certificate_chain", "signature")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    WANTS_OFFLINE_LINK_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    nonce: bytes
    instance: str
    worker: int
    workers: int
    wants_offline_link: bool
    certificate_chain: bytes
    signature: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., nonce: _Optional[bytes] = ..., instance: _Optional[str] = ..., worker: _Optional[int] = ..., workers: _Optional[int] = ..., wants_offline_link: _Optional[bool] = ..., certificate_chain: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("protocol_version", "capabilities", "party", "instance", "worker", "workers", "certificate_chain", "signature", "link_port", "for_offline")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    LINK_PORT_FIELD_NUMBER: _ClassVar[int]
    FOR_OFFLINE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    party: str
    instance: str
    worker: int
    workers: int
    certificate_chain: bytes
    signature: bytes
    link_port: int
    for_offline: bool
    def __init__(self, protocol_version: _Optional[int] = ..., capabilities: _Optional[_Iterable[str]] = ..., party: _Optional[str] = ..., instance: _Optional[str] = ..., worker: _Optional[int] = ..., workers: _Optional[int] = ..., certificate_chain: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., link_port: _Optional[int] = ..., for_offline: _Optional[bool] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "model_id", "checkpoints")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    model_id: str
    checkpoints: _containers.RepeatedCompositeFieldContainer[_common_pb2.AuditCheckpoint]
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., model_id: _Optional[str] = ..., checkpoints: _Optional[_Iterable[_Union[_common_pb2.AuditCheckpoint, _Mapping]]] = ...) -> None: ...

class DescribeModelReply(_message.Message):
    __slots__ = ("request_id", "party", "model_id", "params_sha256", "training_run", "kind", "classes", "n_scores", "holds_intercept", "fit_intercept", "max_samples", "link", "linked_kind", "combination", "checkpoints")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMS_SHA256_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    N_SCORES_FIELD_NUMBER: _ClassVar[int]
    HOLDS_INTERCEPT_FIELD_NUMBER: _ClassVar[int]
    FIT_INTERCEPT_FIELD_NUMBER: _ClassVar[int]
    MAX_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    LINKED_KIND_FIELD_NUMBER: _ClassVar[int]
    COMBINATION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    party: str
    model_id: str
    params_sha256: bytes
    training_run: str
    kind: _common_pb2.Kind
    classes: _containers.RepeatedScalarFieldContainer[str]
    n_scores: int
    holds_intercept: bool
    fit_intercept: bool
    max_samples: int
    link: str
    linked_kind: _common_pb2.Kind
    combination: Combination
    checkpoints: _containers.RepeatedCompositeFieldContainer[_common_pb2.AuditCheckpoint]
    def __init__(self, request_id: _Optional[str] = ..., party: _Optional[str] = ..., model_id: _Optional[str] = ..., params_sha256: _Optional[bytes] = ..., training_run: _Optional[str] = ..., kind: _Optional[_Union[_common_pb2.Kind, str]] = ..., classes: _Optional[_Iterable[str]] = ..., n_scores: _Optional[int] = ..., holds_intercept: _Optional[bool] = ..., fit_intercept: _Optional[bool] = ..., max_samples: _Optional[int] = ..., link: _Optional[str] = ..., linked_kind: _Optional[_Union[_common_pb2.Kind, str]] = ..., combination: _Optional[_Union[Combination, _Mapping]] = ..., checkpoints: _Optional[_Iterable[_Union[_common_pb2.AuditCheckpoint, _Mapping]]] = ...) -> None: ...

class Combination(_message.Message):
    __slots__ = ("combining", "structure_sha256", "n_outputs", "kind", "link")
    COMBINING_FIELD_NUMBER: _ClassVar[int]
    STRUCTURE_SHA256_FIELD_NUMBER: _ClassVar[int]
    N_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    combining: str
    structure_sha256: bytes
    n_outputs: int
    kind: _common_pb2.Kind
    link: str
    def __init__(self, combining: _Optional[str] = ..., structure_sha256: _Optional[bytes] = ..., n_outputs: _Optional[int] = ..., kind: _Optional[_Union[_common_pb2.Kind, str]] = ..., link: _Optional[str] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "model_id", "manifest_sha256", "params_sha256", "epoch", "mode", "sample_ids", "remaining_ms", "segments", "traceparent", "further", "model_rows")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    PARAMS_SHA256_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    FURTHER_FIELD_NUMBER: _ClassVar[int]
    MODEL_ROWS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    model_id: str
    manifest_sha256: bytes
    params_sha256: bytes
    epoch: int
    mode: _common_pb2.Mode
    sample_ids: _common_pb2.SampleIds
    remaining_ms: int
    segments: bytes
    traceparent: str
    further: _containers.RepeatedCompositeFieldContainer[ModelRef]
    model_rows: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., model_id: _Optional[str] = ..., manifest_sha256: _Optional[bytes] = ..., params_sha256: _Optional[bytes] = ..., epoch: _Optional[int] = ..., mode: _Optional[_Union[_common_pb2.Mode, str]] = ..., sample_ids: _Optional[_Union[_common_pb2.SampleIds, _Mapping]] = ..., remaining_ms: _Optional[int] = ..., segments: _Optional[bytes] = ..., traceparent: _Optional[str] = ..., further: _Optional[_Iterable[_Union[ModelRef, _Mapping]]] = ..., model_rows: _Optional[bytes] = ...) -> None: ...

class ModelRef(_message.Message):
    __slots__ = ("model_id", "manifest_sha256", "params_sha256")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    PARAMS_SHA256_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    manifest_sha256: bytes
    params_sha256: bytes
    def __init__(self, model_id: _Optional[str] = ..., manifest_sha256: _Optional[bytes] = ..., params_sha256: _Optional[bytes] = ...) -> None: ...

class ScoreReply(_message.Message):
    __slots__ = ("request_id", "manifest_sha256", "status", "values", "masked", "oldest_event_time_us", "elapsed_s", "segment_event_times_us", "failures", "reasons")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_EVENT_TIMES_US_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    manifest_sha256: bytes
    status: bytes
    values: _common_pb2.Matrix
    masked: _common_pb2.MaskedWords
    oldest_event_time_us: int
    elapsed_s: float
    segment_event_times_us: bytes
    failures: _containers.RepeatedCompositeFieldContainer[ModelFailure]
    reasons: _common_pb2.ReasonCodes
    def __init__(self, request_id: _Optional[str] = ..., manifest_sha256: _Optional[bytes] = ..., status: _Optional[bytes] = ..., values: _Optional[_Union[_common_pb2.Matrix, _Mapping]] = ..., masked: _Optional[_Union[_common_pb2.MaskedWords, _Mapping]] = ..., oldest_event_time_us: _Optional[int] = ..., elapsed_s: _Optional[float] = ..., segment_event_times_us: _Optional[bytes] = ..., failures: _Optional[_Iterable[_Union[ModelFailure, _Mapping]]] = ..., reasons: _Optional[_Union[_common_pb2.ReasonCodes, _Mapping]] = ...) -> None: ...

class ModelFailure(_message.Message):
    __slots__ = ("place", "failure")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    place: int
    failure: _common_pb2.Failure
    def __init__(self, place: _Optional[int] = ..., failure: _Optional[_Union[_common_pb2.Failure, _Mapping]] = ...) -> None: ...

class BucketRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "task_id", "model_id", "manifest_sha256", "params_sha256", "epoch", "mode", "bucket", "n_buckets", "sample_ids", "population", "remaining_ms")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    PARAMS_SHA256_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    N_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    task_id: str
    model_id: str
    manifest_sha256: bytes
    params_sha256: bytes
    epoch: int
    mode: _common_pb2.Mode
    bucket: int
    n_buckets: int
    sample_ids: _common_pb2.SampleIds
    population: PopulationRows
    remaining_ms: int
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., task_id: _Optional[str] = ..., model_id: _Optional[str] = ..., manifest_sha256: _Optional[bytes] = ..., params_sha256: _Optional[bytes] = ..., epoch: _Optional[int] = ..., mode: _Optional[_Union[_common_pb2.Mode, str]] = ..., bucket: _Optional[int] = ..., n_buckets: _Optional[int] = ..., sample_ids: _Optional[_Union[_common_pb2.SampleIds, _Mapping]] = ..., population: _Optional[_Union[PopulationRows, _Mapping]] = ..., remaining_ms: _Optional[int] = ...) -> None: ...

class PopulationRows(_message.Message):
    __slots__ = ("population", "version", "bucket_sha256", "first", "rows")
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BUCKET_SHA256_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    population: str
    version: int
    bucket_sha256: bytes
    first: int
    rows: int
    def __init__(self, population: _Optional[str] = ..., version: _Optional[int] = ..., bucket_sha256: _Optional[bytes] = ..., first: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class BucketReply(_message.Message):
    __slots__ = ("request_id", "manifest_sha256", "ids_sha256", "rows", "status", "values", "masked", "oldest_event_time_us", "elapsed_s", "sources")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    IDS_SHA256_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    manifest_sha256: bytes
    ids_sha256: bytes
    rows: int
    status: bytes
    values: _common_pb2.Matrix
    masked: _common_pb2.MaskedWords
    oldest_event_time_us: int
    elapsed_s: float
    sources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., manifest_sha256: _Optional[bytes] = ..., ids_sha256: _Optional[bytes] = ..., rows: _Optional[int] = ..., status: _Optional[bytes] = ..., values: _Optional[_Union[_common_pb2.Matrix, _Mapping]] = ..., masked: _Optional[_Union[_common_pb2.MaskedWords, _Mapping]] = ..., oldest_event_time_us: _Optional[int] = ..., elapsed_s: _Optional[float] = ..., sources: _Optional[_Iterable[str]] = ...) -> None: ...

class PopulationRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "population", "version", "n_ids", "bucket_sha256s", "look")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    N_IDS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_SHA256S_FIELD_NUMBER: _ClassVar[int]
    LOOK_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    population: str
    version: int
    n_ids: int
    bucket_sha256s: bytes
    look: bool
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., population: _Optional[str] = ..., version: _Optional[int] = ..., n_ids: _Optional[int] = ..., bucket_sha256s: _Optional[bytes] = ..., look: _Optional[bool] = ...) -> None: ...

class PopulationReply(_message.Message):
    __slots__ = ("request_id", "state", "missing", "accepted_version")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    state: PopulationState
    missing: bytes
    accepted_version: int
    def __init__(self, request_id: _Optional[str] = ..., state: _Optional[_Union[PopulationState, str]] = ..., missing: _Optional[bytes] = ..., accepted_version: _Optional[int] = ...) -> None: ...

class PopulationBucket(_message.Message):
    __slots__ = ("protocol_version", "request_id", "population", "version", "bucket", "bucket_sha256", "sample_ids", "delta")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    BUCKET_SHA256_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    population: str
    version: int
    bucket: int
    bucket_sha256: bytes
    sample_ids: _common_pb2.SampleIds
    delta: PopulationDelta
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., population: _Optional[str] = ..., version: _Optional[int] = ..., bucket: _Optional[int] = ..., bucket_sha256: _Optional[bytes] = ..., sample_ids: _Optional[_Union[_common_pb2.SampleIds, _Mapping]] = ..., delta: _Optional[_Union[PopulationDelta, _Mapping]] = ...) -> None: ...

class PopulationDelta(_message.Message):
    __slots__ = ("base_sha256", "added", "removed")
    BASE_SHA256_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    base_sha256: bytes
    added: _common_pb2.SampleIds
    removed: _common_pb2.SampleIds
    def __init__(self, base_sha256: _Optional[bytes] = ..., added: _Optional[_Union[_common_pb2.SampleIds, _Mapping]] = ..., removed: _Optional[_Union[_common_pb2.SampleIds, _Mapping]] = ...) -> None: ...

class PopulationBucketReply(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...
