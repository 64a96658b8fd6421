"""What lines of answered calls share is looked up: never another caller's, nor another rule's, model's or answer's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import numpy as np

from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.security import audit_calls
from fedpredict.security.audit_calls import AuditedCalls
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tokens import Token, TokenHolder
from tests.audit_calls import answered_call

BANK, SHOP = Identity(IdentityKind.PARTY, "bank"), Identity(IdentityKind.PARTY, "shop")


class Kept:
    """A log that keeps what was answered."""

    def __init__(self) -> None:
        self.calls: list[AuditedCall] = []

    def add_answer(self, text: bytes, request_id: str, sample_ids: SampleIds) -> None:
        self.calls.append(answered_call(text, request_id, sample_ids))


class World:
    """Calls that are written down twice each, so that what is looked up is seen, too."""

    def __init__(self) -> None:
        self.log, self.purpose = Kept(), "credit"
        self.calls = AuditedCalls(cast("Any", self.log), lambda _: self.purpose)

    def answered(self, caller: Identity = BANK, what: str = "Score", **changed: Any) -> AuditedCall:
        given: dict[str, Any] = {"model_id": "m", "manifest_sha256": "ab", "mode": Mode.NEARLINE, "epoch": 3}
        given |= {"sample_ids": SampleIds.of([b"u1"]), "status": np.zeros(1, dtype=np.uint8), **changed}
        for _ in range(2):
            self.calls.answered(what, caller, "r1", **given)
        first, second = self.log.calls[-2:]
        assert str(first) == str(second)
        return second


def test_each_field_of_the_line_is_of_the_call_itself() -> None:
    world = World()
    ok = world.answered()
    assert (ok.what, ok.caller, ok.model_id, ok.manifest_sha256) == ("Score", "party bank", "m", "ab")
    assert (ok.mode, ok.epoch, ok.rows, ok.purpose, ok.token) == ("nearline", 3, 1, "credit", "")
    assert world.answered(what="Predict").what == "Predict"
    assert world.answered(SHOP).caller == "party shop"
    assert world.answered(model_id="other").model_id == "other"
    assert world.answered(manifest_sha256="cd").manifest_sha256 == "cd"
    assert world.answered(mode=Mode.REALTIME).mode == "realtime"
    assert world.answered(epoch=4).epoch == 4
    missing = np.array([SampleStatus.NOT_FOUND], dtype=np.uint8)
    assert cast("Any", world.answered(status=missing).status).tolist() == [SampleStatus.NOT_FOUND]
    two = world.answered(sample_ids=SampleIds.of([b"u1", b"u2"]), status=np.zeros(2, dtype=np.uint8))
    assert (two.rows, two.sample_ids) == (2, [b"u1", b"u2"])
    world.purpose = "marketing"  # its rule was changed
    assert world.answered().purpose == "marketing"


def test_two_tokens_of_one_client_are_told_apart() -> None:
    world, now = World(), datetime(2026, 11, 27, tzinfo=UTC)
    tokens = [
        Token(
            id=name * 12,
            sha256="0" * 64,
            client="risk",
            created_at=now,
            created_by="me",
            expires_at=now,
            models=("*",),
            modes=(Mode.NEARLINE,),
        )
        for name in "ab"
    ]
    holders = [TokenHolder(IdentityKind.CLIENT, "risk", each, cast("Any", None)) for each in tokens]
    assert [world.answered(each).token for each in holders] == ["a" * 12, "b" * 12]


def test_what_is_kept_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(audit_calls, "_KEPT", 5)
    world = World()
    for epoch in range(20):
        assert world.answered(epoch=epoch).epoch == epoch
        assert len(world.calls._texts) <= 5
    kept = len(world.calls._texts)
    many = world.answered(sample_ids=SampleIds.of([b"u"] * 65), status=np.zeros(65, dtype=np.uint8))
    assert (many.rows, len(world.calls._texts)) == (65, kept)
