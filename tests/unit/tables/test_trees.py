"""Trees as rows and back, what damaged rows get, and the digest's bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.errors import TableCorruptError
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.part import Family
from fedpredict.model.trees import LEAF, NO_SET, CodeRule, Trees, TreesPart
from fedpredict.tables.category_sets import members_of, set_text
from fedpredict.tables.layouts import LAYOUTS
from fedpredict.tables.trees import trees_from_rows, trees_to_rows
from fedpredict.tables.trees_digest import trees_digest_fields
from fedpredict.tables.trees_options import HIVE_JOINS, MAX_DEPTH, plain_options
from fedpredict.tables.version import ModelVersion, version_to_rows, versions_from_rows
from tests.tree_parts import Shape, chain_of_splits, random_part, random_rows

LAYOUT = LAYOUTS[Family.TREES]


def shapes() -> st.SearchStrategy[Shape]:
    flag, few = st.booleans(), st.integers(0, 3)
    return st.builds(
        Shape, n_trees=few, depth=few, n_numbers=st.integers(1, 3), n_texts=st.integers(0, 2), wide=flag,
        n_scores=st.integers(1, 3), with_sets=flag, strict=flag, float32=flag, zero_is_missing=flag, may_miss=flag,
        base=flag,
        codes=st.sampled_from(CodeRule), closed=flag,
    )  # fmt: skip


def small_part(**changes: Any) -> TreesPart:
    """One tree with a set of texts below a threshold, and one with a lone leaf."""
    trees = Trees(
        start=np.array([0, 5, 6]),
        feature=np.array([0, 1, LEAF, LEAF, LEAF, LEAF], dtype=np.int32),
        threshold=np.array([0.5, 0, 0, 0, 0, 0]),
        left=np.array([1, 2, LEAF, LEAF, LEAF, LEAF], dtype=np.int32),
        right=np.array([4, 3, LEAF, LEAF, LEAF, LEAF], dtype=np.int32),
        missing_left=np.array([True, False, False, False, False, False]),
        zero_is_missing=np.zeros(6, dtype=np.bool_),
        left_set=np.array([NO_SET, 0, NO_SET, NO_SET, NO_SET, NO_SET], dtype=np.int32),
        known_set=np.full(6, NO_SET, dtype=np.int32),
        unknown_left=np.array([False, True, False, False, False, False]),
        sets=(np.array([1], dtype=np.int32),),
        strict=False,
        float32=False,
    )
    values = np.array([[0.0], [0.0], [0.25], [-1.0], [2.0], [8.0]])
    part = TreesPart(
        ("b", "A"), {"A": ("red", "blue")}, np.array([True, False]), trees, 1, np.zeros(2, np.int32), values,
        np.array([0.5]),
    )  # fmt: skip
    return replace(part, **changes)


def version_of(part: TreesPart) -> ModelVersion:
    """Return the row of a version with the part, as it comes back from its table."""
    version = ModelVersion(
        model_id="m", version=1, params_sha256="0" * 64, kind=Kind.LINEAR, link=Link("identity"),
        n_scores=part.n_scores, n_outputs=part.n_scores, classes=(), view="people", view_version=1,
        training_run="run-1", party="lab", fit_intercept=part.intercept is not None,
        holds_intercept=part.intercept is not None, features=part.features, salt=bytes(32), metadata={},
        certificate={}, created_at=datetime(2026, 11, 22, tzinfo=UTC), source_sha256="5" * 64, family=Family.TREES,
        categories=part.categories, options=LAYOUT.options(part),
    )  # fmt: skip
    row = version_to_rows(version)
    return versions_from_rows(
        row.append_column("model_id", pa.array(["m"])).append_column("version", pa.array([1], pa.int32()))
    )[0]


def with_cell(rows: pa.Table, at: int, name: str, value: object) -> pa.Table:
    cells = rows.to_pylist()
    cells[at] |= {name: value}
    return pa.Table.from_pylist(cells, schema=rows.schema)


@settings(max_examples=60, deadline=None)
@given(shapes(), st.integers(0, 2**32 - 1))
def test_rows_in_any_order_give_back_a_part_of_the_same_rows_digest_and_scores(shape: Shape, seed: int) -> None:
    random = np.random.default_rng(seed)
    part = random_part(random, shape)
    rows = trees_to_rows(part)

    back = trees_from_rows(rows.take(pa.array(random.permutation(len(rows)))), version_of(part))

    assert trees_to_rows(back).equals(rows)
    assert list(trees_digest_fields(back)) == list(trees_digest_fields(part))
    features = random_rows(random, part, 20)
    assert back.partial_scores(features).tobytes() == part.partial_scores(features).tobytes()
    assert np.array_equal(back.may_miss, part.may_miss)


def test_numbers_come_back_to_the_bit() -> None:
    odd = np.array([[0.0], [0.0], [-0.0], [5e-324], [1.7976931348623157e308], [0.1 + 0.2]])
    part = small_part(values=odd, intercept=np.array([-0.0]))

    back = trees_from_rows(trees_to_rows(part), version_of(part))

    assert back.values.tobytes() == odd.tobytes()
    assert back.intercept is not None
    assert str(back.intercept[0]) == "-0.0"


def test_a_row_says_what_a_split_does_in_words() -> None:
    rows = trees_to_rows(small_part()).to_pylist()
    said = [{name: value for name, value in row.items() if value is not None} for row in rows]
    number = {"op": "<=", "threshold": 0.5, "missing": "left"}
    texts = {"op": "in", "categories": "|blue|", "missing": "right", "unknown": "left"}
    same = {"compare": "float64", "zero_is_missing": False}
    assert said == [
        {"tree": -1, "node": 0, "level": 0, "output": 0, "leaf_value": 0.5},
        {"tree": -2, "node": 1, "feature": "A", "categories": "|red|blue|"},
        {"tree": 0, "node": 0, "level": 0, "feature": "b", "input": 0, "left_child": 1, "right_child": 4}
        | number
        | same,
        {"tree": 0, "node": 1, "level": 1, "feature": "A", "input": 1, "left_child": 2, "right_child": 3}
        | texts
        | same,
        {"tree": 0, "node": 2, "level": 2, "output": 0, "leaf_value": 0.25},
        {"tree": 0, "node": 3, "level": 2, "output": 0, "leaf_value": -1.0},
        {"tree": 0, "node": 4, "level": 1, "output": 0, "leaf_value": 2.0},
        {"tree": 1, "node": 0, "level": 0, "output": 0, "leaf_value": 8.0},
    ]


DAMAGES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no rows": (lambda rows: rows.slice(0, 0), "no parameter rows"),
    "a table that is gone": (lambda rows: pa.table({n: pa.nulls(0) for n in rows.column_names}), "no parameter rows"),
    "no base": (lambda rows: rows.slice(1), "one base score"),
    "two bases": (lambda rows: pa.concat_tables([rows.slice(0, 1), rows]), "one base score"),
    "base is NULL": (lambda rows: with_cell(rows, 0, "leaf_value", None), "leaf_value is None"),
    "no categories": (lambda rows: pa.concat_tables([rows.slice(0, 1), rows.slice(2)]), "categories of text features"),
    "other categories": (lambda rows: with_cell(rows, 1, "categories", "|red|"), "categories of text features"),
    "a tree is missing": (lambda rows: rows.slice(0, 7), "1 trees, where there must be 2"),
    "a node is missing": (lambda rows: pa.concat_tables([rows.slice(0, 4), rows.slice(5)]), "tree 0 has no node 2"),
    "the last leaf of a tree is missing": (
        lambda rows: pa.concat_tables([rows.slice(0, 6), rows.slice(7)]), "dangling",
    ),
    "a leaf twice": (lambda rows: pa.concat_tables([rows, rows.slice(5, 1)]), "node 3 of tree 0 has 2 rows"),
    "a dangling child": (lambda rows: with_cell(rows, 3, "right_child", 2**31 - 1), "dangling"),
    "a circle": (lambda rows: with_cell(rows, 3, "left_child", 0), "in a circle"),
    "one child": (lambda rows: with_cell(rows, 3, "right_child", None), "one child"),
    "a threshold is NaN": (lambda rows: with_cell(rows, 2, "threshold", np.nan), "node 0 of tree 0: threshold is nan"),
    "no threshold": (lambda rows: with_cell(rows, 2, "threshold", None), "node 0 of tree 0: threshold is None"),
    "a leaf is infinite": (lambda rows: with_cell(rows, 7, "leaf_value", np.inf), "tree 1: leaf_value is inf"),
    "no leaf value": (lambda rows: with_cell(rows, 5, "leaf_value", None), "node 3 of tree 0: leaf_value is None"),
    "an output that is none": (lambda rows: with_cell(rows, 7, "output", 3), "not among 1"),
    "two outputs in a tree": (lambda rows: with_cell(rows, 5, "output", 1), "different outputs"),
    "another feature": (lambda rows: with_cell(rows, 2, "feature", "c"), "node 0 of tree 0 asks for feature 'c'"),
    "no feature": (lambda rows: with_cell(rows, 2, "feature", None), "node 0 of tree 0 asks for feature None"),
    "another operator": (lambda rows: with_cell(rows, 2, "op", "<"), "node 0 of tree 0: op is <"),
    "another precision": (lambda rows: with_cell(rows, 2, "compare", "float32"), "compare is float32"),
    "no side": (lambda rows: with_cell(rows, 2, "missing", "up"), "missing is up"),
    "an unknown category": (lambda rows: with_cell(rows, 3, "categories", "|green|"), "not known"),
    "no set": (lambda rows: with_cell(rows, 3, "categories", None), "set of categories"),
    "a set that is no text of one": (lambda rows: with_cell(rows, 3, "categories", "blue"), "no set of categories"),
    "another place of the input": (lambda rows: with_cell(rows, 3, "input", 0), "node 1 of tree 0: input is 0, not 1"),
    "another level": (lambda rows: with_cell(rows, 4, "level", 1), "node 2 of tree 0: level is 1, not 2"),
    "a tree that is none": (lambda rows: with_cell(rows, 7, "tree", -3), "rows of tree -3"),
    "a NULL tree": (lambda rows: with_cell(rows, 7, "tree", None), "column tree holds a NULL"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_refused_by_what_is_wrong(damage: str) -> None:
    part = small_part()
    break_it, words = DAMAGES[damage]

    with pytest.raises((TableCorruptError, ValueError)) as raised:  # `load_model` makes one of the other
        trees_from_rows(break_it(trees_to_rows(part)), version_of(part))

    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_trees", None), ("n_trees", True), ("depth", 3), ("strict", 1), ("numbers", [[0]]), ("sets", [[9, False]]),
     ("may_miss", [7]), ("may_miss", "b"), ("codes", "round"), ("codes", 1)],
)  # fmt: skip
def test_damaged_options_are_refused(name: str, value: object) -> None:
    part = small_part()
    version = version_of(part)

    with pytest.raises(TableCorruptError):
        trees_from_rows(trees_to_rows(part), replace(version, options=dict(version.options) | {name: value}))


def test_a_code_without_a_text_cannot_be_written() -> None:
    part = small_part()
    wrong = replace(part.trees, sets=(np.array([2], dtype=np.int32),))

    with pytest.raises(ValueError, match="category 2 of 2"):
        trees_to_rows(replace(part, trees=wrong))


def test_the_digest_takes_the_documented_bytes() -> None:
    def whole(*numbers: int) -> bytes:
        return struct.pack(f">{len(numbers)}q", *numbers)

    assert list(trees_digest_fields(small_part())) == [
        b"A", b"0", b"2", b"red", b"blue",  # features by name: may it miss, its categories
        b"b", b"1", b"",
        b"000",  # compares by <, in float32, a value for each output at each leaf
        whole(5, 1),  # nodes of each tree
        whole(1, 0, -1, -1, -1, -1),  # features by their place in the order of names
        whole(1, 2, -1, -1, -1, -1),
        whole(4, 3, -1, -1, -1, -1),
        struct.pack(">d", 0.5),
        bytes([1, 0, 0, 0, 0, 0]),  # missing goes left
        bytes(6),  # zero is missing
        bytes([0, 1, 0, 0, 0, 0]),  # asks for a set
        bytes([0, 1, 0, 0, 0, 0]),  # unknown goes left
        whole(1), b"0", b"",  # the set, and no known ones
        whole(0, 0),  # the output of each tree
        struct.pack(">4d", 0.25, -1.0, 2.0, 8.0),
        struct.pack(">d", 0.5),
    ]  # fmt: skip


def test_a_closed_feature_adds_to_the_digest_and_to_the_rows_and_nothing_else_does() -> None:
    part, codes = small_part(), np.array([1, 30], dtype=np.int32)
    closed = replace(part, closed={"b": codes, "A": None})
    plain, fields = list(trees_digest_fields(part)), list(trees_digest_fields(closed))

    assert fields[:4] == [b"A", b"0c", b"2", b"red"]
    assert fields[5:9] == [b"b", b"1c", b"", struct.pack(">2q", 1, 30)]
    assert fields[9:] == plain[8:]
    assert plain_options(closed) == plain_options(part) | {"closed": [0, 1]}
    rows = trees_to_rows(closed)
    known = [row for row in rows.to_pylist() if row["tree"] == -2]
    assert [(row["node"], row["feature"], row["categories"]) for row in known] == [
        (0, "b", "|1|30|"),
        (1, "A", "|red|blue|"),
    ]
    back = trees_from_rows(rows, version_of(closed))
    assert list(trees_digest_fields(back)) == fields


@pytest.mark.parametrize(
    ("change", "options", "problem"),
    [
        (lambda rows: pa.concat_tables([rows.slice(0, 1), rows.slice(2)]), {}, "no set of categories"),
        (lambda rows: pa.concat_tables([rows.slice(0, 2), rows.slice(3)]), {}, "are not those of the model's row"),
        (lambda rows: pa.concat_tables([rows, rows.slice(1, 1)]), {}, "are not those of the model's row"),
        (lambda rows: with_cell(rows, 1, "categories", "|30|1|"), {}, "not sorted"),
        (lambda rows: with_cell(rows, 1, "categories", "|red|"), {}, "not known"),
        (lambda rows: with_cell(rows, 1, "categories", None), {}, "no set of categories"),
        (lambda rows: rows, {"closed": [1]}, "are not those of the model's row"),
        (lambda rows: rows, {"closed": [0, 1, 2]}, "a feature that there is not"),
        (lambda rows: rows, {"closed": "b"}, "damaged"),
    ],
)
def test_damaged_rows_of_closed_features_are_refused(
    change: Callable[[pa.Table], pa.Table], options: dict[str, object], problem: str
) -> None:
    part = small_part(closed={"b": np.array([1, 30], dtype=np.int32), "A": None})
    version = version_of(part)
    version = replace(version, options=dict(version.options) | options)

    with pytest.raises((TableCorruptError, ValueError), match=problem):
        trees_from_rows(change(trees_to_rows(part)), version)


def test_the_order_of_features_and_sets_and_what_no_split_looks_at_leave_the_digest_as_it_is() -> None:
    part = small_part()
    trees = part.trees
    same = replace(
        part, features=("A", "b"), may_miss=part.may_miss[::-1],
        trees=replace(
            trees, feature=np.array([1, 0, LEAF, LEAF, LEAF, LEAF], dtype=np.int32),
            unknown_left=~(trees.left_set == 0) | trees.unknown_left,
            sets=(np.array([0], dtype=np.int32), trees.sets[0]), left_set=np.where(trees.left_set == 0, 1, NO_SET),
        ),
    )  # fmt: skip

    assert list(trees_digest_fields(same)) == list(trees_digest_fields(part))


@pytest.mark.parametrize("name", ["threshold", "missing_left", "zero_is_missing", "unknown_left", "strict", "float32"])
def test_whatever_changes_a_score_changes_the_digest(name: str) -> None:
    part = small_part()
    value = getattr(part.trees, name)
    if isinstance(value, bool):
        other: Any = not value
    else:
        other = value.copy()
        other[1 if name == "unknown_left" else 0] = not value[0] if value.dtype == bool else 0.75
        other[1] = not value[1] if name == "unknown_left" else other[1]

    changed = replace(part, trees=replace(part.trees, **{name: other}))

    assert list(trees_digest_fields(changed)) != list(trees_digest_fields(part))


@pytest.mark.parametrize("rule", [CodeRule.CUT_FROM_ZERO, CodeRule.WHOLE, CodeRule.BYTE])
def test_which_numbers_are_codes_counts_where_a_number_has_a_category(rule: CodeRule) -> None:
    part = small_part()
    of_texts = replace(part, trees=replace(part.trees, codes=rule))
    assert list(trees_digest_fields(of_texts)) == list(trees_digest_fields(part))
    assert plain_options(of_texts) == plain_options(part)

    part = replace(part, categories={})
    of_numbers = replace(part, trees=replace(part.trees, codes=rule))
    assert list(trees_digest_fields(of_numbers)) != list(trees_digest_fields(part))
    back = trees_from_rows(trees_to_rows(of_numbers), version_of(of_numbers))
    assert back.trees.codes is rule


def test_engines_are_not_offered_for_what_they_cannot_ask() -> None:
    part = small_part()
    on_text = replace(part.trees, feature=np.array([1, 1, LEAF, LEAF, LEAF, LEAF], dtype=np.int32))

    everywhere, but_hive = ("numpy", "duckdb", "spark", "hive"), ("numpy", "duckdb", "spark")
    assert LAYOUT.engines(part) == everywhere
    assert LAYOUT.engines(replace(part, trees=on_text)) == ("numpy",)
    assert LAYOUT.engines(chain_of_splits(HIVE_JOINS)) == everywhere
    assert LAYOUT.engines(chain_of_splits(HIVE_JOINS + 1)) == but_hive
    assert LAYOUT.engines(chain_of_splits(MAX_DEPTH)) == but_hive
    assert LAYOUT.engines(chain_of_splits(MAX_DEPTH + 1)) == ("numpy",)
    with_texts = random_part(np.random.default_rng(1), Shape(20, HIVE_JOINS, n_texts=2, with_sets=True))
    assert plain_options(with_texts)["depth"] == HIVE_JOINS
    assert LAYOUT.engines(with_texts) == but_hive
    closed = replace(chain_of_splits(HIVE_JOINS), closed={"f0": np.array([0], dtype=np.int32)})
    assert LAYOUT.engines(closed) == but_hive  # to know the categories is one more join


@given(st.lists(st.text(alphabet="ab|~01 年", max_size=4), max_size=5))
def test_a_set_finds_its_members_and_no_other(members: list[str]) -> None:
    text = set_text(members)

    assert members_of(text) == members
    for value in ("", "a", "|", "~", "~1", "|a|", "a|b", *members):
        assert (set_text([value]) in text) == (value in members)
