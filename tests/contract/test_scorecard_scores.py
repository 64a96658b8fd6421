"""Scorecards in every engine: the points of a walk of the bins, and the statuses of scoring in process."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from fedpredict.convert.portable import from_portable
from fedpredict.model.share import SampleStatus
from fedpredict.tables.models import publish_model
from fedpredict.tables.statements import score_in_engine
from fedpredict.warehouse.base import Warehouse
from tests.contract.test_engine_scores import NOON, SOURCE, new_view, snapshot_of
from tests.scorecards import CARD, NAMES, portable, samples, walked

pytestmark = pytest.mark.timeout(300)
STATUS = {"missing": SampleStatus.FEATURE_MISSING, "invalid": SampleStatus.FEATURE_INVALID}


def test_the_engine_gives_the_points_of_a_walk_of_the_bins_or_the_status(warehouse: Warehouse) -> None:
    rows = samples()
    ids = [f"s{at}" for at in range(len(rows))]
    values = {name: [row[at] for row in rows] for at, name in enumerate(NAMES)}
    ids += ["moved", "moved", "tied", "tied"]
    for name, value in zip(NAMES, (30.0, "own", 50.0, 4.0), strict=True):
        values[name] += [value] * 4
    values["debt"][-4] = 500.0
    instants = [NOON] * len(rows) + [NOON, NOON + timedelta(hours=1), NOON, NOON]
    view = new_view([name for name in NAMES if name != "home"], texts=["home"])
    partial = from_portable(portable(model_id=f"m-{uuid.uuid4().hex}"))
    snapshot = snapshot_of(warehouse, view, ids, values, instants)

    version = publish_model(warehouse, partial, view, SOURCE)[0]
    found = {
        row["sample_id"]: (row["status"], row["scores"])
        for row in score_in_engine(warehouse, version, snapshot).to_pylist()
    }

    for name, row in zip(ids, rows, strict=False):
        expected = walked(row)
        if isinstance(expected, str):
            assert found[name] == (STATUS[expected], None), row
        else:
            assert found[name] == (SampleStatus.OK, [pytest.approx(expected, rel=1e-13)]), row
    assert found["moved"] == (SampleStatus.OK, [pytest.approx(480.25 + 3.5 + 14 + 8 + 2)])
    assert found["tied"] == (SampleStatus.FEATURE_INVALID, None)


def test_a_card_of_one_text_without_base_points_is_scored(warehouse: Warehouse) -> None:
    card: dict[str, Any] = {"base_points": None, "features": [CARD["features"][1]]}
    view = new_view(["unused"], texts=["home"])
    partial = from_portable(portable(card, model_id=f"m-{uuid.uuid4().hex}"))
    snapshot = snapshot_of(warehouse, view, ["a", "b", "c"], {"home": ["rent", None, "boat"], "unused": [None] * 3})

    rows = score_in_engine(warehouse, publish_model(warehouse, partial, view, SOURCE)[0], snapshot).to_pylist()

    assert [(row["status"], row["scores"]) for row in rows] == [
        (SampleStatus.OK, [-3.0]),
        (SampleStatus.FEATURE_MISSING, None),
        (SampleStatus.OK, [-7.0]),
    ]
