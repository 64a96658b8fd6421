"""A client's certificate is renewed, and its CA replaced, while it asks: nobody makes a new client."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from typing_extensions import override

from fedpredict.client import AsyncClient, Client, Predictions, credentials, lines
from fedpredict.errors import CertificateRefusedError
from fedpredict.initiator import callers
from fedpredict.initiator.server import InitiatorServer
from fedpredict.security import followed, live
from fedpredict.security.callers import caller_identity, shown_in
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import Context, TlsFiles
from fedpredict.wire import handlers
from fedpredict.wire.channel import server_options
from fedpredict.wire.status import abort
from tests.integration.federation import ANSWERS_IN_S, Certificates, Federation, ScriptedParty
from tests.integration.scripted_edge import EdgeServer
from tests.integration.test_certificate_changes import Changing, is_so, serial_of, told
from tests.unit.client.test_offline_results import N_ROWS, batch

DESK = Identity(IdentityKind.CLIENT, "desk")
MANY = [f"u{number}" for number in range(700)]
"""Ids that travel as a table on a stream."""
NEVER = 3_600.0


@pytest.fixture
def certificates(tmp_path: Path) -> Changing:
    return Changing(tmp_path / "certificates")


@pytest.fixture
def files(certificates: Changing) -> TlsFiles:
    return certificates.of("desk", IdentityKind.CLIENT)


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "LOOK_S", 0.05)


@dataclass
class Bank:
    """A real initiator over one party, which predicts u7 as 7.0, and the certificates that clients showed it."""

    server: InitiatorServer
    lab: ScriptedParty
    serials: list[str] = field(default_factory=list)

    def note(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note each client's serial number, with every call and stream that is let in."""

        def noting(context: Context, live_tls: LiveTls | None) -> Identity:
            identity = caller_identity(context, live_tls)
            if identity.kind is IdentityKind.CLIENT:
                self.serials.append(f"{x509.load_pem_x509_certificate(shown_in(context)).serial_number:X}")
            return identity

        monkeypatch.setattr(callers, "caller_identity", noting)


@pytest.fixture
async def bank(tmp_path: Path, certificates: Changing, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bank]:
    async with Federation(tmp_path, certificates) as federation:
        table = {name.encode(): [float(name[1:])] for name in MANY}
        lab = await federation.party("lab", table, np.array([[1.0]]))
        server = await federation.initiator({"m": {"parties": ["lab"]}})
        await federation.ready()
        bank = Bank(server, lab)
        bank.note(monkeypatch)
        yield bank


Kind = type[Client] | type[AsyncClient]
both = pytest.mark.parametrize("kind", [Client, AsyncClient])


class Opened:
    """A client of either kind, awaited."""

    def __init__(self, kind: Kind, address: str, files: TlsFiles) -> None:
        self.client = kind(address, server_party="bank", tls=files)

    async def ask(self, ids: Sequence[str]) -> Predictions:
        if isinstance(self.client, Client):
            return await asyncio.to_thread(self.client.predict, "m", ids, timeout_s=ANSWERS_IN_S)
        return await self.client.predict("m", ids, timeout_s=ANSWERS_IN_S)

    async def __aenter__(self) -> Opened:
        return self

    async def __aexit__(self, *_: object) -> None:
        if isinstance(self.client, Client):
            await asyncio.to_thread(self.client.close)
        else:
            await self.client.close()


