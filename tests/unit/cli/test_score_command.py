"""`task score` over several models, some of which cannot be scored."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.cli.main import run
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse

VIEW = FeatureView("people", 1, (ViewFeature("age", "age", ColumnType.DOUBLE),), "id", None)
MODELS = ("aa", "m", "zz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a party with three models and one person's features."""
    assert run(["init", "participant", str(tmp_path / "lab"), "--no-certs"]) == 0
    warehouse = LocalWarehouse(tmp_path / "lab" / "warehouse")
    now = datetime.now(UTC)
    rows = pa.table({"sample_id": ["u1"], "event_time": pa.array([now], pa.timestamp("us", tz="UTC")), "age": [2.0]})
    publish_snapshot(warehouse, VIEW, snapshot_name(now), rows)
    for model_id in MODELS:
        part = LinearPart(("age",), np.array([[1.0]]), None, np.zeros(1))
        publish_model(warehouse, PartialModel(model_id, "run-1", "lab", Kind.LINEAR, (), False, part), VIEW, "0" * 64)
    return tmp_path / "lab"


def damage(folder: Path, model_id: str) -> None:
    (parameters,) = (folder / "warehouse" / "fp_linear_people" / f"model_id={model_id}").rglob("*.parquet")
    parameters.write_bytes(b"no parameters")


def test_models_that_cannot_be_scored_keep_nobody_from_scoring_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model_id in ("aa", "m"):
        damage(folder, model_id)
    capsys.readouterr()

    code = run(["task", "score", "--json", "--config", str(folder / "participant.toml")])

    told = capsys.readouterr()
    assert code == 7
    assert [(each["model"], each["scored"]) for each in json.loads(told.out)] == [("zz", 1)]
    error, failed, other = told.err.splitlines()
    assert error.startswith("error: ")
    assert failed == "not scored: aa, m (2 of 3 models)"
    assert other.startswith("m: ")


def test_the_only_model_that_cannot_be_scored_has_its_error_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(folder, "aa")
    capsys.readouterr()

    assert run(["task", "score", "--model", "aa", "--config", str(folder / "participant.toml")]) == 7

    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1


def test_what_is_not_stored_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ("--config", str(folder / "participant.toml"))
    capsys.readouterr()

    assert run(["shares", "show", "--model", "mm", "--date", "2026-01-31", *config]) == 4

    assert "nothing is stored of mm for 2026-01-31; see `fedpredict shares list`" in capsys.readouterr().err
