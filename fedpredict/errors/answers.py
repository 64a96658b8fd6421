"""Why there is no answer, or none of another party."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fedpredict.errors.base import FedPredictError, retry_after


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

    public_fields: ClassVar[tuple[str, ...]] = ("party",)

    def __init__(self, message: str, *, party: str) -> None:
        super().__init__(message)
        self.party = party


class PartyUnavailableError(PartyError):
    """The party cannot be reached, or is not ready."""


class PartyTimeoutError(PartyError):
    """The party did not answer within the deadline."""


class PartyBusyError(PartyError):
    """So many calls to the party are under way that no further one may even wait."""


class PartyLimitedError(PartyError):
    """The party takes no more calls of ours for a while; calls that are made all the same are not sent to it."""

    public_fields = ("party", "retry_after_ms")

    def __init__(self, message: str, *, party: str, retry_after_ms: int) -> None:
        super().__init__(message, party=party)
        self.retry_after_ms = retry_after(retry_after_ms)


class PartyClosedError(PartyError):
    """The party answers us at other hours."""


class PartyRefusedError(PartyError):
    """The party will not answer this request."""


class ServerUnavailableError(FedPredictError):
    """A client cannot reach the server it was given."""


class DeadlineExceededError(FedPredictError):
    """The caller's own deadline passed before an answer was there."""
