"""The audit log where something fails, or somebody forges: rotation, damage, keys, forged ends, threads that hang."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from fedpredict.errors import AuditUnavailableError, ConfigError
from fedpredict.model.kernel.lines import Bodies
from fedpredict.model.sample_ids import SampleIds
from fedpredict.security import audit_log
from fedpredict.security.audit_anchor import Anchoring
from fedpredict.security.audit_chain import Checkpoint, calls, chain_files
from fedpredict.security.audit_file import ChainFile
from fedpredict.security.audit_keys import IDS_KEY, PUBLIC_KEY, SIGNING_KEY, open_keys, read_public_key
from fedpredict.security.audit_line import AuditedCall, fields_of
from fedpredict.security.audit_verify import ChainReport, verify_chain
from tests.unit.security.test_audit import call, filled, lines_of, log, only_file, until, verify


def reseal(bodies: list[dict[str, Any]]) -> bytes:
    """Return lines with the hashes and numbers that anybody can compute, who has the format's description."""
    before, lines = "0" * 64, []
    for n, body in enumerate(bodies, start=1):
        kept = {name: value for name, value in body.items() if name not in ("n", "h")}
        text = json.dumps({"n": n, **kept}, separators=(",", ":")).encode()[:-1]
        before = hashlib.sha256(before.encode() + text).hexdigest()
        lines.append(text + b',"h":"' + before.encode() + b'"}\n')
    return b"".join(lines)


def fail(*_: object, **__: object) -> int:
    raise OSError(24, "Too many open files")


def test_a_rotation_that_fails_goes_on_in_the_old_file_and_touches_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ChainFile(tmp_path / "worker-0", "lab/worker-0", open_keys(tmp_path), 30.0, datetime.now(UTC))
    entry = b'{"kind":"call","t":"2026-11-27T08:00:00Z"}'
    for name in ("open", "link"):
        monkeypatch.setattr(f"fedpredict.security.audit_file.os.{name}", fail)
        with pytest.raises(OSError, match="Too many open files"):
            file.next(datetime.now(UTC))
        monkeypatch.undo()
        # whoever opens a file now would get the number of a descriptor that was closed
        stranger = os.open(tmp_path / "stranger", os.O_RDWR | os.O_CREAT)
        file.write(Bodies.of([entry]))
        assert os.fstat(stranger).st_size == 0
        os.close(stranger)
    assert len(chain_files(tmp_path / "worker-0")) == 1
    file.next(datetime.now(UTC))
    file.write(Bodies.of([entry]))
    file.checkpoint(datetime.now(UTC))
    file.close()
    assert [each["kind"] for each in lines_of(tmp_path)] == [
        *("begin", "checkpoint", "call", "call"),
        *("begin", "call", "checkpoint"),
    ]
    assert verify(tmp_path).problems == []


def test_a_begin_that_is_half_written_leaves_no_file_of_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    whole = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 50:
            raise OSError(28, "No space left on device")
        return whole(descriptor, data[: len(data) - 40])

    monkeypatch.setattr("fedpredict.security.audit_file.os.write", half)
    with pytest.raises(ConfigError, match="No space left"):
        log(tmp_path).__enter__()
    monkeypatch.undo()
    assert len(chain_files(tmp_path / "worker-0")) == 1
    filled(tmp_path)
    assert verify(tmp_path).problems == []


def test_a_file_that_is_full_is_followed_by_another_as_soon_as_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with log(tmp_path, file_mb=1, ids_per_line=1_000) as audit:
        monkeypatch.setattr("fedpredict.security.audit_file.os.link", fail)
        for number in range(60):
            audit.add(call(number, 1_000))
        until(lambda: only_file(tmp_path).stat().st_size > 1_500_000)
        audit.check()
        monkeypatch.undo()
        audit.add(call())
        until(lambda: len(chain_files(tmp_path / "worker-0")) > 1)
    assert len(list(calls([tmp_path / "worker-0"]))) == 61
    assert verify(tmp_path).problems == []


