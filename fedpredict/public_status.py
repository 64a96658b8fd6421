"""What of an error may leave the process: a class and a fixed text, apart from the fields that it makes public."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fedpredict.errors import (
    AuditBrokenError,
    AuditUnavailableError,
    CertificateError,
    CertificateRefusedError,
    ConfigError,
    DeadlineExceededError,
    DistinctIdsUnavailableError,
    DistinctIdsUsedUpError,
    EmptyRequestError,
    EventsRefusedError,
    FeatureFileError,
    FeatureNamesError,
    FedPredictError,
    FeedNotFoundError,
    FieldError,
    IncompatiblePartsError,
    InputError,
    InputsRefusedError,
    LeaseHeldError,
    LeaseLostError,
    ManifestMismatchError,
    MaskingRefusedError,
    ModelConflictError,
    ModelFileError,
    ModelNotFoundError,
    ModelNotReadyError,
    NameRefusedError,
    NotPermittedError,
    OutOfHoursError,
    OverloadedError,
    PartyBusyError,
    PartyClosedError,
    PartyLimitedError,
    PartyRefusedError,
    PartyTimeoutError,
    PartyUnavailableError,
    PopulationRefusedError,
    ProtocolError,
    RateLimitedError,
    ServerUnavailableError,
    StateError,
    StatementError,
    StoreError,
    TableCorruptError,
    TaskFailedError,
    TaskNotFoundError,
    TokenRefusedError,
    TooManySamplesError,
    UnauthenticatedError,
    UnscoredError,
    UnsupportedModeError,
    UnsupportedModelError,
    VerificationError,
    ViewRefusedError,
    WarehouseUnavailableError,
    WarehouseWriteError,
)


class Code(Enum):
    """The class of an answer that is not a prediction; every edge maps it to its own numbers."""

    INVALID_ARGUMENT = "invalid_argument"
    NOT_FOUND = "not_found"
    FAILED_PRECONDITION = "failed_precondition"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class PublicStatus:
    """What the outside sees of an error: a code, and a text with the error's public fields filled in."""

    code: Code
    text: str


INTERNAL = PublicStatus(Code.INTERNAL, "internal error")

