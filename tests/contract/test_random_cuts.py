"""Random models of every family, cut at random: the library on the joined table = numpy = each engine, federated.

`FEDPREDICT_TEST_EXAMPLES` is how many models of each family the embedded engine is asked for; more of them search for
what nobody thought of.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedpredict.convert.certify import feature_rows
from fedpredict.convert.portable import from_portable, parse_json, to_json
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.combine import combine
from fedpredict.model.part import Part
from fedpredict.model.share import SampleStatus, Share, all_ok_statuses, build_share
from fedpredict.tables.layouts import LAYOUTS
from fedpredict.tables.models import ModelVersion, load_model, publish_model
from fedpredict.tables.names import column_names
from fedpredict.tables.statements import score_in_engine
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, publish_snapshot
from fedpredict.warehouse.base import ColumnType, Warehouse
from tests.contract.conftest import Place
from tests.random_cuts import linear, others, trees
from tests.random_cuts.data import Random
from tests.random_cuts.trial import Trial, UnfitError
from tests.step_models import coded

pytestmark = pytest.mark.timeout(600)  # Hive walks a level of trees in several seconds

FAMILIES: Mapping[str, Callable[[Random], Trial]] = {
    "linear": linear.sklearn_linear,
    "portable": linear.portable,
    "sklearn-trees": trees.sklearn_trees,
    "xgboost": trees.xgboost_trees,
    "lightgbm": trees.lightgbm_trees,
    "sklearn-split": trees.sklearn_split_trees,
    "xgboost-split": trees.xgboost_split_trees,
    "lightgbm-split": trees.lightgbm_split_trees,
    "scorecard": others.scorecard,
    "network": others.summed_network,
    "top-model": others.headed_network,
    "steps": others.steps,
}
N_LOCAL = int(os.environ.get("FEDPREDICT_TEST_EXAMPLES", "4"))
FIRST = int(os.environ.get("FEDPREDICT_TEST_FIRST", "0"))
SNAPSHOT = "20260101T000000.000000Z"


def drawn(family: str, seed: int) -> Trial:
    """Return the first model of a seed that its library makes."""
    for attempt in range(50):
        try:
            return FAMILIES[family](np.random.default_rng([seed, attempt]))
        except UnfitError:
            continue
    raise AssertionError(f"{family} {seed}: no data that a model can be made of")


@pytest.mark.parametrize("seed", range(FIRST, FIRST + N_LOCAL))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_library_numpy_and_the_embedded_engine_agree(
    places: Callable[[str], Place], family: str, seed: int
) -> None:
    assert_federated(places("local").warehouse, drawn(family, seed))


def for_server(engine: str, family: str) -> Trial:
    """Return a trial of two parties whose parts an engine is offered for: a server takes seconds for each."""
    for seed in range(1000, 1100):
        trial = drawn(family, seed)
        parts = [partial.part for partial in trial.parts.values()]
        offered = all(engine in LAYOUTS[part.family].engines(part) for part in parts)
        if offered and len(parts) == 2 and all(part.features for part in parts):
            return trial
    raise AssertionError(f"no model of {family} that {engine} can compute")


@pytest.mark.spark
@pytest.mark.further
@pytest.mark.parametrize("family", FAMILIES)
def test_the_library_numpy_and_spark_agree(places: Callable[[str], Place], family: str) -> None:
    assert_federated(places("spark").warehouse, for_server("spark", family))


@pytest.mark.hive
@pytest.mark.parametrize("family", ["linear", "scorecard", "steps", "lightgbm"])
def test_the_library_numpy_and_hive_agree(places: Callable[[str], Place], family: str) -> None:
    assert_federated(places("hive").warehouse, for_server("hive", family))


def assert_federated(warehouse: Warehouse, trial: Trial) -> None:
    """Hold the parties' shares, by numpy and by the engine, combined, to what the library says."""
    view, snapshot = _published(warehouse, trial.joint.part, trial.frame)
    by_numpy: dict[str, Share] = {}
    by_engine: dict[str, Share] = {}
    for party, partial in trial.parts.items():
        sent = from_portable(parse_json(to_json(partial)))
        version, _ = publish_model(warehouse, replace(sent, model_id=f"m-{uuid.uuid4().hex}"), view, "5" * 64)
        loaded = load_model(warehouse, version)
        by_numpy[party] = _in_process(loaded.part, coded(loaded.part, trial.frame))
        if warehouse.engine.name in LAYOUTS[loaded.part.family].engines(loaded.part):
            by_engine[party] = _in_engine(warehouse, version, snapshot)
    assert_as_library(trial, by_numpy, "numpy")
    if len(by_engine) == len(by_numpy):
        assert_as_library(trial, by_engine, warehouse.engine.name)
        for party, share in by_numpy.items():
            np.testing.assert_array_equal(by_engine[party].status, share.status, f"{party}'s statuses")


