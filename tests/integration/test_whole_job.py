"""From a pickled joint model to predictions, in one process; scikit-learn on the joined table is the truth."""

import asyncio
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from fedpredict.convert.options import ReadOptions
from fedpredict.convert.read import read_model_file
from fedpredict.convert.split import split_model
from fedpredict.convert.write import write_partial
from fedpredict.features.load import load_file
from fedpredict.features.memory import MemoryStore
from fedpredict.model.arrays import Floats
from fedpredict.model.combine import Combined, combine
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.manifest import build_manifest
from fedpredict.model.partial import PartialModel
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import latest_snapshot
from fedpredict.warehouse.local import LocalWarehouse

SHARED = Path(__file__).parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Job:
    """A joint model, its data, and who holds which columns."""

    estimator: object
    features: Floats
    names: Sequence[str]
    owners: Sequence[int]

    def columns_of(self, owner: int) -> list[int]:
        return [column for column, who in enumerate(self.owners) if who == owner]


def write_csv(path: Path, ids: Sequence[str], features: Floats, names: Sequence[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["who", *names])
        writer.writerows([sample_id, *map(repr, row.tolist())] for sample_id, row in zip(ids, features, strict=True))


def run(job: Job, folder: Path) -> Combined:
    """Do the whole job: cut, write, read, load, convert, score at each party, combine."""
    joblib.dump(job.estimator, folder / "joint.joblib", compress=3)
    joint = read_model_file(folder / "joint.joblib", ReadOptions(
        model_id="m", training_run="run-1", party="joint", features=tuple(job.names),
    ))  # fmt: skip
    owned = {f"party-{owner}": [job.names[c] for c in job.columns_of(owner)] for owner in sorted(set(job.owners))}
    holder = min(owned) if joint.partial.holds_intercept else None
    parts = split_model(joint.partial, owned, holder, rows=job.features[:20], feature_constants=joint.feature_constants)
    ids = [f"id-{row}" for row in range(len(job.features))]
    scorers = [party(job, folder, name, part, ids) for name, part in parts.items()]
    return asyncio.run(ask(scorers, [sample_id.encode() for sample_id in ids]))


def party(job: Job, folder: Path, name: str, part: PartialModel, ids: Sequence[str]) -> LocalParty:
    """One party: its own file, warehouse, feature view and converted part."""
    write_partial(folder / f"{name}.pkl", part)
    read = read_model_file(folder / f"{name}.pkl")
    columns = job.columns_of(int(name.removeprefix("party-")))
    order = np.random.default_rng(len(name)).permutation(len(ids))
    write_csv(folder / f"{name}.csv", [ids[row] for row in order], job.features[order][:, columns],
              [job.names[column] for column in columns])  # fmt: skip
    warehouse = LocalWarehouse(folder / f"warehouse-{name}")
    load_file(warehouse, folder / f"{name}.csv", view="people", key="who")
    snapshot = latest_snapshot(warehouse, "people")
    assert snapshot is not None
    publish_model(warehouse, read.partial, snapshot.view, read.source_sha256)
    store = MemoryStore()
    loader = ModelLoader(warehouse, name, store)
    assert loader.refresh().problems == {}
    return LocalParty(name, lambda: loader.state, store)


async def ask(scorers: Sequence[LocalParty], ids: Sequence[bytes]) -> Combined:
    """Be the initiator: build the manifest, ask every party, combine."""
    manifest = build_manifest({scorer.party: await scorer.describe("m", deadline_s=5) for scorer in scorers})
    digests: Mapping[str, str] = dict(manifest.digests)
    shares = {}
    for scorer in scorers:
        query = ScoreQuery(
            request_id="r", model_id="m", manifest_sha256=manifest.manifest_sha256,
            params_sha256=digests[scorer.party], mode=Mode.NEARLINE, sample_ids=ids,
        )  # fmt: skip
        shares[scorer.party] = (await scorer.score(query, deadline_s=30)).share
    return combine(manifest.link, shares)


def raw_terms(estimator: object, features: Floats) -> Floats:
    """Sum of the absolute terms of each raw score after folding, from scikit-learn's own attributes."""
    *scalers, model = [step for _, step in estimator.steps]  # type: ignore[attr-defined]
    zero = np.zeros((1, features.shape[1]))
    unit = np.eye(features.shape[1])
    for scaler in scalers:  # an affine map: what it does to zero and to the unit vectors says all
        zero, unit = scaler.transform(zero), scaler.transform(unit)
    slope = np.diag(unit - zero)
    weights = np.atleast_2d(model.coef_).T
    constants = np.abs(zero.T * weights).sum(axis=0) + np.abs(np.atleast_1d(model.intercept_))
    return np.asarray(np.abs(features) @ np.abs(slope[:, None] * weights) + constants)


def check(job: Job, result: Combined) -> None:
    """Compare with scikit-learn on the joined table: raw scores to 1e-12 of their terms, probabilities to 1e-12."""
    assert (result.status == SampleStatus.OK).all()
    terms = raw_terms(job.estimator, job.features)
    model = job.estimator
    if hasattr(model, "predict_proba"):
        raw = model.decision_function(job.features)  # type: ignore[attr-defined]
        expected = model.predict_proba(job.features)
        expected = expected[:, 1:] if expected.shape[1] == 2 else expected
        np.testing.assert_allclose(result.predictions, expected, rtol=0, atol=1e-12)
    else:
        raw = model.predict(job.features)  # type: ignore[attr-defined]
    raw = raw.reshape(len(raw), -1)
    assert (np.abs(result.raw - raw) <= 1e-12 * terms).all(), (np.abs(result.raw - raw) / terms).max()


def bundled(load: Callable[..., object], estimator: object, n_parties: int) -> Job:
    data = load()
    features = np.asarray(data.data, dtype=np.float64)  # type: ignore[attr-defined]
    names = [str(name) for name in data.feature_names]  # type: ignore[attr-defined]
    estimator.fit(features, data.target)  # type: ignore[attr-defined]
    return Job(estimator, features, names, [column % n_parties for column in range(features.shape[1])])


@pytest.mark.parametrize(
    ("load", "estimator", "n_parties"),
    [
        pytest.param(load_breast_cancer, make_pipeline(StandardScaler(), LogisticRegression()), 3, id="breast-cancer"),
        pytest.param(load_wine, make_pipeline(RobustScaler(), LogisticRegression()), 2, id="wine"),
        pytest.param(load_diabetes, make_pipeline(MinMaxScaler(), LinearRegression()), 5, id="diabetes"),
        pytest.param(load_diabetes, make_pipeline(StandardScaler(), Ridge(fit_intercept=False)), 2, id="no-intercept"),
        pytest.param(load_diabetes, make_pipeline(Lasso(alpha=0.1)), 1, id="one-party"),
        pytest.param(load_digits, make_pipeline(MaxAbsScaler(), LogisticRegression()), 4, id="digits"),
        pytest.param(
            load_digits,
            make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)),
            4,
            id="digits-one-vs-rest",
        ),
    ],
)
def test_federated_predictions_are_scikit_learns(
    load: Callable[..., object], estimator: object, n_parties: int, tmp_path: Path
) -> None:
    job = bundled(load, estimator, n_parties)
    check(job, run(job, tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the credit data set is not beside the checkout (../shared/data)")
def test_federated_predictions_are_scikit_learns_on_thirty_thousand_credit_customers(tmp_path: Path) -> None:
    tables = {}
    for side in ("guest", "host"):
        with (SHARED / f"default_credit_hetero_{side}.csv").open() as file:
            rows = list(csv.reader(file))
        tables[side] = rows[0], {row[0]: row[1:] for row in rows[1:]}
    ids = sorted(set(tables["guest"][1]) & set(tables["host"][1]))
    guest = np.array([tables["guest"][1][i] for i in ids], dtype=np.float64)
    host = np.array([tables["host"][1][i] for i in ids], dtype=np.float64)
    features, target = np.hstack([guest[:, 1:], host]), guest[:, 0]
    names = [f"guest_{name}" for name in tables["guest"][0][2:]] + [f"host_{name}" for name in tables["host"][0][1:]]
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, target)
    job = Job(estimator, features, names, [0] * (guest.shape[1] - 1) + [1] * host.shape[1])
    assert len(ids) == 30_000
    check(job, run(job, tmp_path))


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_cut_of_any_linear_model_gives_the_joint_models_scores(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n_features, n_scores = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    magnitude = 10.0 ** data.draw(st.integers(-100, 100))
    weights = rng.normal(size=(n_features, n_scores)) / magnitude
    features = rng.normal(size=(data.draw(st.integers(1, 30)), n_features)) * magnitude
    intercept = rng.normal(size=n_scores)
    names = [f"f{column}" for column in range(n_features)]
    owners = data.draw(st.lists(st.integers(0, 4), min_size=n_features, max_size=n_features))
    part = LinearPart(tuple(names), weights, intercept, np.zeros(n_scores))
    joint = PartialModel("m", "run-1", "joint", Kind.LINEAR, (), True, part)
    job = Job(None, features, names, owners)
    owned = {f"party-{owner}": [names[c] for c in job.columns_of(owner)] for owner in sorted(set(owners))}
    folder = tmp_path_factory.mktemp("cut")
    ids = [f"id-{row}" for row in range(len(features))]
    scorers = [
        party(job, folder, name, cut, ids) for name, cut in split_model(joint, owned, min(owned), rows=features).items()
    ]
    result = asyncio.run(ask(scorers, [sample_id.encode() for sample_id in ids]))
    terms = np.abs(features) @ np.abs(weights) + np.abs(intercept)
    assert (np.abs(result.raw - (features @ weights + intercept)) <= 1e-12 * terms).all()
