from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpredict.errors import AuditUnavailableError, ConfigError
from fedpredict.model.share import SampleStatus
from fedpredict.security.audit_chain import (
    Checkpoint,
    calls,
    chain_files,
    parse_checkpoint,
    parse_line,
)
from fedpredict.security.audit_keys import PUBLIC_KEY, SIGNING_KEY, open_keys, read_public_key
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.audit_log import AuditLog
from fedpredict.security.audit_settings import AuditSettings
from fedpredict.security.audit_verify import ChainReport, verify_chain

CHAIN = "lab/worker-0"


def log(folder: Path, *, now: Callable[[], datetime] | None = None, **settings: Any) -> AuditLog:
    given = AuditSettings(**{"write_s": 0.01, "checkpoint_s": 0.02, **settings})
    more = {} if now is None else {"clock_ns": lambda: int(now().timestamp()) * 10**9}
    return AuditLog(given, folder, "lab", 0, open_keys(folder), **more)


def call(number: int = 0, n_ids: int = 2) -> AuditedCall:
    ids = [f"person-{number}-{row}".encode() for row in range(n_ids)]
    status = np.array([SampleStatus.OK, *[SampleStatus.NOT_FOUND] * (n_ids - 1)], dtype=np.uint8)
    return AuditedCall("Score", "party bank", f"r{number}", "credit", "a" * 64, "nearline", n_ids, 0, "ok", ids, status)


def filled(folder: Path, n_calls: int = 5, **settings: Any) -> None:
    with log(folder, **settings) as audit:
        for number in range(n_calls):
            audit.add(call(number))


def verify(folder: Path, *anchors: Checkpoint) -> ChainReport:
    return verify_chain(folder / "worker-0", read_public_key(folder / PUBLIC_KEY), anchors)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in chain_files(folder / "worker-0") for line in path.read_bytes().splitlines()]


def only_file(folder: Path) -> Path:
    (path,) = chain_files(folder / "worker-0")
    return path


def test_a_call_is_a_line_with_keyed_hashes_of_the_ids_and_the_chain_is_whole(tmp_path: Path) -> None:
    filled(tmp_path, 3)

    report = verify(tmp_path)
    assert (report.problems, report.notes) == ([], [])
    lines = lines_of(tmp_path)
    assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    assert (lines[0]["kind"], lines[-2]["kind"], lines[-1]["kind"]) == ("begin", "end", "checkpoint")
    (first, *_) = [line for line in lines if line["kind"] == "call"]
    expected: dict[str, object] = {
        "what": "Score",
        "caller": "party bank",
        "request": "r0",
        "model": "credit",
        "manifest": "a" * 64,
    }
    expected |= {"mode": "nearline", "rows": 2, "epoch": 0, "outcome": "ok", "statuses": {"OK": 1, "NOT_FOUND": 1}}
    assert expected.items() <= first.items()
    key = (tmp_path / "ids.key").read_bytes()
    assert first["ids"] == [hmac.new(key, f"person-0-{row}".encode(), "sha256").hexdigest()[:32] for row in (0, 1)]
    assert b"person" not in only_file(tmp_path).read_bytes()
    assert (tmp_path / SIGNING_KEY).stat().st_mode & 0o777 == 0o600


