"""Masked sums of real daemons over TLS: predictions are scikit-learn's, and no party's share can be read."""

from __future__ import annotations

import asyncio
import csv
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from fedpredict.client import AsyncClient, Standing
from fedpredict.errors import PartyRefusedError
from fedpredict.features.load import load_file
from fedpredict.initiator import masking
from fedpredict.initiator.fanout import Dialler
from fedpredict.initiator.greeting import Acquaintance
from fedpredict.initiator.mask_session import open_session
from fedpredict.initiator.offline import standing
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.arrays import Floats
from fedpredict.model.fixed_point import FixedPoint, Words
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.offline import OfflineState
from fedpredict.model.part import Part
from fedpredict.model.partial import PartialModel
from fedpredict.model.populations import BucketQuery, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.model.standing import PopulationState
from fedpredict.participant.masking import Masking
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.identity import IdentityKind
from fedpredict.tables.deliveries import list_deliveries
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import latest_snapshot
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.v1 import participant_pb2
from tests.integration.federation import POLL_S, Certificates, Federation, eventually
from tests.network_parts import numeric_part, written_out
from tests.tree_parts import of_forest

OK, NOT_FOUND, MISSING = SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.FEATURE_MISSING
AWAY, REFUSED = SampleStatus.PARTY_UNAVAILABLE, SampleStatus.REFUSED
SCALE = 2.0**32
N_TH = 3
"""Of the data sets, every so-many-th row is enough."""


@dataclass
class Seen:
    """What the initiator got of each party, as it came over the wire."""

    words: dict[str, list[Words]] = field(default_factory=dict)
    bare: int = 0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen, original = Seen(), Acquaintance.masked_share

    def record(self: Acquaintance, query: ScoreQuery, reply: participant_pb2.ScoreReply) -> PartyReply:
        seen.bare += reply.HasField("values")
        words = np.frombuffer(reply.masked.words, dtype="<u8").reshape(reply.masked.rows, reply.masked.columns)
        seen.words.setdefault(self.party, []).append(words)
        return original(self, query, reply)

    monkeypatch.setattr(Acquaintance, "masked_share", record)
    return seen


Make = Callable[[str, tuple[str, ...], Floats], tuple[Part, Floats]]
"""(party, features, rows) -> a part, and its shares."""


