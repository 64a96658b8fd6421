"""Preprocessing in the warehouse's engine: scikit-learn's numbers, and the statuses of scoring in process."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedpredict.model.arrays import Floats
from fedpredict.model.dense import Dense
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.network import NetworkPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus
from fedpredict.model.step import BOX_COX, YEO_JOHNSON, Step, StepKind
from fedpredict.model.steps import StepsPart
from fedpredict.tables.layouts import LAYOUTS
from fedpredict.tables.models import ModelVersion, load_model, publish_model
from fedpredict.tables.statements import partial_scores_query, score_in_engine
from fedpredict.warehouse.base import Warehouse
from tests.contract.conftest import cases_by_place
from tests.contract.test_engine_scores import SOURCE, new_view, scores_of, snapshot_of, statuses_of
from tests.step_models import NUMBERS, TEXTS, coded, data, fitted, odd_rows, raw_scores, read
from tests.tree_parts import Shape, chain_of_splits, random_part

pytestmark = pytest.mark.timeout(300)  # Hive's first INSERT in a session alone takes up to 35 s

IN_ENGINES = [
    ("onehot, ignore", "classes"),
    ("onehot, missing as a category", "linear"),
    ("onehot, infrequent", "linear"),
    ("ordinal", "linear"),
    ("bins, onehot", "classes"),
    ("power", "linear"),
    ("polynomial", "linear"),
    ("quantile", "linear"),
    ("quantile, normal", "linear"),
    ("onehot, missing as a category", "trees"),
    ("ordinal", "trees"),
    ("onehot, ignore", "network"),
    ("power", "network"),
]
ON_SERVERS = [("onehot, ignore", "classes"), ("quantile, normal", "linear"), ("ordinal", "trees"), ("power", "network")]
"""Each core once; `test_every_kind_of_step_is_the_same_in_the_engine` has every step."""


def published(warehouse: Warehouse, partial: PartialModel, frame: pd.DataFrame) -> tuple[ModelVersion, Any, list[str]]:
    """Publish a part and a snapshot of the frame; the version, the snapshot and the sample ids."""
    view = new_view(NUMBERS, TEXTS)
    ids = [f"row-{place}" for place in range(len(frame))]
    values = {
        name: [None if pd.isna(cell) else cell for cell in frame[name]] if name in TEXTS else list(frame[name])
        for name in (*NUMBERS, *TEXTS)
    }
    snapshot = snapshot_of(warehouse, view, ids, values)
    version, _ = publish_model(warehouse, replace(partial, model_id=f"m-{uuid.uuid4().hex}"), view, SOURCE)
    return version, snapshot, ids


def assert_engine_says(warehouse: Warehouse, partial: PartialModel, frame: pd.DataFrame) -> tuple[ModelVersion, Floats]:
    """Hold the engine to numpy's statuses and scores; return the version and the scores, NaN where there is none."""
    version, snapshot, ids = published(warehouse, partial, frame)
    rows = score_in_engine(warehouse, version, snapshot)
    features = coded(partial.part, frame)
    expected = partial.part.statuses(features)
    if expected is None:
        expected = np.full(len(frame), SampleStatus.OK, dtype=np.uint8)
    assert statuses_of(rows) == {name: SampleStatus(int(code)) for name, code in zip(ids, expected, strict=True)}
    usable, found = expected == SampleStatus.OK, scores_of(rows, ids)
    bound = 1e-12 * partial.part.magnitudes(features)
    assert (np.abs(found - partial.part.partial_scores(features)) <= bound)[usable].all()
    return version, found


@pytest.mark.parametrize(("place", "pipeline"), cases_by_place(IN_ENGINES, ON_SERVERS), indirect=["place"])
def test_the_engine_gives_scikit_learns_scores_of_a_pipeline(warehouse: Warehouse, pipeline: tuple[str, str]) -> None:
    model = fitted(*pipeline)
    partial = read(model)
    frame = pd.concat([data(40, seed=7), odd_rows()], ignore_index=True)
    _, found = assert_engine_says(warehouse, partial, frame)
    usable = ~np.isnan(found).any(axis=1)
    features = coded(partial.part, frame)[usable]
    assert len(features) > 20
    bound = 1e-9 * partial.part.magnitudes(features)
    expected = raw_scores(model, pd.DataFrame(frame[usable]))
    assert (np.abs(found[usable] - expected) <= bound).all()


def column(*numbers: float) -> Floats:
    return np.array(numbers, dtype=np.float64).reshape(-1, 1)


