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

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_STATE_UNSPECIFIED: _ClassVar[TaskState]
    TASK_STATE_QUEUED: _ClassVar[TaskState]
    TASK_STATE_RUNNING: _ClassVar[TaskState]
    TASK_STATE_WAITING: _ClassVar[TaskState]
    TASK_STATE_DONE: _ClassVar[TaskState]
    TASK_STATE_FAILED: _ClassVar[TaskState]
    TASK_STATE_CANCELLED: _ClassVar[TaskState]
ORIGIN_UNSPECIFIED: Origin
ORIGIN_MODEL: Origin
ORIGIN_DEFAULT_PARTIAL: Origin
ORIGIN_FALLBACK_MODEL: Origin
TASK_STATE_UNSPECIFIED: TaskState
TASK_STATE_QUEUED: TaskState
TASK_STATE_RUNNING: TaskState
TASK_STATE_WAITING: TaskState
TASK_STATE_DONE: TaskState
TASK_STATE_FAILED: TaskState
TASK_STATE_CANCELLED: TaskState

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

class UploadChunk(_message.Message):
    __slots__ = ("protocol_version", "request_id", "table")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    table: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., table: _Optional[bytes] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ("request_id", "upload_id", "rows", "duplicates", "invalid")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    INVALID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    upload_id: str
    rows: int
    duplicates: int
    invalid: int
    def __init__(self, request_id: _Optional[str] = ..., upload_id: _Optional[str] = ..., rows: _Optional[int] = ..., duplicates: _Optional[int] = ..., invalid: _Optional[int] = ...) -> None: ...

class SubmitTaskRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "model_id", "mode", "upload_id", "standing", "table", "idempotency_key", "note", "rank_by")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    RANK_BY_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    model_id: str
    mode: _common_pb2.Mode
    upload_id: str
    standing: StandingPopulation
    table: str
    idempotency_key: str
    note: str
    rank_by: RankBy
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., model_id: _Optional[str] = ..., mode: _Optional[_Union[_common_pb2.Mode, str]] = ..., upload_id: _Optional[str] = ..., standing: _Optional[_Union[StandingPopulation, _Mapping]] = ..., table: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., note: _Optional[str] = ..., rank_by: _Optional[_Union[RankBy, _Mapping]] = ...) -> None: ...

class RankBy(_message.Message):
    __slots__ = ("output", "top")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    output: str
    top: int
    def __init__(self, output: _Optional[str] = ..., top: _Optional[int] = ...) -> None: ...

class StandingPopulation(_message.Message):
    __slots__ = ("population", "version")
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    population: str
    version: int
    def __init__(self, population: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetTaskRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "task_id")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    task_id: str
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., task_id: _Optional[str] = ...) -> None: ...

class TaskHistory(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[TaskEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[TaskEvent, _Mapping]]] = ...) -> None: ...

