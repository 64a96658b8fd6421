"""Features older than a view's, or a model's, `max_age` get no score."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpredict.features.memory import MemoryStore
from fedpredict.features.refresh import refresh_view
from fedpredict.features.registration import register_view
from fedpredict.model.inputs import Inputs
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.scorer import ModelRef
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.scoring.freshness import FreshnessSettings
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.state import LoadedModel
from fedpredict.scoring.tasks import score_day
from fedpredict.tables.models import publish_model
from fedpredict.tables.script_view import ScriptView
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import AS_OF, Event, example
from tests.raw_transactions import store as store_raw
from tests.unit.scoring.test_local_party import DIGEST, filled_store, loaded_model, query_for, state_of

HOUR = 3_600_000_000
ROWS: list[tuple[str, int, float | None, float | None]] = [
    ("new", 3 * HOUR, 1.0, 1.0),
    ("at the edge", HOUR, 1.0, 1.0),
    ("old", HOUR - 1, 1.0, 1.0),
    ("old and null", 0, None, 1.0),
    ("old and twice", 0, 1.0, 1.0),
    ("old and twice", 0, 1.0, 1.0),
    ("old and large", 0, 1e308, 1e308),
]
IDS = [b"new", b"at the edge", b"old", b"old and null", b"old and twice", b"old and large", b"nobody", b""]
OK, STALE = SampleStatus.OK, SampleStatus.STALE
NAMED = [SampleStatus.FEATURE_MISSING, SampleStatus.FEATURE_INVALID]
ABSENT = [SampleStatus.NOT_FOUND, SampleStatus.ID_INVALID]


class Holder(BaseModel):
    model_config = ConfigDict(extra="forbid")
    freshness: FreshnessSettings = Field(default_factory=dict)


def rules(text: str) -> FreshnessSettings:
    return Holder.model_validate(tomllib.loads(text)).freshness


def party_at(now: int, text: str, *models: LoadedModel) -> LocalParty:
    state = state_of(*(models or (loaded_model(),)))
    return LocalParty("lab", lambda: state, filled_store(ROWS), freshness=rules(text), now=lambda: now)


def named(model_id: str) -> LoadedModel:
    model = loaded_model()
    return replace(model, description=replace(model.description, model_id=model_id))


async def statuses(party: LocalParty, model_id: str = "credit") -> list[SampleStatus]:
    reply = await party.score(query_for(*IDS, model_id=model_id), deadline_s=1)
    assert np.isnan(reply.share.values[reply.share.status != OK]).all()
    return [SampleStatus(each) for each in reply.share.status]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [OK, OK, OK, *NAMED, SampleStatus.OUT_OF_RANGE, *ABSENT]),
        ('[freshness]\nother = "1s"', [OK, OK, OK, *NAMED, SampleStatus.OUT_OF_RANGE, *ABSENT]),
        ('[freshness]\npeople = "2h"', [OK, OK, STALE, *NAMED, STALE, *ABSENT]),
        ('[freshness.people]\nmax_age = "2h"\nstale = "refuse"', [OK, OK, STALE, *NAMED, STALE, *ABSENT]),
        ('[freshness]\npeople = "119m"', [OK, STALE, STALE, *NAMED, STALE, *ABSENT]),
        (
            '[freshness.people]\nmax_age = "2h"\nstale = "serve"',
            [OK, OK, OK, *NAMED, SampleStatus.OUT_OF_RANGE, *ABSENT],
        ),
    ],
)
async def test_what_is_older_than_allowed_is_stale_where_nothing_worse_is_the_matter(
    text: str, expected: list[SampleStatus]
) -> None:
    assert await statuses(party_at(3 * HOUR, text)) == expected


async def test_a_model_may_have_a_rule_of_its_own() -> None:
    text = """