def every_step() -> StepsPart:
    """All kinds of steps but quantiles, with each policy, and a core that also reads a feature as it is."""
    steps = (
        Step(StepKind.FILL, ("age", "debt"), ("age1", "debt1"), {"number": column(40.0, -0.0)}),
        Step(StepKind.MISSING, ("age", "debt"), ("age2", "debt2")),
        Step(StepKind.SCALE, ("age1",), ("age3",), {"subtract": column(3.0), "divide": column(7.0)}),
        Step(StepKind.SCALE, ("debt1",), ("debt3",), {"multiply": column(0.3), "add": column(0.1)}),
        Step(StepKind.CLIP, ("age3", "debt3"), ("age4", "debt4"), {"low": column(1, -1), "high": column(5, 1)}),
        Step(StepKind.POWER, ("debt1", "age3", "income", "debt1"), ("y1", "y2", "y3", "y4"),
             {"exponent": column(0.0, 2.0, -0.7, 1e-7)}, {"method": YEO_JOHNSON}),
        Step(StepKind.POWER, ("income", "income"), ("b1", "b2"), {"exponent": column(0.0, 0.25)},
             {"method": BOX_COX}),
        Step(StepKind.BINS, ("rooms",), ("bin",), {"edge": column(1.0, 2.0, 2.0, 3.5)}),
        Step(StepKind.ONEHOT, ("bin",), ("o1", "o3"), {"number": column(1.0, 3.0)}),
        Step(StepKind.MAP, ("bin",), ("woe",), {"key": column(0, 1, 3, 4), "values": column(-0.5, 0.1, 0.7, 1e-9)},
             {"unknown": "invalid", "missing": "missing"}),
        Step(StepKind.NORMAL, ("debt4",), ("n1",)),
        Step(StepKind.MAP, ("debt2",), ("m0",), {"key": column(-0.0), "values": column(2.0), "unknown": column(3.0)},
             {"unknown": "value", "missing": "nan"}),
        Step(StepKind.MAP, ("city",), ("c1", "c2"),
             {"values": np.array([[1.0, -1.0], [0.5, 2.0], [0.0, 4.0]]), "missing": np.array([[9.0, 8.0]])},
             {"unknown": "invalid", "missing": "value"}),
        Step(StepKind.MAP, ("job",), ("j1",), {"values": column(0.25, 0.5), "unknown": column(-2.0)},
             {"unknown": "value", "missing": "missing"}),
        Step(StepKind.PRODUCT, ("age4", "rooms", "o1"), ("p0", "p1", "p2"), options={"terms": [[], [0, 0, 1], [1, 2]]}),
    )  # fmt: skip
    names = "n1 age2 age4 debt4 y1 y2 y3 y4 b1 b2 o1 o3 woe m0 c1 c2 j1 p0 p1 p2 rooms"
    read_columns = tuple(names.split())
    weights = np.random.default_rng(1).normal(size=(len(read_columns), 2))
    core = LinearPart(read_columns, weights, np.array([0.5, -0.25]), np.array([0.0, 1.0]))
    texts = {"city": ("Wien", "O'Hara; --", ""), "job": ("baker", "smith")}
    return StepsPart(("job", "age", "income", "debt", "rooms", "city"), texts, steps, core)


def test_every_kind_of_step_is_the_same_in_the_engine_and_comes_back_bit_by_bit(warehouse: Warehouse) -> None:
    partial = PartialModel("m", "run-1", "lab", Kind.LINEAR, (), True, every_step())
    frame = pd.concat([data(60, seed=9), odd_rows()], ignore_index=True)
    version, found = assert_engine_says(warehouse, partial, frame)
    part, features = load_model(warehouse, version).part, coded(partial.part, frame)
    np.testing.assert_array_equal(part.partial_scores(features), partial.part.partial_scores(features))
    np.testing.assert_array_equal(part.statuses(features), partial.part.statuses(features))
    assert LAYOUTS[part.family].engines(part) == ("numpy", "duckdb", "spark", "hive")
    assert 20 < (~np.isnan(found).any(axis=1)).sum() < len(frame)


def test_a_core_of_trees_says_which_categories_are_unknown(warehouse: Warehouse) -> None:
    """Of a text as it stands in the table, and of a number that a step makes."""
    core = random_part(np.random.default_rng(8), Shape(3, 2, n_numbers=1, n_texts=1, with_sets=True, closed=True))
    known = ("Wien", "Graz", "", "O'Hara; --", *(f"city {place}" for place in range(12)))
    step = Step(StepKind.SCALE, ("rooms",), ("n0",), {"subtract": column(1.0), "divide": column(0.5)})
    core = replace(
        core,
        features=("n0", "city"),
        categories={"city": known},
        closed={"city": None, "n0": np.array([0, 4], np.int32)},
    )
    part = StepsPart(("rooms", "city"), {"city": known}, (step,), core)
    partial = PartialModel("m", "run-1", "lab", Kind.LINEAR, (), True, part)
    frame = pd.concat([data(40, seed=7), odd_rows()], ignore_index=True)

    _, found = assert_engine_says(warehouse, partial, frame)

    doubled, cities = 2.0 * (frame["rooms"] - 1.0), frame["city"]
    refused = ~(doubled.isin([0.0, 4.0]) | doubled.isna()) | ~(cities.isin(known) | cities.isna())
    assert 3 < refused.sum() < len(frame) - 3
    assert np.isnan(found[:, 0]).tolist() == refused.tolist()


