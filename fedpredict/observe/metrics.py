"""Every metric, declared once: name, kind, labels and meaning. docs/observe.md is checked against this list.

Labels have few values: a party, model, mode, edge or outcome, never a sample and never text that a caller chose. A
model that is not one of ours counts under `UNKNOWN`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

from fedpredict.errors import PartyTimeoutError, PartyUnavailableError
from fedpredict.public_status import Code, public_status

UNKNOWN: Final = "unknown"
"""Stands for every model and caller that is not in the settings or the warehouse."""

SEVERAL: Final = "(several)"
"""Stands for the models of a round, or of a sub-task, that is for more than one; no model id has such a character."""

Edge: TypeAlias = Literal["http", "grpc", "stream", "oip_http", "oip_grpc"]
Outcome: TypeAlias = Literal[
    "ok",
    "partial",
    "overloaded",
    "deadline",
    "cancelled",
    "invalid_argument",
    "not_found",
    "failed_precondition",
    "unavailable",
    "unauthenticated",
    "permission_denied",
    "unimplemented",
    "internal",
]
"""`ok`: every row has a number; `partial`: some have none; else why there is no answer."""
CallOutcome: TypeAlias = Literal["ok", "timeout", "unavailable", "refused"]

SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds of latency buckets: 0.1 ms to 10 s, closest where answers are expected."""
LONG: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0)
"""Upper bounds for what takes long."""
ROWS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 1e5)
REQUESTS_A_ROUND: Final = tuple(float(2**power) for power in range(11))
PAUSES: Final = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


class MetricKind(Enum):
    """How Prometheus reads a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One declaration.

    Attributes:
        name: As it stands on the page, `_total` of a counter included.
        kind: How it is read.
        labels: Names of its labels, in order.
        text: What it means, in one line.
        bounds: Upper bounds of the buckets of a histogram, rising; the last bucket takes the rest.
    """

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    text: str
    bounds: tuple[float, ...] = ()


