"""The portable form of a part of trees: nodes as columns, one list each."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.labels import chosen_features
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.plain import check_keys, matrix, numbers, vector
from fedpredict.errors import ModelFileError
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.closed import Closed
from fedpredict.model.kinds import MAX_CLASSES
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.trees import LEAF, MAX_CODE, NO_SET, CodeRule, Ints, Trees, TreesPart
from fedpredict.tables.trees_options import has_codes

NODE_KEYS = (
    "features", "categories", "may_miss", "compare", "op", "tree_sizes", "feature", "threshold", "left", "right",
    "missing_left", "zero_is_missing", "left_set", "known_set", "unknown_left", "sets", "codes",
    "closed",
)  # fmt: skip
TREES_KEYS = (*NODE_KEYS, "n_scores", "intercept", "output", "values")
_Meaning = TypeVar("_Meaning")
_COMPARE = {"float64": False, "float32": True}
_OPS = {"<=": False, "<": True}
_CODES = {rule.value: rule for rule in CodeRule}


def trees_to_plain(part: TreesPart) -> dict[str, object]:
    """Return `TREES_KEYS`, as docs/portable-model.md says; columns that say nothing are left out."""
    wide = bool((part.output < 0).any())
    return nodes_to_plain(part) | {
        "n_scores": part.n_scores,
        "intercept": None if part.intercept is None else part.intercept.tolist(),
        "output": None if wide else part.output.tolist(),
        "values": part.values.tolist() if wide else part.values[:, 0].tolist(),
    }


def nodes_to_plain(part: TreesPart | SplitTreesPart) -> dict[str, object]:
    """Return `NODE_KEYS`: features and nodes, without what leaves add."""
    trees = part.trees
    start = np.repeat(trees.start[:-1], np.diff(trees.start))
    is_leaf = trees.feature == LEAF
    plain: dict[str, object] = {
        "features": list(part.features),
        "categories": {name: list(texts) for name, texts in part.categories.items()},
        "may_miss": [name for name, may in zip(part.features, part.may_miss.tolist(), strict=True) if may],
        "compare": "float32" if trees.float32 else "float64",
        "op": "<" if trees.strict else "<=",
        "tree_sizes": np.diff(trees.start).tolist(),
        "feature": _or_none(trees.feature, is_leaf),
        "threshold": trees.threshold.tolist(),
        "left": _or_none(trees.left - start, is_leaf),
        "right": _or_none(trees.right - start, is_leaf),
    }
    flags = {name: getattr(trees, name) for name in ("missing_left", "zero_is_missing", "unknown_left")}
    plain |= {name: column.tolist() for name, column in flags.items() if column.any()}
    if part.closed:
        plain["closed"] = {name: None if codes is None else codes.tolist() for name, codes in part.closed.items()}
    if trees.codes is not CodeRule.CUT and has_codes(part):
        plain["codes"] = trees.codes.value
    return plain | _sets_to_plain(part)


def _or_none(numbers: NDArray[np.int64] | Ints, none: Bools) -> list[int | None]:
    return [None if is_none else number for number, is_none in zip(numbers.tolist(), none.tolist(), strict=True)]


def _sets_to_plain(part: TreesPart | SplitTreesPart) -> dict[str, object]:
    """Return the sets that nodes have, with texts for those of text features, and which each node has."""
    trees = part.trees
    if (trees.left_set == NO_SET).all():
        return {}
    places: dict[tuple[int, str | None], int] = {}
    columns: dict[str, object] = {}
    for name in ("left_set", "known_set"):
        column: list[int | None] = [None] * len(trees.feature)
        numbers = getattr(trees, name)
        for node in np.flatnonzero((trees.left_set != NO_SET) & (numbers != NO_SET)).tolist():
            feature = part.features[trees.feature[node]]
            key = int(numbers[node]), feature if feature in part.categories else None
            column[node] = places.setdefault(key, len(places))
        columns[name] = column
    return columns | {"sets": [_members(part, *key) for key in places]}


def _members(part: TreesPart | SplitTreesPart, number: int, feature: str | None) -> list[object]:
    codes = part.trees.sets[number].tolist()
    return list(codes) if feature is None else [part.categories[feature][code] for code in codes]


def trees_from_plain(content: Mapping[str, object], options: ReadOptions) -> TreesPart:
    """Return the part.

    Raises:
        ModelFileError, FeatureNamesError, ModelConflictError: As `FamilyForm.from_plain` says.
    """
    check_keys(content, TREES_KEYS, "part")
    n_scores = count_of_scores(content, "n_scores")
    try:
        nodes = nodes_from_plain(content, options, LEAF)
        return TreesPart(
            features=nodes.features,
            categories=nodes.categories,
            may_miss=nodes.may_miss,
            trees=nodes.trees,
            n_scores=n_scores,
            output=_output(content.get("output"), nodes.trees.n_trees),
            values=_values(content, nodes.trees, n_scores),
            intercept=vector(content.get("intercept"), "part.intercept", n_scores),
            closed=nodes.closed,
        )
    except ValueError as error:
        raise ModelFileError(f"part: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    """Features and nodes; the attributes are those of a `TreesPart`."""

    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    may_miss: Bools
    trees: Trees
    closed: Closed


def nodes_from_plain(content: Mapping[str, object], options: ReadOptions, lowest: int) -> Nodes:
    """Return what `NODE_KEYS` say.

    Args:
        content: The portable part.
        options: What the operator adds.
        lowest: The lowest number that a node may have for its feature.

    Raises:
        ModelFileError, FeatureNamesError, ModelConflictError: As `FamilyForm.from_plain` says.
        ValueError: They make no trees.
    """
    names = _texts(content.get("features"), "part.features") if content.get("features") is not None else None
    features = chosen_features(names, options.features, len(names if names is not None else options.features or ()))
    categories = _categories(content.get("categories"), features)
    may_miss = _texts(content.get("may_miss", []), "part.may_miss")
    unknown = [name for name in may_miss if name not in features]
    if unknown:
        raise ModelFileError(f"part.may_miss names {unknown[0][:100]!a}, which is not among the features")
    flags = np.array([name in may_miss for name in features], dtype=np.bool_)
    trees = _trees(content, features, categories, lowest)
    return Nodes(features, categories, flags, trees, _closed(content.get("closed")))


def count_of_scores(content: Mapping[str, object], key: str) -> int:
    """Return how many scores a key says that there are, 1 where it is not there; raise `ModelFileError`."""
    value = content.get(key, 1)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_CLASSES:
        raise ModelFileError(f"part.{key} is not a number from 1 to {MAX_CLASSES}")
    return value


def _categories(value: object, features: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelFileError("part.categories is not a dict from a text feature to its texts")
    for name, texts in value.items():
        if name not in features:
            raise ModelFileError(f"part.categories names {str(name)[:100]!a}, which is not among the features")
        if len(set(_texts(texts, f"part.categories of {name!a}"))) != len(texts):
            raise ModelFileError(f"part.categories of {name!a} repeats a text")
    return {name: tuple(value[name]) for name in features if name in value}


def _closed(value: object) -> Closed:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ModelFileError("part.closed is not a dict from a feature to its only codes, or null for a text")
    return {
        name: None if codes is None else _whole(codes, f"part.closed of {name[:100]!a}", None)
        for name, codes in value.items()
    }


def _trees(
    content: Mapping[str, object], features: Sequence[str], categories: Mapping[str, tuple[str, ...]], lowest: int
) -> Trees:
    sizes = _whole(content.get("tree_sizes", []), "part.tree_sizes", None)
    if (sizes < 1).any():
        raise ModelFileError("part.tree_sizes says that a tree has no node")
    n_nodes = _length(content)
    start = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)])
    if start[-1] != n_nodes:
        raise ModelFileError(f"part.tree_sizes adds up to {start[-1]} nodes, part.feature has {n_nodes}")
    feature = _whole(content.get("feature"), "part.feature", n_nodes, none=LEAF)
    if (feature >= len(features)).any() or (feature < lowest).any():
        raise ModelFileError(f"part.feature refers to a feature that is not among the {len(features)}")
    sets, (left_set, known_set) = _sets(content, feature, features, categories)
    first = np.repeat(start[:-1], sizes)
    left, right = (
        np.where(child == LEAF, LEAF, np.minimum(child.astype(np.int64) + first, 2**31 - 1)).astype(np.int32)
        for child in (_whole(content.get(key), f"part.{key}", n_nodes, none=LEAF) for key in ("left", "right"))
    )
    return Trees(
        start=start,
        feature=feature,
        threshold=_threshold(content.get("threshold"), (feature >= 0) & (left_set == NO_SET)),
        left=left,
        right=right,
        missing_left=_flags(content, "missing_left", n_nodes),
        zero_is_missing=_flags(content, "zero_is_missing", n_nodes),
        left_set=left_set,
        known_set=known_set,
        unknown_left=_flags(content, "unknown_left", n_nodes),
        sets=sets,
        strict=_word(content, "op", _OPS),
        float32=_word(content, "compare", _COMPARE),
        codes=_word(content, "codes", _CODES) if "codes" in content else CodeRule.CUT,
    )


def _length(content: Mapping[str, object]) -> int:
    nodes = content.get("feature")
    if not isinstance(nodes, list):
        raise ModelFileError("part.feature is not a list: one for each node, null at a leaf")
    return len(nodes)


def _threshold(value: object, needed: Bools) -> Floats:
    """Return the thresholds, shape (n_nodes,); 0.0 where there is none, as there may be where none is needed."""
    if not isinstance(value, list) or len(value) != len(needed):
        raise ModelFileError(f"part.threshold is not a list of {len(needed)}: one for each node, null at a leaf")
    absent = needed & np.array([each is None for each in value], dtype=np.bool_)
    if absent.any():
        place = int(np.flatnonzero(absent)[0])
        raise ModelFileError(f"part.threshold is null at node {place} of all, which splits by a number: give it one")
    return numbers([0.0 if each is None else each for each in value], "part.threshold")


def _sets(
    content: Mapping[str, object],
    feature: Ints,
    features: Sequence[str],
    categories: Mapping[str, tuple[str, ...]],
) -> tuple[tuple[Ints, ...], list[Ints]]:
    """Return the sets as codes, and which each node has on its left, and knows."""
    given = content.get("sets", [])
    if not isinstance(given, list):
        raise ModelFileError("part.sets is not a list of lists")
    code_of = {name: {text: code for code, text in enumerate(texts)} for name, texts in categories.items()}
    places: dict[tuple[int, str | None], int] = {}
    columns = []
    for key in ("left_set", "known_set"):
        column = np.full(len(feature), NO_SET, dtype=np.int32)
        columns.append(column)
        if content.get(key) is None:
            continue
        wanted = _whole(content[key], f"part.{key}", len(feature), none=NO_SET)
        if (wanted >= len(given)).any() or (wanted < NO_SET).any():
            raise ModelFileError(f"part.{key} refers to a set that is not among the {len(given)} of part.sets")
        for node in np.flatnonzero((wanted != NO_SET) & (feature >= 0)).tolist():
            name = features[feature[node]]
            column[node] = places.setdefault((int(wanted[node]), name if name in code_of else None), len(places))
    sets = tuple(_codes(given[number], number, code_of.get(name or "")) for number, name in places)
    return sets, columns


def _codes(members: object, number: int, code_of: Mapping[str, int] | None) -> Ints:
    what = f"part.sets[{number}]"
    if not isinstance(members, list):
        raise ModelFileError(f"{what} is not a list")
    if code_of is None:
        codes = _whole(members, what, None)
    else:
        unknown = [text for text in _texts(members, what) if text not in code_of]
        if unknown:
            raise ModelFileError(f"{what} has {unknown[0][:100]!a}, which is no category of its feature")
        codes = np.array([code_of[text] for text in members], dtype=np.int32)
    if len(np.unique(codes)) != len(codes) or (codes < 0).any():
        raise ModelFileError(f"{what} has a category twice, or a negative one")
    return np.sort(codes)


def _output(value: object, n_trees: int) -> Ints:
    if value is None:
        return np.full(n_trees, -1, dtype=np.int32)
    output = _whole(value, "part.output", n_trees)
    if (output < 0).any():
        raise ModelFileError("part.output is negative; it is null where every leaf has a value for each output")
    return output


def _values(content: Mapping[str, object], trees: Trees, n_scores: int) -> Floats:
    values = matrix(content.get("values"), "part.values")
    if not trees.n_trees:
        return values.reshape(len(values), 1) if not values.size else values
    expected = len(trees.feature), n_scores if content.get("output") is None else 1
    if values.shape != expected:
        raise ModelFileError(f"part.values has shape {values.shape}, the trees need {expected}")
    return values


def _whole(value: object, what: str, length: int | None, *, none: int | None = None) -> Ints:
    """Return a list of whole numbers, with null where `none` stands for it."""
    if not isinstance(value, list) or length not in (None, len(value)):
        expected = "" if length is None else f" of {length}, one each"
        raise ModelFileError(f"{what} is not a list{expected}")
    listed = value if none is None else [none if each is None else each for each in value]
    # numpy would cut fractions, and take texts and truth values for numbers
    with contextlib.suppress(OverflowError):
        found = np.array(listed, dtype=np.int64) if set(map(type, listed)) <= {int} else None
        if found is not None and ((found >= -MAX_CODE) & (found <= MAX_CODE)).all():
            return found.astype(np.int32)
    raise ModelFileError(f"{what} holds something that is no whole number up to {MAX_CODE}")


def _flags(content: Mapping[str, object], key: str, length: int) -> Bools:
    value = content.get(key)
    if value is None:
        return np.zeros(length, dtype=np.bool_)
    if not isinstance(value, list) or len(value) != length or not set(map(type, value)) <= {bool}:
        raise ModelFileError(f"part.{key} is not a list of true and false, one for each of {length} nodes")
    return np.array(value, dtype=np.bool_)


def _texts(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ModelFileError(f"{what} is not a list of texts")
    return value


def _word(content: Mapping[str, object], key: str, meaning: Mapping[str, _Meaning]) -> _Meaning:
    value = content.get(key)
    if not isinstance(value, str) or value not in meaning:
        raise ModelFileError(f"part.{key} is not one of {', '.join(meaning)}")
    return meaning[value]
