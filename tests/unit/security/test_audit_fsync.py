"""`fsync = "each"`: no answer leaves before the disk has its line; and the rest of what a line costs."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from fedpredict.errors import AuditUnavailableError
from fedpredict.security.audit_chain import calls
from fedpredict.security.audit_waiting import until_safe
from tests.unit.security.test_audit import call, log, verify
from tests.unit.security.test_audit_failures import fail

SYNC = "fedpredict.security.audit_file.os.fsync"


async def test_an_answer_waits_until_the_disk_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go = threading.Event()
    whole, synced = os.fsync, list[int]()

    def slow(descriptor: int) -> None:
        assert may_go.wait(30.0)
        whole(descriptor)
        synced.append(len(list(calls([tmp_path / "worker-0"]))))

    with log(tmp_path, fsync="each", write_s=30.0, checkpoint_s=300.0) as audit:
        monkeypatch.setattr(SYNC, slow)
        audit.add(call(1))
        audit.add(call(2))
        waiting = asyncio.ensure_future(until_safe(audit))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        may_go.set()
        await waiting  # though lines may wait for half a minute
        assert synced == [2]
    assert verify(tmp_path).problems == []
    assert verify(tmp_path).unsigned == 0


async def test_an_answer_whose_line_the_disk_does_not_take_is_refused_and_others_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with log(tmp_path, fsync="each") as audit:
        monkeypatch.setattr(SYNC, fail)
        audit.add(call(1))
        with pytest.raises(AuditUnavailableError, match="Too many open files"):
            await until_safe(audit)
        monkeypatch.undo()
        while audit._problem:
            await asyncio.sleep(0.01)
        audit.add(call(2))
        await until_safe(audit)
    with pytest.raises(AuditUnavailableError, match="thread has ended"):
        await until_safe(audit)


async def test_an_answer_goes_without_where_the_log_is_not_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with log(tmp_path, fsync="each", required=False) as audit:
        monkeypatch.setattr(SYNC, fail)
        audit.add(call(1))
        await until_safe(audit)
        monkeypatch.undo()
    await until_safe(audit)


async def test_a_caller_that_left_breaks_nothing(tmp_path: Path) -> None:
    with log(tmp_path, fsync="each") as audit:
        audit.add(call(1))
        waiting = asyncio.ensure_future(until_safe(audit))
        await asyncio.sleep(0)
        waiting.cancel()
        audit.add(call(2))
        await until_safe(audit)
    assert len(list(calls([tmp_path / "worker-0"]))) == 2
