"""The initiator with real participants and a part of its own; scikit-learn on the joined table is the truth."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.svm import LinearSVC

from fedpredict.errors import ConfigError
from fedpredict.features.load import load_file
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel
from fedpredict.model.prediction import Origin, Prediction, PredictTask
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.state import PartyState
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import latest_snapshot
from fedpredict.warehouse.base import Warehouse
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire import task_codec
from fedpredict.wire.v1 import initiator_pb2
from tests.integration.federation import ANSWERS_IN_S, POLL_S, Federation, eventually

PARTIES = ("bank", "lab", "shop")
OK, NOT_FOUND, MISSING = SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.FEATURE_MISSING
MODEL: dict[str, Any] = {"m": {"parties": list(PARTIES)}}


class Data:
    """A data set whose columns are dealt out to the parties, and the model that was trained on all of them."""

    def __init__(self, load: Any, estimator: Any, kind: Kind) -> None:
        data = load()
        self.features: Floats = np.asarray(data.data, dtype=np.float64)
        self.features = (self.features - self.features.mean(axis=0)) / self.features.std(axis=0)
        self.target = data.target
        self.names = [str(name) for name in data.feature_names]
        self.kind = kind
        self.link = Link("log") if isinstance(estimator, PoissonRegressor) else own_link(kind)
        self.estimator = estimator.fit(self.features, data.target)
        self.ids = [f"id-{row}" for row in range(len(self.features))]

    @property
    def sample_ids(self) -> list[bytes]:
        return [sample_id.encode() for sample_id in self.ids]

    @property
    def expected(self) -> Floats:
        if self.kind is Kind.LINEAR:
            return np.asarray(self.estimator.predict(self.features)[:, None])
        if self.kind is Kind.DECISION:
            return np.asarray(self.estimator.decision_function(self.features))
        probabilities: Floats = self.estimator.predict_proba(self.features)
        return probabilities[:, 1:] if self.kind is Kind.BINARY else probabilities

    def columns_of(self, party: str) -> list[int]:
        return list(range(PARTIES.index(party), len(self.names), len(PARTIES)))

    def part_of(self, party: str) -> PartialModel:
        columns = self.columns_of(party)
        weights = np.atleast_2d(self.estimator.coef_).T[columns]
        intercept = np.atleast_1d(self.estimator.intercept_) if party == "bank" else None
        return self._partial(party, "m", self._linear(columns, weights, intercept))

    def alone(self, estimator: Any, model_id: str) -> PartialModel:
        """Return a model of the bank's columns alone."""
        columns = self.columns_of("bank")
        estimator.fit(self.features[:, columns], self.target)
        weights, intercept = np.atleast_2d(estimator.coef_).T, np.atleast_1d(estimator.intercept_)
        return self._partial("bank", model_id, self._linear(columns, weights, intercept))

    def _linear(self, columns: Sequence[int], weights: Floats, intercept: Floats | None) -> LinearPart:
        return LinearPart(tuple(self.names[c] for c in columns), weights, intercept, np.zeros(weights.shape[1]))

    def _partial(self, party: str, model_id: str, part: LinearPart) -> PartialModel:
        classes = () if self.kind is Kind.LINEAR else tuple(map(str, self.estimator.classes_))
        return PartialModel(
            model_id=model_id,
            training_run="run-1",
            party=party,
            kind=self.kind,
            classes=classes,
            fit_intercept=True,
            part=part,
            link=self.link,
        )

    def load(self, warehouse: Warehouse, party: str, folder: Path, blank: Mapping[str, str] | None = None) -> None:
        """Write a party's columns into its warehouse; `blank` names a column left empty for a sample id."""
        columns = self.columns_of(party)
        with (folder / f"{party}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["who", *(self.names[column] for column in columns)])
            for sample_id, row in zip(self.ids, self.features, strict=True):
                empty = (blank or {}).get(sample_id)
                cells = ["" if self.names[column] == empty else repr(float(row[column])) for column in columns]
                writer.writerow([sample_id, *cells])
        load_file(warehouse, folder / f"{party}.csv", view="people", key="who")


def publish(warehouse: Warehouse, part: PartialModel, source: str = "0") -> str:
    snapshot = latest_snapshot(warehouse, "people")
    assert snapshot is not None
    return publish_model(warehouse, part, snapshot.view, source * 64)[0].params_sha256


class World:
    """Three parties with a warehouse each; the bank is the initiator as well."""

    def __init__(self, federation: Federation, data: Data) -> None:
        self.federation, self.data = federation, data
        self.warehouses = {party: LocalWarehouse(federation.folder / f"warehouse-{party}") for party in PARTIES}
        self.servers: dict[str, ParticipantServer] = {}

    async def start(self, models: Mapping[str, Any] = MODEL, **blank: Mapping[str, str]) -> None:
        """Load, publish, start everything, and wait until model "m" is ready."""
        for party, warehouse in self.warehouses.items():
            self.federation.stack.callback(warehouse.close)
            self.data.load(warehouse, party, self.federation.folder, blank.get(party))
            publish(warehouse, self.data.part_of(party))
        for party in PARTIES[1:]:
            await self.serve(party)
        await self.federation.initiator(models, warehouse=self.warehouses["bank"])
        await self.federation.ready()

    async def serve(self, party: str) -> None:
        """Start a participant, at the address that it had before."""
        tls = self.federation.certificates.of(party)
        settings = ParticipantSettings.model_validate(
            {
                "party": party,
                "listen": self.federation.parties.get(party, "127.0.0.1:0"),
                "poll_s": POLL_S,
                "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
                "warehouse": {"path": "elsewhere"},
                "callers": {"bank": {"models": ["*"]}},
            }
        )
        server = ParticipantServer(settings, self.warehouses[party], tls)
        self.servers[party] = await self.federation.stack.enter_async_context(server)
        self.federation.parties[party] = server.address

    async def stop(self, party: str) -> None:
        await self.servers[party].__aexit__(None, None, None)


@asynccontextmanager
async def cancer(federation: Federation) -> AsyncIterator[World]:
    yield World(federation, Data(load_breast_cancer, LogisticRegression(max_iter=1000), Kind.BINARY))


@pytest.mark.parametrize(
    ("load", "estimator", "kind"),
    [
        pytest.param(load_breast_cancer, LogisticRegression(max_iter=1000), Kind.BINARY, id="binary"),
        pytest.param(load_wine, LogisticRegression(max_iter=1000), Kind.MULTINOMIAL, id="three classes"),
        pytest.param(load_diabetes, LinearRegression(), Kind.LINEAR, id="linear"),
        pytest.param(load_diabetes, PoissonRegressor(), Kind.LINEAR, id="log link"),
        pytest.param(load_wine, LinearSVC(), Kind.DECISION, id="decision values"),
    ],
)
async def test_predictions_are_scikit_learns(federation: Federation, load: Any, estimator: Any, kind: Kind) -> None:
    world = World(federation, Data(load, estimator, kind))
    await world.start()
    prediction = await federation.predict(*world.data.sample_ids)
    assert (prediction.status == OK).all()
    model, expected = world.data.estimator, world.data.expected
    terms = np.abs(world.data.features) @ np.abs(np.atleast_2d(model.coef_)).T + np.abs(model.intercept_)
    bound = 1e-12 * np.maximum(terms, np.abs(expected)) if kind in {Kind.LINEAR, Kind.DECISION} else 1e-12
    assert (np.abs(prediction.predictions - expected) <= bound).all()
    assert [report.party for report in prediction.parties] == list(PARTIES)
    assert prediction.classes == (() if kind is Kind.LINEAR else tuple(map(str, world.data.estimator.classes_)))


async def test_models_of_different_links_asked_at_once_are_finished_each_by_its_own(federation: Federation) -> None:
    world = World(federation, Data(load_diabetes, PoissonRegressor(), Kind.LINEAR))
    links = {"m": Link("log"), "plain": Link("identity"), "inverse": Link("inverse"), "root": Link("power", 3.0)}
    await world.start({name: {"parties": list(PARTIES)} for name in links})
    for name, link in links.items():
        for party, warehouse in world.warehouses.items():
            publish(warehouse, replace(world.data.part_of(party), model_id=name, link=link), "1")
    for name in links:
        await federation.ready(name)

    ids = world.data.sample_ids[:8]
    asked = [(name, sample_id) for sample_id in ids for name in links]
    answers = await asyncio.gather(*(federation.predict(sample_id, model_id=name) for name, sample_id in asked))

    raw = np.log(world.data.expected[:8, 0])
    expected = {"m": np.exp(raw), "plain": raw, "inverse": 1.0 / raw, "root": np.cbrt(raw)}
    for place, name in enumerate(links):
        found = [answer.predictions.item() for answer in answers[place :: len(links)]]
        np.testing.assert_allclose(found, expected[name], rtol=1e-12)


async def test_any_order_and_repetition_of_ids_gives_the_same_bits(federation: Federation) -> None:
    async with cancer(federation) as world:
        await world.start()
        ids = world.data.sample_ids
        whole = (await federation.predict(*ids)).predictions
        order = [5, 3, 3, 0, 568, 5]
        some = (await federation.predict(*(ids[row] for row in order))).predictions
        np.testing.assert_allclose(some, whole[order], rtol=1e-14)
        assert some[1] == some[2]
        assert (await federation.predict(*(ids[row] for row in order))).predictions.tobytes() == some.tobytes()


async def test_what_a_party_cannot_score_is_told_and_has_no_number(federation: Federation) -> None:
    async with cancer(federation) as world:
        blank = world.data.names[world.data.columns_of("shop")[2]]
        await world.start(shop={"id-1": blank})
        prediction = await federation.predict(b"id-0", b"id-1", b"nobody")
        assert prediction.status.tolist() == [OK, MISSING, NOT_FOUND]
        assert np.isnan(prediction.predictions[1:]).all()
        statuses = {report.party: report.status for report in prediction.parties}
        assert statuses["bank"] is not None
        assert statuses["shop"] is not None
        assert statuses["bank"].tolist() == [OK, OK, NOT_FOUND]
        assert statuses["shop"].tolist() == [OK, MISSING, NOT_FOUND]


async def test_the_fallback_model_answers_for_an_absent_party(federation: Federation) -> None:
    async with cancer(federation) as world:
        own = LogisticRegression(max_iter=1000)
        models = {
            "m": {"parties": list(PARTIES), "policy": "fallback_model", "fallback_model": "own"},
            "own": {"parties": ["bank"]},
        }
        alone = world.data.alone(own, "own")
        await world.start(models)
        publish(world.warehouses["bank"], alone, "1")
        await federation.ready("own")
        everyone = await federation.predict(b"id-0", b"nobody")
        assert everyone.origin.tolist() == [Origin.MODEL, Origin.UNSPECIFIED]
        assert everyone.status.tolist() == [OK, NOT_FOUND]
        await world.stop("shop")
        prediction = await federation.predict(b"id-0", b"nobody", b"id-7", b"")
        assert prediction.status.tolist() == [OK, SampleStatus.PARTY_UNAVAILABLE, OK, SampleStatus.ID_INVALID]
        assert prediction.origin.tolist() == [Origin.FALLBACK_MODEL, 0, Origin.FALLBACK_MODEL, 0]
        expected = own.predict_proba(world.data.features[[0, 7]][:, world.data.columns_of("bank")])[:, 1]
        np.testing.assert_allclose(prediction.predictions[[0, 2], 0], expected, rtol=1e-12)
        assert [report.problem for report in prediction.parties] == ["", "", "party shop is unavailable"]


async def test_a_fallback_model_that_nobody_pinned_changes_nothing(federation: Federation) -> None:
    async with cancer(federation) as world:
        models = {
            "m": {"parties": list(PARTIES), "policy": "fallback_model", "fallback_model": "own"},
            "own": {"parties": ["bank"], "pin": "manual"},
        }
        await world.start(models)
        await world.stop("shop")
        prediction = await federation.predict(b"id-0")
        assert prediction.status.tolist() == [SampleStatus.PARTY_UNAVAILABLE]
        assert prediction.origin.tolist() == [Origin.UNSPECIFIED]


async def test_rounds_of_several_models_give_each_its_own_numbers_and_policy(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[list[str]] = []
    rows: list[int] = []
    compute = LocalParty._compute_several

    def seen(party: LocalParty, state: PartyState, query: ScoreQuery) -> PartyReply:
        together.append([each.model_id for each in query.models])
        rows.append(len(query.sample_ids))
        return compute(party, state, query)

    monkeypatch.setattr(LocalParty, "_compute_several", seen)
    async with cancer(federation) as world:
        strict = Data(load_breast_cancer, LogisticRegression(max_iter=1000, C=0.01), Kind.BINARY)
        own = LogisticRegression(max_iter=1000)
        alone = world.data.alone(own, "own")
        models: dict[str, Any] = {
            **MODEL,
            "strict": {"parties": list(PARTIES)},
            "rescued": {"parties": list(PARTIES), "policy": "fallback_model", "fallback_model": "own"},
            "stood-in": {"parties": list(PARTIES), "policy": "default_partial", "defaults": {"shop": [0.25]}},
            "own": {"parties": ["bank"]},
        }
        await world.start(models)
        publish(world.warehouses["bank"], alone)
        for name in ("strict", "rescued", "stood-in"):
            for party, warehouse in world.warehouses.items():
                publish(warehouse, replace(strict.part_of(party), model_id=name))
        for name in models:
            await federation.ready(name)
        asked = ["m", "strict", "rescued", "stood-in"]

        async def ask_all() -> dict[str, Floats]:
            """Ask for every sample of the first 100, each for one of the models, all at once."""
            async with federation.channel("desk") as channel:
                call = channel.unary_unary("/fedpredict.wire.v1.InitiatorService/Predict", None, None)

                async def ask(row: int) -> Prediction:
                    sample_id, model_id = f"id-{row}".encode(), asked[row % 4]
                    task = PredictTask(
                        request_id=f"r-{row}", model_id=model_id, mode=Mode.NEARLINE, sample_ids=(sample_id,)
                    )
                    reply = await call(task_codec.task_to_wire(task).SerializeToString(), timeout=ANSWERS_IN_S)
                    return task_codec.prediction_from_wire(initiator_pb2.PredictReply.FromString(reply), 1)

                job = asyncio.ensure_future(federation.predict(*strict.sample_ids[:300], model_id="strict"))
                answers = await asyncio.gather(*map(ask, range(100)))
                await job
            return {name: np.array([each.predictions.item() for each in answers[place::4]])
                    for place, name in enumerate(asked)}  # fmt: skip

        truth = {
            name: (world.data if name == "m" else strict).expected[place:100:4, 0] for place, name in enumerate(asked)
        }
        found = await ask_all()
        for name in asked:
            np.testing.assert_allclose(found[name], truth[name], rtol=1e-12)
        assert {name for models_of_a_round in together for name in models_of_a_round} == set(asked)
        assert max(rows) <= 100  # the job travelled by itself

        await world.stop("shop")
        found = await ask_all()
        assert np.isnan(found["m"]).all()
        assert np.isnan(found["strict"]).all()
        rescue = own.predict_proba(world.data.features[2:100:4][:, world.data.columns_of("bank")])[:, 1]
        np.testing.assert_allclose(found["rescued"], rescue, rtol=1e-12)
        columns = [column for party in ("bank", "lab") for column in world.data.columns_of(party)]
        raw = strict.features[3:100:4][:, columns] @ strict.estimator.coef_[0, columns] + strict.estimator.intercept_
        np.testing.assert_allclose(found["stood-in"], 1.0 / (1.0 + np.exp(-(raw + 0.25))), rtol=1e-12)


async def test_an_own_part_needs_the_warehouse(federation: Federation) -> None:
    content = {"party": "bank", "insecure": True, "warehouse": {"path": "w"}, "models": {"m": {"parties": ["bank"]}}}
    server = InitiatorServer(InitiatorSettings.model_validate(content), federation.store, None)
    with pytest.raises(ConfigError, match="nobody answers for bank"):
        await server.__aenter__()


async def test_a_new_conversion_at_a_party_changes_nothing_until_it_is_pinned(federation: Federation) -> None:
    async with cancer(federation) as world:
        await world.start()
        before = await federation.predict(b"id-0", b"id-1")
        digest = publish(world.warehouses["lab"], world.data.part_of("lab"), "2")

        async def is_offered() -> bool:
            manifest = federation.store.offers()["m"].manifest
            return manifest is not None and ("lab", digest) in manifest.digests

        await eventually(is_offered)
        same = await federation.predict(b"id-0", b"id-1")
        assert same.manifest_sha256 == before.manifest_sha256
        assert same.predictions.tobytes() == before.predictions.tobytes()
        assert (await federation.models())["m"].ready
        accepted = federation.accept()

        async def is_new() -> bool:
            return (await federation.predict(b"id-0")).manifest_sha256 == accepted.manifest_sha256

        await eventually(is_new)


async def test_a_restarted_participant_needs_nothing(federation: Federation) -> None:
    async with cancer(federation) as world:
        await world.start()
        before = await federation.predict(b"id-0")
        await world.stop("lab")
        assert (await federation.predict(b"id-0")).status.tolist() == [SampleStatus.PARTY_UNAVAILABLE]
        await world.serve("lab")

        async def is_back() -> bool:
            return (await federation.predict(b"id-0")).predictions.tobytes() == before.predictions.tobytes()

        await eventually(is_back)


async def test_its_own_new_conversion_is_seen_without_a_restart(federation: Federation) -> None:
    async with cancer(federation) as world:
        await world.start()
        digest = publish(world.warehouses["bank"], world.data.part_of("bank"), "3")

        async def is_offered() -> bool:
            manifest = federation.store.offers()["m"].manifest
            return manifest is not None and ("bank", digest) in manifest.digests

        await eventually(is_offered)