def test_the_hash_is_what_the_documents_say(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    before = "0" * 64
    for line in only_file(tmp_path).read_bytes().splitlines():
        text, _, seal = line.rpartition(b',"h":"')
        before = hashlib.sha256(before.encode() + text).hexdigest()
        assert seal == before.encode() + b'"}'


def test_a_large_call_has_a_count_and_one_hash(tmp_path: Path) -> None:
    with log(tmp_path, ids_per_line=4) as audit:
        audit.add(call(0, 5))
        audit.add(call(0, 5))
        audit.add(call(1, 5))
    roots = [line["root"] for line in lines_of(tmp_path) if line["kind"] == "call"]
    assert roots[0] == roots[1] != roots[2]
    assert all("ids" not in each for each in calls([tmp_path / "worker-0"]))


Damage = Callable[[list[bytes]], list[bytes]]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda lines: [*lines[:2], *lines[3:]], r"line 3: number 4 follows 2: lines were removed"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], r"line 3: number 4 follows 2"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], r"line 4: number 3 follows 3"),
        (
            lambda lines: [*lines[:2], lines[2].replace(b'"rows":2', b'"rows":1'), *lines[3:]],
            r"line 3: number 3 was changed",
        ),
        (lambda lines: [*lines[:2], lines[2][:40], *lines[3:]], r"line 3: is damaged"),
        (lambda lines: lines[1:], r"line 1: the first line does not begin a file"),
        (
            lambda lines: [*lines[:-1], re.sub(rb'"signature":"....', b'"signature":"AAAA', lines[-1])],
            r"number \d+ was changed",
        ),
    ],
    ids=["removed", "moved", "added", "changed", "cut", "headless", "signature"],
)
def test_whatever_is_done_to_a_line_is_found_and_said(tmp_path: Path, damage: Damage, told: str) -> None:
    filled(tmp_path)
    path = only_file(tmp_path)
    path.write_bytes(b"\n".join([*damage(path.read_bytes().splitlines()), b""]))

    problems = verify(tmp_path).problems

    assert problems
    assert re.search(told, problems[0]), problems


def test_a_line_that_is_changed_with_a_new_hash_breaks_the_next_or_the_checkpoint(tmp_path: Path) -> None:
    filled(tmp_path)
    path = only_file(tmp_path)
    lines = path.read_bytes().splitlines()
    before = "0" * 64
    forged = []
    for line in lines:  # who has the disk can seal all lines anew, but not sign
        text = line.rpartition(b',"h":"')[0].replace(b'"rows":2', b'"rows":1')
        before = hashlib.sha256(before.encode() + text).hexdigest()
        forged.append(text + b',"h":"' + before.encode() + b'"}')
    path.write_bytes(b"\n".join([*forged, b""]))

    assert any("not signed" in each for each in verify(tmp_path).problems)


def test_a_cut_end_is_found_by_a_checkpoint_that_was_kept_elsewhere(tmp_path: Path) -> None:
    anchor = tmp_path / "elsewhere.txt"
    filled(tmp_path / "audit", anchor=anchor)
    kept = [parse_checkpoint(line) for line in anchor.read_text().splitlines()]
    last = kept[-1]
    assert last is not None
    assert verify(tmp_path / "audit", last).problems == []
    path = only_file(tmp_path / "audit")
    lines = path.read_bytes().splitlines(keepends=True)

    path.write_bytes(b"".join(lines[:3]))

    assert verify(tmp_path / "audit").problems == []  # the chain alone cannot know
    (problem,) = verify(tmp_path / "audit", last).problems
    assert f"an anchor has line {last.n}; the chain ends at 3: its end was cut off" in problem


def test_an_anchor_that_the_key_does_not_verify_is_a_problem_for_its_own_chain_only(tmp_path: Path) -> None:
    filled(tmp_path)
    assert verify(tmp_path, Checkpoint("shop/worker-0", 3, "f" * 64, "AAAA")).problems == []
    (problem,) = verify(tmp_path, Checkpoint(CHAIN, 3, "f" * 64, "AAAA")).problems
    assert "an anchor of line 3 is not signed by this audit key" in problem


def test_a_syslog_server_gets_the_checkpoints(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10.0)
        filled(tmp_path, syslog=f"127.0.0.1:{server.getsockname()[1]}")
        message = server.recv(4_096).decode()
    assert message.startswith("<85>")
    checkpoint = parse_checkpoint(message)
    assert checkpoint is not None
    assert verify(tmp_path, checkpoint).problems == []


def test_a_chain_goes_on_in_new_files_and_after_a_restart(tmp_path: Path) -> None:
    filled(tmp_path)
    filled(tmp_path)
    report = verify(tmp_path)
    assert (report.problems, len(chain_files(tmp_path / "worker-0"))) == ([], 2)
    chain_files(tmp_path / "worker-0")[0].unlink()
    assert "are gone, and no line says that they were pruned" in verify(tmp_path).problems[0]


