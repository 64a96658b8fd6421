"""Who may ask this initiator for what, and what a task must be before anybody works on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic

from fedpredict.errors import (
    EmptyRequestError,
    ModelNotFoundError,
    OverloadedError,
    TooManySamplesError,
)
from fedpredict.initiator.settings import ClientSettings, LimitSettings
from fedpredict.model.prediction import PredictTask
from fedpredict.security.identity import Identity
from fedpredict.security.settings import ALL_MODELS
from fedpredict.security.tokens import check_mode, may_use

MIN_RETRY_MS, MAX_RETRY_MS = 20, 2_000


class Access:
    """The `[clients]` of the settings. Who is not listed may ask for nothing."""

    def __init__(self, clients: Mapping[str, ClientSettings]) -> None:
        self._clients = clients

    def may_ask(self, caller: Identity, model_id: str) -> bool:
        """Return whether `caller` may know that the model exists, and ask for it."""
        client = self._clients.get(caller.name)
        if client is None or client.kind is not caller.kind:
            return False
        return may_use(caller, model_id) and (ALL_MODELS in client.models or model_id in client.models)

    def check(self, caller: Identity, model_id: str) -> None:
        """Raise `ModelNotFoundError`, as for a model that does not exist, where `caller` may not ask."""
        if not self.may_ask(caller, model_id):
            raise ModelNotFoundError(
                f"{caller} may not ask for model {model_id}: see [clients.{caller.name}], its models and its kind"
            )

    def check_any(self, caller: Identity) -> None:
        """Raise `ModelNotFoundError`, as for a model that does not exist, where `caller` may ask for none at all."""
        client = self._clients.get(caller.name)
        if client is None or client.kind is not caller.kind or not client.models:
            raise ModelNotFoundError(
                f"{caller} may ask for no model: see [clients.{caller.name}], its models and its kind"
            )


class Admission:
    """What a task must be before anybody works on it, and how many may be worked on at once.

    What is beyond the limits is refused at once, because work that waits in a queue only makes everybody's answer late.
    """

    def __init__(self, access: Access, limits: LimitSettings, *, max_samples: int) -> None:
        """Prepare.

        Args:
            access: Who may ask for what.
            limits: How much may be under way.
            max_samples: Most sample ids in one task.
        """
        self._access = access
        self._limits = limits
        self._max_samples = max_samples
        self._load = _Load()
        self._by_model: dict[str, _Load] = {}

    @property
    def requests(self) -> int:
        """How many requests are under way."""
        return self._load.requests

    @property
    def rows(self) -> int:
        """How many rows are under way."""
        return self._load.rows

    def check(self, task: PredictTask, caller: Identity) -> None:
        """Raise where a task cannot be taken."""
        self._access.check(caller, task.model_id)
        check_mode(caller, task.mode)
        if not task.sample_ids:
            raise EmptyRequestError("a total task without sample ids")
        if len(task.sample_ids) > self._max_samples:
            raise TooManySamplesError(f"{len(task.sample_ids)} sample ids from {caller}", limit=self._max_samples)

    def enter(self, task: PredictTask) -> Callable[[], None]:
        """Count a task as under way, and return what ends that; the caller calls it once.

        One model may have `model_share` of everything that is under way, so that a model whose party hangs leaves room
        for the others. A task is always taken where nothing else is under way.

        Raises:
            OverloadedError: Too much is under way; it says when to try again.
        """
        n_rows = len(task.sample_ids)
        of_model = self._by_model.get(task.model_id)
        if of_model is None:
            of_model = self._by_model[task.model_id] = _Load()
        limits, load = self._limits, self._load
        if load.is_full(n_rows, limits.max_requests, limits.max_rows):
            raise load.overloaded()
        share = 1.0 if len(self._by_model) == 1 else limits.model_share
        if of_model.is_full(n_rows, limits.max_requests * share, limits.max_rows * share):
            raise of_model.overloaded()
        load.requests += 1
        load.rows += n_rows
        of_model.requests += 1
        of_model.rows += n_rows
        return partial(_leave, load, of_model, n_rows)


class _Load:
    """What is under way, and how fast it gets done."""

    __slots__ = ("ended", "gap_s", "requests", "rows")

    def __init__(self) -> None:
        self.requests = 0
        self.rows = 0
        self.ended = monotonic()
        """When the last request ended."""
        self.gap_s = 0.001
        """A moving mean of the time between two ends: what is under way is worked off at."""

    def is_full(self, n_rows: int, max_requests: float, max_rows: float) -> bool:
        """Return whether one task more is too much."""
        return self.requests > 0 and (self.requests >= max_requests or self.rows + n_rows > max_rows)

    def end(self, n_rows: int, now: float) -> None:
        """Count a task as ended."""
        self.requests -= 1
        self.rows -= n_rows
        self.gap_s += (min(now - self.ended, 1.0) - self.gap_s) / 64.0
        self.ended = now

    def overloaded(self) -> OverloadedError:
        """Return the refusal: half of what is under way will have ended when the caller comes again."""
        told = f"{self.requests} requests of {self.rows} rows are under way"
        after_ms = int(min(MAX_RETRY_MS, max(MIN_RETRY_MS, 500.0 * self.gap_s * self.requests)))
        return OverloadedError(told, retry_after_ms=after_ms)


def _leave(load: _Load, of_model: _Load, n_rows: int) -> None:
    now = monotonic()
    load.end(n_rows, now)
    of_model.end(n_rows, now)
