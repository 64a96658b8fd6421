"""Refusals that cost their callers nothing cannot fill the audit log, and hold nothing that is large."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest

from fedpredict.errors import (
    CertificateRefusedError,
    FedPredictError,
    ModelNotFoundError,
    OutOfHoursError,
    ProtocolError,
    RateLimitedError,
    TokenRefusedError,
    UnauthenticatedError,
)
from fedpredict.model.few import FewPerSecond
from fedpredict.participant.settings import CallerSettings
from fedpredict.security.audit_calls import REFUSED_PER_S, AuditedCalls
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.entrance import Entrance
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.policy import LOOK_UPS, Clocks, Needs, Policy

BANK, SHOP = Identity(IdentityKind.PARTY, "bank"), Identity(IdentityKind.PARTY, "shop")


class Kept:
    """An audit log that keeps its calls, and counts what gets no line."""

    def __init__(self) -> None:
        self.calls: list[AuditedCall] = []
        self.counted: Counter[str] = Counter()

    def add(self, call: AuditedCall) -> None:
        self.calls.append(call)

    def count_refused(self, caller: str) -> None:
        self.counted[caller] += 1


class World:
    """Lines of callers, of whom bank alone has a rule."""

    def __init__(self, **keys: object) -> None:
        self.log, self.now_s = Kept(), 12 * 3600.0
        rule = CallerSettings.model_validate({"models": ["m"], **keys})
        clocks = Clocks(now_s=lambda: self.now_s, monotonic_ns=lambda: 10**15)
        self.policy = Policy({"bank": rule}, table="callers", max_rows=10, clocks=clocks)
        self.audit = AuditedCalls(cast("Any", self.log), self.policy.purpose_of)
        self.entrance = Entrance(self.policy, self.audit)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [7.0]
    monkeypatch.setattr("fedpredict.model.few.monotonic", lambda: now[0])
    return now


def test_callers_without_a_rule_have_few_lines_together_with_strangers_and_no_ids(clock: list[float]) -> None:
    world = World()
    ids = [b"u%d" % number for number in range(100_000)]
    for number in range(300):
        caller = Identity(IdentityKind.PARTY, f"shop-{number % 3}")
        call = AuditedCall("Score", "", "r-1", "m", rows=len(ids), sample_ids=ids, ids_sha256="5c" * 32)
        world.audit.write(call, caller, ModelNotFoundError("no rule"))
        world.audit.stranger("Score", UnauthenticatedError("who?"))

    assert len(world.log.calls) == REFUSED_PER_S
    assert sum(world.log.counted.values()) == 600 - REFUSED_PER_S
    assert {call.caller for call in world.log.calls} >= {"party shop-0", "nobody"}
    assert [call.rows for call in world.log.calls if call.what == "Score" and call.rows] == [100_000] * 5
    assert all(call.sample_ids is None and not call.ids_sha256 for call in world.log.calls)
    clock[0] += 1.0
    world.audit.other("Score", SHOP, "", "", ModelNotFoundError("no rule"))
    assert len(world.log.calls) == REFUSED_PER_S + 1


@pytest.mark.parametrize(
    "error", [RateLimitedError("too many", retry_after_ms=1), OutOfHoursError("closed"), TokenRefusedError("over")]
)
def test_a_caller_with_a_rule_has_few_lines_of_calls_that_it_may_not_make_now(error: FedPredictError) -> None:
    world = World()
    for _ in range(200):
        world.audit.other("Score", BANK, "", "m", error)
        world.audit.other("Score", SHOP, "", "m", error)  # uses up no lines of bank's

    assert Counter(call.caller for call in world.log.calls) == {str(BANK): REFUSED_PER_S, str(SHOP): REFUSED_PER_S}
    assert world.log.counted == {str(BANK): 200 - REFUSED_PER_S, str(SHOP): 200 - REFUSED_PER_S}
    for _ in range(200):  # what counts as a call, and what is answered, has its line
        world.audit.other("Score", BANK, "", "m", ProtocolError("garbage"))
        world.audit.other("DescribeModel", BANK, "", "m", None)
    assert len(world.log.calls) == 2 * REFUSED_PER_S + 400


def test_what_is_no_call_counts_as_one_and_keeps_to_hours() -> None:
    world = World(calls_per_s=1, burst=3, hours="08:00-18:00", time_zone="UTC")
    garbage = ProtocolError("garbage")
    for _ in range(3):
        world.entrance.misunderstood("Score", BANK, garbage)
    with pytest.raises(RateLimitedError):
        world.entrance.misunderstood("Score", BANK, garbage)
    with pytest.raises(RateLimitedError):
        world.policy.admit(BANK, Needs.CALL)
    world.now_s = 0.0
    with pytest.raises(OutOfHoursError):
        world.entrance.misunderstood("Score", BANK, garbage)
    with pytest.raises(ModelNotFoundError):
        world.entrance.misunderstood("Score", SHOP, garbage)
    world.entrance.misunderstood("Hello", SHOP, garbage, Needs.IDENTITY)

    outcomes = ["ProtocolError"] * 3 + ["RateLimitedError", "OutOfHoursError", "ModelNotFoundError", "ProtocolError"]
    assert [call.outcome for call in world.log.calls] == outcomes


def test_few_says_how_many_it_left_out() -> None:
    few = FewPerSecond(2)
    assert [few.take("a") for _ in range(4)] == [True, True, False, False]
    assert few.take("b")
    assert (few.left_out(), few.left_out()) == (2, 0)


def test_look_ups_are_counted_for_themselves_and_fill_no_log() -> None:
    world = World(calls_per_s=1.0)
    refused: Counter[str] = Counter()
    for number in range(LOOK_UPS.burst + 200):
        try:
            with world.entrance.look_up("Check", BANK, f"guess-{number}"):
                pytest.fail("that is no model of this caller")
        except FedPredictError as error:
            refused[type(error).__name__] += 1
    assert refused == {"ModelNotFoundError": LOOK_UPS.burst, "RateLimitedError": 200}
    assert len(world.log.calls) == LOOK_UPS.burst + REFUSED_PER_S
    assert world.log.counted == {"party bank": 200 - REFUSED_PER_S}
    # calls are another count, and a look-up of one caller takes nothing from another
    assert world.policy.admit(BANK, Needs.CALL).purpose == ""
    with pytest.raises(ModelNotFoundError), world.entrance.look_up("Check", SHOP, "m"):
        pass


def test_what_is_asked_of_an_identity_alone_is_a_look_up_of_who_has_a_rule() -> None:
    world = World()
    for _ in range(LOOK_UPS.burst):
        world.entrance.misunderstood("Hello", BANK, ProtocolError("no nonce"), Needs.IDENTITY)
    with pytest.raises(RateLimitedError, match="100 times a second"):
        world.entrance.misunderstood("Hello", BANK, ProtocolError("no nonce"), Needs.IDENTITY)
    before = len(world.log.calls)
    for _ in range(100):  # with strangers: ten lines, and not told apart by what they are told
        world.entrance.misunderstood("Hello", SHOP, ProtocolError("no nonce"), Needs.IDENTITY)
    assert len(world.log.calls) == before + REFUSED_PER_S


def test_who_proved_who_he_is_by_a_certificate_that_is_refused_is_named() -> None:
    world = World()
    for caller in ("party bank", ""):
        with pytest.raises(CertificateRefusedError), world.audit.strangers("link"):
            raise CertificateRefusedError("revoked", caller=caller)
    assert [call.caller for call in world.log.calls] == ["party bank", "nobody"]