def test_a_text_of_a_stranger_is_cut(tmp_path: Path) -> None:
    with log(tmp_path) as audit:
        audit.add(AuditedCall("DescribeModel", "party x", "r" * 5_000_000, "m" * 5_000_000, outcome="ProtocolError"))
    assert only_file(tmp_path).stat().st_size < 3_000


def test_what_cannot_be_written_waits_without_its_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with log(tmp_path) as audit:
        monkeypatch.setattr("fedpredict.security.audit_file.os.write", fail)
        for number in range(10):
            audit.add(call(number, 10_000))
        until(lambda: not audit._heard)
        assert sum(len(each.data) for each in audit._waiting) < 10 * 1_000
        assert audit._added_bytes - audit._written_bytes == sum(len(each.data) for each in audit._waiting)
        monkeypatch.undo()
    assert len(list(calls([tmp_path / "worker-0"]))) == 10
    assert audit._added_bytes == audit._written_bytes


def test_what_came_and_has_no_line_yet_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = log(tmp_path, required=False)  # not entered: nothing is taken out
    monkeypatch.setattr(audit_log, "MOST_WAITING_BYTES", 500_000)
    for number in range(10):
        audit.add(call(number, 10_000))
    assert len(audit._heard) < 7
    assert audit._unlisted.take()["lost"]["calls"] == {"party bank": 10 - len(audit._heard)}


def test_answers_that_find_no_room_are_counted_where_the_log_is_not_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, ids = fields_of(call()), SampleIds.of([b"u1"])
    monkeypatch.setattr(audit_log, "MOST_WAITING", 3)
    for is_required, heard in ((False, 3), (True, 8)):
        audit = log(tmp_path, required=is_required)  # not entered: nothing is taken out
        for _ in range(8):
            audit.add_answer(text, "r", ids)
        assert len(audit._heard) == heard
        lost = audit._unlisted.take()
        assert lost == {} if is_required else lost["lost"]["calls"] == {"party bank": 5}


def test_bytes_that_wait_are_bounded_and_calls_that_were_answered_find_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with log(tmp_path) as audit:
        audit.check()
        monkeypatch.setattr("fedpredict.security.audit_file.os.write", fail)
        audit.add(call(0))
        until(lambda: bool(audit._problem))
        monkeypatch.setattr(audit_log, "MOST_WAITING_BYTES", 1_000)
        for number in range(1, 20):  # they passed check before it failed
            audit.add(call(number))
        for _ in range(7):
            audit.add(AuditedCall("Score", "party bank", outcome="AuditUnavailableError"))
        with pytest.raises(AuditUnavailableError):
            audit.check()
        monkeypatch.undo()
    assert len(list(calls([tmp_path / "worker-0"]))) == 20
    (counted,) = calls([tmp_path / "worker-0"], ("refused",))
    assert counted["calls"] == {"party bank": 7}
    assert verify(tmp_path).problems == []


def test_a_log_without_its_checkpoints_is_not_whole_and_is_not_gone_on_with(tmp_path: Path) -> None:
    filled(tmp_path)
    forged = [line for line in lines_of(tmp_path) if line["kind"] != "checkpoint"]
    only_file(tmp_path).write_bytes(reseal(forged))
    assert any("no checkpoint is signed" in each for each in verify(tmp_path).problems)
    with pytest.raises(
        ConfigError, match=r"not as this party wrote it.* move that folder away and keep it as evidence"
    ):
        log(tmp_path).__enter__()


def forged_end(folder: Path, seconds: int, *, restarts: bool = False) -> None:
    """Write anew what stands behind the first checkpoint, without the others."""
    now = datetime(2026, 11, 27, 8, tzinfo=UTC)
    with log(folder, now=lambda: now, checkpoint_s=30.0) as audit:
        for number in range(10):
            now += timedelta(seconds=seconds / 9 if number else 0)
            audit.add(call(number))
            until(lambda wanted=number + 1: len(list(calls([folder / "worker-0"]))) == wanted)  # type: ignore[misc]
    bodies = lines_of(folder)
    forged = [bodies[0], bodies[1]]
    for body in bodies[2:]:
        if body["kind"] == "call":
            if restarts:
                forged.append({**bodies[0], "t": body["t"], "before": "0" * 64})
            forged.append({**body, "rows": 1})
    only_file(folder).write_bytes(reseal(forged))


