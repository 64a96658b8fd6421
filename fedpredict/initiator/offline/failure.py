"""What it means for a task that something went wrong, and what its users are told."""

from __future__ import annotations

from dataclasses import dataclass

from fedpredict.errors import (
    AuditUnavailableError,
    DistinctIdsUnavailableError,
    DistinctIdsUsedUpError,
    FedPredictError,
    ManifestMismatchError,
    ModelNotReadyError,
    PartyBusyError,
    PartyClosedError,
    PartyLimitedError,
    PartyTimeoutError,
    PartyUnavailableError,
    PopulationRefusedError,
    TableCorruptError,
    WarehouseError,
    WarehouseUnavailableError,
)
from fedpredict.model.offline import OfflineState
from fedpredict.model.standing import WHY_NOT, PopulationState
from fedpredict.public_status import public_status
from fedpredict.state.task_base import Why

_AWAY = (
    AuditUnavailableError,
    DistinctIdsUnavailableError,
    ModelNotReadyError,
    PartyBusyError,
    PartyClosedError,
    PartyLimitedError,
    PartyTimeoutError,
    PartyUnavailableError,
    WarehouseUnavailableError,
)
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 60.0
_NO_WAREHOUSE, _NOT_READY = "the initiator's warehouse cannot be reached", "the model is not ready at the initiator"
_TOO_SLOW, _IS_AWAY = "did not answer in time", "is away, or not ready"
_USED_UP = "answers about no more sample ids today: its daily limit is used up until 0:00 UTC"
_LIMITS, _IS_CLOSED = "takes no more calls now", "answers at other hours"
_WAITS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (PartyTimeoutError, _TOO_SLOW),
    (PartyLimitedError, _LIMITS),
    (PartyClosedError, _IS_CLOSED),
    (DistinctIdsUsedUpError, _USED_UP),
    (_AWAY, _IS_AWAY),
)
"""What users are told of a party that a task waits for: the first that fits."""
_REASONS = {
    _NO_WAREHOUSE: "warehouse",
    _NOT_READY: "not_ready",
    _TOO_SLOW: "timeout",
    _IS_AWAY: "away",
    _USED_UP: "daily_limit",
    _LIMITS: "limited",
    _IS_CLOSED: "closed",
}
"""What users are told of a task that waits -> the word that metrics have for it."""
_FIXES = {
    PopulationState.RECEIVING: "retry once `fedpredict population show` at the initiator lacks nothing",
    PopulationState.PROPOSED: "have its operator accept it, then retry",
    PopulationState.REVOKED: (
        "have a version made anew (`fedpredict population update`; with the same ids `revoke`, then `propose`) and "
        "accepted there, and submit the task again"
    ),
}
"""What helps where a version is in that state at a party."""


class PartyFailedError(Exception):
    """A party gave no share of a bucket.

    Attributes:
        party: Which.
        error: Why.
    """

    def __init__(self, party: str, error: FedPredictError) -> None:
        super().__init__(f"{party}: {error}")
        self.party = party
        self.error = error


class UnfinishedError(Exception):
    """A task came to its end, and some of its buckets have no results: what was gathered of them is not there."""


class VersionGoneError(Exception):
    """The version of a standing population that a task is about went, in words that are public.

    Who submits a task holds nothing while the version is looked up, so `erase` and retention may remove it right then.
    """


_OWN: tuple[tuple[type[Exception], str], ...] = (
    (UnfinishedError, "results of some buckets are missing at the initiator: they are made again"),
    (WarehouseUnavailableError, _NO_WAREHOUSE),
    (
        TableCorruptError,
        "ids or shares that are stored at the initiator are damaged or gone: retry, or submit the task again",
    ),
    (
        WarehouseError,
        "results cannot be stored at the initiator (disk full, no permission ...): see its log, then retry",
    ),
    (ModelNotReadyError, _NOT_READY),
)
"""What users are told of errors at the initiator: the first that fits."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a task.

    Attributes:
        state: Waiting, or failed.
        why: What is the matter.
    """

    state: OfflineState
    why: Why


def verdict_on(error: Exception) -> Verdict:
    """Return what an error means for the task that it ended.

    What comes back by itself (a party or warehouse that is away, a party's daily limit, buckets that are to be made
    again) has the task wait; everything else, that somebody must do something about, fails it.
    """
    party, cause = (error.party, error.error) if isinstance(error, PartyFailedError) else ("", error)
    state = (
        OfflineState.WAITING
        if isinstance(cause, (*_AWAY, DistinctIdsUsedUpError, UnfinishedError))
        else OfflineState.FAILED
    )
    return Verdict(state, Why(problem=_told(party, cause), party=party, detail=f"{type(cause).__name__}: {cause}"))


def wait_s(attempts: int) -> float:
    """Return how long a task waits before it is tried again, by how often it waited before.

    >>> [wait_s(attempts) for attempts in (0, 1, 3, 50)]
    [1.0, 2.0, 8.0, 60.0]
    """
    return min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts, 10))


def waiting_reason(problem: str, party: str) -> str:
    """Return why a task waits, in one of a few words, from what its users are told.

    >>> waiting_reason("party lab did not answer in time", "lab")
    'timeout'
    >>> waiting_reason("the initiator's warehouse cannot be reached", "")
    'warehouse'
    """
    return _REASONS.get(problem.removeprefix(f"party {party} "), "other")


def _told(party: str, error: Exception) -> str:
    """Return public words that say what to do."""
    if party:
        return _told_of_party(party, error)
    if isinstance(error, VersionGoneError):
        return str(error)
    known = (text for kind, text in _OWN if isinstance(error, kind))
    return next(known, "the initiator cannot go on: see its log, then retry")


def _told_of_party(party: str, error: Exception) -> str:
    waits_for = next((text for kind, text in _WAITS if isinstance(error, kind)), None)
    if waits_for is not None:
        return f"party {party} {waits_for}"
    if isinstance(error, ManifestMismatchError):
        return f"party {party} no longer serves the version that the task was begun with: submit the task again"
    if isinstance(error, PopulationRefusedError):
        fixes = (fix for state, fix in _FIXES.items() if error.problem.endswith(WHY_NOT[state]))
        fix = next(fixes, "see `fedpredict population show` at both, then retry, or submit the task again")
        return f"party {party}: {public_status(error).text}: {fix}"
    return f"party {party} refused: its log says why; retry once that is settled"