def test_maps_of_many_keys_are_the_same_in_the_engine(warehouse: Warehouse) -> None:
    cities = ("Wien", "O'Hara; --", "", *(f"city {place}" for place in range(60)))
    rng = np.random.default_rng(4)
    known = {"unknown": "value", "missing": "value"}
    texts = {"values": rng.normal(size=(len(cities), 2)), "unknown": np.ones((1, 2)), "missing": np.zeros((1, 2))}
    numbers = {"key": column(*np.arange(-20.0, 20.0)), "values": rng.normal(size=(40, 1))}
    steps = (
        Step(StepKind.MAP, ("city",), ("c1", "c2"), texts, known),
        Step(StepKind.MAP, ("city",), ("c3",), {name: each[:, :1] for name, each in texts.items()}, known),
        Step(StepKind.MAP, ("rooms",), ("r",), numbers, {"unknown": "invalid", "missing": "missing"}),
    )
    core = LinearPart(("c1", "c2", "c3", "r"), rng.normal(size=(4, 2)), None, np.zeros(2))
    part = StepsPart(("city", "rooms"), {"city": cities}, steps, core)
    partial = PartialModel("m", "run-1", "lab", Kind.LINEAR, (), False, part)
    frame = pd.concat([data(40, seed=9), odd_rows().assign(rooms=[-0.0, 20.0] * 12)], ignore_index=True)
    assert_engine_says(warehouse, partial, frame)


def test_many_binned_features_are_the_same_in_the_engine(warehouse: Warehouse) -> None:
    """Spark's optimizer, left to itself, made minutes of work and more memory than a server has out of these."""
    rng = np.random.default_rng(6)
    names = [f"bin{place}" for place in range(16)]
    bins = [
        Step(StepKind.BINS, (NUMBERS[place % len(NUMBERS)],), (name,), {"edge": column(*np.sort(rng.normal(40, 9, 4)))})
        for place, name in enumerate(names)
    ]
    scaled = [f"scaled {name}" for name in names]
    spread = {"subtract": rng.normal(size=(len(names), 1)), "divide": rng.uniform(1, 2, (len(names), 1))}
    steps = (*bins, Step(StepKind.SCALE, tuple(names), tuple(scaled), spread))
    core = LinearPart(tuple(scaled), rng.normal(size=(len(names), 1)), None, np.zeros(1))
    partial = PartialModel("m", "run-1", "lab", Kind.LINEAR, (), False, StepsPart(tuple(NUMBERS), {}, steps, core))
    assert_engine_says(warehouse, partial, pd.concat([data(40, seed=11), odd_rows()], ignore_index=True))


def test_hive_is_not_offered_for_more_joins_than_it_has_room_for() -> None:
    numbers = {"key": column(*range(40)), "values": column(*range(40))}
    policies = {"unknown": "invalid", "missing": "missing"}
    for count, engines in ((4, ("numpy", "duckdb", "spark", "hive")), (5, ("numpy", "duckdb", "spark"))):
        steps = tuple(Step(StepKind.MAP, ("age",), (f"m{place}",), numbers, policies) for place in range(count))
        part = StepsPart(("age",), {}, steps, LinearPart(("m0",), np.ones((1, 1)), None, np.zeros(1)))
        assert LAYOUTS[part.family].engines(part) == engines


@pytest.mark.parametrize(
    ("n_maps", "n_levels", "n_core", "in_hive"),
    [(0, 0, 8, True), (0, 1, 6, True), (0, 1, 7, False), (0, 2, 5, True), (0, 3, 5, False),
     (1, 1, 5, True), (1, 1, 6, False), (4, 1, 2, True), (4, 1, 4, False)],
)  # fmt: skip
def test_hive_is_offered_for_steps_and_levels_or_layers_that_fit_together(
    n_maps: int, n_levels: int, n_core: int, in_hive: bool
) -> None:
    numbers = {"key": column(*range(40)), "values": column(*range(40))}
    policies = {"unknown": "invalid", "missing": "missing"}
    steps = [Step(StepKind.MAP, ("f0",), (f"m{place}",), numbers, policies) for place in range(n_maps)]
    for place in range(n_levels):
        before = f"s{place - 1}" if place else "f1"
        steps.append(Step(StepKind.SCALE, (before,), (f"s{place}",), {"multiply": column(1.5)}))
    trees = chain_of_splits(n_core)
    layers = (Dense(np.ones((2, 2)), np.zeros(2)),) * n_core
    for core in (trees, NetworkPart(("f0", "f1"), {}, {}, layers, None)):
        part = StepsPart(("f0", "f1"), {}, tuple(steps), core)
        assert ("hive" in LAYOUTS[part.family].engines(part)) == in_hive


