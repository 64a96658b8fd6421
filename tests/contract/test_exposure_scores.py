"""Scoring parts with an exposure in every engine: numpy's numbers, and a status where there is no logarithm."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus
from fedpredict.tables.models import publish_model
from fedpredict.tables.statements import score_in_engine
from fedpredict.warehouse.base import Warehouse
from tests.contract.test_engine_scores import SOURCE, new_view, scores_of, snapshot_of, statuses_of

pytestmark = pytest.mark.timeout(300)


def test_an_exposure_enters_by_its_logarithm_and_has_a_status_where_there_is_none(warehouse: Warehouse) -> None:
    nan, inf = float("nan"), float("inf")
    ok, invalid, missing = SampleStatus.OK, SampleStatus.FEATURE_INVALID, SampleStatus.FEATURE_MISSING
    cases: dict[str, tuple[float | None, float | None, SampleStatus]] = {
        "one": (1.5, 1.0, ok),
        "near one": (0.0, 1.0000000000000002, ok),
        "tiny": (1.0, 2.2250738585072014e-308, ok),
        "largest": (1.0, 1.7976931348623157e308, ok),
        "zero": (1.0, 0.0, invalid),
        "minus zero": (1.0, -0.0, invalid),
        "negative": (1.0, -2.0, invalid),
        "negative and null": (None, -2.0, invalid),
        "lowest": (1.0, -1.7976931348623157e308, invalid),
        "infinite": (1.0, inf, invalid),
        "minus infinite": (1.0, -inf, invalid),
        "nan": (1.0, nan, missing),
        "null": (1.0, None, missing),
        "other is null": (None, 1.0, missing),
    }
    first, exposure, expected = zip(*cases.values(), strict=True)
    view = new_view(["a", "time at risk"])
    part = LinearPart(
        ("time at risk", "a"), np.array([[1.0, 1.0], [0.5, -2.0]]), np.array([0.25, 0.5]), np.zeros(2), "time at risk"
    )
    partial = PartialModel(f"m-{uuid.uuid4().hex}", "run-1", "lab", Kind.LINEAR, (), True, part, link=Link("log"))
    snapshot = snapshot_of(warehouse, view, list(cases), {"a": first, "time at risk": exposure})

    version = publish_model(warehouse, partial, view, SOURCE)[0]
    rows = score_in_engine(warehouse, version, snapshot)

    assert statuses_of(rows) == dict(zip(cases, expected, strict=True))
    good = [name for name, case in cases.items() if case[2] is ok]
    features = np.array([[cases[name][1], cases[name][0]] for name in good], dtype=np.float64)
    found = scores_of(rows, good)
    assert np.all(np.abs(found - part.partial_scores(features)) <= 1e-12 * part.magnitudes(features))
    own = part.statuses(np.array([[case[1], case[0]] for case in cases.values()], dtype=np.float64))
    assert own is not None
    assert own.tolist() == list(expected)
