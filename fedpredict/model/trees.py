"""A party's part of summed decision trees: nodes as arrays, features -> the sum of leaf values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats, Statuses
from fedpredict.model.closed import Closed, ClosedColumns
from fedpredict.model.kernel.masker import Masker, number_leaves
from fedpredict.model.kernel.rules import MAX_COLUMNS
from fedpredict.model.kernel.walker import LeafSums, Walker
from fedpredict.model.part import UNKNOWN_CATEGORY, Family, statuses_of_numbers
from fedpredict.model.share import SampleStatus, all_ok_statuses

LEAF = -1
"""In `Trees.feature`: the node is a leaf."""
FOREIGN = -2
"""In `Trees.feature`: the node is split by a feature of another party, so that both children stand."""
NO_SET = -1
"""In `Trees.left_set` and `Trees.known_set`: there is none."""
MAX_CODE = 2**31 - 1
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

Ints = NDArray[np.int32]


class CodeRule(StrEnum):
    """Which numbers are the code of a category: those of libraries differ in fractions. Codes are 0 to `MAX_CODE`."""

    CUT = "cut"
    """A number's code is the number without its fraction, so that -0.5 has code 0."""
    CUT_FROM_ZERO = "cut_from_zero"
    """The same, and a negative number has none."""
    WHOLE = "whole"
    """Only a whole number has one: itself, not rounded to float32 first."""
    BYTE = "byte"
    """As `CUT_FROM_ZERO`, modulo 256; a number from 2**31 up has code 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Binary decision trees; nodes of all trees one after another, a root first in its tree, a child after its parent.

    A node sends a sample by the value x of its feature:

    - NaN, and also a number with |x| <= float32(1e-35) where `zero_is_missing`: left if `missing_left`, else right.
    - Without a `left_set`: left if x <= threshold (x < threshold where `strict`), else right.
    - With one, the code of x is what `codes` says. If there is none, or it is not in the `known_set` (where there is
      one), the category is unknown and goes left if `unknown_left`, else right; any other goes left if it is in the
      `left_set`, else right.

    Attributes:
        start: Shape (n_trees + 1,): the first node of each tree, and the number of nodes.
        feature: Shape (n_nodes,): a column of the features, `LEAF`, or `FOREIGN`.
        threshold: Shape (n_nodes,); 0.0 at leaves, foreign and categorical nodes.
        left: Shape (n_nodes,): the node (counted over all trees); `LEAF` at leaves.
        right: The same.
        missing_left: Shape (n_nodes,).
        zero_is_missing: Shape (n_nodes,).
        left_set: Shape (n_nodes,): a set of `sets`, or `NO_SET` for a numeric node.
        known_set: Shape (n_nodes,): a set of `sets`, or `NO_SET`.
        unknown_left: Shape (n_nodes,).
        sets: Sets of codes, each sorted and without repeats.
        strict: Whether nodes compare by <, not by <=.
        float32: Whether x is rounded to float32 before it is compared.
        codes: Which numbers are the code of a category.
    """

    start: NDArray[np.int64]
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    missing_left: Bools
    zero_is_missing: Bools
    left_set: Ints
    known_set: Ints
    unknown_left: Bools
    sets: tuple[Ints, ...]
    strict: bool
    float32: bool
    codes: CodeRule = CodeRule.CUT
    _n_columns: int = field(init=False)
    _walker: Walker | None = field(init=False, default=None)
    _masker: Masker | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        n_nodes = len(self.feature)
        for name in ("threshold", "left", "right", "missing_left", "zero_is_missing", "left_set", "known_set",
                     "unknown_left"):  # fmt: skip
            if getattr(self, name).shape != (n_nodes,):
                raise ValueError(f"{name} has shape {getattr(self, name).shape} for {n_nodes} nodes")
        bounds = self.start
        if (
            bounds.ndim != 1
            or len(bounds) < 1
            or bounds[0] != 0
            or bounds[-1] != n_nodes
            or (np.diff(bounds) < 1).any()
        ):
            raise ValueError("the trees do not share the nodes out: each has at least one, one tree after the other")
        if not np.isfinite(self.threshold).all():
            raise ValueError("a threshold is NaN or infinite")
        self._check_children()
        self._check_sets()
        object.__setattr__(self, "_n_columns", int(self.feature.max(initial=LEAF)) + 1)

    def _check_children(self) -> None:
        leaf = self.feature == LEAF
        if ((self.feature < FOREIGN) | (self.feature >= MAX_COLUMNS)).any():
            raise ValueError("a node of no feature")
        if ((self.left == LEAF) != leaf).any() or ((self.right == LEAF) != leaf).any():
            raise ValueError("a leaf with children, or a node without")
        tree = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
        inner = np.flatnonzero(~leaf)
        children = np.concatenate([self.left[inner], self.right[inner]])
        parents = np.concatenate([inner, inner])
        if ((children <= parents) | (children >= len(leaf))).any() or (tree[children] != tree[parents]).any():
            raise ValueError("a child that does not come after its parent in the same tree: dangling, or in a circle")
        if (np.bincount(children, minlength=1) > 1).any() or len(children) != len(leaf) - self.n_trees:
            raise ValueError("a node with two parents, or with none")

    def _check_sets(self) -> None:
        for name, sets in (("left_set", self.left_set), ("known_set", self.known_set)):
            if ((sets < NO_SET) | (sets >= len(self.sets))).any():
                raise ValueError(f"a {name} that does not exist")
        if ((self.left_set != NO_SET) & (self.feature < 0)).any():
            raise ValueError("a set of categories at a leaf, or at a split of another party")
        if any(codes.ndim != 1 for codes in self.sets):
            raise ValueError("a set of categories that is no list")
        codes = np.concatenate([np.zeros(0, dtype=np.int32), *self.sets])
        rises = np.diff(codes, prepend=-1) > 0
        starts = np.cumsum([0, *(len(each) for each in self.sets)])
        rises[starts[starts < len(codes)]] = True
        if (codes < 0).any() or not rises.all():
            raise ValueError("a set of categories that is not sorted, repeats one, or has a negative one")

    @property
    def n_trees(self) -> int:
        """The number of trees."""
        return len(self.start) - 1

    @property
    def n_leaves(self) -> NDArray[np.int64]:
        """The number of leaves of each tree; shape (n_trees,)."""
        return (np.diff(self.start) + 1) // 2

    @property
    def leaf_numbers(self) -> Ints:
        """The number of each leaf among those of its tree, from left to right; -1 for other nodes; shape (n_nodes,)."""
        return np.where(self.feature == LEAF, number_leaves(self)[0], np.int32(-1))

    @property
    def is_whole(self) -> bool:
        """Whether every split is by a column, none by another party's feature."""
        return not (self.feature == FOREIGN).any()

    @property
    def walker(self) -> Walker:
        """The nodes as the kernel walks them, laid out at the first call.

        Raises:
            ValueError: A split is another party's.
        """
        if self._walker is None:
            if not self.is_whole:
                raise ValueError("another party's splits decide too: a sample has no one leaf here")
            object.__setattr__(self, "_walker", Walker(self))
        return cast("Walker", self._walker)

    @property
    def masker(self) -> Masker:
        """The splits by columns as the kernel makes masks of them, laid out at the first call."""
        if self._masker is None:
            object.__setattr__(self, "_masker", Masker(self))
        return cast("Masker", self._masker)

    @property
    def n_words(self) -> int:
        """The width of `masks`."""
        return self.masker.n_words

    @property
    def n_bytes(self) -> int:
        """The memory of all arrays, with those that were laid out for the kernel."""
        arrays = (getattr(self, name) for name in self.__slots__)
        given = sum(each.nbytes for each in (*arrays, *self.sets) if isinstance(each, np.ndarray))
        return given + sum(each.n_bytes for each in (self._walker, self._masker) if each is not None)

    def codes_of(self, values: Floats) -> Floats:
        """Return the code of each number as `codes` says: `UNKNOWN_CATEGORY` where it has none, NaN for NaN."""
        if self.codes is CodeRule.WHOLE:
            has_code = (values >= 0.0) & (values == np.trunc(values))
        else:
            if self.float32:
                with np.errstate(over="ignore"):
                    values = values.astype(np.float32).astype(np.float64)
            has_code = values > -1.0 if self.codes is CodeRule.CUT else values >= 0.0
        codes = np.trunc(values)
        if self.codes is CodeRule.BYTE:
            codes = np.fmod(np.where((values >= MAX_CODE + 1.0) | np.isinf(values), 0.0, codes), 256.0)
        return np.where(has_code | np.isnan(values), codes, UNKNOWN_CATEGORY)

    def leaves(self, features: Floats) -> NDArray[np.int64]:
        """Return the leaf (a node, counted over all trees) of every sample in every tree; (n_samples, n_trees).

        Args:
            features: Shape (n_samples, n_features).

        Raises:
            ValueError: Fewer columns than the trees refer to, or a split is another party's.
        """
        return self.walker.leaves(self._checked(features))

    def masks(self, features: Floats) -> Floats:
        """Return for every sample the leaves that the splits by columns allow; shape (n_samples, n_words).

        The leaves of a tree are numbered from left to right. A tree takes as many words as its leaves need at
        `LEAVES_PER_WORD` each; word w of a tree is the sum of 2**j over the allowed leaves 52 * w + j.

        Args:
            features: Shape (n_samples, n_features).

        Raises:
            ValueError: Fewer columns than the trees refer to.
        """
        return self.masker.masks(self._checked(features))

    def _checked(self, features: Floats) -> Floats:
        if features.ndim != 2 or features.shape[1] < self._n_columns:
            raise ValueError(f"features of shape {features.shape} for trees over {self._n_columns} columns")
        return features


