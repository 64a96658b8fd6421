"""What steps say of samples beyond what pipelines of scikit-learn show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedpredict.model.arrays import Floats
from fedpredict.model.linear import LinearPart
from fedpredict.model.part import Family
from fedpredict.model.scorecard import FeaturePoints, Interval, ScorecardPart
from fedpredict.model.share import SampleStatus
from fedpredict.model.step import BOX_COX, YEO_JOHNSON, Step, StepKind
from fedpredict.model.steps import StepsPart

NAN, INF = float("nan"), float("inf")


def column(*numbers: float) -> Floats:
    return np.array(numbers, dtype=np.float64).reshape(-1, 1)


def part_of(*steps: Step, features: tuple[str, ...] = ("x",)) -> StepsPart:
    read = steps[-1].outputs
    return StepsPart(features, {}, steps, LinearPart(read, np.eye(len(read)), None, np.zeros(len(read))))


def statuses(part: StepsPart, *values: float) -> list[SampleStatus]:
    found = part.statuses(column(*values))
    return [SampleStatus.OK] * len(values) if found is None else [SampleStatus(int(each)) for each in found]


def test_an_infinite_feature_is_invalid_whatever_a_step_makes_of_it() -> None:
    clip = part_of(Step(StepKind.CLIP, ("x",), ("y",), {"low": column(0.0), "high": column(1.0)}))
    invalid = SampleStatus.FEATURE_INVALID
    assert statuses(clip, 0.5, INF, -INF, NAN) == [SampleStatus.OK, invalid, invalid, SampleStatus.FEATURE_MISSING]


def test_what_overflows_in_a_step_gets_a_status_and_no_number() -> None:
    part = part_of(Step(StepKind.SCALE, ("x",), ("y",), {"multiply": column(1e300)}))
    assert statuses(part, 1.0, 1e300) == [SampleStatus.OK, SampleStatus.FEATURE_INVALID]


def test_invalid_is_stronger_than_missing() -> None:
    steps = (
        Step(StepKind.BINS, ("x",), ("bin",), {"edge": column(0.0)}),
        Step(StepKind.POWER, ("z",), ("root",), {"exponent": column(0.5)}, {"method": BOX_COX}),
    )
    core = LinearPart(("bin", "root"), np.ones((2, 1)), None, np.zeros(1))
    part = StepsPart(("x", "z"), {}, steps, core)
    found = part.statuses(np.array([[NAN, -1.0], [NAN, 1.0], [1.0, 0.0], [1.0, 1.0]]))
    assert found is not None
    invalid, missing = SampleStatus.FEATURE_INVALID, SampleStatus.FEATURE_MISSING
    assert found.tolist() == [invalid, missing, invalid, SampleStatus.OK]


@settings(max_examples=60)
@given(
    st.floats(-1e6, 1e6),
    st.one_of(st.floats(-3.0, 4.0), st.sampled_from([0.0, 2.0, 1e-12, -1e-5, 1.00001e-5, 2.0 - 1e-9])),
)
def test_the_power_transforms_are_scipys(x: float, exponent: float) -> None:
    numbers = {"exponent": column(exponent)}
    found = part_of(Step(StepKind.POWER, ("x",), ("y",), numbers, {"method": YEO_JOHNSON})).partial_scores(column(x))
    assert found[0, 0] == pytest.approx(float(stats.yeojohnson(np.array([x]), exponent)[0]), rel=1e-9, abs=1e-12)
    positive = abs(x) + 1e-3
    found = part_of(Step(StepKind.POWER, ("x",), ("y",), numbers, {"method": BOX_COX})).partial_scores(column(positive))
    assert found[0, 0] == pytest.approx(float(stats.boxcox(np.array([positive]), exponent)[0]), rel=1e-9, abs=1e-12)


def test_a_map_of_numbers_knows_zero_of_either_sign_and_nothing_near_a_key() -> None:
    numbers = {"key": column(-1.0, 0.0, 2.0), "values": column(5.0, 6.0, 7.0)}
    part = part_of(Step(StepKind.MAP, ("x",), ("y",), numbers, {"unknown": "invalid", "missing": "missing"}))
    assert part.partial_scores(column(-0.0, 2.0, -1.0))[:, 0].tolist() == [6.0, 7.0, 5.0]
    beside = float(np.nextafter(2.0, 3.0))
    assert statuses(part, 2.0, beside, -9.0, 9.0, NAN) == [
        SampleStatus.OK,
        *[SampleStatus.FEATURE_INVALID] * 3,
        SampleStatus.FEATURE_MISSING,
    ]


def test_a_map_without_keys_knows_nothing() -> None:
    numbers = {"key": np.zeros((0, 1)), "values": np.zeros((0, 1)), "unknown": column(3.0)}
    part = part_of(Step(StepKind.MAP, ("x",), ("y",), numbers, {"unknown": "value", "missing": "nan"}))
    assert part.partial_scores(column(1.0))[0, 0] == 3.0


def test_the_part_is_its_core_to_everybody_else() -> None:
    core = LinearPart(("y",), np.ones((1, 2)), np.array([1.0, 2.0]), np.zeros(2))
    part = StepsPart(("x",), {}, (Step(StepKind.MISSING, ("x",), ("y",)),), core)
    assert (part.family, part.n_scores, part.intercept is core.intercept) == (Family.STEPS, 2, True)
    assert part.n_bytes >= core.n_bytes
    assert part.partial_scores(column(NAN, 7.0)).tolist() == [[2.0, 3.0], [1.0, 2.0]]
    with pytest.raises(ValueError, match="features of shape"):
        part.partial_scores(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="steps behind steps"):
        StepsPart(("x",), {}, (), part)


def test_scores_and_statuses_together_are_those_of_both_calls_from_columns_derived_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = (Step(StepKind.BINS, ("x",), ("bin",), {"edge": column(0.0, 2.0)}),)
    part = StepsPart(("x",), {}, steps, LinearPart(("bin",), column(3.0), None, np.zeros(1)))
    rows = column(-1.0, 1.0, 3.0, NAN, INF)
    expected = part.partial_scores(rows), part.statuses(rows)
    calls: list[int] = []
    derived = StepsPart._derived

    def counted(self: StepsPart, rows: Floats) -> object:
        calls.append(len(rows))
        return derived(self, rows)

    monkeypatch.setattr(StepsPart, "_derived", counted)

    scores, statuses = part.scores_and_statuses(rows)

    assert calls == [5]
    np.testing.assert_array_equal(scores, expected[0])
    assert statuses is not None
    np.testing.assert_array_equal(statuses, expected[1])


def test_no_steps_stand_in_front_of_a_scorecard() -> None:
    card = ScorecardPart((FeaturePoints("x", (Interval(5.0),)),), None)
    with pytest.raises(ValueError, match="bins and map in front of a linear core"):
        StepsPart(("x",), {}, (), card)
