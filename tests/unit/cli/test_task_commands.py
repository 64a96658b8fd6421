"""What happened to a task, as the operator of the initiator reads it; and two that fetch its results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest

from fedpredict.cli import connect
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


class Slow:
    """A server whose results come in two pieces; between them something else happens."""

    def __init__(self, between: Callable[[], object]) -> None:
        self._between = between

    def results(self, _task_id: str, *, top: int) -> Iterator[pa.RecordBatch]:
        assert top == 0
        yield pa.record_batch({"sample_id": ["a"] * 1_000})
        self._between()
        yield pa.record_batch({"sample_id": ["b"] * 1_000})


def test_two_that_fetch_into_one_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.csv"
    servers = [Slow(lambda: run(["task", "results", "t", "--out", str(out)])), Slow(lambda: None)]
    monkeypatch.setattr(connect, "open_client", lambda *_: nullcontext((servers.pop(0), 1.0)))

    assert run(["task", "results", "t", "--out", str(out)]) == 0

    assert pyarrow.csv.read_csv(out)["sample_id"].to_pylist() == ["a"] * 1_000 + ["b"] * 1_000
    assert list(tmp_path.iterdir()) == [out]