@dataclass(frozen=True, slots=True, eq=False)
class TreesPart:
    """Trees over one party's features alone, whose leaf values are summed.

    Attributes:
        features: The feature names, in the order of the columns.
        categories: For each text feature, its texts in the order of their codes.
        may_miss: Shape (n_features,): whether a sample without the feature is scored, as the trees say.
        trees: The nodes.
        n_scores: The number of partial scores per sample.
        output: Shape (n_trees,): the score that a tree adds to; -1 where every leaf has a value for each score (then it
            is so for all trees).
        values: Shape (n_nodes, 1), or (n_nodes, n_scores) where every leaf has a value for each score: what a leaf
            adds, with every weight and learning rate in it. 0.0 at nodes that are no leaf.
        intercept: Shape (n_scores,): the base score in raw score, or None where another party holds it.
        closed: The features that have no category but those named; another one is invalid, wherever nodes send it.
    """

    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    may_miss: Bools
    trees: Trees
    n_scores: int
    output: Ints
    values: Floats
    intercept: Floats | None
    closed: Closed = field(default_factory=dict)
    _closed: ClosedColumns | None = field(init=False)
    _sums: LeafSums = field(init=False)

    def __post_init__(self) -> None:
        closed = check_inputs(self.features, self.categories, self.may_miss, self.trees, self.closed)
        object.__setattr__(self, "_closed", closed)
        self._check_values()
        output = None if self._is_wide() else self.output
        sums = LeafSums(self.trees.walker, self.values, output, self.intercept, self.n_scores)
        object.__setattr__(self, "_sums", sums)

    def _is_wide(self) -> bool:
        return bool(len(self.output)) and bool((self.output == -1).all())

    def _check_values(self) -> None:
        n_nodes, n_trees = len(self.trees.feature), self.trees.n_trees
        wide = self._is_wide()
        if self.output.shape != (n_trees,) or not (wide or ((self.output >= 0) & (self.output < self.n_scores)).all()):
            raise ValueError(f"trees add to outputs that are not among {self.n_scores}")
        if self.values.shape != (n_nodes, self.n_scores if wide else 1):
            raise ValueError(f"leaf values of shape {self.values.shape} for {n_nodes} nodes")
        if self.intercept is not None and self.intercept.shape != (self.n_scores,):
            raise ValueError(f"a base score of shape {self.intercept.shape} for {self.n_scores} outputs")
        if (
            not np.isfinite(self.values).all()
            or not np.isfinite(0.0 if self.intercept is None else self.intercept).all()
        ):
            raise ValueError("a leaf value or the base score is NaN or infinite")

    @property
    def family(self) -> Family:
        """Trees."""
        return Family.TREES

    @property
    def n_bytes(self) -> int:
        """The memory of all arrays."""
        return self.trees.n_bytes + self.values.nbytes + self.output.nbytes + self.may_miss.nbytes

    def partial_scores(self, features: Floats) -> Floats:
        """Return the sum of the leaf values in the order of the trees, and the base score; as `Part.partial_scores`."""
        return self._sums.of(self._checked(features))

    def magnitudes(self, features: Floats) -> Floats:
        """Return the sum of the absolute leaf values and base score, as `Part.magnitudes`."""
        return self._sums.of(self._checked(features), absolute=True)

    def _checked(self, features: Floats) -> Floats:
        if features.ndim != 2 or features.shape[1] != len(self.features):
            raise ValueError(f"features of shape {features.shape} for {len(self.features)} features")
        return features

    def statuses(self, features: Floats) -> Statuses | None:
        """Return why samples cannot be scored, as `Part.statuses`; see `statuses_of_trees`."""
        return statuses_of_trees(features, self.may_miss, self.trees, self._closed)

    def scores_and_statuses(self, features: Floats) -> tuple[Floats, Statuses | None]:
        """Return scores and statuses, as `Part.scores_and_statuses`."""
        return self.partial_scores(features), self.statuses(features)


