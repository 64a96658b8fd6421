"""Networks scored in the warehouse's engine: the embedded one, Spark and Hive give the definitions' numbers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.convert.embedding_form import padded
from fedpredict.model.arrays import Floats
from fedpredict.model.combination import Combination, Combining, structure_of
from fedpredict.model.dense import Dense
from fedpredict.model.kinds import Kind
from fedpredict.model.network import NetworkPart
from fedpredict.model.part import UNKNOWN_CATEGORY
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus
from fedpredict.tables.layer_rows import BLOCK
from fedpredict.tables.models import load_model, publish_model
from fedpredict.tables.names import column_names
from fedpredict.tables.statements import score_in_engine
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType, Warehouse
from tests.contract.conftest import cases_by_place
from tests.network_parts import chain, mixed_part, written_out

pytestmark = pytest.mark.timeout(600)  # a server plans for a minute, more on a busy machine

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
Columns = Mapping[str, Sequence[object] | Floats]


def scored(
    warehouse: Warehouse, part: NetworkPart, values: Columns, instants: Sequence[datetime] = (), ids: Sequence[str] = ()
) -> dict[str, tuple[SampleStatus, list[float] | None]]:
    """Publish a part and its samples, and return what the engine gives: sample id -> (status, scores)."""
    kinds = {name: ColumnType.STRING if name in part.categories else ColumnType.DOUBLE for name in part.features}
    columns = column_names(part.features)
    features = tuple(ViewFeature(name, columns[name], kind) for name, kind in kinds.items())
    view = FeatureView(f"v_{uuid.uuid4().hex}", 1, features, "id", "seen")
    count = len(next(iter(values.values())))
    ids = ids or [f"s{at}" for at in range(count)]
    arrays = {
        columns[name]: pa.array(values[name], pa.string() if kind is ColumnType.STRING else pa.float64())
        for name, kind in kinds.items()
    }
    moments = pa.array(instants or [NOON] * count, pa.timestamp("us", tz="UTC"))
    rows = pa.table({"sample_id": pa.array(ids, pa.string()), "event_time": moments, **arrays})
    snapshot = publish_snapshot(warehouse, view, snapshot_name(NOON), rows)
    partial = PartialModel(f"m-{uuid.uuid4().hex}", "run", "lab", Kind.LINEAR, (), part.intercept is not None, part)
    version = publish_model(warehouse, partial, view, "5" * 64)[0]
    assert load_model(warehouse, version).part.n_scores == part.n_scores
    answer = score_in_engine(warehouse, version, snapshot).to_pylist()
    return {row["sample_id"]: (SampleStatus(row["status"]), row["scores"]) for row in answer}


def assert_close(found: Mapping[str, tuple[SampleStatus, list[float] | None]], expected: Floats, terms: Floats) -> None:
    """Hold the scores, in the order of the samples, to 1e-12 of the sum of the absolute terms."""
    scores = np.array([found[f"s{at}"][1] for at in range(len(expected))], dtype=np.float64)
    assert (np.abs(scores - expected) <= 1e-12 * terms).all()


@pytest.mark.parametrize(
    "activations",
    [
        ("gelu", "leaky_relu", "tanh", "softplus", "identity"),
        ("softmax", "gelu_tanh", "silu", "relu", "sigmoid"),
        ("relu", "softmax"),
    ],
)
def test_the_engine_follows_every_activation(warehouse: Warehouse, activations: tuple[str, ...]) -> None:
    random = np.random.default_rng(3)
    layers = chain(random, (2, *[3] * len(activations)), activations)
    part = NetworkPart(("order", "年龄"), {}, {}, layers, np.array([0.5, -1.0, 2.0]))
    sizes = np.array([0.0, 1e-300, 1e-12, 1e-5, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 20.0, 30.0, 100.0, 800.0, 1e5])
    features = np.concatenate([np.column_stack([sizes, -sizes]), random.normal(scale=4.0, size=(20, 2))])

    found = scored(warehouse, part, {"order": features[:, 0], "年龄": features[:, 1]})

    assert_close(found, part.partial_scores(features), part.magnitudes(features))
    with np.errstate(all="ignore"):
        assert_close(found, written_out(part, features), part.magnitudes(features))


def test_categories_are_looked_up_and_the_statuses_are_those_of_scoring_in_process(warehouse: Warehouse) -> None:
    nan, inf = float("nan"), float("inf")
    samples: list[tuple[float | None, str | None, float | None, float | None]] = [
        (0.5, "red", 0.0, 1.0),
        (0.5, "it's", 3.0, 1.0),
        (0.5, "蓝", -0.0, 1.0),
        (0.5, "pink", 1.0, 1.0),
        (0.5, "", 1.0, 1.0),
        (0.5, None, 1.0, 1.0),
        (0.5, "red", None, 1.0),
        (0.5, "red", nan, 1.0),
        (0.5, "red", 4.0, 1.0),
        (0.5, "red", 0.5, 1.0),
        (0.5, "red", -1.0, 1.0),
        (0.5, "red", inf, 1.0),
        (None, "red", 0.0, 1.0),
        (nan, "pink", 7.0, 1.0),
        (inf, None, 0.0, 1.0),
        (1e308, "red", 0.0, -1e308),
    ]
    part = mixed_part(intercept=np.array([0.25, -0.5]))
    codes = {text: float(code) for code, text in enumerate(part.categories["colour"])}
    features = np.array(
        [
            [nan if a is None else a, nan if b is None else codes.get(b, UNKNOWN_CATEGORY), nan if c is None else c, d]
            for a, b, c, d in samples
        ],
        dtype=np.float64,
    )
    statuses = part.statuses(features)
    assert statuses is not None
    expected = [SampleStatus(each) for each in statuses]

    found = scored(warehouse, part, dict(zip(part.features, zip(*samples, strict=True), strict=True)))

    assert [found[f"s{at}"][0] for at in range(len(samples) - 1)] == expected[:-1]
    assert [found[f"s{at}"][0].name for at in range(5)] == ["OK"] * 5
    good = np.array([each is SampleStatus.OK for each in expected[:-1]])
    scores = [found[f"s{at}"][1] for at in range(len(good))]
    assert [each is not None for each in scores] == good.tolist()
    terms = part.magnitudes(features)[:-1][good]
    assert (
        np.abs(np.array([each for each in scores if each]) - part.partial_scores(features)[:-1][good]) <= 1e-12 * terms
    ).all()
    overflown = part.partial_scores(features)[-1]
    assert (found[f"s{len(good)}"][0] is SampleStatus.OK) == bool(np.isfinite(overflown).all())


@pytest.mark.parametrize(("place", "n_layers"), cases_by_place([1, 2], [2]), indirect=["place"])
def test_the_latest_row_of_a_sample_counts_and_a_tie_is_invalid(warehouse: Warehouse, n_layers: int) -> None:
    hour = timedelta(hours=1)
    ids = ["moved", "moved", "moved", "tied", "tied", "overflown"]
    values = [1.0, 3.0, float("inf"), 1.0, 1.0, 1.7e308]
    instants = [NOON, NOON + hour, NOON - hour, NOON, NOON, NOON]
    layers = (Dense(np.full((1, 1), 2.0), np.array([0.5])),) * n_layers

    found = scored(warehouse, NetworkPart(("fp_z",), {}, {}, layers, None), {"fp_z": values}, instants, ids)

    assert found == {
        "moved": (SampleStatus.OK, [6.5 if n_layers == 1 else 13.5]),
        "tied": (SampleStatus.FEATURE_INVALID, None),
        "overflown": (SampleStatus.OUT_OF_RANGE, None),
    }


def test_layers_wider_than_a_row_of_the_table_are_added_up(warehouse: Warehouse) -> None:
    random = np.random.default_rng(7)
    widths = (2 * BLOCK + 3, BLOCK + 2, 2)
    features = tuple(f"f{at}" for at in range(widths[0]))
    part = NetworkPart(features, {}, {}, chain(random, widths, ("tanh", "identity")), None)
    rows = random.normal(size=(4, widths[0]))

    found = scored(warehouse, part, dict(zip(features, rows.T, strict=True)))

    assert_close(found, part.partial_scores(rows), part.magnitudes(rows))


def test_a_padded_embedding_for_a_head_is_as_wide_as_the_widest(warehouse: Warehouse) -> None:
    random = np.random.default_rng(9)
    layers = padded(chain(random, (2, 3, 2), ("relu", "sigmoid")), 4)
    structure = structure_of(Combining.TOP_CONCAT, "joint")
    part = NetworkPart(("a", "b"), {}, {}, layers, None, Combination(Combining.TOP_CONCAT, structure, 1))
    rows = random.normal(size=(6, 2))

    found = scored(warehouse, part, dict(zip(part.features, rows.T, strict=True)))

    expected = np.hstack([written_out(replace(part, layers=layers[:2]), rows), np.zeros((6, 2))])
    assert_close(found, expected, np.ones_like(expected))