def _counter(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(f"fedpredict_{name}_total", MetricKind.COUNTER, labels, text)


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(f"fedpredict_{name}", MetricKind.GAUGE, labels, text)


def _histogram(name: str, labels: tuple[str, ...], text: str, bounds: tuple[float, ...] = SECONDS) -> Metric:
    return Metric(f"fedpredict_{name}", MetricKind.HISTOGRAM, labels, text, bounds)


_REQUEST = ("edge", "model", "mode", "outcome")
_ROUND = ("model", "mode")
_VIEW = ("view", "view_version")

REQUEST_SECONDS = _histogram("request_seconds", _REQUEST, "Seconds from a request's arrival to its answer.")
REQUEST_ROWS = _counter("request_rows", _REQUEST, "Rows that requests asked for.")
OPEN_CONNECTIONS = _gauge("open_connections", ("edge",), "Connections that clients hold open.")
MODEL_READY = _gauge("model_ready", ("model",), "1 where the model can be answered in full, else 0.")
ROUND_SECONDS = _histogram("round_seconds", _ROUND, "Seconds from asking the parties to having combined.")
ROUND_ROWS = _histogram("round_rows", _ROUND, "Rows that travelled as one round.", ROWS)
ROUND_REQUESTS = _histogram("round_requests", _ROUND, "Requests that travelled as one round.", REQUESTS_A_ROUND)
MISFIT_ROWS = _counter(
    "misfit_rows", _ROUND, "Rows without a number because the parties' shares contradict each other."
)
ROUNDS_IN_FLIGHT = _gauge("rounds_in_flight", _ROUND, "Rounds under way.")
QUEUE_REQUESTS = _gauge("queue_requests", (), "Requests that wait for a round.")
QUEUE_ROWS = _gauge("queue_rows", (), "Rows of the requests that wait for a round.")
PARTY_SECONDS = _histogram("party_seconds", ("party", "outcome"), "Seconds that a party's share took, as asked here.")
PARTY_ELAPSED_SECONDS = _histogram("party_elapsed_seconds", ("party",), "Seconds that the party says it spent.")
PARTY_CONNECTED = _gauge("party_connected", ("party",), "1 while the party can be asked, else 0.")
PARTY_LINKS = _gauge("party_links", ("party", "carrier"), "Connections to the party, by what carries the calls.")
PARTY_OFFLINE_LINKS = _gauge(
    "party_offline_links",
    ("party", "carrier"),
    "Connections for offline tasks alone, by what carries the calls.",
)
PARTY_RECONNECTS = _counter("party_reconnects", ("party",), "Connections to the party that were made again.")
TASKS = _gauge("tasks", ("model", "state"), "Offline tasks in the state database, by state.")
TASKS_WAITING = _gauge("tasks_waiting", ("model", "party", "reason"), "Offline tasks that wait.")
TASK_WAITING_SECONDS = _gauge(
    "task_waiting_seconds", ("model", "party", "reason"), "Seconds that the task waiting longest has waited."
)
TASK_BUCKET_SECONDS = _histogram(
    "task_bucket_seconds", ("model",), "Seconds from reading a bucket's ids to its record, results stored.", LONG
)
TASK_PARTY_SECONDS = _histogram(
    "task_party_seconds", ("party", "outcome"), "Seconds that a party's share of a bucket took, as asked here.", LONG
)
TASK_ROWS = _counter(
    "task_rows", ("model", "party", "status"), "Rows that a party was asked for by tasks, by the status it gave."
)
UPLOADS = _counter("uploads", ("outcome",), "Lists of sample ids that were sent, by how that ended.")
UPLOAD_ROWS = _counter("upload_rows", (), "Rows of the lists that were taken.")
OPEN_UPLOADS = _gauge("open_uploads", (), "Lists of sample ids that are being sent.")
SCORE_SECONDS = _histogram("score_seconds", ("caller", "model", "outcome"), "Seconds that a share took here.")
SCORE_ROWS = _counter("score_rows", ("caller", "model", "status"), "Rows of shares, by the status of the row.")
BUCKET_SECONDS = _histogram(
    "bucket_seconds", ("caller", "model", "outcome"), "Seconds that a bucket of an offline task took here.", LONG
)
BUCKET_ROWS = _counter("bucket_rows", ("caller", "model", "status"), "Rows of buckets, by the status of the row.")
DISTINCT_IDS = _gauge(
    "distinct_ids", ("caller",), "Distinct sample ids that a caller with a limit asked about today (UTC)."
)
DISTINCT_IDS_LIMIT = _gauge("distinct_ids_limit", ("caller",), "The limit of a caller's distinct sample ids per day.")
STORE_AGE_SECONDS = _gauge("store_age_seconds", _VIEW, "Seconds since the instant of the snapshot that is served.")
STORE_ROWS = _gauge("store_rows", _VIEW, "Rows of the snapshot that is served.")
STORE_BYTES = _gauge("store_bytes", _VIEW, "Bytes that the snapshot takes, in memory or mapped.")
STORE_LOADED = _gauge("store_loaded_timestamp_seconds", _VIEW, "When the snapshot was loaded, seconds since 1970 UTC.")
SCHEDULE_RUNS = _counter("schedule_runs", ("work", "outcome"), "Scheduled runs: done, failed, held elsewhere.")
LOOP_LAG_SECONDS = _histogram(
    "loop_lag_seconds", (), "Seconds that a timer of the event loop fires late, ten times a second.", PAUSES
)
GC_PAUSE_SECONDS = _histogram("gc_pause_seconds", ("generation",), "Seconds that a garbage collection took.", PAUSES)
POLICY_RELOADS = _counter("policy_reloads", ("outcome",), "Times that SIGHUP had the policy read again.")
POLICY_LOADED = _gauge(
    "policy_loaded_timestamp_seconds", (), "When the policy in force was read, in seconds since 1970."
)
LOG_DROPPED = _counter("log_lines_dropped", (), "Log lines that were not written because the log could not keep up.")
BUILD_INFO = _gauge(
    "build_info", ("version", "python", "role", "party", "worker"), "Always 1: what runs, and as which worker."
)

INITIATOR: Final = (
    *(REQUEST_SECONDS, REQUEST_ROWS, OPEN_CONNECTIONS, MODEL_READY, ROUND_SECONDS, ROUND_ROWS, ROUND_REQUESTS),
    *(ROUNDS_IN_FLIGHT, QUEUE_REQUESTS, QUEUE_ROWS, PARTY_SECONDS, PARTY_ELAPSED_SECONDS, PARTY_CONNECTED),
    *(PARTY_LINKS, PARTY_OFFLINE_LINKS, PARTY_RECONNECTS, MISFIT_ROWS),
)
TASK: Final = (
    *(TASKS, TASKS_WAITING, TASK_WAITING_SECONDS, TASK_BUCKET_SECONDS, TASK_PARTY_SECONDS, TASK_ROWS),
    *(UPLOADS, UPLOAD_ROWS, OPEN_UPLOADS),
)
PARTICIPANT: Final = (SCORE_SECONDS, SCORE_ROWS, BUCKET_SECONDS, BUCKET_ROWS, DISTINCT_IDS, DISTINCT_IDS_LIMIT)
STORE: Final = (STORE_AGE_SECONDS, STORE_ROWS, STORE_BYTES, STORE_LOADED)
SCHEDULE: Final = (SCHEDULE_RUNS,)
POLICY: Final = (POLICY_RELOADS, POLICY_LOADED)
PROCESS: Final = (LOOP_LAG_SECONDS, GC_PAUSE_SECONDS, LOG_DROPPED, BUILD_INFO)
METRICS: Final = (*INITIATOR, *TASK, *PARTICIPANT, *STORE, *SCHEDULE, *POLICY, *PROCESS)

_OUTCOMES: dict[Code, Outcome] = {
    Code.INVALID_ARGUMENT: "invalid_argument",
    Code.NOT_FOUND: "not_found",
    Code.FAILED_PRECONDITION: "failed_precondition",
    Code.UNAVAILABLE: "unavailable",
    Code.DEADLINE_EXCEEDED: "deadline",
    Code.RESOURCE_EXHAUSTED: "overloaded",
    Code.UNAUTHENTICATED: "unauthenticated",
    Code.PERMISSION_DENIED: "permission_denied",
    Code.UNIMPLEMENTED: "unimplemented",
    Code.INTERNAL: "internal",
}


def outcome_of(error: BaseException) -> Outcome:
    """Return the outcome of a request that ended in `error`; a cancellation is no `Exception`.

    >>> outcome_of(KeyError()), outcome_of(PartyTimeoutError("", party="lab"))
    ('internal', 'deadline')
    """
    if not isinstance(error, Exception):
        return "cancelled"
    return _OUTCOMES[public_status(error).code]


def call_outcome_of(error: BaseException) -> CallOutcome:
    """Return the outcome of asking a party that ended in `error`.

    >>> call_outcome_of(PartyUnavailableError("", party="lab"))
    'unavailable'
    """
    if isinstance(error, PartyTimeoutError | TimeoutError):
        return "timeout"
    return "unavailable" if isinstance(error, PartyUnavailableError) else "refused"