class World:
    """A joint model of the bank, which asks, and of `others`, which mask; the columns are dealt out."""

    def __init__(
        self,
        federation: Federation,
        others: tuple[str, ...],
        *,
        load: Any = load_breast_cancer,
        make: Make | None = None,
    ) -> None:
        self.make, self.made = make, dict[str, Floats]()
        self.federation, self.others, self.parties = federation, others, tuple(sorted(("bank", *others)))
        data = load()
        features: Floats = np.asarray(data.data, dtype=np.float64)[::N_TH]
        self.features = (features - features.mean(axis=0)) / features.std(axis=0)
        self.estimator = LogisticRegression(max_iter=1000).fit(self.features, data.target[::N_TH])
        self.ids = [f"id-{row}" for row in range(len(features))]
        self.sample_ids = [each.encode() for each in self.ids]
        self.warehouses = {party: LocalWarehouse(federation.folder / party) for party in self.parties}
        self.servers: dict[str, ParticipantServer] = {}
        for party, warehouse in self.warehouses.items():
            federation.stack.callback(warehouse.close)
            self._load(warehouse, party)
            self.publish(party, "m")

    @property
    def expected(self) -> Floats:
        """scikit-learn's raw scores of the joined table."""
        scores: Floats = self.estimator.decision_function(self.features)
        return scores if scores.ndim == 2 else scores[:, None]

    @property
    def error_bound(self) -> float:
        """Of the raw score: half a step a party, and what adding up in another order does."""
        return len(self.others) / (2 * SCALE) + 1e-13

    def share_of(self, party: str) -> Floats:
        weights = np.atleast_2d(self.estimator.coef_).T
        columns = self._columns(party)
        share: Floats = self.features[:, columns] @ weights[columns]
        return share

    def publish(self, party: str, model_id: str, source: str = "0") -> None:
        columns, weights = self._columns(party), np.atleast_2d(self.estimator.coef_).T
        intercept = np.atleast_1d(self.estimator.intercept_) if party == "bank" else None
        names = tuple(f"x{column}" for column in columns)
        part: Part = LinearPart(names, weights[columns], intercept, np.zeros(weights.shape[1]))
        classes = tuple(map(str, self.estimator.classes_))
        # decision values: the raw scores, which the bound is about
        partial = PartialModel(model_id, "run-1", party, Kind.DECISION, classes, True, part)
        if self.make is not None:
            part, self.made[party] = self.make(party, names, self.features[:, columns])
            partial = PartialModel(model_id, "run-1", party, Kind.LINEAR, (), False, part)
        snapshot = latest_snapshot(self.warehouses[party], "people")
        assert snapshot is not None
        publish_model(self.warehouses[party], partial, snapshot.view, source * 64)

    async def start(self) -> None:
        """Start everything, and wait until model "m" is ready."""
        for party in self.others:
            await self.serve(party)
        masked, own = {"parties": list(self.parties), "masked": True}, self.warehouses["bank"]
        await self.federation.initiator({"m": masked}, warehouse=own, task_warehouse=own)
        await self.federation.ready()

    async def serve(self, party: str, **changes: Any) -> None:
        """Start a participant, at the address that it had before."""
        tls = self.federation.certificates.of(party)
        others = [each for each in self.others if each != party]
        content = {
            "party": party,
            "listen": self.federation.parties.get(party, "127.0.0.1:0"),
            "poll_s": POLL_S,
            "drain_s": 5.0,
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
            "warehouse": {"path": "elsewhere"},
            "callers": {"bank": {"models": ["*"]}},
            "masked": {"m": {"parties": others}},
            **changes,
        }
        server = ParticipantServer(ParticipantSettings.model_validate(content), self.warehouses[party], tls)
        self.servers[party] = await self.federation.stack.enter_async_context(server)
        self.federation.parties[party] = server.address

    async def answered(self, *sample_ids: bytes) -> None:
        """Return when a sample gets its number: the parties may be linked only now."""

        async def is_answered() -> bool:
            return bool(((await self.federation.predict(*sample_ids)).status == OK).all())

        await eventually(is_answered)

    def _columns(self, party: str) -> list[int]:
        return list(range(self.parties.index(party), self.features.shape[1], len(self.parties)))

    def _load(self, warehouse: LocalWarehouse, party: str) -> None:
        columns = self._columns(party)
        with (self.federation.folder / f"{party}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["who", *(f"x{column}" for column in columns)])
            for sample_id, row in zip(self.ids, self.features, strict=True):
                is_blank = (party, sample_id) == ("shop", "id-1")
                writer.writerow([sample_id, *("" if is_blank else repr(float(row[column])) for column in columns)])
        load_file(warehouse, self.federation.folder / f"{party}.csv", view="people", key="who")


@pytest.mark.parametrize("others", [("lab", "shop"), ("lab", "post", "shop")], ids=["two", "three"])
@pytest.mark.parametrize("load", [load_breast_cancer, load_wine], ids=["one score", "three scores"])
async def test_predictions_are_scikit_learns_and_no_share_is_seen(
    federation: Federation, seen: Seen, others: tuple[str, ...], load: Any
) -> None:
    world = World(federation, others, load=load)
    await world.start()
    await world.answered(b"id-0")
    seen.words.clear()

    prediction = await federation.predict(*world.sample_ids)

    scored = np.arange(len(world.ids)) != 1  # which shop has not
    assert prediction.status[scored].tolist() == [OK] * (len(world.ids) - 1)
    assert np.abs(prediction.predictions - world.expected)[scored].max() <= world.error_bound
    assert seen.bare == 0
    for party in others:
        words = np.concatenate(seen.words[party])
        bare, _ = FixedPoint(32, len(others)).encode(world.share_of(party))
        assert words.shape == bare.shape
        assert not (words == bare)[scored].any()
        assert len(np.unique(words[scored])) == words[scored].size


def forest_of(party: str, names: tuple[str, ...], rows: Floats) -> tuple[Part, Floats]:
    """Return a party's trees, and scikit-learn's own predictions."""
    labels = np.random.default_rng(len(party)).random(len(rows)) < 0.4
    forest = RandomForestClassifier(n_estimators=5, max_depth=3, random_state=0).fit(rows, labels)
    return of_forest(forest, names), np.asarray(forest.predict_proba(rows))


def network_of(party: str, names: tuple[str, ...], rows: Floats) -> tuple[Part, Floats]:
    """Return a party's network, and what its definition gives."""
    part = numeric_part((len(names), 4, 1), ("tanh", "identity"), seed=len(party))
    return replace(part, features=names), written_out(part, rows)


@pytest.mark.parametrize("make", [forest_of, network_of], ids=["trees", "networks"])
async def test_summed_trees_and_networks_are_masked_as_well(federation: Federation, seen: Seen, make: Make) -> None:
    world = World(federation, ("lab", "shop"), make=make)
    await world.start()
    await world.answered(b"id-0")
    rows = [row for row in range(len(world.ids)) if row != 1]
    prediction = await federation.predict(*(world.sample_ids[row] for row in rows))
    expected = np.sum(list(world.made.values()), axis=0)[rows]
    assert (prediction.status == OK).all()
    assert np.abs(prediction.predictions - expected).max() <= world.error_bound
    bare, _ = FixedPoint(32, 2).encode(world.made["lab"])
    assert not np.isin(np.concatenate(seen.words["lab"]), bare).any()


async def test_what_one_party_cannot_score_has_its_status_and_no_number(federation: Federation) -> None:
    world = World(federation, ("lab", "shop"))
    await world.start()
    await world.answered(b"id-0")
    prediction = await federation.predict(b"id-0", b"id-1", b"nobody", b"", b"id-2")
    assert prediction.status.tolist() == [OK, MISSING, NOT_FOUND, SampleStatus.ID_INVALID, OK]
    assert np.isnan(prediction.predictions[1:4]).all()
    assert np.abs(prediction.predictions[[0, 4]] - world.expected[[0, 2]]).max() <= world.error_bound


def client_of(federation: Federation) -> AsyncClient:
    tls = federation.certificates.of("desk", IdentityKind.CLIENT)
    return AsyncClient(federation.address, server_party="bank", tls=tls)


async def asked_at_once(federation: Federation, asked: list[tuple[str, str]]) -> Floats:
    """Return the numbers of many requests for a model and an id each, made at once over one connection."""
    async with client_of(federation) as client:
        answers = await asyncio.gather(*(client.predict(model_id, [each], timeout_s=30.0) for model_id, each in asked))
    return np.array([answer.values.reshape(-1) for answer in answers])


async def test_many_requests_at_once_travel_as_rounds(federation: Federation, seen: Seen) -> None:
    world = World(federation, ("lab", "shop"))
    await world.start()
    await world.answered(b"id-0")
    seen.words.clear()
    rows = [row for row in range(100) if row != 1]
    found = await asked_at_once(federation, [("m", world.ids[row]) for row in rows])
    assert np.abs(found - world.expected[rows]).max() <= world.error_bound
    assert len(seen.words["lab"]) == len(seen.words["shop"]) < len(rows)


async def test_several_models_travel_in_one_round_each_with_its_own_masks(federation: Federation, seen: Seen) -> None:
    world = World(federation, ("lab", "shop"))
    for party in world.parties:
        world.publish(party, "n", "1")
    names, masked = ("m", "n"), {"parties": list(world.parties), "masked": True}
    for party, other in (("lab", "shop"), ("shop", "lab")):
        await world.serve(party, masked={name: {"parties": [other]} for name in names})
    await federation.initiator(dict.fromkeys(names, masked), warehouse=world.warehouses["bank"])
    for name in names:
        await federation.ready(name)
    await world.answered(b"id-0")
    found = await asked_at_once(federation, [(names[row % 2], world.ids[row]) for row in range(2, 60)])
    assert np.abs(found - world.expected[2:60]).max() <= world.error_bound
    words = np.concatenate(seen.words["lab"])
    assert len(np.unique(words)) == words.size


async def test_a_party_that_drops_out_takes_every_number_with_it_and_comes_back(federation: Federation) -> None:
    world = World(federation, ("lab", "post", "shop"))
    await world.start()
    await world.answered(b"id-0")
    await world.servers["post"].__aexit__(None, None, None)

    prediction = await federation.predict(b"id-0", b"id-2")
    assert prediction.status.tolist() == [AWAY, AWAY]
    assert np.isnan(prediction.predictions).all()

    await world.serve("post")
    await world.answered(b"id-0", b"id-2")
    prediction = await federation.predict(b"id-0", b"id-2")
    assert np.abs(prediction.predictions - world.expected[[0, 2]]).max() <= world.error_bound


async def test_a_participant_that_dials_out_takes_part(federation: Federation) -> None:
    world = World(federation, ("lab", "shop"))
    await world.serve("lab")
    bank = await federation.initiator(
        {"m": {"parties": list(world.parties), "masked": True}},
        warehouse=world.warehouses["bank"],
        parties={"lab": {"address": federation.parties["lab"]}, "shop": {"connect": "in"}},
    )
    await world.serve("shop", connect="out", initiators={"bank": {"addresses": [bank.address]}})
    await federation.ready()
    await world.answered(b"id-0")
    prediction = await federation.predict(b"id-0", b"id-2")
    assert np.abs(prediction.predictions - world.expected[[0, 2]]).max() <= world.error_bound


async def test_a_bare_share_of_a_masked_model_is_refused(federation: Federation) -> None:
    world = World(federation, ("lab", "shop"))
    await world.start()
    pinned = federation.store.pins()["m"][0].manifest
    dialler = Dialler("bank", federation.certificates.of("bank"))
    async with dialler.dial("lab", federation.parties["lab"]) as lab:
        query = ScoreQuery(
            request_id="r-1",
            model_id="m",
            manifest_sha256=pinned.manifest_sha256,
            params_sha256=pinned.digest_of("lab"),
            mode=Mode.NEARLINE,
            sample_ids=(b"id-0",),
        )
        with pytest.raises(PartyRefusedError, match="shares of this model are given masked alone"):
            await lab.score(query, deadline_s=20.0)
    # an initiator that wants them bare gets no number
    await federation.initiator({"m": {"parties": list(world.parties)}}, warehouse=world.warehouses["bank"])
    await federation.ready()
    prediction = await federation.predict(b"id-0")
    assert prediction.status.tolist() == [REFUSED]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"masked": {}}, "masks no shares"),
        ({"masked": {"other": {"parties": ["lab"]}}}, "this party masks no shares of this model"),
        ({"masked": {"m": {"parties": ["mill"]}}}, "the sum is of other parties than this party's settings name"),
        ({"masked": {"m": {"parties": ["lab"], "scale_bits": 30}}}, "the scale must be 2^30"),
    ],
    ids=["no masks", "not this model", "other parties", "another scale"],
)
async def test_parties_that_do_not_agree_give_no_number_and_say_why(
    federation: Federation, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], problem: str
) -> None:
    world = World(federation, ("lab", "shop"))
    await world.serve("lab")
    await world.serve("shop", **changes)
    masked = {"m": {"parties": list(world.parties), "masked": True}}
    await federation.initiator(masked, warehouse=world.warehouses["bank"])
    await federation.ready()

    async def is_told() -> bool:
        prediction = await federation.predict(b"id-0")
        assert np.isnan(prediction.predictions).all()
        return bool((prediction.status == REFUSED).all())

    await eventually(is_told)
    reasons = [str(getattr(record, "reason", "")) for record in caplog.records if record.msg == "party.failed"]
    assert any(problem in reason for reason in reasons)


