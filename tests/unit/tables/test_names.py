from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.errors import FeatureNamesError, NameRefusedError
from fedpredict.tables.names import RESERVED, column_name, column_names
from fedpredict.warehouse.base import check_identifier


@pytest.mark.parametrize(
    ("feature", "column"),
    [
        ("age", "age"),
        ("Age_2", "age_2"),
        ("mean radius", "mean_radius"),
        ("proline (mg/l) 5%", "proline__mg_l__5_"),
        ("a-b.c", "a_b_c"),
        ("年龄", "u5e74u9f84"),
        ("größe", "gruf6udfe"),
        ("٣", "u663"),
        ("1", "1"),
        ("select", "select"),
        ("x" * 124, "x" * 124),
    ],
)
def test_a_name_becomes_a_column_by_the_documented_escape(feature: str, column: str) -> None:
    assert column_name(feature) == column


@pytest.mark.parametrize(
    "feature",
    [
        "", 'x"; DROP TABLE fp_models', "ag'e", "back\\slash", "a`b", "a\nb", "a\0b", "a,b", "a;b", "a*b", "😀", "a$b",
        "a{b", "x" * 125, "年" * 25, "sample_id", "Event Time", "view.version", "SNAPSHOT",
    ],
)  # fmt: skip
def test_a_name_that_has_no_escape_is_refused_and_named(feature: str) -> None:
    with pytest.raises(NameRefusedError, match=re.escape(repr(feature)) + r".*rename"):
        column_name(feature)


def test_names_that_become_one_column_are_refused_together() -> None:
    with pytest.raises(FeatureNamesError, match=r"'Age' and 'age' both become the column age") as raised:
        column_names(["Age", "income", "age", "a b", "a-b"])

    assert raised.value.names == ("Age", "age", "a b", "a-b")


def test_a_repeated_name_is_refused() -> None:
    with pytest.raises(FeatureNamesError) as raised:
        column_names(["age", "age"])

    assert raised.value.names == ("age", "age")


def test_all_refused_names_are_listed_at_once() -> None:
    with pytest.raises(FeatureNamesError) as raised:
        column_names(["a;b", "age", "sample_id"])

    assert raised.value.names == ("a;b", "sample_id")


def test_columns_come_in_the_order_of_the_names() -> None:
    assert list(column_names(["b", "A", "c d"]).items()) == [("b", "b"), ("A", "a"), ("c d", "c_d")]


@given(st.text(max_size=200))
def test_a_name_is_refused_or_gives_a_column_that_every_engine_takes(feature: str) -> None:
    try:
        column = column_name(feature)
    except NameRefusedError:
        return

    assert check_identifier(f"w_{column}") == f"w_{column}"
    assert column not in RESERVED
    assert column_name(column) == column


@given(st.lists(st.text(alphabet="aAbB _-", min_size=1, max_size=3), max_size=6))
def test_different_names_share_no_column(features: list[str]) -> None:
    try:
        columns = column_names(features)
    except FeatureNamesError:
        return

    assert all(one < two for one, two in pairwise(sorted(columns.values())))
    assert list(columns) == features
