"""Matching a part's features to a view's, by name."""

from __future__ import annotations

import numpy as np
import pytest

from fedpredict.convert.match import match_view
from fedpredict.errors import FeatureNamesError
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel


def part_of(*names: str) -> PartialModel:
    part = LinearPart(names, np.ones((len(names), 1)), None, np.zeros(1))
    return PartialModel("m", "r", "p", Kind.LINEAR, (), True, part)


def test_a_view_may_have_more_features_in_any_order() -> None:
    match_view(part_of("age", "income"), ["income", "sex", "age"])


def test_missing_features_are_listed_with_the_nearest_names() -> None:
    with pytest.raises(FeatureNamesError) as raised:
        match_view(part_of("age", "Income", "mean radius", "qqq"), ["age", "income", "mean_radius"])

    assert raised.value.names == ("Income", "mean radius", "qqq")
    assert "'Income' (the nearest is 'income')" in str(raised.value)
    assert "'mean radius' (the nearest is 'mean_radius')" in str(raised.value)
    assert "3 of the model's 4 features" in str(raised.value)


def test_a_long_list_of_missing_features_is_cut_in_the_message_only() -> None:
    names = [f"feature {index}" for index in range(50)]

    with pytest.raises(FeatureNamesError) as raised:
        match_view(part_of(*names), ["other"])

    assert raised.value.names == tuple(names)
    assert "and 30 more" in str(raised.value)


@pytest.mark.parametrize(
    ("part", "view", "names"),
    [
        (("a", "A"), ["a", "A"], ("a", "A")),
        (("a",), ["a", "b", "b"], ("b",)),
        (("a",), ["a", "b", "B"], ("b", "B")),
        (("straße",), ["straße", "STRASSE"], ("straße", "STRASSE")),
    ],
)
def test_names_that_repeat_or_differ_only_in_case_are_refused(
    part: tuple[str, ...], view: list[str], names: tuple[str, ...]
) -> None:
    with pytest.raises(FeatureNamesError) as raised:
        match_view(part_of(*part), view)
    assert set(raised.value.names) == set(names)