STATUS: dict[type[FedPredictError], PublicStatus] = {
    ConfigError: INTERNAL,
    InputError: PublicStatus(Code.INVALID_ARGUMENT, "the request cannot be used"),
    NameRefusedError: PublicStatus(Code.INVALID_ARGUMENT, "a name in the request breaks the naming rules"),
    EmptyRequestError: PublicStatus(Code.INVALID_ARGUMENT, "the request names no sample id"),
    TooManySamplesError: PublicStatus(Code.INVALID_ARGUMENT, "too many sample ids in one call; the limit is {limit}"),
    UnsupportedModeError: PublicStatus(Code.UNIMPLEMENTED, "mode {mode} is not served here"),
    InputsRefusedError: PublicStatus(Code.INVALID_ARGUMENT, "inputs: feature {feature} {problem}"),
    FeatureFileError: PublicStatus(Code.INVALID_ARGUMENT, "the file of features cannot be loaded"),
    ViewRefusedError: PublicStatus(Code.INVALID_ARGUMENT, "the feature view cannot be used"),
    EventsRefusedError: PublicStatus(
        Code.INVALID_ARGUMENT, "{n_refused} of {n_events} events cannot be taken; none was stored"
    ),
    FieldError: PublicStatus(Code.INVALID_ARGUMENT, "{place}: {problem}"),
    ProtocolError: PublicStatus(Code.INVALID_ARGUMENT, "the message cannot be understood"),
    ModelFileError: INTERNAL,
    UnsupportedModelError: INTERNAL,
    ModelConflictError: INTERNAL,
    FeatureNamesError: INTERNAL,
    VerificationError: INTERNAL,
    WarehouseUnavailableError: PublicStatus(Code.UNAVAILABLE, "not ready"),
    WarehouseWriteError: INTERNAL,
    StatementError: INTERNAL,
    TableCorruptError: INTERNAL,
    StoreError: INTERNAL,
    StateError: INTERNAL,
    LeaseHeldError: INTERNAL,
    LeaseLostError: INTERNAL,
    CertificateError: INTERNAL,
    TokenRefusedError: PublicStatus(Code.UNAUTHENTICATED, "the token is not accepted"),
    CertificateRefusedError: PublicStatus(
        Code.UNAUTHENTICATED, "the certificate is not accepted: it ended, or was revoked or denied"
    ),
    UnauthenticatedError: PublicStatus(Code.UNAUTHENTICATED, "no identity of a party was proved"),
    NotPermittedError: PublicStatus(Code.PERMISSION_DENIED, "{problem} is not permitted to this caller"),
    OutOfHoursError: PublicStatus(Code.PERMISSION_DENIED, "not at this time"),
    FeedNotFoundError: PublicStatus(Code.NOT_FOUND, "no such view takes events"),
    ModelNotFoundError: PublicStatus(Code.NOT_FOUND, "no such model"),
    ModelNotReadyError: PublicStatus(Code.UNAVAILABLE, "the model is not ready"),
    MaskingRefusedError: PublicStatus(Code.FAILED_PRECONDITION, "masked sums: {problem}"),
    PopulationRefusedError: PublicStatus(Code.FAILED_PRECONDITION, "population {population}: {problem}"),
    TaskNotFoundError: PublicStatus(Code.NOT_FOUND, "no such task"),
    TaskFailedError: PublicStatus(Code.FAILED_PRECONDITION, "the task is {state}: {problem}"),
    UnscoredError: PublicStatus(
        Code.FAILED_PRECONDITION, "rows without a score: {rows}; parameter allow_partial = true gives null for them"
    ),
    ManifestMismatchError: PublicStatus(Code.FAILED_PRECONDITION, "not the version that is served"),
    IncompatiblePartsError: PublicStatus(Code.FAILED_PRECONDITION, "the parts of the model do not fit"),
    PartyUnavailableError: PublicStatus(Code.UNAVAILABLE, "party {party} is unavailable"),
    PartyTimeoutError: PublicStatus(Code.DEADLINE_EXCEEDED, "party {party} did not answer in time"),
    PartyBusyError: PublicStatus(Code.RESOURCE_EXHAUSTED, "too many calls to party {party} are under way"),
    PartyLimitedError: PublicStatus(
        Code.RESOURCE_EXHAUSTED, "party {party} takes no more calls now; retry in {retry_after_ms} ms"
    ),
    PartyClosedError: PublicStatus(Code.UNAVAILABLE, "party {party} answers at other hours"),
    PartyRefusedError: PublicStatus(Code.FAILED_PRECONDITION, "party {party} refused"),
    ServerUnavailableError: PublicStatus(Code.UNAVAILABLE, "the server is unavailable"),
    AuditBrokenError: INTERNAL,
    AuditUnavailableError: PublicStatus(Code.UNAVAILABLE, "nothing is answered at the moment"),
    DistinctIdsUsedUpError: PublicStatus(
        Code.RESOURCE_EXHAUSTED,
        "the daily limit of distinct sample ids of this caller is used up; it begins anew at {until}",
    ),
    DistinctIdsUnavailableError: PublicStatus(Code.UNAVAILABLE, "nothing is answered at the moment"),
    OverloadedError: PublicStatus(Code.RESOURCE_EXHAUSTED, "overloaded; retry in {retry_after_ms} ms"),
    RateLimitedError: PublicStatus(Code.RESOURCE_EXHAUSTED, "too many calls; retry in {retry_after_ms} ms"),
    DeadlineExceededError: PublicStatus(Code.DEADLINE_EXCEEDED, "the deadline passed"),
}
"""Every error that is raised itself (a leaf, or `InputError`), and its public face."""


def public_status(error: BaseException) -> PublicStatus:
    """Return what a peer may read of `error`; anything unexpected is an internal error and says no more.

    >>> public_status(TooManySamplesError("4096 ids from lab", limit=1000)).text
    'too many sample ids in one call; the limit is 1000'
    >>> public_status(KeyError("secret")).text
    'internal error'
    """
    if not isinstance(error, FedPredictError):
        return INTERNAL
    status = STATUS.get(type(error), INTERNAL)
    fields = {name: getattr(error, name) for name in error.public_fields}
    return PublicStatus(status.code, status.text.format(**fields))
