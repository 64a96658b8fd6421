"""Who may ask for what: the rules in force, held against every call, and replaced as a whole (ADR 0043).

Both daemons use it: a participant for its callers, an initiator for its clients. On the way of every call are two
look-ups and some comparisons.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil
from typing import Generic, TypeVar

from typing_extensions import override

from fedpredict.errors import (
    ModelNotFoundError,
    NotPermittedError,
    OutOfHoursError,
    RateLimitedError,
    TooManySamplesError,
)
from fedpredict.model.share import Mode
from fedpredict.security.hours import Opening
from fedpredict.security.identity import Identity
from fedpredict.security.pace import Pace
from fedpredict.security.rates import Rates
from fedpredict.security.rules import CallLimits, RuleSettings
from fedpredict.security.settings import ALL_MODELS


class Needs(StrEnum):
    """What a method asks of its caller; each daemon has one table of all its methods and paths.

    What is said about a model needs, besides, that the rule has that model.
    """

    NOTHING = "nothing"
    """Says nothing that only some may know."""
    IDENTITY = "identity"
    """A proven identity, whoever it is."""
    PEER = "peer"
    """Somebody whom the settings list for this alone: a party that dials us, a sender of events."""
    RULE = "rule"
    """A rule for the caller, and no more look-ups than everybody with one may make (`LOOK_UPS`)."""
    COUNTED = "counted"
    """A rule, and no more calls than it allows."""
    CALL = "call"
    """A rule, no more calls than it allows, its hours, and, where the call has them, its modes and rows."""
    UNSERVED = "unserved"
    """Is in the protocol and not served here."""


LOOK_UPS = Pace.of(100.0, 2_000)
"""How often each caller may look up what it may ask for: once in `poll_s` for each model and worker is far below. Not
counted as calls, look-ups would let a caller try out names, and fill the audit log, without an end."""

S = TypeVar("S", bound=RuleSettings)
_CALL, _RULE = Needs.CALL, Needs.RULE  # members of an enumeration are slow to look up


@dataclass(frozen=True, slots=True)
class Turnstile:
    """What of a rule is about no model: when and how often.

    Attributes:
        opening: When; None for always.
        pace: How often; None for any number.
        slot: Where the count is.
    """

    opening: Opening | None
    pace: Pace | None
    slot: int

    @classmethod
    def of(cls, limits: CallLimits, rates: Rates, name: str) -> Turnstile:
        """Return that of some settings; `name` tells whose count it is."""
        span, pace = limits.span, limits.pace
        return cls(None if span is None else Opening(span), pace, 0 if pace is None else rates.slot(name))

    def check_hours(self, caller: Identity, now_s: float) -> None:
        """Raise `OutOfHoursError` where an instant, in seconds since 1970, is outside of the hours."""
        if self.opening is not None and not self.opening.is_open(now_s):
            raise OutOfHoursError(f"{caller} calls outside of its hours")

    def count(self, caller: Identity, rates: Rates, now_ns: int) -> None:
        """Count a call; raise `RateLimitedError` for one too many."""
        if self.pace is not None:
            wait = rates.take(self.slot, self.pace, now_ns)
            if wait:
                raise RateLimitedError(f"{caller} calls more often than calls_per_s", retry_after_ms=ceil(wait / 1e6))


@dataclass(frozen=True, slots=True)
class Rule:
    """What one caller may ask for, made ready to be held against calls.

    Attributes:
        caller: Whose it is.
        where: What the settings call it, for messages.
        models: The models.
        has_all: Whether every model is among them.
        modes: The modes.
        max_rows: Most sample ids in one call.
        max_offline_rows: Most rows of a bucket or task; None for any number.
        turnstile: When, and how often.
        purpose: What for.
        look_ups: Where its look-ups are counted.
    """

    caller: Identity
    where: str
    models: frozenset[str]
    has_all: bool
    modes: frozenset[Mode]
    max_rows: int
    max_offline_rows: int | None
    turnstile: Turnstile
    purpose: str
    look_ups: int

    def has(self, model_id: str) -> bool:
        """Return whether the caller may know that a model exists."""
        return self.has_all or model_id in self.models

    def check_model(self, model_id: str) -> None:
        """Raise `ModelNotFoundError`, as for a model that does not exist, for one that is not the caller's."""
        if not (self.has_all or model_id in self.models):
            raise ModelNotFoundError(f"{self.caller} may not ask for model {model_id}: see {self.where}")

    def check_mode(self, mode: Mode) -> None:
        """Raise `NotPermittedError` for a mode that is not the caller's."""
        if mode not in self.modes:
            raise NotPermittedError(f"{self.caller} asks in mode {mode}", problem=f"mode {mode.value}")

    def check_rows(self, n_rows: int) -> None:
        """Raise `TooManySamplesError` for too many sample ids in one call."""
        if n_rows > self.max_rows:
            told = f"{n_rows} sample ids in one call of {self.caller}; it may send {self.max_rows}"
            raise TooManySamplesError(told, limit=self.max_rows)

    def check_offline_rows(self, n_rows: int) -> None:
        """Raise `TooManySamplesError` for too many rows of a bucket or task."""
        most = self.max_offline_rows
        if most is not None and n_rows > most:
            told = f"{n_rows} rows of a bucket or task of {self.caller}; it may ask for {most}"
            raise TooManySamplesError(told, limit=most)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload changed, by the names of callers; of changed ones, with the keys: `bank.models`."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def and_also(self, further: Changes) -> Changes:
        """Return both."""
        return Changes(self.added + further.added, self.removed + further.removed, self.changed + further.changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The clocks that rules are held against; tests have their own."""

    now_s: Callable[[], float] = time.time
    monotonic_ns: Callable[[], int] = time.monotonic_ns


@dataclass(frozen=True, slots=True)
class _InForce(Generic[S]):
    """One version of the rules, never changed."""

    settings: Mapping[str, S] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)


class Policy(Mapping[str, S]):
    """The rules in force, by the callers' names; a mapping of what the settings say of them.

    `replace` puts others in their place, all at once: whoever asks next is held to these, on standing streams and links
    as well.
    """

    def __init__(
        self,
        rules: Mapping[str, S],
        *,
        table: str,
        max_rows: int,
        rates: Rates | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        """Put rules in force.

        Args:
            rules: By caller.
            table: What they are called in the settings, for messages.
            max_rows: Most sample ids in one call of anybody.
            rates: Where calls are counted; default: in this process alone.
            clocks: Default: the machine's.
        """
        self.table = table
        self.rates = rates or Rates()
        self.clocks = clocks or Clocks()
        self._max_rows = max_rows
        self._in_force: _InForce[S] = _InForce()
        self.replace(rules)

    @override
    def __getitem__(self, name: str) -> S:
        return self._in_force.settings[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._in_force.settings)

    @override
    def __len__(self) -> int:
        return len(self._in_force.settings)

    def replace(self, rules: Mapping[str, S]) -> Changes:
        """Put other rules in force, and return what is different.

        Raises:
            ConfigError: There were too many callers; the rules stay as they were.
        """
        before = self._in_force.settings
        made = {name: self._made(name, settings) for name, settings in rules.items()}
        self._in_force = _InForce(dict(rules), made)
        return changes(before, rules)

    def rule_of(self, caller: Identity) -> Rule | None:
        """Return the rule of a caller, whose identity must be of the kind that the rule is for; None for no rule."""
        return self._rule(caller)

    def _rule(self, caller: Identity) -> Rule | None:
        rule = self._in_force.rules.get(caller.name)
        # a client of some initiator can have a party's name; it is not that party
        return rule if rule is not None and rule.caller.kind is caller.kind else None

    def admit(self, caller: Identity, needs: Needs) -> Rule:
        """Return the rule of a caller who may call now, and count the call, or the look-up.

        Args:
            caller: Who calls.
            needs: What the method asks of its callers: `RULE`, `COUNTED` or `CALL`.

        Raises:
            ModelNotFoundError: No rule names the caller: as for a model that does not exist.
            OutOfHoursError: Not at this time.
            RateLimitedError: Not so often.
        """
        rule = self._in_force.rules.get(caller.name)
        if rule is None or rule.caller.kind is not caller.kind:
            raise self._unknown(caller)
        if needs is _RULE:
            self._count_look_up(rule)
            return rule
        turnstile = rule.turnstile
        if turnstile.opening is not None and needs is _CALL:
            turnstile.check_hours(caller, self.clocks.now_s())
        if turnstile.pace is not None:
            turnstile.count(caller, self.rates, self.clocks.monotonic_ns())
        return rule

    def may_ask(self, caller: Identity, model_id: str) -> bool:
        """Return whether `caller` may know that the model exists, and ask for it."""
        rule = self.rule_of(caller)
        return rule is not None and (rule.has_all or model_id in rule.models)

    def known(self, caller: Identity) -> Rule:
        """Return the rule of a caller, and count nothing; raise `ModelNotFoundError` where there is none."""
        rule = self.rule_of(caller)
        if rule is None:
            raise self._unknown(caller)
        return rule

    def check(self, caller: Identity, model_id: str) -> None:
        """Raise `ModelNotFoundError`, as for no such model, where `caller` may not ask; count nothing."""
        self.known(caller).check_model(model_id)

    def look_up(self, caller: Identity, model_id: str) -> None:
        """Count a look-up of a model; raise as `admit` does, and `ModelNotFoundError` where `caller` may not ask."""
        self.admit(caller, _RULE).check_model(model_id)

    def _count_look_up(self, rule: Rule) -> None:
        wait = self.rates.take(rule.look_ups, LOOK_UPS, self.clocks.monotonic_ns())
        if wait:
            told = f"{rule.caller} looks up more often than {1e9 / LOOK_UPS.interval_ns:g} times a second"
            raise RateLimitedError(told, retry_after_ms=ceil(wait / 1e6))

    def _unknown(self, caller: Identity) -> ModelNotFoundError:
        return ModelNotFoundError(f"{caller} may ask for nothing: there is no [{self.table}.{caller.name}]")

    def purpose_of(self, caller: Identity) -> str | None:
        """Return what a caller asks for, empty where the settings do not say; None for a caller without a rule."""
        rule = self._rule(caller)
        return None if rule is None else rule.purpose

    def _made(self, name: str, settings: S) -> Rule:
        caller = Identity(settings.of_kind, name)
        return Rule(
            caller=caller,
            where=f"[{self.table}.{name}]",
            models=frozenset(settings.models),
            has_all=ALL_MODELS in settings.models,
            modes=frozenset(settings.modes),
            max_rows=min(settings.max_rows or self._max_rows, self._max_rows),
            max_offline_rows=settings.max_offline_rows or settings.max_rows,
            turnstile=Turnstile.of(settings, self.rates, caller.uri),
            purpose=settings.purpose,
            look_ups=self.rates.slot(f"look-ups {caller.uri}"),
        )


def changes(before: Mapping[str, RuleSettings], after: Mapping[str, RuleSettings]) -> Changes:
    """Return what is different between two versions of the rules."""
    kept = sorted(before.keys() & after.keys())
    return Changes(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(
            f"{name}.{key}"
            for name in kept
            for key in type(after[name]).model_fields
            if getattr(before[name], key) != getattr(after[name], key)
        ),
    )
