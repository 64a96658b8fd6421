"""Whoever gets past TLS without an identity that counts, or attaches without being listed, leaves a line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedpredict.errors import UnauthenticatedError
from fedpredict.initiator.attach import Attachments
from fedpredict.participant.answers import Answers
from fedpredict.participant.audited import CallAudit
from fedpredict.participant.links import LinkServer
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.service import ParticipantService
from fedpredict.security.audit_calls import AuditedCalls
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.wire.link import Instance


class Kept:
    """An audit log that keeps its calls."""

    def __init__(self) -> None:
        self.calls: list[AuditedCall] = []

    def add(self, call: AuditedCall) -> None:
        self.calls.append(call)

    @property
    def told(self) -> list[tuple[str, str, str]]:
        return [(call.what, call.caller, call.outcome) for call in self.calls]


class Believes:
    """What certificates are held to: nobody, or everybody as one identity."""

    def __init__(self, identity: Identity | None = None) -> None:
        self.identity = identity

    def check(self, shown: object) -> Identity:
        if self.identity is None:
            raise UnauthenticatedError("no identity, or more than one")
        return self.identity


class Context:
    """A call of somebody."""

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:9"


CONTEXT = cast("Any", Context())


def participant(log: Kept) -> tuple[ParticipantService, LinkServer]:
    live = cast("Any", Believes())
    policy, audit = CallerPolicy({}), CallAudit(cast("Any", log))
    answers = Answers(cast("Any", None), policy, None, Instance(), audit=audit)
    links = LinkServer(answers, live=live)
    return ParticipantService(answers, links, live=live), links


def test_at_a_participant_over_grpc() -> None:
    log = Kept()
    service, _ = participant(log)
    with pytest.raises(UnauthenticatedError):
        service.caller(CONTEXT)
    assert log.told == [("gRPC", "nobody", "UnauthenticatedError")]


async def opened_by(monkeypatch: pytest.MonkeyPatch, module: str) -> list[Any]:
    """Have `listen_sockets` hand over what it would ask of each socket."""
    opening: list[Any] = []

    async def listen_sockets(_listen: str, _context: object, opened: Any, **_: object) -> tuple[Any, str]:
        opening.append(opened)
        return SimpleNamespace(close=lambda: None), "127.0.0.1:1"

    monkeypatch.setattr(f"{module}.listen_sockets", listen_sockets)
    return opening


async def test_at_a_participant_over_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    log, opening = Kept(), await opened_by(monkeypatch, "fedpredict.participant.links")
    _, links = participant(log)
    await links.listen("127.0.0.1:0", None)
    with pytest.raises(UnauthenticatedError):
        opening[0](SimpleNamespace(tls=None, stated="", peer="127.0.0.1:9"))
    assert log.told == [("link", "nobody", "UnauthenticatedError")]


SHOP = Identity(IdentityKind.PARTY, "shop")


@pytest.mark.parametrize(("identity", "told"), [(None, "nobody"), (SHOP, "party shop")])
async def test_at_an_initiator_that_is_attached_to(
    identity: Identity | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, opening = Kept(), await opened_by(monkeypatch, "fedpredict.initiator.attach")
    attachments = Attachments({}, cast("Any", Believes(identity)), AuditedCalls(cast("Any", log)))
    with pytest.raises(UnauthenticatedError):
        await attachments.attach(CONTEXT)
    await attachments.listen("127.0.0.1:0", None, cast("Any", SimpleNamespace(callback=lambda _: None)))
    with pytest.raises(UnauthenticatedError):
        opening[0](SimpleNamespace(tls=None, stated="", peer="127.0.0.1:9"))
    assert log.told == [("Attach", told, "UnauthenticatedError")] * 2