[freshness.people]
max_age = "2h"
[freshness.people.models.strict]
max_age = "1m"
[freshness.people.models.lenient]
stale = "serve"
[freshness.people.models.older]
max_age = "1d"
"""
    party = party_at(3 * HOUR, text, *(named(each) for each in ("credit", "strict", "lenient", "older")))
    first = {each: (await statuses(party, each))[:3] for each in ("credit", "strict", "lenient", "older")}
    assert first == {
        "credit": [OK, OK, STALE],
        "strict": [OK, STALE, STALE],
        "lenient": [OK, OK, OK],
        "older": [OK, OK, OK],
    }


async def test_models_of_one_round_keep_their_own_rules() -> None:
    text = '[freshness.people]\nmax_age = "2h"\n[freshness.people.models.lenient]\nstale = "serve"'
    party = party_at(3 * HOUR, text, named("credit"), named("lenient"))
    both = query_for(b"old", b"new", b"old", b"new", segments=(2, 2))
    models = (ModelRef("lenient", "cd" * 32, DIGEST),)
    reply = await party.score(replace(both, further=models, model_rows=(2, 2)), deadline_s=1)
    assert reply.share.status.tolist() == [STALE, OK, OK, OK]
    assert reply.segment_event_times is not None
    assert reply.segment_event_times.tolist() == [3 * HOUR, HOUR - 1]


async def test_features_that_come_with_the_request_have_no_age() -> None:
    party = party_at(10**17, '[freshness]\npeople = "1s"')
    inputs = Inputs(("A", "B"), np.array([[1.0, 2.0]]))
    reply = await party.score(query_for(b"old", inputs=inputs), deadline_s=1)
    assert reply.share.status.tolist() == [OK]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[freshness]\npeople = "2 h"', "90m"),
        ("[freshness]\npeople = 7200", "valid dictionary"),
        ('[freshness]\npeople = "0h"', "90m"),
        ('[freshness]\nPeople = "2h"', "view name"),
        ('[freshness.people]\nstale = "maybe"', "refuse"),
        ('[freshness.people]\nmaxage = "2h"', "maxage"),
        ('[freshness.people]\nmax_age_offline = "1 day"', "90m"),
        ('[freshness.people.models."a b"]\nmax_age = "2h"', "model id"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        rules(text)


async def test_a_registered_view_says_how_old_its_features_may_be_and_settings_say_otherwise(tmp_path: Path) -> None:
    _, definition, script = example("transactions")
    definition = definition.replace('offline = "2d"', 'offline = "3d"')
    warehouse, store = LocalWarehouse(tmp_path / "warehouse"), MemoryStore()
    store_raw(warehouse, [Event("e", AS_OF - timedelta(hours=1), "a", "m0", "1.00", "web")], [])
    registered, _ = register_view(warehouse, ScriptView.model_validate(tomllib.loads(definition)), definition, script)
    refresh_view(warehouse, registered, AS_OF)
    part = LinearPart(("n_30d",), np.array([[1.0]]), None, np.array([0.0]))
    model = PartialModel("credit", "run-1", "lab", Kind.LINEAR, (), False, part)
    version = publish_model(warehouse, model, registered.view.feature_view(1), "a" * 64, lambda _: {})[0]
    score_day(warehouse, version, AS_OF.date())
    loader = ModelLoader(warehouse, "lab", store)
    loader.refresh()

    async def answers(text: str, mode: Mode) -> list[bool]:
        """Whether the sample is scored just within, and beyond, two hours, three days, and four."""
        found = []
        for age in (timedelta(hours=2), timedelta(hours=2, microseconds=1), timedelta(days=3), timedelta(days=4)):
            at = round((AS_OF + age).timestamp() * 1_000_000)
            party = LocalParty("lab", lambda: loader.state, store, freshness=rules(text), now=partial(int, at))
            query = replace(query_for(b"a"), mode=mode, params_sha256=version.params_sha256)
            reply = await party.score(query, deadline_s=1)
            assert reply.share.status.tolist() in ([OK], [STALE])
            assert np.isnan(reply.share.values).tolist() == [[reply.share.status.tolist() == [STALE]]]
            found.append(reply.share.status.tolist() == [OK])
        return found

    ages = {Mode.NEARLINE: 2 * HOUR, Mode.OFFLINE: 72 * HOUR}
    assert loader.state.current["credit"].max_age == ages
    assert await answers("", Mode.NEARLINE) == [True, False, False, False]
    assert await answers("", Mode.OFFLINE) == [True, True, True, False]
    # settings say otherwise, each for its own mode
    assert await answers('[freshness]\ntransactions = "3d"', Mode.NEARLINE) == [True, True, True, False]
    assert await answers('[freshness]\ntransactions = "1h"', Mode.OFFLINE) == [True, True, True, False]
    offline = '[freshness.transactions]\nmax_age_offline = "1h"'
    assert await answers(offline, Mode.OFFLINE) == [False] * 4
    assert await answers(offline, Mode.NEARLINE) == [True, False, False, False]
    lenient = '[freshness.transactions.models.credit]\nstale = "serve"'
    assert await answers(lenient, Mode.OFFLINE) == [True] * 4
    assert await answers(lenient, Mode.NEARLINE) == [True] * 4
