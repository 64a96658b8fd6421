from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.errors import InputsRefusedError, ModelNotReadyError
from fedpredict.features.memory import MemoryStore
from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.inputs import Inputs, inputs_of
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.linear import LinearPart
from fedpredict.model.manifest import PartDescription
from fedpredict.model.part import UNKNOWN_CATEGORY, Family, Part, statuses_of_numbers
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import ModelRef, PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature
from fedpredict.warehouse.base import ColumnType

VIEW = FeatureView(
    "people",
    1,
    (
        ViewFeature("Age", "age", ColumnType.DOUBLE),
        ViewFeature("City", "city", ColumnType.STRING),
        ViewFeature("job", "job", ColumnType.STRING),
    ),
    "id",
    None,
)


@dataclass(frozen=True)
class CodesPart:
    """Its scores are the features as it gets them; a missing text or number is missing."""

    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    family: Family = Family.TREES
    intercept: Floats | None = None
    n_bytes: int = 0

    @property
    def n_scores(self) -> int:
        return len(self.features)

    def partial_scores(self, features: Floats) -> Floats:
        return features.copy()

    def statuses(self, features: Floats) -> Statuses | None:
        return statuses_of_numbers(features)

    def scores_and_statuses(self, features: Floats) -> tuple[Floats, Statuses | None]:
        return self.partial_scores(features), self.statuses(features)

    def magnitudes(self, features: Floats) -> Floats:
        return np.abs(features)


def loaded(part: Part, model_id: str = "m") -> LoadedModel:
    description = PartDescription(
        party="lab",
        model_id=model_id,
        params_sha256="ab" * 32,
        training_run="run",
        kind=Kind.LINEAR,
        link=own_link(Kind.LINEAR),
        classes=(),
        n_scores=part.n_scores,
        holds_intercept=False,
        fit_intercept=False,
    )
    columns = tuple(name.lower() for name in part.features)
    return LoadedModel(description=description, part=part, view="people", view_version=1, columns=columns)


def publish(store: MemoryStore, cities: Sequence[str | None], jobs: Sequence[str | None], at: int = 1) -> None:
    ids = [f"u{place}" for place in range(len(cities))]
    rows = pa.table(
        {
            "sample_id": pa.array(ids),
            "event_time": pa.array([at] * len(ids), pa.timestamp("us", tz="UTC")),
            "age": pa.array([float(place) for place in range(len(ids))]),
            "city": pa.array(cities, pa.string()),
            "job": pa.array(jobs, pa.string()),
        }
    )
    store.publish(Snapshot(VIEW, f"202601{at:02d}T000000.000000Z", len(ids)), rows)


def ask(store: MemoryStore, *models: LoadedModel, n_ids: int, inputs: Inputs | None = None) -> PartyReply:
    by_id = {model.description.model_id: model for model in models}
    state = PartyState(current=by_id, loaded={(name, "ab" * 32): by_id[name] for name in by_id}, read_once=True)
    names = list(by_id)
    query = ScoreQuery(
        request_id="r",
        model_id=names[0],
        manifest_sha256="cd" * 32,
        params_sha256="ab" * 32,
        mode=Mode.NEARLINE,
        sample_ids=SampleIds.of([f"u{place}".encode() for place in range(n_ids)] * len(names)),
        inputs=inputs,
    )
    if len(names) > 1:
        query = replace(
            query,
            further=tuple(ModelRef(name, "cd" * 32, "ab" * 32) for name in names[1:]),
            model_rows=(n_ids,) * len(names),
            segments=(n_ids,) * len(names),
        )
    return asyncio.run(LocalParty("lab", lambda: state, store).score(query, deadline_s=5))


CITIES = ["Wien", "Graz", "graz", None, "", "Gra\u0308z", "Gr\xe4z"]
EXPECTED = [1.0, 0.0, UNKNOWN_CATEGORY, np.nan, 2.0, UNKNOWN_CATEGORY, 3.0]
PART = CodesPart(("City", "Age"), {"City": ("Graz", "Wien", "", "Gr\xe4z", "\ud800", "not in the data")})