@both
async def test_no_call_fails_while_the_certificate_is_renewed_and_the_new_one_is_shown(
    kind: Kind, bank: Bank, certificates: Changing, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, closed = [], []

    class Noted(lines.Line):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

        @override
        async def close(self) -> None:
            closed.append(self)
            await super().close()

    monkeypatch.setattr(lines, "Line", Noted)
    stop, answered = asyncio.Event(), 0

    async with Opened(kind, bank.server.address, files) as client:

        async def ask(ids: list[str]) -> None:
            nonlocal answered
            while not stop.is_set():
                values = (await client.ask(ids)).values[:, 0]
                assert values.tolist() == [float(each[1:]) for each in ids]
                answered += 1

        # alone, together on a stream, and as tables
        asking = [asyncio.create_task(ask(ids)) for ids in (*[["u1", "u2"]] * 6, MANY)]
        shown = [serial_of(files)]
        await is_so(lambda: bank.serials[-1:] == shown)
        for _ in range(2):
            shown.append(certificates.renew(DESK))
            await is_so(lambda: shown[-1] in bank.serials or any(each.done() for each in asking))
            wanted = answered + 20
            while answered < wanted and not any(each.done() for each in asking):
                await asyncio.sleep(0.02)
        stop.set()
        await asyncio.gather(*asking)
        await is_so(lambda: len(closed) == len(made) - 1)
    assert list(dict.fromkeys(bank.serials)) == shown
    assert len(made) == 3
    assert set(made) == set(closed)


@both
async def test_a_call_under_way_ends_on_the_old_connection(
    kind: Kind, bank: Bank, certificates: Changing, files: TlsFiles
) -> None:
    before = serial_of(files)
    async with Opened(kind, bank.server.address, files) as client:
        bank.lab.held = asyncio.Event()
        first = asyncio.create_task(client.ask(["u1"]))
        await bank.lab.scoring.wait()
        after = certificates.renew(DESK)
        asking = [asyncio.create_task(client.ask(["u2"]))]

        async def asked() -> None:
            while after not in bank.serials:
                asking.append(asyncio.create_task(client.ask(["u2"])))
                await asyncio.sleep(0.1)

        await asyncio.wait_for(asked(), ANSWERS_IN_S)
        assert not first.done()
        bank.lab.held.set()
        assert (await first).values.tolist() == [[1.0]]
        assert {each.values[0, 0] for each in await asyncio.gather(*asking)} == {2.0}
    assert bank.serials[0] == before


@both
async def test_a_bad_set_leaves_the_old_one_in_force_and_is_told_once(
    kind: Kind, bank: Bank, certificates: Changing, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    before, key = serial_of(files), files.key.read_bytes()
    async with Opened(kind, bank.server.address, files) as client:

        async def asked_until(what: Callable[[], bool]) -> None:
            async with asyncio.timeout(ANSWERS_IN_S):
                while not what():
                    assert (await client.ask(["u1"])).n_scored == 1
                    await asyncio.sleep(0.02)

        await client.ask(["u1"])
        files.key.write_bytes(certificates.of("shop").key.read_bytes())
        await asked_until(lambda: bool(told(caplog, "tls.certificate_not_taken")))
        for _ in range(4):
            await asyncio.sleep(0.06)
            await client.ask(["u1"])
        (line,) = told(caplog, "tls.certificate_not_taken")
        assert line["levelname"] == "WARNING"
        assert line["reason"].startswith(f"{files.key}: not the key of")
        assert line["serial"] == before

        other = certificates.of("till", IdentityKind.CLIENT)
        shutil.copy(other.certificate, files.certificate)
        shutil.copy(other.key, files.key)
        await asked_until(lambda: len(told(caplog, "tls.certificate_not_taken")) > 1)
        reason = told(caplog, "tls.certificate_not_taken")[-1]["reason"]
        assert "belongs to client till, and this client is client desk" in reason
        assert set(bank.serials) == {before}

        files.key.write_bytes(key)
        after = certificates.renew(DESK)
        await asked_until(lambda: bank.serials[-1] == after)


def ahead(monkeypatch: pytest.MonkeyPatch, bank: Bank, days: int) -> None:
    """Put the server's clock forward."""
    tls = bank.server.tls
    assert tls is not None
    monkeypatch.setattr(tls, "_now", lambda: datetime.now(UTC) + timedelta(days=days))
    monkeypatch.setattr(tls._verdicts, "_now", tls._now)


@both
async def test_a_certificate_that_ended_before_anybody_looked_fails_no_call_where_a_new_one_is_there(
    kind: Kind, bank: Bank, certificates: Changing, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as in a client that asks once a day: the first call finds out."""
    monkeypatch.setattr(credentials, "LOOK_S", NEVER)
    before = certificates.renew(DESK, days=10)
    async with Opened(kind, bank.server.address, files) as client:
        await client.ask(["u1"])
        after = certificates.renew(DESK)
        ahead(monkeypatch, bank, days=11)
        assert (await client.ask(["u1"])).values.tolist() == [[1.0]]
        assert (await client.ask(MANY)).n_scored == len(MANY)
    assert list(dict.fromkeys(bank.serials)) == [before, after]


@both
async def test_a_client_whose_certificate_ended_is_well_again_with_a_new_one(
    kind: Kind, bank: Bank, certificates: Changing, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "LOOK_S", 0.0)
    certificates.renew(DESK, days=10)
    async with Opened(kind, bank.server.address, files) as client:
        await client.ask(["u1"])
        ahead(monkeypatch, bank, days=11)
        with pytest.raises(CertificateRefusedError, match="it ended, or was revoked or denied"):
            await client.ask(["u1"])
        after = certificates.renew(DESK)
        assert (await client.ask(["u1"])).values.tolist() == [[1.0]]
    assert bank.serials[-1] == after


@both
async def test_calls_on_a_stream_whose_certificate_ends_are_made_again_with_the_new_one(
    kind: Kind, bank: Bank, certificates: Changing, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "LOOK_S", NEVER)
    monkeypatch.setattr(live, "LOOK_S", 0.05)
    monkeypatch.setattr(live, "_SWEEP", timedelta())
    certificates.renew(DESK, days=10)
    async with Opened(kind, bank.server.address, files) as client:
        bank.lab.held = asyncio.Event()
        asking = [asyncio.create_task(client.ask(ids)) for ids in (["u1"], MANY)]
        await is_so(lambda: len(bank.serials) == 2)
        after = certificates.renew(DESK)
        ahead(monkeypatch, bank, days=11)
        await is_so(lambda: after in bank.serials)
        bank.lab.held.set()
        assert [each.n_scored for each in await asyncio.gather(*asking)] == [1, len(MANY)]
    assert bank.serials[2:] == [after]  # what is under way alone was let in with the old one, and is answered


def put(made: TlsFiles, there: TlsFiles) -> None:
    """Put a set of files in the place of another."""
    for name in ("ca", "certificate", "key"):
        shutil.copy(getattr(made, name), getattr(there, name))


@both
async def test_a_client_is_well_again_with_the_files_of_another_ca(
    kind: Kind, tmp_path: Path, certificates: Changing, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server comes back with a certificate of another CA, and the client's files are the new ones by then."""
    monkeypatch.setattr(credentials, "LOOK_S", NEVER)
    others = Certificates(tmp_path / "others")
    edge = EdgeServer(certificates.of("bank"))
    later = EdgeServer(others.of("bank"))
    try:
        edge.start()
        async with Opened(kind, edge.address, files) as client:
            assert (await client.ask(["7"])).values.tolist() == [[7.0]]
            await asyncio.to_thread(edge.stop)
            later.address = edge.address
            await asyncio.to_thread(later.start)
            put(others.of("desk", IdentityKind.CLIENT), files)
            assert (await client.ask(["7"])).values.tolist() == [[7.0]]
    finally:
        await asyncio.to_thread(edge.close)
        await asyncio.to_thread(later.close)


def test_a_new_client_shares_the_connection_of_the_older_one_which_goes_on_with_the_new_certificate(
    certificates: Changing, files: TlsFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(credentials, "LOOK_S", NEVER)
    caplog.set_level("INFO")
    edge = EdgeServer(certificates.of("bank"))
    edge.start()

    def client() -> Client:
        return Client(edge.address, server_party="bank", tls=files)

    try:
        with client() as old:
            old.predict("m", ["1"])
            serial = certificates.renew(DESK)
            with client() as new:
                new.predict("m", ["1"])
                assert [each["serial"] for each in told(caplog, "tls.certificate_taken")] == [serial]
                assert len(edge.peers) == 2
                old.predict("m", ["1"])
                assert len(edge.peers) == 2
    finally:
        edge.close()


async def test_the_files_are_not_looked_at_by_every_call(
    bank: Bank, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "LOOK_S", NEVER)
    looks, stamps = 0, followed._stamps

    def counting(paths: Sequence[Path]) -> tuple[object, ...]:
        nonlocal looks
        looks += set(paths) == {files.ca, files.certificate, files.key}
        return stamps(paths)

    monkeypatch.setattr(followed, "_stamps", counting)
    async with Opened(AsyncClient, bank.server.address, files) as client:
        await client.ask(["u1"])
        after_one = looks
        for _ in range(3):
            await client.ask(["u1"])
    assert (after_one, looks) == (3, 3)  # when it was made, when it was first used, and the first look of the calls


async def test_results_go_on_after_the_certificate_was_refused_and_renewed(
    certificates: Changing, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "LOOK_S", NEVER)
    old, serials = serial_of(files), []

    async def fetch(_data: bytes, context: handlers.Context) -> AsyncIterator[bytes]:
        (shown,) = context.auth_context()["x509_pem_cert"]
        serials.append(f"{x509.load_pem_x509_certificate(shown).serial_number:X}")
        if serials[-1] == old:
            yield batch(0, 4).SerializeToString()
            certificates.renew(DESK)
            await abort(context, CertificateRefusedError("it ended"))
        yield batch(4, N_ROWS, last=True).SerializeToString()

    server = grpc.aio.server(options=server_options())
    methods = {"FetchResults": grpc.unary_stream_rpc_method_handler(fetch)}
    server.add_generic_rpc_handlers((handlers.service("fedpredict.wire.v1.InitiatorService", methods),))
    live_tls = LiveTls(replace(certificates.of("bank"), crl=None, deny=None), serves=True)
    port = server.add_secure_port("127.0.0.1:0", live_tls.server_credentials())
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}", server_party="bank", tls=files) as client:
            rows = (await client.results_table("t-1")).to_pylist()
    finally:
        await server.stop(None)
    assert [row["sample_id"] for row in rows] == [f"u{number}" for number in range(N_ROWS)]
    assert serials == [old, serial_of(files)]
