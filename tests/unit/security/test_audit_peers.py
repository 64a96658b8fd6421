"""What is kept of other parties' checkpoints, and what of them is said in the log."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import wait
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedpredict.security import audit_kept, audit_peers
from fedpredict.security.audit_chain import parse_checkpoint, sign
from fedpredict.security.audit_kept import KeptCheckpoints, thinned
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


def keep(ours: PeerCheckpoints, sender: Identity, handed: Sequence[Handed]) -> None:
    """Hand checkpoints over, and return when they are kept."""
    ours.keep(sender, handed)
    wait(ours._waiting)


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
    keep(ours, LAB, [handed(3), handed(7)])
    keep(ours, LAB, [handed(7)])
    keep(peers(tmp_path), LAB, [handed(7)])  # another process
    keep(peers(tmp_path), LAB, [handed(9)])
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
    keep(peers(tmp_path), LAB, others)
    assert kept(tmp_path) == []
    assert [message for message, _ in told(caplog)] == ["audit.peer_refused"] * len(others)


@pytest.mark.usefixtures("often")
def test_a_chain_that_goes_back_or_has_another_line_or_key_is_kept_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    keep(peers(tmp_path), LAB, [handed(7)])
    keep(peers(tmp_path), LAB, [handed(7, "cd" * 32)])  # in a later process
    keep(peers(tmp_path), LAB, [handed(5)])
    keep(peers(tmp_path), LAB, [handed(8, key=OTHER_KEY)])
    assert [n for _, n in kept(tmp_path)] == [7, 7, 5, 8]
    reasons = ["the chain has another line there", "the chain goes back", "another audit key"]
    assert told(caplog) == [("audit.peer_changed", reason) for reason in reasons]


def test_a_file_grows_no_faster_than_it_may(tmp_path: Path) -> None:
    ours = peers(tmp_path)
    for n in range(1, 100):
        keep(ours, LAB, [handed(n)])
    assert kept(tmp_path) == [("lab/worker-0", 1)]
    for number in range(200):
        keep(ours, LAB, [handed(1, chain=f"lab/worker-{number}")])
    assert len(kept(tmp_path)) == audit_peers.MOST_CHAINS


@pytest.mark.usefixtures("often")
def test_what_is_handed_over_is_kept_by_another_thread_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, go = peers(tmp_path), threading.Event()
    append, threads = KeptCheckpoints.append, set()

    def slowly(file: KeptCheckpoints, line: str) -> None:
        assert go.wait(30)
        threads.add(threading.current_thread())
        append(file, line)

    monkeypatch.setattr(KeptCheckpoints, "append", slowly)
    monkeypatch.setattr(audit_peers, "MOST_WAITING", 2)
    ours.keep(LAB, [handed(1), handed(2), handed(3)])  # the disk hangs, and this does not
    assert kept(tmp_path) == []
    go.set()
    ours.close()
    ours.keep(LAB, [handed(4)])
    assert kept(tmp_path) == [("lab/worker-0", 1), ("lab/worker-0", 2)]
    assert threading.current_thread() not in threads


@pytest.mark.usefixtures("often")
def test_of_a_file_however_large_its_end_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep(peers(tmp_path), LAB, [handed(1, chain="lab/worker-1"), *(handed(n) for n in range(1, 40))])
    (file,) = (tmp_path / "peers").glob("*.checkpoints")
    monkeypatch.setattr(audit_kept, "TAIL_BYTES", 3 * len(file.read_bytes().splitlines()[-1]))
    later = peers(tmp_path)
    keep(later, LAB, [handed(39), handed(1, chain="lab/worker-1")])
    # the one in the end is known; the other stands too far back, and is as good as new
    assert kept(tmp_path)[-2:] == [("lab/worker-0", 39), ("lab/worker-1", 1)]
    keep(later, LAB, [handed(38)])
    assert [reason for _, reason in told(caplog)] == ["the chain goes back"]


@pytest.mark.usefixtures("often")
def test_a_file_is_thinned_out_and_keeps_what_shows_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_kept, "MOST_BYTES", 12_000)
    ours, most = peers(tmp_path), 0
    file = tmp_path / "peers" / "party-lab.checkpoints"
    for n in (*range(1, 30), *range(20, 400)):
        keep(ours, LAB, [handed(n), handed(n, chain="lab/worker-1")])
        most = max(most, file.stat().st_size)
    assert 11_000 < most <= 12_000
    left = kept(tmp_path)
    for number in range(2):
        numbers = [n for chain, n in left if chain == f"lab/worker-{number}"]
        assert numbers[:3] == [1, 29, 20]  # rewritten behind 29: that one shows it
        assert numbers[-1] == 399
    assert file.stat().st_mode & 0o777 == 0o600
    keep(peers(tmp_path), LAB, [handed(399)])
    assert kept(tmp_path) == left


def test_thinning_keeps_ends_of_days_and_gives_each_chain_its_part() -> None:
    def line(day: int, n: int, worker: int = 0) -> bytes:
        made = sign(KEY, f"lab/worker-{worker}", n, "ab" * 32)
        return f"2026-11-{day:02}T08:00:00Z fedpredict://party/lab key=AA== {made.text}\n".encode()

    days = [line(day, 10 * day + n) for day in (1, 2, 3) for n in range(5)]
    assert thinned(days, 10**6) == [days[place] for place in (0, 4, 5, 9, 10, 14)]
    assert thinned([b"torn", *days[:1]], 10**6) == days[:1]
    # a chain that goes to and fro takes nothing from another
    noisy = [line(4, 15 + n % 2, worker=1) for n in range(50)]
    left = thinned([*days, *noisy], 12 * len(noisy[0]))
    assert left == [*(days[place] for place in (0, 4, 5, 9, 10, 14)), *noisy[-6:]]


def test_a_party_hands_out_its_newest_unless_it_says_not_to(tmp_path: Path) -> None:
    made = sign(open_keys(tmp_path).signing, "bank/worker-0", 4, "ab" * 32)
    ours, silent = peers(tmp_path), peers(tmp_path, hands_out=False)
    assert ours.handed() == []
    for each in (ours, silent):
        each.made(made)
    assert silent.handed() == []
    bank = Identity(IdentityKind.PARTY, "bank")
    others = peers(tmp_path / "other")
    keep(others, bank, checkpoints_from_wire(checkpoints_to_wire(ours.handed())))
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
