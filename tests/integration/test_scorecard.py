"""A scorecard between real parties: points add up, odds come out, and reason codes of those that tell them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression
from typing_extensions import override

from fedpredict.client.predictions import Predictions
from fedpredict.initiator.http.encode import prediction_body, prediction_json
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel
from fedpredict.model.prediction import Origin
from fedpredict.model.scorecard import FeaturePoints, Interval, ScorecardPart
from fedpredict.wire.arrow_codec import prediction_from_arrow, prediction_to_arrow
from fedpredict.wire.task_codec import prediction_from_wire, prediction_to_wire
from tests.integration.federation import Federation
from tests.integration.test_initiator import PARTIES, Data, World, publish

CUTS = (-0.75, 0.0, 0.8)
BASE = 600.0
CLASSES = ("bad", "good")


class Card(Data):
    """Diabetes' ten features in four bins each, with whole points; the bank tells two reasons and the lab one."""

    def __init__(self) -> None:
        super().__init__(load_diabetes, LinearRegression(), Kind.LINEAR)
        self.points = np.random.default_rng(4).integers(-20, 20, (len(self.names), len(CUTS) + 1)).astype(np.float64)

    @override
    def part_of(self, party: str) -> PartialModel:
        scored = [self._feature(column) for column in self.columns_of(party)]
        reasons = {"bank": 2, "lab": 1, "shop": 0}[party]
        part = ScorecardPart(tuple(scored), np.array([BASE]) if party == "bank" else None, reasons)
        link = Link("odds", numbers=(BASE, 4.0, 20.0))
        return PartialModel("m", "run-1", party, Kind.BINARY, CLASSES, True, part, link=link)

    def _feature(self, column: int) -> FeaturePoints:
        edges = [-np.inf, *CUTS, np.inf]
        intervals = [
            Interval(points, edges[at], edges[at + 1]) for at, points in enumerate(self.points[column].tolist())
        ]
        return FeaturePoints(self.names[column], tuple(intervals), reason=f"R-{self.names[column]}")

    @property
    def got(self) -> Floats:
        """The points of every sample and feature."""
        bins = np.digitize(self.features, CUTS)
        return np.take_along_axis(self.points, bins.T, axis=1).T

    @property
    def probabilities(self) -> Floats:
        odds = 4.0 * 2.0 ** (self.got.sum(axis=1) / 20.0)
        return np.asarray(odds / (1.0 + odds))

    def codes(self, row: int, party: str, count: int) -> list[tuple[str, str]]:
        columns = self.columns_of(party)
        lost = {self.names[each]: self.points[each].max() - self.got[row, each] for each in columns}
        ordered = sorted(lost, key=lambda name: (-lost[name], name))
        return [(party, f"R-{name}") for name in ordered if lost[name] > 0][:count]


async def test_points_become_odds_and_the_parties_that_say_so_tell_why_points_were_lost(federation: Federation) -> None:
    card = Card()
    world = World(federation, card)
    await world.start()

    prediction = await federation.predict(b"", *card.sample_ids, b"nobody")

    np.testing.assert_allclose(prediction.predictions[1:-1, 0], card.probabilities, rtol=1e-12)
    answers = [
        prediction,
        prediction_from_wire(prediction_to_wire(prediction), len(card.ids) + 2),
        prediction_from_arrow(prediction_to_arrow(prediction), len(card.ids) + 2),
    ]
    expected = [tuple(card.codes(row, "bank", 2) + card.codes(row, "lab", 1)) for row in range(len(card.ids))]
    assert len(set(expected)) > 10
    for answer in answers:
        found = Predictions(["", *card.ids, "nobody"], answer).reason_codes
        assert found == [(), *expected, ()]
    body = msgspec.json.decode(prediction_json(prediction, "m"))
    assert body == msgspec.json.decode(msgspec.json.encode(prediction_body(prediction, "m")))
    bank, lab, shop = body["parties"]
    assert [("bank", code) for code in bank["reason_codes"][1]] == card.codes(0, "bank", 2)
    assert [("lab", code) for code in lab["reason_codes"][1]] == card.codes(0, "lab", 1)
    assert "reason_codes" not in shop


async def test_each_of_many_requests_gets_its_own_reasons_whatever_travels_with_them(federation: Federation) -> None:
    card = Card()
    world = World(federation, card)
    await world.start({name: {"parties": list(PARTIES)} for name in ("m", "other")})
    for party, warehouse in world.warehouses.items():
        own = card.part_of(party)
        silent = replace(own.part, n_reasons=0)  # type: ignore[type-var]
        publish(warehouse, replace(own, model_id="other", part=silent), "1")
    await federation.ready("other")

    asked = [(model, row) for row in range(12) for model in ("m", "other")]
    answers = await asyncio.gather(
        *(federation.predict(card.sample_ids[row], b"nobody", model_id=model) for model, row in asked)
    )

    for (model, row), answer in zip(asked, answers, strict=True):
        found = Predictions([card.ids[row], "nobody"], answer).reason_codes
        told = card.codes(row, "bank", 2) + card.codes(row, "lab", 1) if model == "m" else []
        assert found == [tuple(told), ()]
        known = {code for report in answer.parties if report.reasons for code in report.reasons.codes}
        assert known == {code for _, code in told}


async def test_a_number_of_the_fallback_model_has_no_reasons(federation: Federation) -> None:
    card = Card()
    world = World(federation, card)
    columns = card.columns_of("bank")
    own = LogisticRegression(max_iter=1000).fit(card.features[:, columns], card.target > 140)
    names = tuple(card.names[column] for column in columns)
    alone = PartialModel(
        "own", "run-1", "bank", Kind.BINARY, CLASSES, True, LinearPart(names, own.coef_.T, own.intercept_, np.zeros(1))
    )
    models = {
        "m": {"parties": list(PARTIES), "policy": "fallback_model", "fallback_model": "own"},
        "own": {"parties": ["bank"]},
    }
    await world.start(models, shop={"id-1": card.names[card.columns_of("shop")[0]]})
    publish(world.warehouses["bank"], alone, "1")
    await federation.ready("own")

    prediction = await federation.predict(b"id-0", b"id-1")

    assert prediction.origin.tolist() == [Origin.MODEL, Origin.FALLBACK_MODEL]
    codes = Predictions(["id-0", "id-1"], prediction).reason_codes
    assert codes == [tuple(card.codes(0, "bank", 2) + card.codes(0, "lab", 1)), ()]
