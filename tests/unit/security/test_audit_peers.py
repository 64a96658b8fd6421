"""What is kept of other parties' checkpoints, and what of them is said in the log."""

from __future__ import annotations

import base64
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedpredict.security import audit_peers
from fedpredict.security.audit_chain import parse_checkpoint, sign
from fedpredict.security.audit_keys import open_keys
from fedpredict.security.audit_peers import Handed, PeerCheckpoints
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.wire.checkpoints import MOST, checkpoints_from_wire, checkpoints_to_wire
from fedpredict.wire.v1 import common_pb2

NOW = datetime(2026, 11, 27, 8, tzinfo=UTC)
LAB = Identity(IdentityKind.PARTY, "lab")
KEY, OTHER_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def handed(n: int, sha256: str = "ab" * 32, chain: str = "lab/worker-0", key: Ed25519PrivateKey = KEY) -> Handed:
    made = sign(key, chain, n, sha256)
    return chain, n, bytes.fromhex(sha256), base64.b64decode(made.signature), key.public_key().public_bytes_raw()


def peers(folder: Path, *, hands_out: bool = True) -> PeerCheckpoints:
    return PeerCheckpoints(folder, open_keys(folder), lambda: NOW, hands_out=hands_out)


def kept(folder: Path) -> list[tuple[str, int]]:
    file = folder / "peers" / "party-lab.checkpoints"
    found = [parse_checkpoint(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [(each.chain, each.n) for each in found if each is not None]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_peers, "KEPT_EVERY_S", 0.0)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.message, str(vars(record)["reason"])) for record in caplog.records]


@pytest.mark.usefixtures("often")
def test_what_is_signed_by_its_sender_is_appended_with_who_sent_it_when(tmp_path: Path) -> None:
    ours = peers(tmp_path)
    ours.keep(LAB, [handed(3), handed(7)])
    ours.keep(LAB, [handed(7)])
    peers(tmp_path).keep(LAB, [handed(7)])  # another process
    peers(tmp_path).keep(LAB, [handed(9)])
    assert kept(tmp_path) == [("lab/worker-0", 3), ("lab/worker-0", 7), ("lab/worker-0", 9)]
    line = (tmp_path / "peers" / "party-lab.checkpoints").read_text().splitlines()[0]
    assert line.startswith("2026-11-27T08:00:00.000000Z fedpredict://party/lab key=")


@pytest.mark.usefixtures("often")
def test_what_somebody_else_could_have_made_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chain, n, sha256, signature, _ = handed(3)
    others = (
        (chain, n + 1, sha256, signature, handed(3)[4]),
        (chain, n, sha256, signature, OTHER_KEY.public_key().public_bytes_raw()),
        handed(3, chain="shop/worker-0"),
        handed(3, chain="lab/../../worker-0"),
        handed(3, chain="lab/worker-0 fedpredict-audit lab/worker-0"),
    )
    peers(tmp_path).keep(LAB, others)
    assert kept(tmp_path) == []
    assert [message for message, _ in told(caplog)] == ["audit.peer_refused"] * len(others)


@pytest.mark.usefixtures("often")
def test_a_chain_that_goes_back_or_has_another_line_or_key_is_kept_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    peers(tmp_path).keep(LAB, [handed(7)])
    peers(tmp_path).keep(LAB, [handed(7, "cd" * 32)])  # in a later process
    peers(tmp_path).keep(LAB, [handed(5)])
    peers(tmp_path).keep(LAB, [handed(8, key=OTHER_KEY)])
    assert [n for _, n in kept(tmp_path)] == [7, 7, 5, 8]
    reasons = ["the chain has another line there", "the chain goes back", "another audit key"]
    assert told(caplog) == [("audit.peer_changed", reason) for reason in reasons]


def test_a_file_grows_no_faster_than_it_may(tmp_path: Path) -> None:
    ours = peers(tmp_path)
    for n in range(1, 100):
        ours.keep(LAB, [handed(n)])
    assert kept(tmp_path) == [("lab/worker-0", 1)]
    for number in range(200):
        ours.keep(LAB, [handed(1, chain=f"lab/worker-{number}")])
    assert len(kept(tmp_path)) == audit_peers.MOST_CHAINS


def test_a_party_hands_out_its_newest_unless_it_says_not_to(tmp_path: Path) -> None:
    made = sign(open_keys(tmp_path).signing, "bank/worker-0", 4, "ab" * 32)
    ours, silent = peers(tmp_path), peers(tmp_path, hands_out=False)
    assert ours.handed() == []
    for each in (ours, silent):
        each.made(made)
    assert silent.handed() == []
    bank = Identity(IdentityKind.PARTY, "bank")
    others = peers(tmp_path / "other")
    others.keep(bank, checkpoints_from_wire(checkpoints_to_wire(ours.handed())))
    line = (tmp_path / "other" / "peers" / "party-bank.checkpoints").read_text()
    assert parse_checkpoint(line) == made


def test_a_message_that_can_be_no_checkpoint_is_passed_over() -> None:
    good = checkpoints_to_wire([handed(3)])[0]
    broken = []
    for change in ({"chain": "x" * 101}, {"n": 0}, {"n": 2**60}, {"sha256": b"x"}, {"signature": b""}):
        message = common_pb2.AuditCheckpoint()
        message.CopyFrom(good)
        for name, value in change.items():
            setattr(message, name, value)
        broken.append(message)
    assert checkpoints_from_wire(broken) == []
    assert len(checkpoints_from_wire([good] * 100)) == MOST
