"""Every error that fedpredict raises on purpose, as one tree.

```
FedPredictError
├── ConfigError               a setting is wrong; the message names the key
├── InputError                what a caller handed over is wrong
│   ├── NameRefusedError      a model id, party, view or feature name breaks the rules
│   ├── EmptyRequestError     a request without sample ids
│   ├── TooManySamplesError   more sample ids than the limit (.limit)
│   ├── UnsupportedModeError  this process does not serve that mode
│   ├── InputsRefusedError    the features sent with a request are not the view's (.feature, .problem)
│   ├── FeatureFileError      a file of features cannot be loaded; nothing was written
│   ├── ViewRefusedError      a view's definition, script or refresh is refused; nothing of it became visible
│   ├── EventsRefusedError    raw events cannot be taken as they are; none was stored (.refused)
│   ├── FeedNotFoundError     no such view takes raw events, or not this sender's: the same to the outside
│   ├── FieldError            one field of a request cannot be used (.place, .problem)
│   └── ProtocolError         a message that cannot be understood, or of another protocol version
├── ConversionError           a model file does not become a partial model
│   ├── ModelFileError        unreadable, damaged, too large or hostile
│   ├── UnsupportedModelError read, but not a model that can be served exactly
│   ├── ModelConflictError    the file and the operator, or the tables, say different things
│   ├── FeatureNamesError     the model's features are not the view's (.names)
│   └── VerificationError     the verification rows gave other scores
├── WarehouseError            a warehouse did not do what was asked
│   ├── WarehouseUnavailableError
│   ├── WarehouseWriteError   nothing was made visible (disk full, no permission, ...)
│   ├── StatementError        the engine refused a statement
│   └── TableCorruptError     rows do not give the digest they are stored under
├── StoreError                the features' store cannot be written or read (disk full, no permission, ...)
├── StateError                the state database is unavailable or of another version
├── LeaseHeldError            another process does the same work at this moment
├── LeaseLostError            another process took the work over; nothing more was published
├── SecurityError
│   ├── CertificateError      a certificate or key that cannot be used
│   ├── CertificateRefusedError  a peer's certificate is good no more: expired, revoked or denied
│   └── UnauthenticatedError  a caller without a party's certificate
├── ModelNotFoundError        no such model, or not this caller's: the same to the outside
├── ModelNotReadyError        known, but cannot be answered now
├── MaskingRefusedError       a party of a masked sum does not take part as it was asked to (.problem)
├── PopulationRefusedError    a version of a population is not taken, or not answered for (.population, .problem)
├── TaskNotFoundError         no such offline task, or not this caller's
├── TaskFailedError           an offline task ended without all of its results (.state, .problem)
├── UnscoredError             an answer that cannot hold what has no score (.rows)
├── ManifestMismatchError     asked for a version that is not the one agreed or loaded
├── IncompatiblePartsError    the parties' parts do not make one model (.parties)
├── PartyError                another party (.party)
│   ├── PartyUnavailableError
│   ├── PartyTimeoutError
│   ├── PartyBusyError        too many calls to it are under way
│   └── PartyRefusedError
├── ServerUnavailableError    a client cannot reach its server
├── AuditBrokenError          lines of an audit log were changed, removed, added or moved
├── AuditUnavailableError     the audit log cannot be written
├── OverloadedError           more work than this process takes now (.retry_after_ms)
└── DeadlineExceededError     the caller's own deadline passed
```

The message of an error is for the operator of this process and goes to its log. What a peer may read is in
`public_status.py`: a fixed text, apart from the fields named in `public_fields`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import override


class FedPredictError(Exception):
    """The root of the tree: catch it to catch everything that fedpredict raises on purpose."""

    public_fields: ClassVar[tuple[str, ...]] = ()

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        """Return how it is made in another process: without `__init__`, whose fields have no place in `args`."""
        return type(self).__new__, (type(self), *self.args), vars(self)


class ConfigError(FedPredictError):
    """A setting is missing, misspelt or out of range."""


class InputError(FedPredictError):
    """What a caller handed over cannot be used."""


class NameRefusedError(InputError):
    """A model id, party, view or feature name breaks the naming rules."""


class EmptyRequestError(InputError):
    """A request names no sample id."""


class TooManySamplesError(InputError):
    """A request names more sample ids than the server takes in one call."""

    public_fields = ("limit",)

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = int(limit)


class UnsupportedModeError(InputError):
    """The freshness mode is not served here."""

    public_fields = ("mode",)

    def __init__(self, message: str, *, mode: str) -> None:
        super().__init__(message)
        self.mode = mode


class InputsRefusedError(InputError):
    """Features that were sent with a request are not those of the view.

    Attributes:
        feature: The name, quoted and shortened.
        problem: What is wrong with it, in words that may leave the process.
    """

    public_fields = ("feature", "problem")

    def __init__(self, message: str, *, feature: str, problem: str) -> None:
        super().__init__(message)
        self.feature = feature
        self.problem = problem


class FeatureFileError(InputError):
    """A file of features cannot be loaded as it is; nothing was written."""


class ViewRefusedError(InputError):
    """A feature view's definition or script, or what it gave, cannot be used; nothing of it became visible."""


class EventsRefusedError(InputError):
    """Raw events cannot be taken as they are; none of them was stored.

    Attributes:
        n_events: How many came.
        n_refused: How many of them cannot be taken.
        refused: Of the first of them, the line or row and why; without a value of it.
    """

    public_fields = ("n_events", "n_refused", "refused")

    def __init__(self, message: str, *, n_events: int, n_refused: int, refused: Sequence[Mapping[str, object]]) -> None:
        super().__init__(message)
        self.n_events = n_events
        self.n_refused = n_refused
        self.refused = tuple(refused)