@dataclass
class Counted:
    """What becomes of rounds: sessions that were opened, and questions as they came to the parties."""

    sessions: int = 0
    asked: dict[str, int] = field(default_factory=dict)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted, opening, admit = Counted(), open_session, Masking.admit

    def opened(*arguments: Any) -> Any:
        counted.sessions += 1
        return opening(*arguments)

    def asked(self: Masking, *arguments: Any) -> Any:
        counted.asked[self._party] = counted.asked.get(self._party, 0) + 1
        return admit(self, *arguments)

    monkeypatch.setattr(masking, "open_session", opened)
    monkeypatch.setattr(Masking, "admit", asked)
    return counted


async def test_while_one_party_takes_no_calls_no_party_is_asked(federation: Federation, counted: Counted) -> None:
    world = World(federation, ("lab", "shop"))
    await world.serve("lab", callers={"bank": {"models": ["*"], "calls_per_s": 0.001, "burst": 1}})
    await world.serve("shop")
    masked = {"m": {"parties": list(world.parties), "masked": True}}
    await federation.initiator(masked, warehouse=world.warehouses["bank"])
    await federation.ready()
    await world.answered(b"id-0")
    refused = await federation.predict(b"id-2")
    counted.asked.clear()
    for _ in range(3):
        held = await federation.predict(b"id-2")
        assert (held.status.tolist(), refused.status.tolist()) == ([AWAY], [AWAY])
    assert counted.asked == {}
    assert counted.sessions == 1


