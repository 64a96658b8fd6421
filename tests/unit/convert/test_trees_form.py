"""The portable form of trees: there and back, and what hostile input gets."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.convert.options import ReadOptions
from fedpredict.convert.portable import from_portable, parse_json, to_json, to_portable
from fedpredict.convert.trees_form import trees_from_plain, trees_to_plain
from fedpredict.errors import FeatureNamesError, ModelFileError
from fedpredict.model.kinds import Kind
from fedpredict.model.partial import PartialModel, VerificationRows
from fedpredict.model.trees import CodeRule
from fedpredict.tables.trees_digest import trees_digest_fields
from tests.tree_parts import Shape, random_part, random_rows, trees_part


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_part_goes_through_json_and_comes_back(data: st.DataObject) -> None:
    flag = st.booleans()
    shape = data.draw(st.builds(
        Shape, n_trees=st.integers(0, 3), depth=st.integers(0, 3), n_texts=st.integers(0, 2), wide=flag,
        n_scores=st.integers(1, 3), with_sets=flag, strict=flag, float32=flag, zero_is_missing=flag, may_miss=flag,
        base=flag,
        codes=st.sampled_from(CodeRule), closed=flag,
    ))  # fmt: skip
    part = random_part(np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), shape)

    back = trees_from_plain(json.loads(json.dumps(trees_to_plain(part))), ReadOptions())

    assert list(trees_digest_fields(back)) == list(trees_digest_fields(part))
    assert back.features == part.features
    assert trees_to_plain(back) == trees_to_plain(part)


def test_a_model_file_of_trees_keeps_its_verification_rows_with_texts() -> None:
    random = np.random.default_rng(3)
    part = random_part(random, Shape(n_texts=1, with_sets=True, may_miss=True))
    rows = random_rows(random, part, 10)
    rows[~np.isfinite(rows)] = np.nan
    rows_of_part = VerificationRows(rows, part.partial_scores(rows))
    partial = PartialModel("m", "run-1", "lab", Kind.LINEAR, (), True, part, verification=rows_of_part)

    back = from_portable(parse_json(to_json(partial)))

    assert back.verification is not None
    assert np.array_equal(back.verification.features, rows, equal_nan=True)
    assert list(trees_digest_fields(trees_part(back.part))) == list(trees_digest_fields(part))


def written() -> dict[str, Any]:
    """A tree written by hand: a number, below it a text, and a lone leaf."""
    return {
        "features": ["age", "colour"],
        "categories": {"colour": ["red", "blue"]},
        "compare": "float64",
        "op": "<=",
        "intercept": 0.5,
        "tree_sizes": [5, 1],
        "feature": [0, 1, None, None, None, None],
        "threshold": [30.0, None, None, None, None, None],
        "left": [1, 2, None, None, None, None],
        "right": [4, 3, None, None, None, None],
        "left_set": [None, 0, None, None, None, None],
        "sets": [["blue"]],
        "values": [0, 0, 1, 2, 4, 8],
    }


def test_what_is_left_out_means_the_least() -> None:
    part = trees_from_plain(written(), ReadOptions())

    rows = np.array([[30.0, 1.0], [30.0, 0.0], [31.0, 0.0], [29.0, -1.0], [np.nan, 0.0]])
    assert part.partial_scores(rows)[:, 0].tolist() == [9.5, 10.5, 12.5, 10.5, 12.5]
    statuses = part.statuses(rows)
    assert statuses is not None
    assert statuses[:4].tolist() == [statuses[0]] * 4
    assert statuses[4] != statuses[0]


LONG = 2**31
HOSTILE: list[tuple[str, object, str]] = [
    ("tree_sizes", [5], "tree_sizes adds up to 5"),
    ("tree_sizes", [6, 0], "tree_sizes"),
    ("tree_sizes", [-1, 7], "tree_sizes"),
    ("tree_sizes", [LONG, LONG], "tree_sizes"),
    ("tree_sizes", "5", "tree_sizes"),
    ("feature", [2, 1, None, None, None, None], "feature"),
    ("feature", [-2, 1, None, None, None, None], "feature"),
    ("feature", [0.0, 1, None, None, None, None], "feature"),
    ("feature", [True, 1, None, None, None, None], "feature"),
    ("feature", None, "feature"),
    ("closed", ["age"], "closed is not a dict"),
    ("closed", {"other": None}, "closed names 'other'"),
    ("closed", {"age": None}, "closed has codes of 'age'"),
    ("closed", {"colour": [1]}, "closed has codes of 'colour'"),
    ("closed", {"age": [1, "2"]}, "closed of 'age'"),
    ("closed", {"age": [2, 1]}, "not sorted"),
    ("left", [1, 2, None, None, None], "left"),
    ("left", [0, 2, None, None, None, None], "circle"),
    ("left", [1, 0, None, None, None, None], "circle"),
    ("left", [1, 5, None, None, None, None], "dangling"),
    ("left", [1, 2**31 - 1, None, None, None, None], "dangling"),
    ("left", [1, 10**30, None, None, None, None], "left"),
    ("left", [1, 3, None, None, None, None], "two parents"),
    ("left", [1, None, None, None, None, None], "without"),
    ("right", [4, 3, None, None, None, 5], "leaf with children"),
    ("threshold", [np.nan, None, None, None, None, None], "threshold"),
    ("threshold", [np.inf, None, None, None, None, None], "threshold"),
    ("threshold", ["30", None, None, None, None, None], "threshold"),
    ("threshold", [30.0], "threshold"),
    ("threshold", [None] * 6, "threshold is null at node 0 of all"),
    ("left_set", [None] * 6, "threshold is null at node 1 of all"),
    ("threshold", None, "threshold"),
    ("values", [0, 0, 1, 2, 4], "values"),
    ("values", [0, 0, 1, 2, 4, np.nan], "values"),
    ("values", [[0, 1]] * 6, "values"),
    ("values", None, "values"),
    ("values", [0, 0, 1, 2, 4, True], "holds a bool where a number"),
    ("values", [0, 0, 1, 2, 4, None], "holds a NoneType where a number"),
    ("values", [0, 0, 1, 2, 4, "8"], "holds a str where a number"),
    ("values", [0, 0, 1, 2, 4, 10**400], "beyond the range of a float64"),
    ("values", [0, 0, 1, 2, 4, -np.inf], "NaN or an infinity"),
    ("values", [0, 0, 1, 2, 4, [8, 8]], "different lengths"),
    ("threshold", [True, None, None, None, None, None], "holds a bool where a number"),
    ("threshold", [-(10**400), None, None, None, None, None], "beyond the range of a float64"),
    ("left", [1, 2, None, None, None, np.nan], "left"),
    ("left", [1, -(10**30), None, None, None, None], "left"),
    ("right", [4, "3", None, None, None, None], "right"),
    ("output", [0, None], "output"),
    ("output", [False, 0], "output"),
    ("missing_left", [True, False, False, False, False, None], "missing_left"),
    ("n_scores", 0, "n_scores"),
    ("n_scores", 10**9, "n_scores"),
    ("n_scores", 1.0, "n_scores"),
    ("output", [0, 1], "outputs"),
    ("output", [0], "output"),
    ("output", [0, -1], "output"),
    ("intercept", [0.5, 0.5], "intercept"),
    ("intercept", np.inf, "intercept"),
    ("left_set", [None, 1, None, None, None, None], "left_set"),
    ("left_set", [None, -5, None, None, None, None], "left_set"),
    ("known_set", [None, 7, None, None, None, None], "known_set"),
    ("sets", [["green"]], "sets[0]"),
    ("sets", [[1]], "sets[0]"),
    ("sets", [["blue", "blue"]], "sets[0]"),
    ("sets", [None], "sets[0]"),
    ("sets", {}, "sets"),
    ("missing_left", [1] * 6, "missing_left"),
    ("zero_is_missing", [True], "zero_is_missing"),
    ("categories", {"size": ["s"]}, "categories"),
    ("categories", {"colour": ["blue", "blue"]}, "categories"),
    ("categories", {"colour": [1]}, "categories"),
    ("categories", [], "categories"),
    ("may_miss", ["size"], "may_miss"),
    ("may_miss", True, "may_miss"),
    ("features", "ab", "features"),
    ("op", ">", "op"),
    ("compare", None, "compare"),
    ("codes", "round", "codes"),
    ("codes", None, "codes"),
    ("codes", ["cut"], "codes"),
    ("treshold", [], "treshold"),
]


@pytest.mark.parametrize(
    ("key", "value", "words"), HOSTILE, ids=[f"{key}-{at}" for at, (key, _, _) in enumerate(HOSTILE)]
)
def test_hostile_input_is_refused_by_the_key(key: str, value: object, words: str) -> None:
    content = written() | {key: value}

    with pytest.raises(ModelFileError) as raised:
        trees_from_plain(content, ReadOptions())

    assert words in str(raised.value)


def test_names_that_repeat_are_refused() -> None:
    with pytest.raises(FeatureNamesError):
        trees_from_plain(written() | {"features": ["age", "Age"], "categories": {}, "sets": [[1]]}, ReadOptions())


def test_a_part_that_is_no_dict_or_of_no_family_is_refused() -> None:
    part = trees_from_plain(written(), ReadOptions())
    portable = to_portable(PartialModel("m", "run-1", "lab", Kind.LINEAR, (), True, part))

    changed: list[dict[str, object]] = [{"part": []}, {"family": "forest"}, {"weights": [1.0]}]
    for changes in changed:
        with pytest.raises(ModelFileError):
            from_portable(copy.deepcopy(portable) | changes)