class FieldError(InputError):
    """One field of a request cannot be used; neither `place` nor `problem` holds a value of the request."""

    public_fields = ("place", "problem")

    def __init__(self, message: str, *, place: str, problem: str) -> None:
        super().__init__(message)
        self.place = place
        self.problem = problem


class ProtocolError(InputError):
    """A message that does not parse, lacks a field, or speaks another protocol version."""


class ConversionError(FedPredictError):
    """A model file did not become a partial model; nothing was written."""


class ModelFileError(ConversionError):
    """The file is unreadable: damaged, too large, of no known format, or made to attack."""


class UnsupportedModelError(ConversionError):
    """The file was read, but holds nothing that can be served with the trainer's own numbers."""


class ModelConflictError(ConversionError):
    """Two sources of one fact (model id, training run, kind) disagree."""


class FeatureNamesError(ConversionError):
    """The model's feature names do not fit the feature view."""

    def __init__(self, message: str, *, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class VerificationError(ConversionError):
    """The verification rows in the file give other partial scores than they should."""


class WarehouseError(FedPredictError):
    """A warehouse did not do what was asked of it."""


class WarehouseUnavailableError(WarehouseError):
    """The warehouse cannot be reached now; trying again later may succeed."""


class WarehouseWriteError(WarehouseError):
    """Rows could not be written; no reader sees any of them."""


class StatementError(WarehouseError):
    """The engine refused a statement."""


class TableCorruptError(WarehouseError):
    """Stored rows do not give the digest that they are stored under."""


class StoreError(FedPredictError):
    """The features' store cannot be used; what it served, it goes on serving."""


class StateError(FedPredictError):
    """The state database cannot be used."""


class LeaseHeldError(FedPredictError):
    """The same work is under way in another process."""


class LeaseLostError(FedPredictError):
    """Another process took the work over, because this one did not renew its lease in time."""


class SecurityError(FedPredictError):
    """Something about identity, certificates or permissions is wrong."""


class CertificateError(SecurityError):
    """A certificate or key file cannot be used."""


class CertificateRefusedError(SecurityError):
    """A peer's certificate is good no more: it ended, or it is on a list of those that are refused."""


class UnauthenticatedError(SecurityError):
    """The caller did not prove an identity."""


class FeedNotFoundError(InputError):
    """No such view takes raw events from this sender; one that takes another's looks the same."""


class ModelNotFoundError(FedPredictError):
    """No such model for this caller; a model that exists but is not theirs looks the same."""


class ModelNotReadyError(FedPredictError):
    """The model is known but cannot be answered at the moment."""


class PopulationRefusedError(FedPredictError):
    """A participant does not take a version of a population, or does not answer for it; `problem` may be told."""

    public_fields = ("population", "problem")

    def __init__(self, message: str, *, population: str, problem: str) -> None:
        super().__init__(message)
        self.population = population
        self.problem = problem


class MaskingRefusedError(FedPredictError):
    """A party does not mask, or does not answer without masks, as it was asked to; `problem` may be told."""

    public_fields = ("problem",)

    def __init__(self, message: str, *, problem: str) -> None:
        super().__init__(message)
        self.problem = problem


class TaskNotFoundError(FedPredictError):
    """No such offline task for this caller; one that exists but is not theirs looks the same."""


class TaskFailedError(FedPredictError):
    """An offline task, of a state and with a problem that may be told, lacks results and will have no more."""

    public_fields = ("state", "problem")

    def __init__(self, message: str, *, state: str, problem: str) -> None:
        super().__init__(message)
        self.state = state
        self.problem = problem


class UnscoredError(FedPredictError):
    """Some samples have no score, and the answer's format has no way to say so."""

    public_fields = ("rows",)

    def __init__(self, message: str, *, rows: str) -> None:
        super().__init__(message)
        self.rows = rows


class ManifestMismatchError(FedPredictError):
    """The version asked for is not the one that was agreed, or no longer loaded."""


class IncompatiblePartsError(FedPredictError):
    """The parties' parts do not make one model."""

    def __init__(self, message: str, *, parties: Sequence[str]) -> None:
        super().__init__(message)
        self.parties = tuple(parties)


class PartyError(FedPredictError):
    """Another party did not answer as it should."""

    public_fields = ("party",)

    def __init__(self, message: str, *, party: str) -> None:
        super().__init__(message)
        self.party = party


class PartyUnavailableError(PartyError):
    """The party cannot be reached, or is not ready."""


class PartyTimeoutError(PartyError):
    """The party did not answer within the deadline."""


class PartyBusyError(PartyError):
    """So many calls to the party are under way that no further one may even wait."""


class PartyRefusedError(PartyError):
    """The party will not answer this request."""


class ServerUnavailableError(FedPredictError):
    """A client cannot reach the server it was given."""


class AuditBrokenError(FedPredictError):
    """Lines of an audit log were changed, removed, added or moved."""


class AuditUnavailableError(FedPredictError):
    """The audit log cannot be written, and calls that are not written down are not answered."""


class OverloadedError(FedPredictError):
    """This process has more work than it takes; the call was not begun, and may be made again after a while."""

    public_fields = ("retry_after_ms",)

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = max(0, int(retry_after_ms))


class DeadlineExceededError(FedPredictError):
    """The caller's own deadline passed before an answer was there."""