@pytest.mark.parametrize("n_ids", [1, len(CITIES)])
def test_texts_reach_a_part_as_its_own_codes(n_ids: int) -> None:
    store = MemoryStore()
    publish(store, CITIES, ["x"] * len(CITIES))
    share = ask(store, loaded(PART), n_ids=n_ids).share
    status = [SampleStatus.FEATURE_MISSING if np.isnan(code) else SampleStatus.OK for code in EXPECTED]
    assert share.status.tolist() == status[:n_ids]
    usable = [place for place in range(n_ids) if status[place] is SampleStatus.OK]
    assert share.values[usable].tolist() == [[EXPECTED[place], float(place)] for place in usable]


def test_a_new_snapshot_has_other_codes_and_the_part_the_same() -> None:
    store, model = MemoryStore(), loaded(PART)
    for at, cities in enumerate((["Wien", "Graz"], ["Graz", "Aachen"], ["Zell", "Wien"]), start=1):
        publish(store, cities, ["x", "y"], at)
        texts = PART.categories["City"]
        expected = [float(texts.index(city)) if city in texts else UNKNOWN_CATEGORY for city in cities]
        assert ask(store, model, n_ids=2).share.values[:, 0].tolist() == expected


def test_models_with_other_categories_share_a_snapshot_and_a_question() -> None:
    store = MemoryStore()
    publish(store, ["Wien", "Graz"], ["baker", "smith"])
    first = loaded(CodesPart(("City", "job"), {"City": ("Wien", "Graz"), "job": ("smith",)}), "first")
    second = loaded(CodesPart(("City", "job"), {"City": ("Graz",), "job": ("baker", "smith")}), "second")
    values = ask(store, first, second, n_ids=2).share.values
    assert values.tolist() == [[0.0, -1.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (LinearPart(("City",), np.ones((1, 1)), None, np.zeros(1)), "column city is text in the view"),
        (CodesPart(("Age",), {"Age": ("1", "2")}), "column age is a number in the view"),
    ],
)
def test_a_column_of_another_type_than_the_model_needs_is_never_scored(part: Part, told: str) -> None:
    store = MemoryStore()
    publish(store, ["Wien"], ["x"])
    with pytest.raises(ModelNotReadyError, match=told):
        ask(store, loaded(part), n_ids=1)


def test_texts_of_a_request_reach_a_part_as_its_own_codes() -> None:
    store = MemoryStore()
    publish(store, ["Wien"], ["x"])
    given = inputs_of({"Age": np.arange(float(len(CITIES)))}, {"City": CITIES, "job": ["x"] * len(CITIES)}, len(CITIES))
    share = ask(store, loaded(PART), n_ids=len(CITIES), inputs=given).share
    missing = np.isnan(EXPECTED)
    assert share.status.tolist() == np.where(missing, SampleStatus.FEATURE_MISSING, SampleStatus.OK).tolist()
    assert share.values[~missing].tolist() == [[EXPECTED[at], at] for at in np.flatnonzero(~missing).tolist()]


def test_what_is_missing_throughout_fits_a_text_feature_as_well_as_a_number() -> None:
    store = MemoryStore()
    publish(store, ["Wien"], ["x"])
    for given in (
        inputs_of({"Age": np.ones(1), "City": np.full(1, np.nan)}, {}, 1),
        inputs_of({}, {"City": [None], "Age": [None]}, 1),
    ):
        assert ask(store, loaded(PART), n_ids=1, inputs=given).share.status.tolist() == [SampleStatus.FEATURE_MISSING]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Inputs(("Age",), np.zeros((1, 1))), "feature 'City' is needed by the model and was not sent"),
        (Inputs(("Age", "City"), np.zeros((1, 2))), "feature 'City' is text, and numbers were sent"),
        (inputs_of({}, {"City": ["Wien"], "Age": ["41"]}, 1), "feature 'Age' is a number, and texts were sent"),
    ],
)
def test_inputs_of_another_type_than_the_feature_are_refused_by_name(given: Inputs, told: str) -> None:
    store = MemoryStore()
    publish(store, ["Wien"], ["x"])
    with pytest.raises(InputsRefusedError, match=told):
        ask(store, loaded(PART), n_ids=1, inputs=given)