def check_inputs(
    features: tuple[str, ...], categories: Mapping[str, tuple[str, ...]], may_miss: Bools, trees: Trees, closed: Closed
) -> ClosedColumns | None:
    """Check what a part of trees says of its features, and return what tells unknown categories of closed ones.

    Raises:
        ValueError: It does not fit together; says what.
    """
    if len(set(features)) != len(features):
        raise ValueError("repeated feature names")
    if may_miss.shape != (len(features),):
        raise ValueError(f"may_miss of shape {may_miss.shape} for {len(features)} features")
    unknown = set(categories) - set(features)
    if unknown or any(len(set(texts)) != len(texts) for texts in categories.values()):
        raise ValueError("categories of a feature that there is not, or repeated")
    if trees.feature.max(initial=LEAF) >= len(features):
        raise ValueError("a tree refers to a feature that there is not")
    return ClosedColumns(features, categories, closed, trees) if closed else None


def statuses_of_trees(features: Floats, may_miss: Bools, trees: Trees, closed: ClosedColumns | None) -> Statuses | None:
    """Return why samples cannot be sent through trees, as `Part.statuses`.

    A number beyond float32 is invalid where trees compare in float32, and an unknown category where a feature is
    closed, as the trainers refuse them.
    """
    status = statuses_of_numbers(features, may_miss)
    if trees.float32:
        with np.errstate(invalid="ignore"):
            beyond = (np.abs(features) > _LARGEST_FLOAT32).any(axis=1)
        if beyond.any():
            status = all_ok_statuses(len(features)) if status is None else status
            status[beyond] = SampleStatus.FEATURE_INVALID
    outside = None if closed is None else closed.outside(features)
    if outside is not None:
        status = all_ok_statuses(len(features)) if status is None else status
        status[outside] = SampleStatus.FEATURE_INVALID
    return status