def test_a_large_file_is_followed_by_another(tmp_path: Path) -> None:
    with log(tmp_path, file_mb=1, ids_per_line=1_000) as audit:
        for number in range(200):
            audit.add(call(number, 1_000))
    assert len(chain_files(tmp_path / "worker-0")) >= 3
    assert verify(tmp_path).problems == []


def test_old_files_are_removed_and_the_chain_says_so(tmp_path: Path) -> None:
    filled(tmp_path)
    old = only_file(tmp_path)
    past = (datetime.now(UTC) - timedelta(days=10)).timestamp()
    os.utime(old, (past, past))
    filled(tmp_path, keep_days=5)
    assert not old.exists()
    assert verify(tmp_path).problems == []
    assert any(line["kind"] == "pruned" for line in lines_of(tmp_path))


_WRITER = """
import sys
from pathlib import Path
from tests.unit.security.test_audit import call, log
with log(Path(sys.argv[1]), checkpoint_s=0.5) as audit:
    number = 0
    while True:
        audit.add(call(number)); number += 1
        if number % 100 == 0:
            print(number, flush=True)
            __import__("time").sleep(0.01)
"""


def test_a_killed_process_leaves_a_chain_that_the_next_one_continues(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 1_000:
            pass
        writer.send_signal(signal.SIGKILL)
    with only_file(tmp_path).open("ab") as file:  # as if the kill had been in the middle of a line
        file.write(b'{"n":99999,"kind":"ca')
    notes = verify(tmp_path)
    assert (notes.problems, len(notes.notes)) == ([], 1)

    filled(tmp_path)

    report = verify(tmp_path)
    assert report.problems == []
    assert report.lines > 500
    first = chain_files(tmp_path / "worker-0")[0]
    first.write_bytes(first.read_bytes().rpartition(b"\n")[0] + b"\n")  # the torn bytes are part of what is proved
    assert "unfinished bytes stood before it" in verify(tmp_path).problems[0]


def test_two_daemons_of_one_folder_write_a_chain_each(tmp_path: Path) -> None:
    with log(tmp_path) as first, log(tmp_path) as second:
        first.add(call(1))
        second.add(call(2))
    with log(tmp_path) as again:
        again.add(call(3))
    requests = [[each["request"] for each in calls([tmp_path / f"worker-{number}"])] for number in (0, 1)]
    assert requests == [["r1", "r3"], ["r2"]]
    key = read_public_key(tmp_path / PUBLIC_KEY)
    assert [verify_chain(tmp_path / f"worker-{number}", key).problems for number in (0, 1)] == [[], []]


def test_calls_are_refused_while_they_cannot_be_written_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with log(tmp_path) as audit:
        audit.check()
        monkeypatch.setattr("fedpredict.security.audit_file.os.write", full)
        audit.add(call())
        until(lambda: _refuses(audit))
        with pytest.raises(AuditUnavailableError, match="No space left"):
            audit.check()
        monkeypatch.setattr("fedpredict.security.audit_file.os.write", whole)
        until(lambda: not _refuses(audit))
    assert len(list(calls([tmp_path / "worker-0"]))) == 1
    assert verify(tmp_path).problems == []


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / SIGNING_KEY).chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        open_keys(tmp_path)


def _refuses(audit: AuditLog) -> bool:
    try:
        audit.check()
    except AuditUnavailableError:
        return True
    return False


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.parametrize("text", [b"\\ud800", b"\xed\xa0\x80"], ids=["escaped", "as it is"])
def test_a_forged_line_with_half_a_character_is_told_and_stops_nothing(tmp_path: Path, text: bytes) -> None:
    filled(tmp_path)
    path = only_file(tmp_path)
    begin, *rest = path.read_bytes().splitlines(keepends=True)
    before = json.loads(begin)["before"].encode()
    path.write_bytes(b"".join([begin.replace(before, text), *rest]))

    assert verify(tmp_path).problems


def test_a_line_that_is_nested_without_end_is_no_line() -> None:
    assert parse_line(b'{"n":' + b"[" * 100_000) is None


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5000, "-1", "1.5"])
def test_a_checkpoint_with_a_number_that_is_none_is_none(number: str) -> None:
    assert parse_checkpoint(f"fedpredict-audit lab/0 {number} ab cd") is None