class TaskEvent(_message.Message):
    __slots__ = ("at_us", "what", "detail")
    AT_US_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    at_us: int
    what: str
    detail: str
    def __init__(self, at_us: _Optional[int] = ..., what: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("protocol_version", "model_id", "limit")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    model_id: str
    limit: int
    def __init__(self, protocol_version: _Optional[int] = ..., model_id: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListTasksReply(_message.Message):
    __slots__ = ("tasks",)
    TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    def __init__(self, tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("task_id", "model_id", "manifest_sha256", "mode", "state", "problem", "note", "population", "n_buckets", "buckets_done", "rows", "ids", "ids_done", "scored", "duplicates", "invalid", "statuses", "parties", "ids_per_s", "remaining_s", "submitted_us", "started_us", "finished_us", "classes", "histograms", "warnings", "submitted_by", "rank_by", "combined_by", "combined_why", "buckets_gathered")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    N_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_DONE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    IDS_DONE_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    INVALID_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    IDS_PER_S_FIELD_NUMBER: _ClassVar[int]
    REMAINING_S_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_US_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    FINISHED_US_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAMS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_BY_FIELD_NUMBER: _ClassVar[int]
    RANK_BY_FIELD_NUMBER: _ClassVar[int]
    COMBINED_BY_FIELD_NUMBER: _ClassVar[int]
    COMBINED_WHY_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_GATHERED_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    model_id: str
    manifest_sha256: bytes
    mode: _common_pb2.Mode
    state: TaskState
    problem: str
    note: str
    population: str
    n_buckets: int
    buckets_done: int
    rows: int
    ids: int
    ids_done: int
    scored: int
    duplicates: int
    invalid: int
    statuses: _containers.RepeatedCompositeFieldContainer[StatusCount]
    parties: _containers.RepeatedCompositeFieldContainer[TaskParty]
    ids_per_s: float
    remaining_s: float
    submitted_us: int
    started_us: int
    finished_us: int
    classes: _containers.RepeatedScalarFieldContainer[str]
    histograms: _containers.RepeatedCompositeFieldContainer[Histogram]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    submitted_by: str
    rank_by: RankBy
    combined_by: str
    combined_why: str
    buckets_gathered: int
    def __init__(self, task_id: _Optional[str] = ..., model_id: _Optional[str] = ..., manifest_sha256: _Optional[bytes] = ..., mode: _Optional[_Union[_common_pb2.Mode, str]] = ..., state: _Optional[_Union[TaskState, str]] = ..., problem: _Optional[str] = ..., note: _Optional[str] = ..., population: _Optional[str] = ..., n_buckets: _Optional[int] = ..., buckets_done: _Optional[int] = ..., rows: _Optional[int] = ..., ids: _Optional[int] = ..., ids_done: _Optional[int] = ..., scored: _Optional[int] = ..., duplicates: _Optional[int] = ..., invalid: _Optional[int] = ..., statuses: _Optional[_Iterable[_Union[StatusCount, _Mapping]]] = ..., parties: _Optional[_Iterable[_Union[TaskParty, _Mapping]]] = ..., ids_per_s: _Optional[float] = ..., remaining_s: _Optional[float] = ..., submitted_us: _Optional[int] = ..., started_us: _Optional[int] = ..., finished_us: _Optional[int] = ..., classes: _Optional[_Iterable[str]] = ..., histograms: _Optional[_Iterable[_Union[Histogram, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., submitted_by: _Optional[str] = ..., rank_by: _Optional[_Union[RankBy, _Mapping]] = ..., combined_by: _Optional[str] = ..., combined_why: _Optional[str] = ..., buckets_gathered: _Optional[int] = ...) -> None: ...

class StatusCount(_message.Message):
    __slots__ = ("status", "count")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.SampleStatus
    count: int
    def __init__(self, status: _Optional[_Union[_common_pb2.SampleStatus, str]] = ..., count: _Optional[int] = ...) -> None: ...

class TaskParty(_message.Message):
    __slots__ = ("party", "statuses", "buckets_done", "problem", "oldest_event_time_us", "sources")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_DONE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    OLDEST_EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    party: str
    statuses: _containers.RepeatedCompositeFieldContainer[StatusCount]
    buckets_done: int
    problem: str
    oldest_event_time_us: int
    sources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, party: _Optional[str] = ..., statuses: _Optional[_Iterable[_Union[StatusCount, _Mapping]]] = ..., buckets_done: _Optional[int] = ..., problem: _Optional[str] = ..., oldest_event_time_us: _Optional[int] = ..., sources: _Optional[_Iterable[str]] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("output", "first", "width", "counts", "stability")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    output: int
    first: float
    width: float
    counts: _containers.RepeatedScalarFieldContainer[int]
    stability: float
    def __init__(self, output: _Optional[int] = ..., first: _Optional[float] = ..., width: _Optional[float] = ..., counts: _Optional[_Iterable[int]] = ..., stability: _Optional[float] = ...) -> None: ...

class FetchResultsRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "task_id", "offset", "top", "with_rank")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    WITH_RANK_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    task_id: str
    offset: int
    top: int
    with_rank: bool
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., task_id: _Optional[str] = ..., offset: _Optional[int] = ..., top: _Optional[int] = ..., with_rank: _Optional[bool] = ...) -> None: ...

class ResultBatch(_message.Message):
    __slots__ = ("offset", "table", "last")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    offset: int
    table: bytes
    last: bool
    def __init__(self, offset: _Optional[int] = ..., table: _Optional[bytes] = ..., last: _Optional[bool] = ...) -> None: ...