def test_hive_is_not_offered_for_a_quantile_in_front_of_trees() -> None:
    points = {"from": column(1, 2), "to": column(0, 1), "margin": column(0.0)}
    step = Step(StepKind.QUANTILE, ("f0",), ("q",), points)
    part = StepsPart(("f0", "f1"), {}, (step,), chain_of_splits(1))
    assert LAYOUTS[part.family].engines(part) == ("numpy", "duckdb", "spark")


def test_an_exposure_behind_steps_is_the_same_in_the_engine(embedded: Warehouse) -> None:
    steps = (Step(StepKind.FILL, ("income",), ("filled",), {"number": column(2.0)}),)
    core = LinearPart(("rooms", "filled"), column(0.5, 1.0), None, np.zeros(1), "filled")
    part = StepsPart(("income", "rooms"), {}, steps, core)
    frame = pd.concat([data(20, seed=9), odd_rows()], ignore_index=True)
    assert_engine_says(embedded, PartialModel("m", "run-1", "lab", Kind.LINEAR, (), False, part), frame)


def test_quantiles_with_repeated_points_are_the_same_in_the_engine(warehouse: Warehouse) -> None:
    points = {"from": column(1, 1, 2, 2, 2, 4, 4), "to": column(0, 0.25, 0.3, 0.4, 0.5, 0.75, 1)}
    steps = (
        Step(StepKind.QUANTILE, ("rooms",), ("q",), points | {"margin": column(0.0)}),
        Step(StepKind.QUANTILE, ("debt",), ("r",), points | {"margin": column(0.125)}),
        Step(StepKind.NORMAL, ("q", "r"), ("n", "m")),
    )
    core = LinearPart(("q", "r", "n", "m"), np.ones((4, 1)), None, np.zeros(1))
    partial = PartialModel("m", "run-1", "lab", Kind.LINEAR, (), False, StepsPart(("rooms", "debt"), {}, steps, core))
    edges = [0.875, 1.0, 1.0625, 1.125, 2.0, 3.0, 3.875, 3.9375, 4.0, 5.0]
    frame = pd.concat([data(20, seed=9).assign(debt=edges * 2), odd_rows()], ignore_index=True)
    assert_engine_says(warehouse, partial, frame)


def test_no_number_and_no_text_of_a_step_stands_in_the_statement(embedded: Warehouse) -> None:
    marks = (123.456, 77.125, 31.0625)
    steps = (
        Step(StepKind.FILL, ("age",), ("age1",), {"number": column(marks[0])}),
        Step(StepKind.BINS, ("age1",), ("bin",), {"edge": column(marks[1])}),
        Step(StepKind.MAP, ("city",), ("c",), {"values": column(marks[2])}, {"unknown": "nan", "missing": "nan"}),
    )
    core = LinearPart(("bin", "c"), np.array([[0.515625], [0.53125]]), None, np.zeros(1))
    part = StepsPart(("age", "city"), {"city": ("Wien",)}, steps, core)
    partial = PartialModel("m", "run-1", "lab", Kind.LINEAR, (), True, part)
    version, snapshot, _ = published(embedded, partial, data(5))
    statement, values = partial_scores_query(version, snapshot)
    told = f"{statement.sql('duckdb')} {values}"
    assert not [mark for mark in (*map(str, marks), "0.515625", "0.53125", "Wien") if mark in told]


CHANGES: Mapping[str, Callable[[Step], Step]] = {
    "a number": lambda step: replace(step, numbers={**step.numbers, "low": np.nextafter(step.numbers["low"], 0.0)}),
    "an input": lambda step: replace(step, inputs=("age", "debt3")),
    "an output": lambda step: replace(step, outputs=step.outputs[::-1]),
    "the kind": lambda step: Step(StepKind.MISSING, step.inputs, step.outputs),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_covers_every_step(change: str) -> None:
    part = every_step()
    place = next(place for place, step in enumerate(part.steps) if step.kind is StepKind.CLIP)
    changed = [*part.steps]
    changed[place] = CHANGES[change](changed[place])
    other = replace(part, steps=tuple(changed))
    digests = [list(LAYOUTS[each.family].digest_fields(each)) for each in (part, other, every_step())]
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]