def _published(warehouse: Warehouse, joint: Part, frame: pd.DataFrame) -> tuple[FeatureView, Snapshot]:
    """Publish the rows of all parties, in one view: what other parties hold is nothing to a part."""
    names = joint.features
    columns = column_names(names)
    kinds = {name: ColumnType.STRING if name in joint.categories else ColumnType.DOUBLE for name in names}
    features = tuple(ViewFeature(name, columns[name], kinds[name]) for name in names)
    view = FeatureView(f"v_{uuid.uuid4().hex}", 1, features, "id", None)
    publish_snapshot(warehouse, view, SNAPSHOT, feature_rows(coded(joint, frame), joint, view))
    return view, Snapshot(view, SNAPSHOT, len(frame))


def _in_process(part: Part, features: Floats) -> Share:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # parts promise to stay quiet
        statuses = part.statuses(features)
        return build_share(
            part.partial_scores(features), all_ok_statuses(len(features)) if statuses is None else statuses
        )


def _in_engine(warehouse: Warehouse, version: ModelVersion, snapshot: Snapshot) -> Share:
    scored = {row["sample_id"]: row for row in score_in_engine(warehouse, version, snapshot).to_pylist()}
    rows = [scored[str(at)] for at in range(snapshot.n_rows)]
    nothing = [np.nan] * version.n_scores
    status = np.array([row["status"] for row in rows], dtype=np.uint8)
    return Share(np.array([row["scores"] or nothing for row in rows], dtype=np.float64), status)


def assert_as_library(trial: Trial, shares: Mapping[str, Share], engine: str) -> None:
    """Hold what the shares come to against the library, row by row; no row that it refuses may have a number."""
    combined = combine(trial.joint.link, shares, None if trial.head is None else trial.head.head)
    features = coded(trial.joint.part, trial.frame)
    allowed = trial.joint.tolerance * trial.joint.part.magnitudes(features) + np.finfo(np.float64).tiny
    is_scored: Bools = np.asarray(combined.status == SampleStatus.OK)
    has_number = np.isfinite(trial.raw).all(axis=1) & np.isfinite(trial.predictions).all(axis=1)
    expected: Bools = np.asarray(has_number & ~np.isinf(features).any(axis=1))
    told = f"{engine}, rows {np.flatnonzero(is_scored != expected)}: {combined.status}, {combined.problem}"
    assert np.array_equal(is_scored[~trial.may_refuse], expected[~trial.may_refuse]), told
    is_scored &= expected

    off = np.abs(combined.raw - trial.raw)[is_scored]
    assert np.all(off <= allowed[is_scored]), f"{engine} is off by {off.max()}"
    with np.errstate(over="ignore", invalid="ignore"):
        scale = 4.0 * (trial.joint.tolerance + allowed.max(axis=1, keepdims=True)) * (1.0 + np.abs(trial.predictions))
    off = np.abs(combined.predictions - trial.predictions)[is_scored]
    assert np.all(off <= scale[is_scored]), f"predictions of {engine} are off by {off.max()}"
