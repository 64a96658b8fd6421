"""Ordinal models between real parties: one score goes over the wire, a probability for each class comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import norm
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression
from typing_extensions import override

from fedpredict.initiator.http.encode import prediction_body
from fedpredict.initiator.open_inference import model_metadata, output_tensors
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel
from fedpredict.model.prediction import Origin
from fedpredict.wire.arrow_codec import prediction_from_arrow, prediction_to_arrow
from tests.integration.federation import Federation
from tests.integration.test_initiator import MISSING, NOT_FOUND, OK, PARTIES, Data, World, publish

THRESHOLDS = (100.0, 140.5, 1.0e3 / 6.0)
CLASSES = ("none", "mild", "marked", "severe")


class Grades(Data):
    """Diabetes, its progression in four grades."""

    def __init__(self) -> None:
        super().__init__(load_diabetes, LinearRegression(), Kind.LINEAR)

    @property
    def scores(self) -> Floats:
        return np.asarray(self.estimator.predict(self.features), dtype=np.float64)

    @override
    def part_of(self, party: str) -> PartialModel:
        link = Link("cumulative_logit", numbers=THRESHOLDS)
        return replace(super().part_of(party), kind=Kind.ORDINAL, link=link, classes=CLASSES)

    def grades(self) -> list[str]:
        return [CLASSES[at] for at in np.digitize(self.target, THRESHOLDS)]


def expected(distribution: Any, scores: Floats, thresholds: Sequence[float]) -> Floats:
    """Return the differences of P(y <= k) = F(threshold_k - score), as a book has them."""
    below = distribution(np.asarray(thresholds) - scores[:, None])
    return np.diff(below, axis=1, prepend=0.0, append=1.0)


async def test_every_class_has_its_probability_on_every_way_out(federation: Federation) -> None:
    world = World(federation, Grades())
    await world.start(lab={"id-3": "bmi"}, bank={"id-3": "age"}, shop={"id-3": "sex"})

    prediction = await federation.predict(*world.data.sample_ids, b"nobody")

    truth = expected(expit, Grades().scores, THRESHOLDS)
    scored = np.arange(len(truth)) != 3
    np.testing.assert_allclose(prediction.predictions[:-1][scored], truth[scored], rtol=1e-9, atol=1e-12)
    assert prediction.predictions.shape == (len(truth) + 1, 4)
    assert prediction.status[[0, 3, -1]].tolist() == [OK, MISSING, NOT_FOUND]
    assert np.isnan(prediction.predictions[[3, -1]]).all()
    assert prediction.classes == CLASSES
    again = prediction_from_arrow(prediction_to_arrow(prediction), len(prediction.status))
    assert again.predictions.tobytes() == prediction.predictions.tobytes()
    assert prediction_body(prediction, "m").predictions[0] == prediction.predictions[0].tolist()
    assert output_tensors(prediction, ("prediction",))[0].shape == (len(truth) + 1, 4)
    info = (await federation.models())["m"]
    assert (info.kind, info.n_outputs, str(info.link)) == (
        Kind.ORDINAL,
        4,
        "cumulative_logit:100.0,140.5,166.66666666666666",
    )
    assert model_metadata(info).outputs[0].shape == (-1, 4)


async def test_models_of_different_thresholds_asked_at_once_get_each_its_own(federation: Federation) -> None:
    world = World(federation, Grades())
    links = {
        "m": Link("cumulative_logit", numbers=THRESHOLDS),
        "other": Link("cumulative_logit", numbers=(120.0, 150.0, 150.5)),
        "probit": Link("cumulative_probit", numbers=THRESHOLDS),
    }
    await world.start({name: {"parties": list(PARTIES)} for name in links})
    for name, link in links.items():
        for party, warehouse in world.warehouses.items():
            publish(warehouse, replace(world.data.part_of(party), model_id=name, link=link), "1")
    for name in links:
        await federation.ready(name)

    ids = world.data.sample_ids[:6]
    asked = [(name, sample_id) for sample_id in ids for name in links]
    answers = await asyncio.gather(*(federation.predict(sample_id, model_id=name) for name, sample_id in asked))

    scores = Grades().scores[:6]
    for place, (name, link) in enumerate(links.items()):
        found = np.concatenate([answer.predictions for answer in answers[place :: len(links)]])
        distribution = norm.cdf if name == "probit" else expit
        np.testing.assert_allclose(found, expected(distribution, scores, link.numbers), rtol=1e-9, atol=1e-12)


async def test_a_constant_of_one_number_and_a_fallback_of_all_classes_stand_in(federation: Federation) -> None:
    world = World(federation, Grades())
    data, columns = world.data, world.data.columns_of("bank")
    own = LogisticRegression(max_iter=1000).fit(data.features[:, columns], Grades().grades())
    assert set(own.classes_) == set(CLASSES)
    order = [list(own.classes_).index(label) for label in CLASSES]
    names = tuple(data.names[column] for column in columns)
    part = LinearPart(names, own.coef_[order].T, own.intercept_[order], np.zeros(4))
    alone = PartialModel("own", "run-1", "bank", Kind.MULTINOMIAL, CLASSES, True, part)
    models: Mapping[str, Any] = {
        "m": {"parties": list(PARTIES), "policy": "fallback_model", "fallback_model": "own"},
        "own": {"parties": ["bank"]},
        "default": {"parties": list(PARTIES), "policy": "default_partial", "defaults": {"shop": [2.5]}},
    }
    await world.start(models)
    publish(world.warehouses["bank"], alone, "1")
    for party, warehouse in world.warehouses.items():
        publish(warehouse, replace(data.part_of(party), model_id="default"), "2")
    await federation.ready("own")
    await federation.ready("default")
    await world.stop("shop")

    fallen_back = await federation.predict(b"id-0", b"id-7")
    stood_in = await federation.predict(b"id-0", b"id-7", model_id="default")

    assert fallen_back.origin.tolist() == [Origin.FALLBACK_MODEL] * 2
    own_says = own.predict_proba(data.features[[0, 7]][:, columns])[:, order]
    np.testing.assert_allclose(fallen_back.predictions, own_says, rtol=1e-12)
    absent = data.columns_of("shop")
    scores = Grades().scores[[0, 7]] - data.features[[0, 7]][:, absent] @ data.estimator.coef_[absent] + 2.5
    assert stood_in.origin.tolist() == [Origin.DEFAULT_PARTIAL] * 2
    np.testing.assert_allclose(stood_in.predictions, expected(expit, scores, THRESHOLDS), rtol=1e-9, atol=1e-12)