async def test_a_question_that_is_not_allowed_costs_no_session(federation: Federation, counted: Counted) -> None:
    world = World(federation, ("lab", "shop"))
    await world.serve("lab", callers={"bank": {"models": ["*"], "modes": ["realtime"]}})
    await world.serve("shop")
    masked = {"m": {"parties": list(world.parties), "masked": True}}
    await federation.initiator(masked, warehouse=world.warehouses["bank"])
    await federation.ready()

    async def is_refused() -> bool:
        return bool(((await federation.predict(b"id-2")).status == REFUSED).all())

    await eventually(is_refused)
    assert counted.sessions > 0
    counted.sessions = 0
    for _ in range(3):
        assert await is_refused()
    assert counted.sessions == 0


async def test_a_replayed_round_is_refused(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(federation, ("lab", "shop"))
    await world.start()
    await world.answered(b"id-0")
    groups: list[masking._Group] = []
    original = masking.MaskedSums._group

    def recorded(self: masking.MaskedSums, parties: tuple[str, ...]) -> masking._Group:
        groups.append(original(self, parties))
        return groups[-1]

    monkeypatch.setattr(masking.MaskedSums, "_group", recorded)
    await federation.predict(b"id-0")
    groups[-1].numbers = itertools.count(1)  # as a dishonest initiator would
    prediction = await federation.predict(b"id-2")
    assert prediction.status.tolist() == [REFUSED]
    assert np.isnan(prediction.predictions).all()
    await world.answered(b"id-2")  # in a new session


async def test_shares_of_different_people_are_never_added_up(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what an initiator would do to learn a share by differences: lab about one person, shop about another
    world = World(federation, ("lab", "shop"))
    await world.start()
    await world.answered(b"id-0")
    original = masking.MaskedSum.ask

    def crossed(self: masking.MaskedSum, manifests: Any, queries: Mapping[str, ScoreQuery], deadline_s: float) -> Any:
        other = replace(queries["shop"], sample_ids=SampleIds.of([b"id-2"]))
        return original(self, manifests, {**queries, "shop": other}, deadline_s)

    monkeypatch.setattr(masking.MaskedSum, "ask", crossed)
    prediction = await federation.predict(b"id-0")
    assert prediction.status.tolist() == [REFUSED]
    assert np.isnan(prediction.predictions).all()
    problems = {report.party: report.problem for report in prediction.parties}
    assert problems == {"bank": "", "lab": "the parties' masks do not belong together", "shop": ""}


async def results_of(client: AsyncClient, task_id: str, row_of: Mapping[str, int]) -> tuple[list[int], Floats]:
    """Return the rows of a task's results that have a number, and the numbers."""
    table = (await client.results_table(task_id)).to_pylist()
    scored = [each for each in table if each["status"] == "ok"]
    assert {each["sample_id"]: each["status"] for each in table if each["status"] != "ok"} == {
        "id-1": "feature_missing",
        "nobody": "not_found",
    }
    return [row_of[each["sample_id"]] for each in scored], np.array([[each["prediction"]] for each in scored])


async def test_an_offline_task_is_added_up_masked_and_waits_for_a_party_that_is_away(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.initiator.offline.bucket.MASKED_ROWS", 40)
    world = World(federation, ("lab", "shop"))
    await world.start()
    await world.servers["shop"].__aexit__(None, None, None)
    async with client_of(federation) as client:
        task_id = await client.submit("m", [*world.ids, "nobody"], mode=Mode.NEARLINE)

        async def is_waiting() -> bool:
            return (await client.task(task_id)).state is OfflineState.WAITING

        await eventually(is_waiting)
        await world.serve("shop")
        info = await client.wait(task_id, timeout_s=60.0)
        assert (info.state, info.problem) == (OfflineState.DONE, "")
        rows, found = await results_of(client, task_id, {each: row for row, each in enumerate(world.ids)})
    assert len(rows) == len(world.ids) - 1
    assert np.abs(found - world.expected[rows]).max() <= world.error_bound


async def test_an_offline_task_waits_for_a_party_that_takes_few_calls_page_by_page(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.initiator.offline.bucket.MASKED_ROWS", 40)  # so that a bucket has several pages
    world = World(federation, ("lab", "shop"))
    await world.serve("lab", callers={"bank": {"models": ["*"], "calls_per_s": 4.0, "burst": 1}})
    await world.serve("shop")
    masked, own = {"parties": list(world.parties), "masked": True}, world.warehouses["bank"]
    await federation.initiator({"m": masked}, warehouse=own, task_warehouse=own)
    await federation.ready()
    async with client_of(federation) as client:
        task_id = await client.submit("m", [*world.ids, "nobody"], mode=Mode.NEARLINE)
        assert (await client.wait(task_id, timeout_s=60.0)).state is OfflineState.DONE
        rows, found = await results_of(client, task_id, {each: row for row, each in enumerate(world.ids)})
    assert np.abs(found - world.expected[rows]).max() <= world.error_bound


async def test_a_standing_population_is_added_up_masked(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.initiator.offline.bucket.MASKED_ROWS", 20)
    world = World(federation, ("lab", "shop"))
    for party in world.others:
        await world.serve(party, callers={"bank": {"models": ["*"], "accept_populations": True}})
    masked, own = {"parties": list(world.parties), "masked": True}, world.warehouses["bank"]
    ids = SampleIds.of([*world.sample_ids, b"nobody"])
    standing.propose(own, "bank", "people", [ids], parties=list(world.others), by="ada", least_buckets=4)
    await federation.initiator({"m": masked}, warehouse=own, task_warehouse=own)
    await federation.ready()

    async def are_accepted() -> bool:
        deliveries = list_deliveries(own, "bank", "people")
        return {each.state for each in deliveries} == {PopulationState.ACCEPTED}

    await eventually(are_accepted)
    async with client_of(federation) as client:
        task_id = await client.submit("m", Standing("people"), mode=Mode.NEARLINE)
        assert (await client.wait(task_id, timeout_s=60.0)).state is OfflineState.DONE
        rows, found = await results_of(client, task_id, {each: row for row, each in enumerate(world.ids)})
    assert len(rows) == len(world.ids) - 1
    assert np.abs(found - world.expected[rows]).max() <= world.error_bound


async def test_a_bare_bucket_of_a_masked_model_is_refused(federation: Federation) -> None:
    world = World(federation, ("lab", "shop"))
    await world.start()
    pinned = federation.store.pins()["m"][0].manifest
    ids = SampleIds.of([b"id-0"])
    query = BucketQuery(
        request_id="r-1",
        task_id="t-1",
        model_id="m",
        manifest_sha256=pinned.manifest_sha256,
        params_sha256=pinned.digest_of("lab"),
        mode=Mode.NEARLINE,
        bucket=0,
        n_buckets=1,
        rows=ids,
        ids_sha256=digest_of(ids),
    )
    async with Dialler("bank", federation.certificates.of("bank")).dial("lab", federation.parties["lab"]) as lab:
        with pytest.raises(PartyRefusedError, match="shares of this model are given masked alone"):
            await lab.score_bucket(query, deadline_s=20.0)


def test_settings_that_would_hide_nothing_are_refused_by_name(certificates: Certificates) -> None:
    tls = certificates.of("bank")
    base: dict[str, Any] = {
        "party": "bank",
        "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
        "warehouse": {"path": "elsewhere"},
        "parties": {"lab": {"address": "127.0.0.1:1"}, "shop": {"address": "127.0.0.1:2"}},
    }
    whole = {"parties": ["bank", "lab", "shop"], "masked": True}
    InitiatorSettings.model_validate({**base, "models": {"m": whole}})
    for change, problem in (
        ({"parties": ["bank", "lab"]}, "hides nothing"),
        ({"head": True}, "only a sum can be masked"),
        ({"policy": "default_partial", "defaults": {"lab": [0.0]}}, "at least two must be in every sum"),
    ):
        with pytest.raises(ValueError, match=problem):
            InitiatorSettings.model_validate({**base, "models": {"m": {**whole, **change}}})
    plain = {key: each for key, each in base.items() if key != "tls"} | {"insecure": True}
    with pytest.raises(ValueError, match="needs TLS"):
        InitiatorSettings.model_validate({**plain, "models": {"m": whole}})