def test_an_end_that_was_written_anew_is_longer_than_a_killed_process_leaves(tmp_path: Path) -> None:
    forged_end(tmp_path, 3_600)
    report = verify(tmp_path)
    (problem,) = report.problems
    assert "the end of the chain: the lines before it have no checkpoint for 3600 s, and 30 s are usual" in problem
    assert (report.unsigned, report.checkpoints) == (10, 1)
    with pytest.raises(ConfigError, match=r"worker-0 is not as this party wrote it"):
        log(tmp_path).__enter__()


def test_an_end_with_forged_restarts_is_found(tmp_path: Path) -> None:
    forged_end(tmp_path, 3_600, restarts=True)
    assert any("a process began before it, and no checkpoint follows" in each for each in verify(tmp_path).problems)


def test_what_a_killed_process_leaves_is_signed_by_the_next(tmp_path: Path) -> None:
    forged_end(tmp_path, 20)
    assert (verify(tmp_path).problems, verify(tmp_path).unsigned) == ([], 10)
    filled(tmp_path)
    assert (verify(tmp_path).problems, verify(tmp_path).unsigned) == ([], 0)


def test_a_line_that_was_changed_behind_the_last_checkpoint_stops_the_start(tmp_path: Path) -> None:
    forged_end(tmp_path, 20)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"rows":1', b'"rows":9', 1))
    with pytest.raises(ConfigError, match="was changed"):
        log(tmp_path).__enter__()


@pytest.mark.parametrize("damage", [b"\x00" * 40 + b"\n", b'{"n":9,"kind"\x00\x00'], ids=["zeros", "cut"])
def test_a_damaged_end_is_counted_and_the_chain_goes_on_before_it(tmp_path: Path, damage: bytes) -> None:
    filled(tmp_path)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes() + damage)
    report = verify(tmp_path)
    assert (report.problems, len(report.notes)) == ([], 1)
    assert f"the last {len(damage)} bytes" in report.notes[0]

    filled(tmp_path)

    assert path.exists()
    assert verify(tmp_path).problems == []
    assert lines_of_last(tmp_path)[0]["torn"] == len(damage)
    path.write_bytes(path.read_bytes() + b"x")
    assert "unfinished bytes stood before it" in verify(tmp_path).problems[0]


def test_whole_lines_that_are_damaged_at_the_end_are_a_problem_for_good(tmp_path: Path) -> None:
    filled(tmp_path)
    path = only_file(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3] + [b"x" * (len(line) - 1) + b"\n" for line in lines[-3:]]))
    assert "whole lines at its end are damaged" in verify(tmp_path).problems[0]

    filled(tmp_path)  # another process goes on, and counts them as unfinished

    assert f"{path.name}: whole lines at its end are damaged" in verify(tmp_path).problems[0]


def test_a_copy_of_a_chain_in_another_folder_is_a_problem(tmp_path: Path) -> None:
    filled(tmp_path)
    shutil.copytree(tmp_path / "worker-0", tmp_path / "worker-7")
    report = verify_chain(tmp_path / "worker-7", read_public_key(tmp_path / "signing.pub"))
    assert "holds the chain lab/worker-0, of another folder" in report.problems[0]


def lines_of_last(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in chain_files(folder / "worker-0")[-1].read_bytes().splitlines()]


def test_a_file_that_was_put_aside_is_a_problem(tmp_path: Path) -> None:
    filled(tmp_path)
    filled(tmp_path)
    last = chain_files(tmp_path / "worker-0")[-1]
    last.rename(last.with_suffix(".torn-01234567"))
    assert "was put aside" in verify(tmp_path).problems[0]
    with pytest.raises(ConfigError, match="was put aside"):
        log(tmp_path).__enter__()


