"""What happened to a task, as the operator of the initiator reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedpredict.cli.main import run
from fedpredict.model.offline import OfflineState
from fedpredict.state.task_base import Why
from fedpredict.state.tasks import open_task_store
from tests.contract.test_task_store import new


def test_an_operator_reads_all_words_of_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "initiator", str(tmp_path / "bank"), "--no-certs"]) == 0
    tasks = open_task_store("sqlite:///state.db", tmp_path / "bank")
    task_id = tasks.submit(new()).task_id
    claim = tasks.claim("w")
    assert claim is not None
    detail = "WarehouseWriteError: /data/results: no space left"
    tasks.settle(claim, OfflineState.FAILED, Why(problem="results cannot be stored", detail=detail))
    tasks.close()
    capsys.readouterr()

    assert run(["task", "logs", task_id, "--state-of", str(tmp_path / "bank" / "initiator.toml"), "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert [(each["what"], each["detail"]) for each in told][-1] == ("failed", detail)
    assert run(["task", "logs", "nothing", "--state-of", str(tmp_path / "bank" / "initiator.toml")]) == 5
