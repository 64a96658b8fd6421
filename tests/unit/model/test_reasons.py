"""Reason codes are cut, joined and sent without a code that is not theirs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.errors import ProtocolError
from fedpredict.model.linear import LinearPart
from fedpredict.model.reasons import NO_MORE, Reasons, joined, reasons_of
from fedpredict.model.scorecard import FeaturePoints, ScorecardPart
from fedpredict.model.share import SampleStatus
from fedpredict.wire.reasons import reasons_from_wire, reasons_to_wire
from fedpredict.wire.v1 import common_pb2

CARD = tuple(
    FeaturePoints(name, texts={"a": 0.0, "b": points}) for name, points in (("x", 5.0), ("y", 9.0), ("z", 1.0))
)
ROWS = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, np.nan]])
STATUS = np.array([1, 1, 1, SampleStatus.FEATURE_MISSING], np.uint8)


def told() -> Reasons:
    reasons = reasons_of(ScorecardPart(CARD, None, 2), ROWS, STATUS)
    assert reasons is not None
    return reasons


def test_a_card_tells_as_many_codes_as_its_options_say_and_none_of_samples_without_a_score() -> None:
    assert told().texts() == [("y", "x"), (), ("y", "z"), ()]
    assert reasons_of(ScorecardPart(CARD, None), ROWS, STATUS) is None
    assert reasons_of(LinearPart(("x",), np.ones((1, 1)), None, np.zeros(1)), ROWS[:, :1], None) is None


def test_a_part_of_the_samples_tells_only_its_own_codes() -> None:
    assert set(told().codes) == {"x", "y", "z"}
    assert set(told().cut(slice(2, 4)).codes) == {"y", "z"}
    assert told().cut(slice(2, 4)).texts() == [("y", "z"), ()]
    assert told().cut(slice(1, 2)).codes == ()
    assert told().only(np.array([True, True, False, False])).texts() == [("y", "x"), (), (), ()]
    assert told().only(np.array([True, True, False, False])).codes == ("x", "y")


def test_features_with_one_code_are_one_code() -> None:
    card = tuple(FeaturePoints(name, texts={"a": 0.0, "b": 1.0}, reason="same") for name in "xy")
    reasons = reasons_of(ScorecardPart(card, None, 2), np.zeros((1, 2)), None)
    assert reasons is not None
    assert (reasons.codes, reasons.texts()) == (("same",), [("same", "same")])


@given(
    st.lists(st.lists(st.lists(st.sampled_from("abcd"), max_size=3, unique=True), max_size=4) | st.none(), max_size=4)
)
def test_runs_of_samples_are_joined(runs: list[list[list[str]] | None]) -> None:
    def reasons(rows: list[list[str]]) -> Reasons:
        codes = sorted({code for row in rows for code in row}, reverse=True)
        which = [[*(codes.index(code) for code in row), *[NO_MORE] * (3 - len(row))] for row in rows]
        return Reasons(tuple(codes), np.array(which, dtype=np.uint16).reshape(len(rows), 3))

    sizes = [2 if run is None else len(run) for run in runs]
    whole = joined([None if run is None else reasons(run) for run in runs], sizes)

    expected = [tuple(row) for run in runs for row in ([[], []] if run is None else run)]
    assert (whole is None) == all(run is None for run in runs)
    assert whole is None or whole.texts() == expected


def test_reasons_survive_the_wire() -> None:
    message = common_pb2.ReasonCodes()
    reasons_to_wire(message, told().spread(np.array([True, False, True, True, True])))
    found = reasons_from_wire(message, 5)
    assert found is not None
    assert found.texts() == [("y", "x"), (), (), ("y", "z"), ()]
    assert reasons_from_wire(common_pb2.ReasonCodes(), 3) is None


@pytest.mark.parametrize(
    "message",
    [
        common_pb2.ReasonCodes(codes=["a"]),
        common_pb2.ReasonCodes(codes=["a"], width=1, which=b"\0\0"),
        common_pb2.ReasonCodes(codes=["a"], width=21, which=bytes(84)),
        common_pb2.ReasonCodes(codes=["a"], width=1, which=b"\0\0\1\0"),
        common_pb2.ReasonCodes(codes=[], width=1, which=bytes(4)),
        common_pb2.ReasonCodes(codes=["x" * 201], width=1, which=bytes(4)),
        common_pb2.ReasonCodes(codes=["a\nb"], width=1, which=bytes(4)),
        common_pb2.ReasonCodes(codes=[""], width=1, which=bytes(4)),
        common_pb2.ReasonCodes(codes=["a"], width=2**31, which=bytes(4)),
    ],
)
def test_what_are_no_reasons_is_refused(message: common_pb2.ReasonCodes) -> None:
    with pytest.raises(ProtocolError, match="reason code"):
        reasons_from_wire(message, 2)