def test_the_files_of_another_chain_are_not_gone_on_with(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "worker-0").rename(tmp_path / "worker-1")
    assert verify_named(tmp_path / "worker-1", tmp_path).chain == "lab/worker-0"
    (tmp_path / "worker-1").rename(tmp_path / "worker-0")
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"chain":"lab/worker-0"', b'"chain":"lab/worker-5"'))
    assert verify(tmp_path).problems


def verify_named(chain: Path, folder: Path) -> ChainReport:
    return verify_chain(chain, read_public_key(folder / PUBLIC_KEY))


def test_an_anchor_that_hangs_holds_up_neither_lines_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, given = Event(), list[int]()

    def hang(self: Anchoring, made: Checkpoint) -> None:
        given.append(made.n)
        released.wait(60.0)

    monkeypatch.setattr(Anchoring, "_append", hang)
    monkeypatch.setattr("fedpredict.security.audit_anchor._STOP_S", 0.05)
    with log(tmp_path, anchor=tmp_path / "far") as audit:
        for number in range(5):
            audit.add(call(number))
            until(lambda wanted=number + 1: len(list(calls([tmp_path / "worker-0"]))) == wanted)  # type: ignore[misc]
    assert len(given) == 1
    released.set()
    assert verify(tmp_path).unsigned == 0


def test_an_error_of_any_kind_refuses_calls_and_the_thread_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such thing")

    with log(tmp_path) as audit:
        monkeypatch.setattr(ChainFile, "write", broken)
        audit.add(call())
        until(lambda: bool(audit._problem))
        with pytest.raises(AuditUnavailableError, match="no such thing"):
            audit.check()
        monkeypatch.undo()
        until(lambda: not audit._problem)
        audit.check()
    with pytest.raises(AuditUnavailableError, match="its thread has ended"):
        audit.check()
    assert len(list(calls([tmp_path / "worker-0"]))) == 1


@pytest.mark.parametrize("name", [IDS_KEY, SIGNING_KEY, PUBLIC_KEY])
def test_a_key_that_is_missing_is_named_and_none_is_made_over_the_others(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=f"has no {name}"):
        open_keys(tmp_path)
    del kept[name]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*") if path.name != ".lock"} == {
        each: data for each, data in kept.items() if each != ".lock"
    }


def test_no_keys_are_made_for_a_log_that_is_there(tmp_path: Path) -> None:
    filled(tmp_path)
    for name in (IDS_KEY, SIGNING_KEY, PUBLIC_KEY):
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"has no ids\.key, signing\.pub, signing\.key"):
        open_keys(tmp_path)


def test_only_the_first_files_are_removed_though_a_later_one_looks_old(tmp_path: Path) -> None:
    for _ in range(3):
        filled(tmp_path)
    first, second, third = chain_files(tmp_path / "worker-0")
    past = (datetime.now(UTC) - timedelta(days=10)).timestamp()
    for path in (first, third):  # as a copy from a backup has it
        os.utime(path, (past, past))
    filled(tmp_path, keep_days=5)
    assert (first.exists(), second.exists(), third.exists()) == (False, True, True)
    assert verify(tmp_path).problems == []


def test_a_folder_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"\[audit\] path"):
        open_keys(tmp_path / "file" / "lab")


def test_the_root_is_the_keyed_hash_of_the_digest_that_both_ends_know(tmp_path: Path) -> None:
    ids = [b"u%d" % number for number in range(40)]
    offsets = np.cumsum([0, *map(len, ids)]).astype("<u4").tobytes()
    digest = hashlib.sha256((40).to_bytes(8, "little") + offsets + b"".join(ids))
    with log(tmp_path) as audit:
        audit.add(AuditedCall("Score", "party bank", rows=40, sample_ids=ids))
        audit.add(AuditedCall("ScoreBucket", "party bank", rows=40, ids_sha256=digest.hexdigest()))
    expected = hmac.new((tmp_path / IDS_KEY).read_bytes(), digest.digest(), "sha256").hexdigest()
    assert [line["root"] for line in calls([tmp_path / "worker-0"])] == [expected, expected]
