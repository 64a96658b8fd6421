"""Who may ask this initiator for what, and what a task must be before anybody works on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic

from typing_extensions import override

from fedpredict.errors import (
    EmptyRequestError,
    OverloadedError,
    TooManySamplesError,
)
from fedpredict.initiator.methods import METHODS, SERVICE
from fedpredict.initiator.settings import ClientSettings, LimitSettings
from fedpredict.model.prediction import PredictTask
from fedpredict.security.identity import Identity
from fedpredict.security.policy import Clocks, Needs, Policy, Rule, Turnstile
from fedpredict.security.rates import Rates
from fedpredict.security.tokens import TokenHolder, check_token, rule_with_token
from fedpredict.wire.channel import MAX_SAMPLES_PER_CALL

_PREDICT = METHODS[f"{SERVICE}/Predict"]
MIN_RETRY_MS, MAX_RETRY_MS = 20, 2_000


class Access(Policy[ClientSettings]):
    """The `[clients]` of the settings. Who is not listed may ask for nothing."""

    def __init__(
        self,
        clients: Mapping[str, ClientSettings],
        *,
        max_rows: int = MAX_SAMPLES_PER_CALL,
        rates: Rates | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        """Put rules in force.

        Args:
            clients: By name.
            max_rows: Most sample ids in one call of anybody.
            rates: Where calls are counted; default: in this process alone.
            clocks: Default: the machine's.
        """
        super().__init__(clients, table="clients", max_rows=max_rows, rates=rates, clocks=clocks)
        self._of_tokens: dict[str, Turnstile] = {}

    @override
    def rule_of(self, caller: Identity) -> Rule | None:
        """Return the rule of a client, and of one who came with a token what that leaves of it.

        Raises:
            TokenRefusedError: It is a token that is no longer good.
        """
        check_token(caller)
        rule = super().rule_of(caller)
        return None if rule is None else rule_with_token(rule, caller)

    @override
    def admit(self, caller: Identity, needs: Needs) -> Rule:
        """Return the rule as `rule_of` does, of a caller who may call now, and count the call."""
        check_token(caller)
        if isinstance(caller, TokenHolder) and needs is not Needs.RULE:
            self._count_token(caller)
        return rule_with_token(super().admit(caller, needs), caller)

    def _count_token(self, caller: TokenHolder) -> None:
        """Count a call of a token that has a rate: before the client's, of which calls beyond it take nothing."""
        token = caller.token
        if token.calls_per_s is None or self._rule(caller) is None:
            return
        turnstile = self._of_tokens.get(token.id)
        if turnstile is None:  # a token's limits stay as they were made
            turnstile = self._of_tokens[token.id] = Turnstile(None, token.pace, self.rates.slot(f"token {token.id}"))
        turnstile.count(caller, self.rates, self.clocks.monotonic_ns())


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
        rule = self._access.admit(caller, _PREDICT)
        rule.check_model(task.model_id)
        rule.check_mode(task.mode)
        if not task.sample_ids:
            raise EmptyRequestError("a total task without sample ids")
        if len(task.sample_ids) > self._max_samples:
            raise TooManySamplesError(f"{len(task.sample_ids)} sample ids from {caller}", limit=self._max_samples)
        rule.check_rows(len(task.sample_ids))

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
