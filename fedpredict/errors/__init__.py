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
│   ├── UnauthenticatedError  a caller without a party's certificate
│   ├── TokenRefusedError     a caller whose bearer token is none of ours, or no longer good (.reason, .token_id)
│   ├── NotPermittedError     a caller's rule does not have this (.problem)
│   └── OutOfHoursError       a caller's rule has other hours
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
│   ├── PartyLimitedError     it takes no more calls of ours for a while (.retry_after_ms)
│   ├── PartyClosedError      it answers us at other hours
│   └── PartyRefusedError
├── ServerUnavailableError    a client cannot reach its server
├── AuditBrokenError          lines of an audit log were changed, removed, added or moved
├── AuditUnavailableError     the audit log cannot be written
├── DistinctIdsUsedUpError    a caller asked about as many people as it may on a day (.until)
├── DistinctIdsUnavailableError  the distinct sample ids of callers cannot be counted
├── RetryLaterError           not now, but perhaps after a while (.retry_after_ms)
│   ├── OverloadedError       more work than this process takes now
│   └── RateLimitedError      more calls than the caller's rule allows
└── DeadlineExceededError     the caller's own deadline passed
```

The message of an error is for the operator of this process and goes to its log. What a peer may read is in
`public_status.py`: a fixed text, apart from the fields named in `public_fields`.
"""

from __future__ import annotations

from fedpredict.errors.answers import (
    DeadlineExceededError,
    IncompatiblePartsError,
    ManifestMismatchError,
    ModelNotFoundError,
    ModelNotReadyError,
    PartyBusyError,
    PartyClosedError,
    PartyError,
    PartyLimitedError,
    PartyRefusedError,
    PartyTimeoutError,
    PartyUnavailableError,
    PopulationRefusedError,
    ServerUnavailableError,
    TaskFailedError,
    TaskNotFoundError,
    UnscoredError,
)
from fedpredict.errors.base import (
    FedPredictError,
)
from fedpredict.errors.inputs import (
    ConversionError,
    EmptyRequestError,
    EventsRefusedError,
    FeatureFileError,
    FeatureNamesError,
    FeedNotFoundError,
    FieldError,
    InputError,
    InputsRefusedError,
    ModelConflictError,
    ModelFileError,
    NameRefusedError,
    ProtocolError,
    TooManySamplesError,
    UnsupportedModeError,
    UnsupportedModelError,
    VerificationError,
    ViewRefusedError,
)
from fedpredict.errors.places import (
    ConfigError,
    LeaseHeldError,
    LeaseLostError,
    StateError,
    StatementError,
    StoreError,
    TableCorruptError,
    WarehouseError,
    WarehouseUnavailableError,
    WarehouseWriteError,
)
from fedpredict.errors.trust import (
    AuditBrokenError,
    AuditUnavailableError,
    CertificateError,
    CertificateRefusedError,
    DistinctIdsUnavailableError,
    DistinctIdsUsedUpError,
    MaskingRefusedError,
    NotPermittedError,
    OutOfHoursError,
    OverloadedError,
    RateLimitedError,
    RetryLaterError,
    SecurityError,
    TokenRefusedError,
    UnauthenticatedError,
)

__all__ = [
    "AuditBrokenError",
    "AuditUnavailableError",
    "CertificateError",
    "CertificateRefusedError",
    "ConfigError",
    "ConversionError",
    "DeadlineExceededError",
    "DistinctIdsUnavailableError",
    "DistinctIdsUsedUpError",
    "EmptyRequestError",
    "EventsRefusedError",
    "FeatureFileError",
    "FeatureNamesError",
    "FedPredictError",
    "FeedNotFoundError",
    "FieldError",
    "IncompatiblePartsError",
    "InputError",
    "InputsRefusedError",
    "LeaseHeldError",
    "LeaseLostError",
    "ManifestMismatchError",
    "MaskingRefusedError",
    "ModelConflictError",
    "ModelFileError",
    "ModelNotFoundError",
    "ModelNotReadyError",
    "NameRefusedError",
    "NotPermittedError",
    "OutOfHoursError",
    "OverloadedError",
    "PartyBusyError",
    "PartyClosedError",
    "PartyError",
    "PartyLimitedError",
    "PartyRefusedError",
    "PartyTimeoutError",
    "PartyUnavailableError",
    "PopulationRefusedError",
    "ProtocolError",
    "RateLimitedError",
    "RetryLaterError",
    "SecurityError",
    "ServerUnavailableError",
    "StateError",
    "StatementError",
    "StoreError",
    "TableCorruptError",
    "TaskFailedError",
    "TaskNotFoundError",
    "TokenRefusedError",
    "TooManySamplesError",
    "UnauthenticatedError",
    "UnscoredError",
    "UnsupportedModeError",
    "UnsupportedModelError",
    "VerificationError",
    "ViewRefusedError",
    "WarehouseError",
    "WarehouseUnavailableError",
    "WarehouseWriteError",
]
