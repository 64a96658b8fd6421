"""Rules held against calls, with clocks of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from fedpredict.errors import (
    ModelNotFoundError,
    NotPermittedError,
    OutOfHoursError,
    RateLimitedError,
    TooManySamplesError,
)
from fedpredict.initiator.admission import Access
from fedpredict.initiator.settings import ClientSettings
from fedpredict.model.share import Mode
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.settings import CallerSettings
from fedpredict.public_status import Code, public_status
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.policy import Changes, Clocks, Needs

BANK, SHOP = Identity(IdentityKind.PARTY, "bank"), Identity(IdentityKind.PARTY, "shop")
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()


@dataclass
class Clock:
    """Moved by tests."""

    now_s: float = NOON
    monotonic_ns: int = 10**15
    clocks: Clocks = field(init=False)

    def __post_init__(self) -> None:
        self.clocks = Clocks(now_s=lambda: self.now_s, monotonic_ns=lambda: self.monotonic_ns)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def policy(clock: Clock, **keys: object) -> CallerPolicy:
    rule = CallerSettings.model_validate({"models": ["credit"], **keys})
    return CallerPolicy({"bank": rule}, max_rows=1_000, clocks=clock.clocks)


@pytest.mark.parametrize("needs", [Needs.RULE, Needs.COUNTED, Needs.CALL])
@pytest.mark.parametrize("caller", [SHOP, Identity(IdentityKind.CLIENT, "bank")])
def test_who_has_no_rule_is_told_what_a_model_that_is_not_there_is_told(
    clock: Clock, caller: Identity, needs: Needs
) -> None:
    rules = policy(clock)

    with pytest.raises(ModelNotFoundError) as stranger:
        rules.admit(caller, needs)
    with pytest.raises(ModelNotFoundError) as not_there:
        rules.admit(BANK, needs).check_model("churn")

    assert public_status(stranger.value) == public_status(not_there.value)


def test_calls_beyond_the_rate_are_refused_with_when_to_come_again(clock: Clock) -> None:
    rules = policy(clock, calls_per_s=2, burst=2)
    for _ in range(2):
        rules.admit(BANK, Needs.CALL)

    with pytest.raises(RateLimitedError) as refused:
        rules.admit(BANK, Needs.CALL)

    public = public_status(refused.value)
    assert (public.code, public.text) == (Code.RESOURCE_EXHAUSTED, "too many calls; retry in 500 ms")
    rules.admit(BANK, Needs.RULE)  # what is not counted goes on
    clock.monotonic_ns += 499_000_000
    with pytest.raises(RateLimitedError):
        rules.admit(BANK, Needs.COUNTED)
    clock.monotonic_ns += 1_000_000
    rules.admit(BANK, Needs.COUNTED)


def test_somebody_elses_calls_do_not_count_for_a_caller(clock: Clock) -> None:
    rule = CallerSettings(models=("*",), calls_per_s=1, burst=1)
    rules = CallerPolicy({"bank": rule, "shop": rule}, clocks=clock.clocks)

    rules.admit(BANK, Needs.CALL)
    rules.admit(SHOP, Needs.CALL)

    with pytest.raises(RateLimitedError):
        rules.admit(BANK, Needs.CALL)


def test_calls_outside_of_the_hours_are_refused_and_what_is_no_call_is_not(clock: Clock) -> None:
    rules = policy(clock, hours="08:00-18:00", time_zone="UTC")
    rules.admit(BANK, Needs.CALL)
    clock.now_s += 6 * 3600

    with pytest.raises(OutOfHoursError) as refused:
        rules.admit(BANK, Needs.CALL)

    assert public_status(refused.value).code is Code.PERMISSION_DENIED
    rules.admit(BANK, Needs.RULE)
    rules.admit(BANK, Needs.COUNTED)


def test_a_mode_that_is_not_the_callers_is_refused_by_name(clock: Clock) -> None:
    rule = policy(clock, modes=["nearline"]).admit(BANK, Needs.CALL)
    rule.check_mode(Mode.NEARLINE)

    with pytest.raises(NotPermittedError) as refused:
        rule.check_mode(Mode.REALTIME)

    public = public_status(refused.value)
    assert (public.code, public.text) == (Code.PERMISSION_DENIED, "mode realtime is not permitted to this caller")


@pytest.mark.parametrize(
    ("keys", "online", "offline"),
    [
        ({}, 1_000, None),
        ({"max_rows": 10}, 10, 10),
        ({"max_rows": 10_000}, 1_000, 10_000),
        ({"max_rows": 10, "max_offline_rows": 500}, 10, 500),
        ({"max_offline_rows": 500}, 1_000, 500),
    ],
)
def test_rows_are_limited_by_the_rule_and_the_daemon(
    clock: Clock, keys: dict[str, object], online: int, offline: int | None
) -> None:
    rule = policy(clock, **keys).admit(BANK, Needs.CALL)

    rule.check_rows(online)
    with pytest.raises(TooManySamplesError) as refused:
        rule.check_rows(online + 1)
    assert refused.value.limit == online
    rule.check_offline_rows(offline or 10**9)
    if offline is not None:
        with pytest.raises(TooManySamplesError):
            rule.check_offline_rows(offline + 1)


def test_a_new_policy_is_in_force_at_once_and_keeps_what_was_counted(clock: Clock) -> None:
    rules = policy(clock, calls_per_s=1, burst=1)
    rules.admit(BANK, Needs.CALL)

    changed = rules.replace(
        {
            "bank": CallerSettings(models=("churn",), calls_per_s=1, burst=1, purpose="tests"),
            "shop": CallerSettings(models=()),
        }
    )

    assert changed == Changes(added=("shop",), changed=("bank.models", "bank.purpose"))
    assert (rules.may_ask(BANK, "churn"), rules.may_ask(BANK, "credit")) == (True, False)
    assert (rules.purpose_of(BANK), rules.purpose_of(SHOP)) == ("tests", "")
    assert rules.purpose_of(Identity(IdentityKind.PARTY, "nobody")) is None
    assert sorted(rules) == ["bank", "shop"]
    with pytest.raises(RateLimitedError):
        rules.admit(BANK, Needs.CALL)
    assert rules.replace({}) == Changes(removed=("bank", "shop"))
    with pytest.raises(ModelNotFoundError):
        rules.admit(BANK, Needs.CALL)


def test_a_client_needs_a_certificate_of_the_kind_that_its_rule_says() -> None:
    access = Access(
        {
            "lab": ClientSettings(models=("*",), kind=IdentityKind.PARTY),
            "desk": ClientSettings(models=("*",)),
        }
    )
    kinds = [(name, kind) for name in ("lab", "desk") for kind in IdentityKind]

    known = [access.rule_of(Identity(kind, name)) is not None for name, kind in kinds]

    assert dict(zip(kinds, known, strict=True)) == {
        ("lab", IdentityKind.PARTY): True,
        ("lab", IdentityKind.CLIENT): False,
        ("desk", IdentityKind.PARTY): False,
        ("desk", IdentityKind.CLIENT): True,
    }


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"burst": 3}, "needs calls_per_s"),
        ({"hours": "08:00-18:00"}, "time_zone: needed"),
        ({"weekdays": ["mon"]}, "time_zone: needed"),
        ({"time_zone": "UTC"}, "time_zone: needed"),
        ({"hours": "08:00-18:00", "time_zone": "Mars"}, "no time zone"),
        ({"weekdays": ["monday"], "time_zone": "UTC"}, "no day of the week"),
        ({"weekdays": [], "time_zone": "UTC"}, "at least 1"),
        ({"modes": []}, "at least 1"),
        ({"modes": ["daily"]}, "realtime"),
        ({"calls_per_s": 0}, "greater than"),
        ({"calls_per_s": float("nan")}, "less than or equal"),
        ({"max_rows": 0}, "greater than"),
        ({"purpose": "two\nlines"}, "one line"),
        ({"purpose": "x" * 201}, "at most 200"),
        ({"model": "credit"}, "Extra inputs"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(keys: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        CallerSettings.model_validate({"models": ["credit"], **keys})
