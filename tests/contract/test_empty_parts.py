"""Parts of parties without features: every engine gives every id of the view the constant, and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from fedpredict.convert.portable import from_portable, parse_json, to_json
from fedpredict.model.share import SampleStatus
from fedpredict.scoring.tasks import score_day
from fedpredict.tables.layouts import ENGINES, LAYOUTS
from fedpredict.tables.models import ModelVersion, load_model, publish_model
from fedpredict.tables.share_rows import read_shares
from fedpredict.tables.statements import score_in_engine
from fedpredict.tables.views import FeatureView, Snapshot
from fedpredict.warehouse.base import Warehouse
from tests.contract.conftest import Place, cases_by_place
from tests.contract.test_engine_scores import NOON, SOURCE, new_view, snapshot_of

pytestmark = pytest.mark.timeout(300)

CONSTANT: dict[str, Any] = {"features": [], "weights": [], "constant": [0.25, -1.5]}
PRODUCT = {"kind": "product", "inputs": [], "outputs": ["one"], "options": {"terms": [[]]}}
NET = {
    "features": [],
    "layers": [
        {"weights": [], "bias": [1.0, -2.0], "activation": "relu"},
        {"weights": [[2.0], [3.0]], "bias": [0.5]},
    ],
    "intercept": [10.0],
}
NO_TREES: dict[str, Any] = {
    "features": [], "compare": "float64", "op": "<=", "n_scores": 1, "intercept": [-3.5],
    **{key: [] for key in ("tree_sizes", "feature", "threshold", "left", "right", "missing_left", "values")},
}  # fmt: skip


def behind_steps(steps: list[dict[str, Any]], family: str, part: dict[str, Any]) -> dict[str, Any]:
    return {"family": "steps", "part": {"features": [], "steps": steps, "core": {"family": family, "part": part}}}


CASES: Mapping[str, tuple[dict[str, Any], list[float]]] = {
    "linear": ({**CONSTANT, "intercept": [0.5, 0.0]}, [0.75, -1.5]),
    "linear-zero": ({**CONSTANT, "constant": [0.0]}, [0.0]),
    "scorecard": ({"family": "scorecard", "part": {"base_points": 480.25, "features": [], "reasons": 2}}, [480.25]),
    "scorecard-zero": ({"family": "scorecard", "part": {"base_points": None, "features": []}}, [0.0]),
    "network": ({"family": "network", "part": NET}, [12.5]),
    "trees": ({"family": "trees", "part": NO_TREES}, [-3.5]),
    "steps": (behind_steps([PRODUCT], "linear", {"features": ["one"], "weights": [3], "constant": 0.25}), [3.25]),
    "steps-none": (behind_steps([], "linear", CONSTANT), [0.25, -1.5]),
    "steps-network": (behind_steps([], "network", NET), [12.5]),
}
"""What a file says, and the share: by the definitions in docs/portable-model.md."""
ON_SERVERS = ("linear", "network")
IDS = ("plain", "empty", "infinite", "moved", "moved", "tied", "tied")
AGES = [40.0, None, float("inf"), 1.0, 2.0, 1.0, 1.0]
INSTANTS = [*[NOON] * 4, NOON + timedelta(hours=1), NOON, NOON]


def published(place: Place) -> tuple[FeatureView, Snapshot]:
    """Return a snapshot of ids whose only feature, which no part here reads, is odd in every way."""

    def write() -> tuple[FeatureView, Snapshot]:
        view = new_view(["age"])
        return view, snapshot_of(place.warehouse, view, IDS, {"age": AGES}, INSTANTS)

    found: Any = place.once("ids without a feature that is read", write)
    return found[0], found[1]


def version_of(warehouse: Warehouse, view: FeatureView, case: str) -> ModelVersion:
    content, _ = CASES[case]
    base = {"format": "fedpredict-partial-1", "model_id": f"m-{uuid.uuid4().hex}", "training_run": "r", "party": "lab"}
    partial = from_portable({**base, "kind": "linear", "fit_intercept": True, **content})
    written = from_portable(parse_json(to_json(partial)))
    version, _ = publish_model(warehouse, written, view, SOURCE)
    loaded = load_model(warehouse, version).part
    assert LAYOUTS[loaded.family].engines(loaded) == ENGINES
    assert loaded.statuses(np.zeros((2, 0))) is None
    assert loaded.partial_scores(np.zeros((2, 0))).tolist() == [CASES[case][1]] * 2
    assert loaded.magnitudes(np.zeros((2, 0))).shape == (2, len(CASES[case][1]))
    return version


@pytest.mark.parametrize(("kind", "case"), cases_by_place(list(CASES), ON_SERVERS))
def test_every_id_of_the_view_gets_the_constant_and_nothing_else_does(
    places: Callable[[str], Place], kind: str, case: str
) -> None:
    warehouse = places(kind).warehouse
    view, snapshot = published(places(kind))

    rows = score_in_engine(warehouse, version_of(warehouse, view, case), snapshot).to_pylist()

    told = {row["sample_id"]: (SampleStatus(row["status"]), row["scores"]) for row in rows}
    assert len(rows) == len(told)
    assert told == {
        **dict.fromkeys(IDS, (SampleStatus.OK, CASES[case][1])),
        "tied": (SampleStatus.FEATURE_INVALID, None),
    }


@pytest.mark.parametrize("case", CASES)
def test_the_shares_of_a_day_hold_the_constant(embedded: Warehouse, case: str) -> None:
    view = new_view(["age"])
    ids = [f"u{at}" for at in range(9)]
    snapshot_of(embedded, view, ids, {"age": [None] * 9}, [NOON - timedelta(days=1)] * 9)

    state = score_day(embedded, version_of(embedded, view, case), date(2026, 11, 22), n_buckets=2)

    rows = read_shares(embedded, state.task).to_pylist()
    assert {row["sample_id"] for row in rows} == set(ids)
    for row in rows:
        assert row["status"] == SampleStatus.OK
        assert [row[f"score_{at}"] for at in range(len(CASES[case][1]))] == CASES[case][1]
