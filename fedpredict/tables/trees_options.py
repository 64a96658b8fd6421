"""What of a part of trees stands in its version's row: what holds for all nodes, and what a statement must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from fedpredict.errors import TableCorruptError
from fedpredict.model.arrays import Bools
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.trees import LEAF, NO_SET, CodeRule, Ints, Trees, TreesPart

MAX_DEPTH = 32
"""Splits one below the other that engines take; each is a subquery around the one before."""
HIVE_JOINS = 8
"""Hive on Tez counts what each operator does and has, as it comes, 120 counters: so many levels were seen to fit."""


@dataclass(frozen=True, slots=True)
class TreesOptions:
    """What the rows of one part have in common.

    Attributes:
        n_trees: The number of trees.
        depth: Splits on the longest way from a root to a leaf; 0 without a split.
        strict: Whether nodes compare by <, not by <=.
        float32: Whether features are rounded to float32 before they are compared.
        wide: Whether every leaf has a value for each output.
        may_miss: The features (positions) that a sample may lack.
        numbers: What nodes with a threshold look at: (feature, whether zero counts as missing), without repeats.
        sets: The same for nodes with a set of categories.
        codes: Which numbers are the code of a category; `CUT` where nothing asks for the category of a number.
        closed: The features (positions) that have no category but those of training.
    """

    n_trees: int
    depth: int
    strict: bool
    float32: bool
    wide: bool
    may_miss: list[int]
    numbers: list[tuple[int, bool]]
    sets: list[tuple[int, bool]]
    codes: CodeRule
    closed: list[int]

    @property
    def inputs(self) -> list[tuple[int, bool]]:
        """All that nodes look at; the column `input` of the table counts in it."""
        return [*self.numbers, *self.sets]


def options_of(part: TreesPart | SplitTreesPart) -> TreesOptions:
    """Return the options of a part."""
    trees = part.trees
    is_set = trees.left_set != NO_SET
    return TreesOptions(
        n_trees=trees.n_trees,
        depth=int(levels_of(trees).max(initial=0)),
        strict=trees.strict,
        float32=trees.float32,
        wide=isinstance(part, TreesPart) and (part.values.shape[1] > 1 or bool((part.output < 0).any())),
        may_miss=np.flatnonzero(part.may_miss).tolist(),
        numbers=_looked_at(trees, ~is_set),
        sets=_looked_at(trees, is_set),
        codes=trees.codes if has_codes(part) else CodeRule.CUT,
        closed=[at for at, name in enumerate(part.features) if name in part.closed],
    )


def plain_options(part: TreesPart | SplitTreesPart) -> dict[str, object]:
    """Return the options as JSON values, as `Layout.options` says."""
    plain = asdict(options_of(part))
    if plain["codes"] is CodeRule.CUT:
        del plain["codes"]
    if not plain["closed"]:
        del plain["closed"]
    return plain


def trees_engines(part: TreesPart | SplitTreesPart, n_before: int = 0) -> tuple[str, ...]:
    """Return the engines that can compute a part: whose trees are not too deep, and ask texts only for their sets.

    Args:
        part: The trees.
        n_before: What the statement does before it comes to them, in levels of trees.
    """
    options = options_of(part)
    texts = {at for at, name in enumerate(part.features) if name in part.categories}
    as_number = {at for at, _ in options.numbers} | {at for at, zero_is_missing in options.sets if zero_is_missing}
    if options.depth > MAX_DEPTH or texts & as_number:
        return ("numpy",)
    if options.closed or texts & {at for at, _ in options.sets}:
        n_before += 1
    in_hive = options.depth + n_before <= HIVE_JOINS
    return ("numpy", "duckdb", "spark", "hive") if in_hive else ("numpy", "duckdb", "spark")


def parse_options(content: Mapping[str, object]) -> TreesOptions:
    """Return what `plain_options` gave.

    Raises:
        TableCorruptError: A value is missing or of another type.
    """
    try:
        return TreesOptions(
            n_trees=_count(content["n_trees"]),
            depth=_count(content["depth"]),
            strict=_flag(content["strict"]),
            float32=_flag(content["float32"]),
            wide=_flag(content["wide"]),
            may_miss=[_count(each) for each in _list(content["may_miss"])],
            numbers=[_input(each) for each in _list(content["numbers"])],
            sets=[_input(each) for each in _list(content["sets"])],
            codes=CodeRule(str(content.get("codes", CodeRule.CUT))),
            closed=[_count(each) for each in _list(content.get("closed", []))],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TableCorruptError(f"the options of trees are damaged ({error})") from error


def has_codes(part: TreesPart | SplitTreesPart) -> bool:
    """Return whether anything asks for the category of a number: a node, or a closed feature."""
    asked = np.unique(part.trees.feature[part.trees.left_set != NO_SET])
    names = {*part.closed, *(part.features[at] for at in asked.tolist())}
    return not names <= part.categories.keys()


def levels_of(trees: Trees) -> Ints:
    """Return the number of splits above each node, shape (n_nodes,)."""
    levels = np.zeros(len(trees.feature), dtype=np.int32)
    nodes, level = trees.start[:-1], 0
    while len(nodes):
        levels[nodes] = level
        inner = nodes[trees.feature[nodes] != LEAF]
        nodes, level = np.concatenate([trees.left[inner], trees.right[inner]]), level + 1
    return levels


def _looked_at(trees: Trees, chosen: Bools) -> list[tuple[int, bool]]:
    of_features = chosen & (trees.feature >= 0)
    pairs = np.unique(trees.feature[of_features].astype(np.int64) * 2 + trees.zero_is_missing[of_features])
    return [(int(pair) // 2, bool(pair % 2)) for pair in pairs]


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("a count is no count")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("a flag is no flag")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise TypeError("a list is no list")
    return list(value)


def _input(value: object) -> tuple[int, bool]:
    feature, zero_is_missing = _list(value)
    return _count(feature), _flag(zero_is_missing)
