"""Mode realtime at a party: events that arrived count at the next question, with the statuses of every other mode."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.errors import (
    FedPredictError,
    FeedNotFoundError,
    InputsRefusedError,
    ModelNotReadyError,
    PartyTimeoutError,
    StateError,
    UnsupportedModeError,
)
from fedpredict.features.event_intake import json_lines, take_events
from fedpredict.features.memory import MemoryStore
from fedpredict.features.raw import RawSource
from fedpredict.features.registration import register_view
from fedpredict.model.inputs import Inputs
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import ModelRef, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.scoring import realtime_views
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.open_realtime import open_realtime
from fedpredict.scoring.realtime_settings import EventSettings, RealtimeViewSettings
from fedpredict.scoring.realtime_views import RealtimeViews
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.state.event_base import PRUNE_LEASE, StoredEvent
from fedpredict.state.lease_files import FolderLeases
from fedpredict.state.leases import hold
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_view import ScriptView
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.link_answerer import _resumed
from tests.raw_transactions import AS_OF, Event, Merchant, example, oracle, store
from tests.unit.scoring.test_texts import CodesPart, loaded

MICROS = int(AS_OF.timestamp()) * 1_000_000
FEATURES = ("spent_30d", "n_30d", "last_channel")
OK, NOT_FOUND = SampleStatus.OK, SampleStatus.NOT_FOUND
EARLIER = AS_OF - timedelta(hours=2)
MERCHANTS = [Merchant("m1", "food", "2020-02-29")]


def model_of(features: Sequence[str] = FEATURES, model_id: str = "m", view: str = "transactions") -> LoadedModel:
    part = CodesPart(tuple(features), {"last_channel": ("web", "card")} if "last_channel" in features else {})
    made = loaded(part, model_id)
    return LoadedModel(description=made.description, part=part, view=view, view_version=1, columns=tuple(features))


@dataclass
class Bank:
    """A party with the example view registered, an event store, and a clock that stands at `AS_OF`."""

    folder: Path
    warehouse: LocalWarehouse
    views: RealtimeViews
    models: list[LoadedModel]

    @property
    def state(self) -> PartyState:
        keys = [(each.description.model_id, each.description.params_sha256) for each in self.models]
        return PartyState(loaded=dict(zip(keys, self.models, strict=True)), read_once=True)

    def refresh(self) -> None:
        self.views.refresh(self.state.views)

    def load(self, *events: Event) -> None:
        lines = "\n".join(json.dumps({**each._asdict(), "at": str(each.at)}) for each in events).encode()
        assert self.views.events is not None
        take_events(self.views.events, self.views.feed("transactions"), json_lines(lines))

    @property
    def party(self) -> LocalParty:
        return LocalParty("bank", lambda: self.state, MemoryStore(), realtime=self.views, now=lambda: MICROS)


Open = Callable[..., Bank]


@pytest.fixture
def open_bank(tmp_path: Path) -> Iterator[Open]:
    opened: list[RealtimeViews] = []

    def made(
        models: Sequence[LoadedModel] = (), *, realtime: str = "events", limit: int = 100_000, **changes: object
    ) -> Bank:
        warehouse = LocalWarehouse(tmp_path / "warehouse")
        _, definition, script = example("transactions")
        definition = definition.replace("max = 100000", f"max = {limit}")
        view = ScriptView.model_validate(tomllib.loads(definition))
        store(warehouse, [], MERCHANTS)
        register_view(warehouse, view, definition, script)
        settings = {"transactions": RealtimeViewSettings.model_validate({"source": realtime, **changes})}
        views = open_realtime(warehouse, settings, EventSettings(), tmp_path)
        opened.append(views)
        bank = Bank(tmp_path, warehouse, views, list(models) or [model_of()])
        bank.refresh()
        return bank

    yield made
    for views in opened:
        views.close()


def query_for(*ids: bytes, model: LoadedModel | None = None, inputs: Inputs | None = None) -> ScoreQuery:
    description = (model or model_of()).description
    return ScoreQuery(
        request_id="r",
        model_id=description.model_id,
        manifest_sha256="cd" * 32,
        params_sha256=description.params_sha256,
        mode=Mode.REALTIME,
        sample_ids=SampleIds.of(ids),
        inputs=inputs,
    )


def spent(number: str, account: str, amount: str, channel: str | None = "web", **when: float) -> Event:
    return Event(number, EARLIER - timedelta(**when), account, "m1", amount, channel)


async def test_an_event_counts_at_the_next_question(open_bank: Open) -> None:
    bank = open_bank()
    party = bank.party
    before = await party.score(query_for(b"alice"), deadline_s=10)
    events = [spent("1", "alice", "12.50"), spent("2", "alice", "0.10", "card", days=3)]
    bank.load(*events)
    first = await party.score(query_for(b"alice"), deadline_s=10)
    events.append(spent("3", "alice", "7.00", None, days=40))
    bank.load(events[-1])
    second = await party.score(query_for(b"alice"), deadline_s=10)

    assert before.share.status.tolist() == [NOT_FOUND]
    assert before.oldest_event_time is None
    # web is the first category; the event of forty days ago is in no window
    wanted = oracle(events, MERCHANTS, AS_OF)["alice"]
    assert first.share.values.tolist() == [[wanted["spent_30d"], wanted["n_30d"], 0.0]] == [[12.6, 2.0, 0.0]]
    assert second.share.values.tolist() == first.share.values.tolist()
    assert second.oldest_event_time == MICROS


async def test_every_status_of_a_round_is_its_samples_own(open_bank: Open) -> None:
    bank = open_bank()
    bank.load(
        spent("1", "fine", "1.00"),
        spent("2", "channel-not-allowed", "1.00", "pigeon"),
        spent("3", "no-channel", "1.00", None),
        spent("4", "refund-only", "-5.00"),
        *(spent(f"many{number}", "much", "9999999999.99", seconds=number) for number in range(3)),
        Event("5", AS_OF, "at-the-instant", "m1", "1.00", "web"),
    )
    asked = [
        (b"fine", OK),
        (b"nobody", NOT_FOUND),
        (b"channel-not-allowed", SampleStatus.FEATURE_INVALID),
        (b"no-channel", SampleStatus.FEATURE_MISSING),
        (b"refund-only", NOT_FOUND),  # WHERE leaves its only event out
        (b"", SampleStatus.ID_INVALID),
        (b"a\nb", SampleStatus.ID_INVALID),
        (b"\xff\xfe", SampleStatus.ID_INVALID),
        (b"fine", OK),
        (b"much", OK),
        (b"at-the-instant", NOT_FOUND),
    ]
    reply = await bank.party.score(query_for(*(each for each, _ in asked)), deadline_s=10)
    assert [SampleStatus(each) for each in reply.share.status.tolist()] == [status for _, status in asked]
    assert reply.share.values[[0, 8, 9], 0].tolist() == [1.0, 1.0, 29999999999.97]
    assert np.isnan(reply.share.values[[1, 2, 3, 4, 5, 6, 7, 10]]).all()


async def test_a_number_out_of_its_range_is_invalid(open_bank: Open) -> None:
    bank = open_bank(limit=2)
    bank.load(*(spent(str(number), "often", "1.00", seconds=number) for number in range(3)))
    bank.load(spent("4", "seldom", "1.00"))
    reply = await bank.party.score(query_for(b"often", b"seldom"), deadline_s=10)
    assert reply.share.status.tolist() == [SampleStatus.FEATURE_INVALID, OK]


async def test_a_text_that_is_not_allowed_matters_to_models_that_use_it_alone(open_bank: Open) -> None:
    numbers = model_of(("spent_30d", "n_30d"))
    bank = open_bank([numbers])
    bank.load(spent("1", "alice", "1.00", "pigeon"))
    reply = await bank.party.score(query_for(b"alice", model=numbers), deadline_s=10)
    assert (reply.share.status.tolist(), reply.share.values.tolist()) == ([OK], [[1.0, 1.0]])


async def test_models_that_share_a_view_have_it_computed_once(open_bank: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = model_of(("spent_30d", "n_30d"), "one"), model_of(("n_30d", "spent_30d"), "other")
    bank = open_bank([one, other])
    bank.load(spent("1", "alice", "1.00"), spent("2", "bob", "2.00"), spent("3", "bob", "3.00"))
    asked: list[list[str]] = []
    view = bank.views("transactions", 1)
    extract = view.extract

    def counted(ids: Sequence[str], as_of: int) -> object:
        asked.append(sorted(ids))
        return extract(ids, as_of)

    monkeypatch.setattr(view, "extract", counted)
    query = query_for(b"alice", b"bob", b"bob", b"nobody", model=one)
    query.further = (
        ModelRef("other", "cd" * 32, other.description.params_sha256),
        ModelRef("gone", "cd" * 32, "0" * 64),
    )
    query.model_rows, query.segments = (2, 1, 1), (1, 1, 1, 1)
    reply = await bank.party.score(query, deadline_s=10)
    assert asked == [["alice", "bob"]]
    assert reply.share.values[:3].tolist() == [[1.0, 1.0], [5.0, 2.0], [2.0, 5.0]]
    assert (reply.share.status.tolist(), list(reply.failures)) == ([OK, OK, OK, SampleStatus.REFUSED], [2])


async def test_a_view_without_a_source_or_a_script_is_named(open_bank: Open) -> None:
    from fedpredict.features.load import load_file

    files = model_of(("a", "b"), "files", view="behaviour")
    bank = open_bank([files])
    with pytest.raises(UnsupportedModeError, match=r"view behaviour has no \[realtime.behaviour\]"):
        await bank.party.score(query_for(b"u1", model=files), deadline_s=10)
    plain = LocalParty("bank", lambda: bank.state, MemoryStore())
    with pytest.raises(UnsupportedModeError, match=r"view behaviour has no \[realtime.behaviour\]"):
        await plain.score(query_for(b"u1", model=files), deadline_s=10)

    (bank.folder / "rows.csv").write_text("id,a,b\nu1,1,2\n")
    load_file(bank.warehouse, bank.folder / "rows.csv", view="behaviour", key="id")
    settings = {"behaviour": RealtimeViewSettings(source="warehouse")}
    views = open_realtime(bank.warehouse, settings, EventSettings(), bank.folder)
    party = LocalParty("bank", lambda: bank.state, MemoryStore(), realtime=views)
    with pytest.raises(ModelNotReadyError, match="view behaviour: its script is being read"):
        await party.score(query_for(b"u1", model=files), deadline_s=10)
    views.refresh(bank.state.views)
    with pytest.raises(UnsupportedModeError, match="view behaviour version 1 was loaded from files"):
        await party.score(query_for(b"u1", model=files), deadline_s=10)
    views.close()


async def test_inputs_are_refused(open_bank: Open) -> None:
    inputs = Inputs(("n_30d",), np.zeros((1, 1)))
    with pytest.raises(InputsRefusedError, match="mode realtime"):
        await open_bank().party.score(query_for(b"u1", inputs=inputs), deadline_s=10)


@pytest.mark.parametrize(
    ("features", "categories", "told"),
    [
        (("nosuch",), {}, "has no number nosuch"),
        (("last_channel",), {}, "has no number last_channel"),
        (("n_30d",), {"n_30d": ("x",)}, "has no text n_30d"),
    ],
)
async def test_a_feature_that_the_view_has_not_or_has_in_another_type_is_told(
    open_bank: Open, features: tuple[str, ...], categories: dict[str, tuple[str, ...]], told: str
) -> None:
    part = CodesPart(features, categories)
    model = LoadedModel(
        description=loaded(part).description, part=part, view="transactions", view_version=1, columns=features
    )
    bank = open_bank([model])
    bank.load(spent("1", "alice", "1.00"))
    with pytest.raises(ModelNotReadyError, match=told):
        await bank.party.score(query_for(b"alice", model=model), deadline_s=10)


async def test_the_warehouses_own_table_is_a_source(open_bank: Open) -> None:
    bank = open_bank(realtime="warehouse")
    events = [spent("1", "alice", "1.00"), spent("2", "o'Hara", "2.00", "card")]
    store(bank.warehouse, events, MERCHANTS)
    reply = await bank.party.score(query_for(b"o'Hara", b"alice", b"nobody"), deadline_s=30)
    assert reply.share.values[:2].tolist() == [[2.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    assert reply.share.status.tolist() == [OK, OK, NOT_FOUND]
    with pytest.raises(FeedNotFoundError, match="takes no events"):
        bank.views.feed("transactions")


class SlowSource:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def fetch(self, sample_ids: Sequence[str], before: int) -> pa.Table:
        self.go_on.wait(30)
        raise StateError("the database is away")

    def close(self) -> None:
        self.go_on.set()


async def test_a_slow_source_meets_the_deadline_and_holds_up_nobody(open_bank: Open) -> None:
    bank = open_bank()
    slow = SlowSource()
    bank.views("transactions", 1)._source = slow
    party = bank.party
    began = time.monotonic()
    waiting = asyncio.create_task(party.score(query_for(b"u1"), deadline_s=20))
    with pytest.raises(PartyTimeoutError):
        await party.score(query_for(b"u1"), deadline_s=0.05)
    assert time.monotonic() - began < 10  # the loop was free, and the deadline the query's own
    slow.go_on.set()
    with pytest.raises(FedPredictError, match="the database is away"):
        await waiting


async def test_a_question_is_answered_that_a_link_begins_without_a_task(open_bank: Open) -> None:
    bank = open_bank()
    bank.load(spent("1", "alice", "1.00"))
    loop, begun = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def begin() -> None:
        coroutine = bank.party.score(query_for(b"alice"), deadline_s=10)
        try:
            begun.set_result(loop.create_task(_resumed(coroutine, coroutine.send(None))))  # type: ignore[arg-type]
        except RuntimeError as error:
            begun.set_exception(error)

    loop.call_soon(begin)
    reply = await (await begun)
    assert reply.share.values.tolist() == [[1.0, 1.0, 0.0]]


def test_dimensions_are_read_again_when_they_are_old(open_bank: Open) -> None:
    bank = open_bank(dimension_max_age="1m")
    bank.load(spent("1", "alice", "1.00"))
    view, clock = bank.views("transactions", 1), [1000.0]
    bank.views._clock = lambda: clock[0]
    bank.views._read_at[("transactions", 1)] = 1000.0

    def share() -> float:
        return float(view.extract(["alice"], MICROS).numbers["food_share_30d"][0])

    assert share() == 1.0
    store(bank.warehouse, [], [Merchant("m1", "travel", None)])
    clock[0] = 1059.0
    bank.refresh()
    assert share() == 1.0
    clock[0] = 1061.0
    bank.refresh()
    assert share() == 0.0
    # two rows of a key are a problem, and what was read serves on
    store(bank.warehouse, [], [Merchant("m1", "food", None), Merchant("m1", "travel", None)])
    clock[0] = 1200.0
    bank.refresh()
    assert (share(), bank.views.is_ready("transactions", 1)) == (0.0, True)
    assert "keys with more than one row" in bank.views._problems["transactions", 1]


def test_a_dimension_that_cannot_be_read_at_first_is_a_problem_until_it_can(open_bank: Open) -> None:
    bank = open_bank()
    views = open_realtime(
        bank.warehouse, {"transactions": RealtimeViewSettings(source="warehouse")}, EventSettings(), bank.folder
    )
    store(bank.warehouse, [], [Merchant("m1", "food", None), Merchant("m1", "travel", None)])
    views.refresh(bank.state.views)
    with pytest.raises(ModelNotReadyError, match="1 keys with more than one row"):
        views("transactions", 1)
    store(bank.warehouse, [], MERCHANTS)
    views.refresh(bank.state.views)
    assert views.is_ready("transactions", 1)
    views.close()


def test_a_source_is_opened_once_while_a_dimension_cannot_be_read(open_bank: Open) -> None:
    bank = open_bank()
    settings = {"transactions": RealtimeViewSettings(source="warehouse")}
    views = open_realtime(bank.warehouse, settings, EventSettings(), bank.folder)
    opened, open_source = [], views._open_source

    def counted(registered: RegisteredView, scripts: Sequence[RegisteredView]) -> RawSource:
        opened.append(registered.version)
        return open_source(registered, scripts)

    views._open_source = counted
    store(bank.warehouse, [], [*MERCHANTS, *MERCHANTS])
    for _ in range(3):
        views.refresh(bank.state.views)
    assert not views.is_ready("transactions", 1)
    store(bank.warehouse, [], MERCHANTS)
    views.refresh(bank.state.views)

    assert views.is_ready("transactions", 1)
    assert opened == [1]
    views.close()


def test_a_warehouse_that_is_away_is_told_when_it_goes_and_when_it_is_back(
    open_bank: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bank = open_bank()
    bank.refresh()
    (bank.folder / "warehouse").rename(bank.folder / "away")
    for _ in range(3):
        bank.refresh()
    (bank.folder / "away").rename(bank.folder / "warehouse")
    for _ in range(2):
        bank.refresh()

    told = [each.message for each in caplog.records if each.message.startswith("realtime.")]
    assert told == ["realtime.problem", "realtime.recovered"]


def test_scripts_are_not_read_again_for_each_message(open_bank: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = open_bank()
    bank.refresh()
    feed = bank.views.feed("transactions")
    monkeypatch.setattr(realtime_views, "feed_of", None)  # a call of it fails
    bank.refresh()
    assert bank.views.feed("transactions") is feed


def test_events_go_after_keep_days(open_bank: Open) -> None:
    bank = open_bank()
    day = 86_400_000_000
    events = bank.views.events
    assert events is not None
    events.add("f", [StoredEvent("u", "old", 0, "{}"), StoredEvent("u", "new", 9 * day, "{}")])
    bank.views._keep_days, bank.views._clock = 2, lambda: 10 * 86_400.0
    for _ in range(2):
        bank.refresh()
    assert [each.events for each in events.counts()] == [1]


def test_who_holds_no_lease_removes_no_events_and_looks_again_an_hour_later(open_bank: Open) -> None:
    bank = open_bank()
    events, hour = bank.views.events, 3_600.0
    assert events is not None
    events.add("f", [StoredEvent("u", "old", 0, "{}")])
    now = 10 * 86_400.0
    bank.views._keep_days, bank.views._clock = 2, lambda: now
    leases = FolderLeases(bank.folder / "leases")
    bank.views._alone = partial(hold, leases, PRUNE_LEASE)
    elsewhere = leases.take(PRUNE_LEASE, "another process", 60.0)

    for _ in range(2):
        bank.refresh()
    assert [each.events for each in events.counts()] == [1]

    leases.release(elsewhere)
    bank.refresh()
    assert [each.events for each in events.counts()] == [1]  # whoever had it may have removed them
    now += hour
    bank.refresh()
    assert events.counts() == []


def test_a_worker_that_is_not_to_removes_no_events(open_bank: Open) -> None:
    bank = open_bank()
    events = bank.views.events
    assert events is not None
    events.add("f", [StoredEvent("u", "old", 0, "{}")])
    bank.views._keep_days, bank.views._clock, bank.views._alone = 2, lambda: 10 * 86_400.0, None

    for _ in range(2):
        bank.refresh()

    assert [each.events for each in events.counts()] == [1]


def test_many_old_events_go_look_by_look_and_not_at_the_first(open_bank: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = open_bank()
    events = bank.views.events
    assert events is not None
    events.add("f", [StoredEvent("u", f"e{at}", 0, "{}") for at in range(5)])
    monkeypatch.setattr(realtime_views, "PRUNE_AT_ONCE", 2)
    bank.views._keep_days, bank.views._clock = 2, lambda: 10 * 86_400.0
    left = []
    for _ in range(5):
        bank.refresh()
        left.append(sum(each.events for each in events.counts()))
    assert left == [5, 3, 1, 0, 0]
