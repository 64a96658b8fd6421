"""Old versions of a model go, and nothing that is served, pinned, being scored or asked for by a task."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.cli import model_prune, scheduled
from fedpredict.cli.main import run
from fedpredict.cli.scheduled import _ended
from fedpredict.errors import FedPredictError, LeaseLostError, StateError, StoreError, WarehouseWriteError
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.manifest import Manifest
from fedpredict.model.partial import PartialModel
from fedpredict.scoring.leased_models import prune_versions_alone
from fedpredict.state import leases
from fedpredict.state.lease_files import FolderLeases
from fedpredict.state.leases import Alone, NoLeases, hold
from fedpredict.state.sql import open_pin_store
from fedpredict.state.tasks import open_task_store
from fedpredict.tables import model_pruning
from fedpredict.tables.model_pruning import old_versions, remove_version
from fedpredict.tables.models import list_versions, load_model, publish_model, rollback
from fedpredict.tables.schedule_runs import DONE
from fedpredict.tables.schemas import MODELS
from fedpredict.tables.version import version_to_rows
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.contract.test_task_store import new

VIEW = FeatureView("people", 1, (ViewFeature("age", "age", ColumnType.DOUBLE),), "id", None)


class Party:
    """A party with six versions of a model, and the commands."""

    def __init__(self, folder: Path, role: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["init", role, str(folder / "bank"), "--no-certs"]) == 0
        self.folder, self._capsys = folder / "bank", capsys
        self.config = str(self.folder / f"{role}.toml")
        self.warehouse = LocalWarehouse(self.folder / "warehouse")
        self.digests = [self.publish(weight) for weight in range(1, 7)]

    def publish(self, weight: int) -> str:
        part = LinearPart(("age",), np.array([[float(weight)]]), None, np.zeros(1))
        partial = PartialModel("credit", "run-1", "bank", Kind.LINEAR, (), False, part)
        return publish_model(self.warehouse, partial, VIEW, f"{weight:064x}")[0].params_sha256

    def prune(self, *words: str, code: int = 0) -> list[int]:
        self._capsys.readouterr()
        assert run(["model", "prune", *words, "--config", self.config, "--json"]) == code
        rows: list[dict[str, Any]] = json.loads(self._capsys.readouterr().out) if code == 0 else []
        return [each["version"] for each in rows]

    @property
    def left(self) -> list[int]:
        return [each.version for each in list_versions(self.warehouse, "credit")]

    def weights(self, digest: str) -> int:
        """Return how many rows of parameters a digest has."""
        where = {"model_id": "credit", "params_sha256": digest}
        rows: int = self.warehouse.read("fp_linear_people", ["params_sha256"], where).num_rows
        return rows


def test_old_versions_go_with_their_parameters_and_the_others_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    party = Party(tmp_path, "participant", capsys)
    before = [party.weights(each) for each in party.digests]
    assert all(before)

    assert party.prune("--keep", "4", "--dry-run") == [1, 2]
    assert party.left == [1, 2, 3, 4, 5, 6]
    assert party.prune("--keep", "4") == [1, 2]

    assert party.left == [3, 4, 5, 6]
    assert [party.weights(each) > 0 for each in party.digests] == [False, False, True, True, True, True]
    for version in list_versions(party.warehouse, "credit"):
        load_model(party.warehouse, version)
    assert party.prune("--keep", "4", "--model", "credit") == []
    assert party.prune("--keep", "2", code=4) == []  # fewer than daemons serve
    assert party.prune("--keep", "4", "--model", "nothing", code=5) == []


def test_what_was_made_current_again_counts_as_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    party = Party(tmp_path, "participant", capsys)
    rollback(party.warehouse, "credit", 1)

    assert party.prune("--keep", "3") == [2, 3, 4]

    assert party.left == [1, 5, 6, 7]
    load_model(party.warehouse, list_versions(party.warehouse, "credit")[-1])


def test_what_an_initiator_has_pinned_or_a_task_needs_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    party = Party(tmp_path, "initiator", capsys)

    def manifest(digest: str) -> Manifest:
        return replace(new().manifest, digests=(("bank", digest), ("lab", "0" * 64)))

    pins = open_pin_store("sqlite:///state.db", party.folder)
    pins.pin(manifest(party.digests[0]), by="ada", replaces=None)
    pins.close()
    tasks = open_task_store("sqlite:///state.db", party.folder)
    tasks.submit(replace(new(), manifest=manifest(party.digests[1])))
    ended = tasks.submit(replace(new(key="other"), manifest=manifest(party.digests[2])))
    tasks.cancel(ended.task_id)
    tasks.close()

    assert party.prune("--keep", "3") == [3]


def test_a_version_that_a_day_is_being_scored_with_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    party = Party(tmp_path, "participant", capsys)
    scoring = SimpleNamespace(params_sha256=party.digests[0], finished_at=None)
    done = SimpleNamespace(params_sha256=party.digests[1], finished_at=datetime.now(UTC))
    monkeypatch.setattr(model_pruning, "list_tasks", lambda _: [scoring, done])

    assert [each.version for each in old_versions(party.warehouse, "credit", 3)] == [2, 3]


def test_what_was_interrupted_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    party = Party(tmp_path, "participant", capsys)
    (first, *_) = list_versions(party.warehouse, "credit")
    remove_version(party.warehouse, first)
    # as if it had been killed before the row went
    party.warehouse.replace(MODELS.name, {"model_id": "credit", "version": 1}, version_to_rows(first))

    assert party.prune("--keep", "5") == [1]
    assert party.left == [2, 3, 4, 5, 6]


def test_a_version_that_becomes_current_again_while_older_ones_go_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # as where a party has no place for leases: the file is converted again after the old versions were listed
    party = Party(tmp_path, "participant", capsys)
    asked: list[str] = []

    def needed() -> set[str]:
        asked.append("")
        if len(asked) == 3:  # the list, the first version, the second
            assert party.publish(2) == party.digests[1]
        return set()

    removed = prune_versions_alone(Alone(NoLeases()), party.warehouse, "credit", 3, needed)

    assert [each.version for each in removed] == [1, 3]
    assert party.left == [2, 4, 5, 6, 7]
    assert load_model(party.warehouse, list_versions(party.warehouse, "credit")[-1]).part.partial_scores(
        np.array([[1.0]])
    ) == [[2.0]]


def test_what_another_process_changes_is_not_removed_meanwhile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    party = Party(tmp_path, "participant", capsys)

    with hold(FolderLeases(party.folder / "warehouse" / ".leases"), "model:credit"):
        assert party.prune("--keep", "4", code=10) == []
        assert "model:credit is under way" in capsys.readouterr().err
        assert party.prune("--keep", "4", "--dry-run") == [1, 2]
        assert party.left == [1, 2, 3, 4, 5, 6]

    assert party.prune("--keep", "4") == [1, 2]


def test_a_lease_that_was_lost_removes_nothing_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    party = Party(tmp_path, "participant", capsys)
    leases = FolderLeases(party.folder / "warehouse" / ".leases")

    def needed() -> set[str]:  # asked first once the lease is held
        for file in (party.folder / "warehouse" / ".leases").iterdir():
            file.unlink()
        return set()

    with pytest.raises(LeaseLostError):
        prune_versions_alone(Alone(leases), party.warehouse, "credit", 3, needed)
    assert party.left == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("keep", "left"), [("1", [4, 5, 6]), ("5", [2, 3, 4, 5, 6])], ids=["as served", "as set"])
def test_scoring_a_day_leaves_the_parameters_that_the_settings_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: str, left: list[int]
) -> None:
    party = Party(tmp_path, "participant", capsys)
    now = datetime.now(UTC)
    rows = pa.table({"sample_id": ["u1"], "event_time": pa.array([now], pa.timestamp("us", tz="UTC")), "age": [2.0]})
    publish_snapshot(party.warehouse, VIEW, snapshot_name(now), rows)
    score = ["task", "score", "--config", party.config]
    assert run(score) == 0
    assert party.left == [1, 2, 3, 4, 5, 6]
    Path(party.config).write_text(f"{Path(party.config).read_text()}\n[tasks]\nkeep_parameters = {keep}\n")

    with hold(FolderLeases(party.folder / "warehouse" / ".leases"), "model:credit"):
        assert run(score) == 0
    assert party.left == [1, 2, 3, 4, 5, 6]  # another process changes them: the next time will do
    assert run(score) == 0
    assert party.left == left

    party.publish(7)
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    child = _ended(Path(party.config), "score", None, day)
    assert child.outcome == DONE
    assert party.left == [*left[1:], 7]


def scored(party: Party) -> None:
    now = datetime.now(UTC)
    rows = pa.table({"sample_id": ["u1"], "event_time": pa.array([now], pa.timestamp("us", tz="UTC")), "age": [2.0]})
    publish_snapshot(party.warehouse, VIEW, snapshot_name(now), rows)
    settings = "[tasks]\nkeep_parameters = 3\nkeep_days = 1\n"
    Path(party.config).write_text(f"{Path(party.config).read_text()}\n{settings}")


def test_scoring_waits_for_its_own_lease_and_not_for_those_of_what_it_removes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    party = Party(tmp_path, "participant", capsys)
    scored(party)

    def waited(_seconds: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(leases, "time", SimpleNamespace(sleep=waited, monotonic=time.monotonic))
    with hold(FolderLeases(party.folder / "warehouse" / ".leases"), "model:credit"):
        assert run(["task", "score", "--wait", "600", "--config", party.config]) == 0

    assert party.left == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("error", [WarehouseWriteError, StateError, StoreError, LeaseLostError])
def test_a_day_that_is_scored_is_reported_whatever_removing_says(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: type[FedPredictError],
) -> None:
    party = Party(tmp_path, "participant", capsys)
    scored(party)

    def failing(*_args: object) -> None:
        raise error("the disk is full")

    monkeypatch.setattr(model_prune, "prune_versions_alone", failing)
    capsys.readouterr()

    assert run(["task", "score", "--json", "--config", party.config]) == 0

    told = capsys.readouterr()
    assert [(each["model"], each["scored"]) for each in json.loads(told.out)] == [("credit", 1)]
    assert "warning: the day is scored, but what is older was not all removed: the disk is full" in told.err
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monkeypatch.setattr(scheduled, "install_logging", lambda *_args, **_more: None)
    assert _ended(Path(party.config), "score", None, day).outcome == DONE
    (record,) = [each for each in caplog.records if each.message == "model.prune_failed"]
    assert record.__dict__["reason"] == "the disk is full"
