"""The portable partial model: what goes out comes back, and what does not fit is refused with its reason."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.convert.portable import from_portable, parse_json, to_json, to_portable
from fedpredict.errors import (
    FeatureNamesError,
    FedPredictError,
    ModelConflictError,
    ModelFileError,
    NameRefusedError,
    UnsupportedModelError,
)
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link, parse_link
from fedpredict.model.partial import PartialModel, VerificationRows, largest_difference
from tests.linear_parts import linear


def content(**changes: Any) -> dict[str, Any]:
    """A portable model of two features and three classes; a change of ... takes the key away."""
    base: dict[str, Any] = {
        "format": "fedpredict-partial-1",
        "model_id": "credit",
        "training_run": "run-1",
        "party": "bank",
        "kind": "multinomial",
        "classes": ["low", "middle", "high"],
        "features": ["age", "income"],
        "weights": [[0.1, 0.2, 0.3], [1, 2, 3]],
        "intercept": [0.5, 0.0, -0.5],
        "fit_intercept": True,
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def binary(**changes: Any) -> dict[str, Any]:
    return content(**{"kind": "binary", "classes": ["no", "yes"], "weights": [1.5, -2.0], "intercept": 0.25, **changes})


@pytest.mark.parametrize("named", [{"features": [], "weights": []}, {"features": ..., "weights": {}}])
def test_a_part_without_features_has_a_constant_that_says_how_wide_it_is(named: dict[str, Any]) -> None:
    rows = {"features": [[], []], "partial_scores": [[1.5, 2.0, 2.5]] * 2}
    partial = from_portable(content(**named, constant=[1, 2, 3], verification=rows))

    assert partial.part.features == ()
    assert partial.part.partial_scores(np.zeros((2, 0))).tolist() == [[1.5, 2.0, 2.5]] * 2
    assert largest_difference(partial) == (0.0, 0.0)
    assert to_portable(from_portable(parse_json(to_json(partial)))) == to_portable(partial)
    with pytest.raises(ModelConflictError, match="leave --features out"):
        from_portable(content(**named, constant=[1, 2, 3]), ReadOptions(features=("age",)))


def test_lists_and_names_are_read() -> None:
    partial = from_portable(content(constant=[1, 2, 3], metadata={"trained_by": "FATE"}))

    assert partial.kind is Kind.MULTINOMIAL
    assert partial.part.features == ("age", "income")
    assert linear(partial.part).weights.tolist() == [[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]
    assert linear(partial.part).constant.tolist() == [1.0, 2.0, 3.0]
    assert partial.metadata == {"trained_by": "FATE"}


def test_weights_by_name_and_single_numbers_are_read() -> None:
    by_name = from_portable(binary(features=..., weights={"age": 1.5, "income": [-2.0]}))

    assert by_name.part.features == ("age", "income")
    assert linear(by_name.part).weights.tolist() == [[1.5], [-2.0]]
    assert by_name.part.intercept is not None
    assert by_name.part.intercept.tolist() == [0.25]
    assert linear(by_name.part).constant.tolist() == [0.0]


def test_numbers_as_class_labels_become_text() -> None:
    assert from_portable(binary(classes=[0, 1])).classes == ("0", "1")


@pytest.mark.parametrize(
    ("kind", "text"),
    [("linear", "log"), ("linear", "power:0.5"), ("linear", "inverse"), ("binary", "probit"), ("binary", "cloglog")],
)
def test_a_link_is_read_and_written_back(kind: str, text: str) -> None:
    classes = {"linear": [], "binary": ["no", "yes"]}[kind]

    partial = from_portable(binary(kind=kind, classes=classes, link=text))

    assert partial.link == parse_link(text)
    assert to_portable(partial)["link"] == text
    assert from_portable(parse_json(to_json(partial))).link == partial.link


def test_the_kinds_own_link_may_be_said_and_is_not_written() -> None:
    said, unsaid = from_portable(binary(link="logit")), from_portable(binary())

    assert said.link == unsaid.link == Link("logit")
    assert to_json(said) == to_json(unsaid)
    assert "link" not in to_portable(said)


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("log", "a binary model cannot have the link log; it may have logit, probit, cloglog"),
        ("loglog", "unknown link 'loglog'; known are"),
        ("power", "needs its parameter"),
        (3, "link is a int, not a text"),
    ],
)
def test_a_link_that_does_not_fit_is_refused(link: Any, told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        from_portable(binary(link=link))


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(data=st.data())
def test_json_gives_every_float_back_bit_equal(data: st.DataObject) -> None:
    n_features, n_scores = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))

    def draw(*shape: int) -> Any:
        return data.draw(numpy_st.arrays(np.float64, shape, elements=FINITE))

    names = tuple(
        data.draw(st.lists(st.text(min_size=1), min_size=n_features, max_size=n_features, unique_by=str.casefold))
    )
    part = LinearPart(names, draw(n_features, n_scores), draw(n_scores), draw(n_scores))
    rows = VerificationRows(draw(2, n_features), draw(2, n_scores))
    partial = PartialModel("m", "r", "p", Kind.LINEAR, (), True, part, rows, {"by": "x"})

    for back in (from_portable(parse_json(to_json(partial))), from_portable(to_portable(partial))):
        assert back.part.features == names
        assert linear(back.part).weights.tobytes() == linear(part).weights.tobytes()
        assert back.part.intercept is not None
        assert part.intercept is not None
        assert back.part.intercept.tobytes() == part.intercept.tobytes()
        assert linear(back.part).constant.tobytes() == linear(part).constant.tobytes()
        assert back.verification is not None
        assert back.verification.features.tobytes() == rows.features.tobytes()
        assert back.metadata == partial.metadata


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickled_dict_may_hold_numpy_arrays(protocol: int) -> None:
    given_content = content(
        weights=np.array([[0.1, 0.2, 0.3], [1, 2, 3]]),
        intercept=np.array([0.5, 0.0, -0.5]),
        classes=np.array(["low", "middle", "high"], dtype=object),
        features=np.array(["age", "income"]),
    )

    for value in (given_content, OrderedDict(given_content)):
        reading = read_content(pickle.dumps(value, protocol=protocol), ReadOptions(), Limits())

        assert to_portable(reading.partial) == to_portable(from_portable(content()))
        assert reading.source == "portable partial model (pickle)"


def test_a_json_file_is_read_also_with_a_byte_order_mark() -> None:
    data = b"\xef\xbb\xbf" + json.dumps(content()).encode()

    assert read_content(data, ReadOptions(), Limits()).source == "portable partial model (JSON)"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": ...}, "fedpredict-partial-1"),
        ({"format": "fedpredict-partial-2"}, "fedpredict-partial-1"),
        ({"format": "fedpredict-head-2", "combining": "sum"}, "fedpredict-partial-1', and says 'fedpredict-head-2'"),
        ({"weigths": 1}, "did you mean 'weights'"),
        ({"qqqq": 1}, "known are format"),
        ({"model_id": ...}, "--model-id"),
        ({"training_run": None}, "--training-run"),
        ({"party": ...}, "--party"),
        ({"training_run": ""}, "training run"),
        ({"model_id": 7}, "not a text"),
        ({"kind": "multinomal"}, "did you mean 'multinomial'"),
        ({"kind": 3}, "known are linear"),
        ({"classes": ...}, "needs its classes"),
        ({"classes": []}, "needs its classes"),
        ({"classes": ["a", "a", "b"]}, "repeated classes: a"),
        ({"classes": ["a", "b"]}, "needs 2 scores a sample, not 3"),
        ({"classes": "abc"}, "classes is not a list"),
        ({"classes": [None, 1, 2]}, "classes is not a list"),
        ({"weights": ...}, "needs weights"),
        ({"weights": []}, "no features"),
        ({"features": [], "weights": []}, "no features"),
        ({"features": ..., "weights": {}}, "no features"),
        ({"weights": [], "constant": [0, 0, 0]}, "no features"),
        ({"features": ..., "weights": [], "constant": [0, 0, 0]}, "no features"),
        ({"features": [], "weights": [], "constant": []}, "no features"),
        ({"features": [], "weights": [], "constant": 0}, "no features"),
        ({"features": [], "weights": [], "constant": [0]}, "constant has 1 numbers"),
        ({"features": [], "weights": [], "constant": [0, 0], "intercept": None}, "3 scores a sample, not 2"),
        ({"weights": {"age": 1}}, "leave features out"),
        ({"weights": [[1, 2, 3], [1, 2]]}, "different lengths"),
        ({"weights": [[1, 2, 3], [1, 2, float("nan")]]}, "NaN or an infinity"),
        ({"weights": [[1, 2, 3], [1, 2, float("inf")]]}, "NaN or an infinity"),
        ({"weights": [[1, 2, 3], [1, 2, 10**400]]}, "beyond the range"),
        ({"weights": [[1, 2, 3], [1, 2, True]]}, "a bool where a number"),
        ({"weights": [[1, 2, 3], [1, 2, "3"]]}, "a str where a number"),
        ({"weights": [[], []]}, "0 outputs|0 columns"),
        ({"features": "ab"}, "features is not a list"),
        ({"features": [1, 2]}, "features is not a list"),
        ({"intercept": [1, 2]}, "intercept has 2 numbers"),
        ({"constant": [1]}, "constant has 1 numbers"),
        ({"intercept": [0, 0, float("-inf")]}, "NaN or an infinity"),
        ({"fit_intercept": False}, "joint model is said to have none"),
        ({"fit_intercept": "yes"}, "not true or false"),
        ({"intercept": None, "fit_intercept": ...}, "must say whether"),
        ({"metadata": {"a": 1}}, "dict of texts"),
        ({"metadata": ["a"]}, "dict of texts"),
        ({"verification": [1]}, "verification is not a dict"),
        ({"verification": {"features": [[1, 2]], "scores": [[1]]}}, "did you mean 'partial_scores'|unknown key"),
        ({"verification": {"features": [[1, 2]]}}, "partial_scores is not a list"),
        ({"verification": {"features": [[1]], "partial_scores": [[1, 2, 3]]}}, "verification rows of widths"),
        ({"verification": {"features": [[1, 2]], "partial_scores": []}}, "verification features of shape"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        from_portable(content(**changes))


@pytest.mark.parametrize(
    ("features", "names"),
    [(["a", "a"], ("a",)), (["a", "A"], ("a", "A")), (["a"], ("a",)), (["a", ""], ()), (None, ())],
)
def test_features_that_do_not_fit_are_refused_with_their_names(features: Any, names: tuple[str, ...]) -> None:
    with pytest.raises(FeatureNamesError) as raised:
        from_portable(content(features=features))
    assert set(raised.value.names) == set(names)


def test_a_linear_model_with_classes_and_a_binary_one_with_three_are_refused() -> None:
    with pytest.raises(ModelFileError, match="has no classes"):
        from_portable(binary(kind="linear"))
    with pytest.raises(ModelFileError, match="3 classes"):
        from_portable(binary(classes=["a", "b", "c"]))


def test_names_of_the_file_obey_the_naming_rules() -> None:
    with pytest.raises(NameRefusedError, match="model id"):
        from_portable(content(model_id="../credit"))
    with pytest.raises(NameRefusedError, match="party id"):
        from_portable(content(party="Bank B"))


@pytest.mark.parametrize(
    "options",
    [
        ReadOptions(model_id="other"),
        ReadOptions(training_run="run-2"),
        ReadOptions(party="telecom"),
        ReadOptions(features=("income", "age")),
        ReadOptions(holds_intercept=False),
        ReadOptions(fit_intercept=False),
    ],
    ids=["model_id", "training_run", "party", "features", "holds_intercept", "fit_intercept"],
)
def test_a_contradiction_of_file_and_operator_is_a_conflict(options: ReadOptions) -> None:
    with pytest.raises(ModelConflictError):
        from_portable(content(), options)


def test_the_operator_fills_in_and_may_repeat_what_the_file_says() -> None:
    options = ReadOptions(
        model_id="credit",
        training_run="run-1",
        party="bank",
        features=("age", "income"),
        holds_intercept=False,
        fit_intercept=True,
    )
    bare = content(model_id=..., training_run=..., party=..., features=..., intercept=None, fit_intercept=...)

    partial = from_portable(bare, options)

    assert (partial.model_id, partial.training_run, partial.party) == ("credit", "run-1", "bank")
    assert partial.part.features == ("age", "income")
    assert (partial.holds_intercept, partial.fit_intercept) == (False, True)
    assert from_portable(content(), ReadOptions(model_id="credit", party="bank")).model_id == "credit"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"format": NaN}', "NaN"),
        ('{"format": -Infinity}', "Infinity"),
        ("{" + '"a":{' * 100_000, "not JSON"),
    ],
)
def test_bad_json_is_refused(text: str, told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        read_content(text.encode(), ReadOptions(), Limits())


def test_json_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ModelFileError, match="UTF-8"):
        read_content(b'{"a": "\xff"}', ReadOptions(), Limits())
    with pytest.raises(ModelFileError, match="not an object"):
        parse_json("[1]")


class Weights:
    """An object where numbers should be."""


@pytest.mark.parametrize(
    "changes", [{"weights": Weights()}, {"weights": Weights}, {"metadata": {"x": Weights()}}, {"weights": b"raw"}]
)
def test_an_object_in_a_pickled_dict_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"Weights|bytes"):
        read_content(pickle.dumps(content(**changes)), ReadOptions(), Limits())


def test_a_pickled_dict_with_a_repeated_or_foreign_key_is_refused() -> None:
    for data in (b"}(Vformat\nVa\nVformat\nVb\nu.", b"}(K\x01K\x02u."):
        with pytest.raises(ModelFileError, match=r"twice|not a text"):
            read_content(data, ReadOptions(), Limits())


def test_a_dict_that_holds_itself_or_grows_by_reference_is_refused() -> None:
    itself = content()
    itself["metadata"] = itself
    laughs: list[Any] = []
    for _ in range(7):
        laughs = [laughs] * 100
    for value in (itself, content(weights=laughs)):
        with pytest.raises(FedPredictError, match=r"too large|not a dict of texts"):
            read_content(pickle.dumps(value), ReadOptions(), Limits(operations=100_000))


@pytest.mark.parametrize("value", [[1, 2], "text", None, 1.5, Weights, {1: 2}], ids=str)
def test_anything_else_at_the_root_is_refused(value: Any) -> None:
    with pytest.raises((UnsupportedModelError, ModelFileError)):
        read_content(pickle.dumps(value), ReadOptions(), Limits())
