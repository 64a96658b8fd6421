"""The head of trees that are split across parties: leaf masks of all parties -> raw scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Floats
from fedpredict.model.combination import Combination, Combining
from fedpredict.model.head import HeadScores
from fedpredict.model.leaf_masks import NO_MASK, NONE, SEVERAL, surviving_leaves, word_starts
from fedpredict.model.trees import Ints


@dataclass(frozen=True, slots=True, eq=False)
class TreeHead:
    """What the leaves of the trees are worth. Immutable; calls may come from any thread.

    Attributes:
        n_leaves: Shape (n_trees,): the leaves of each tree, which are numbered from left to right.
        n_outputs: The number of raw scores per sample.
        output: Shape (n_trees,): the score that a tree adds to; -1 where every leaf has a value for each score (then it
            is so for all trees).
        values: Shape (sum of `n_leaves`, 1), or (..., n_outputs) where every leaf has a value for each score: what a
            leaf adds, in the order of trees and leaves, with every weight and learning rate in it.
        intercept: Shape (n_outputs,): the base score, in raw score.
        structure_sha256: The digest of the trees' shapes, which all parties' parts have too.
    """

    n_leaves: NDArray[np.int64]
    n_outputs: int
    output: Ints
    values: Floats
    intercept: Floats
    structure_sha256: str
    first_word: NDArray[np.int64] = field(init=False, repr=False)
    """Shape (n_trees + 1,): the first word of each tree in a mask, and the number of words."""
    first_leaf: NDArray[np.int64] = field(init=False, repr=False)
    """Shape (n_trees + 1,): the first row of `values` of each tree, and their number."""
    combination: Combination = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n_trees = len(self.n_leaves)
        if not n_trees or self.n_leaves.ndim != 1 or (self.n_leaves < 1).any():
            raise ValueError("no trees, or a tree without leaves")
        wide = bool((self.output == -1).all())
        if self.output.shape != (n_trees,) or not (wide or ((self.output >= 0) & (self.output < self.n_outputs)).all()):
            raise ValueError(f"trees add to outputs that are not among {self.n_outputs}")
        expected = (int(self.n_leaves.sum()), self.n_outputs if wide else 1)
        if self.values.shape != expected:
            raise ValueError(f"leaf values of shape {self.values.shape}, not {expected}")
        if self.intercept.shape != (self.n_outputs,):
            raise ValueError(f"a base score of shape {self.intercept.shape} for {self.n_outputs} outputs")
        if not (np.isfinite(self.values).all() and np.isfinite(self.intercept).all()):
            raise ValueError("a leaf value or the base score is NaN or infinite")
        object.__setattr__(self, "first_word", word_starts(self.n_leaves))
        object.__setattr__(self, "first_leaf", np.concatenate([[0], np.cumsum(self.n_leaves)]).astype(np.int64))
        combination = Combination(Combining.LEAF_MASKS, self.structure_sha256, self.n_outputs)
        object.__setattr__(self, "combination", combination)

    @property
    def parties(self) -> None:
        """None: which parties there are is all the same to masks."""
        return

    @property
    def n_scores(self) -> int:
        """The width of a party's share: the words of a mask."""
        return int(self.first_word[-1])

    @property
    def n_bytes(self) -> int:
        """The memory of all arrays."""
        arrays = (self.values, self.output, self.n_leaves, self.first_word, self.first_leaf, self.intercept)
        return sum(each.nbytes for each in arrays)

    def raw_scores(self, shares: Mapping[str, Floats]) -> HeadScores:
        """Return the sum of the leaves that all parties leave, and the base score.

        Args:
            shares: By party, masks of shape (n_samples, n_words), finite.
        """
        leaves = surviving_leaves(list(shares.values()), self.n_leaves)
        at = np.maximum(leaves, 0) + self.first_leaf[:-1]
        with np.errstate(over="ignore", invalid="ignore"):
            raw = self._sums(at) + self.intercept
        misfit = np.any(leaves < 0, axis=1)
        if not misfit.any():
            return HeadScores(raw)
        raw[misfit] = np.nan
        row = int(np.flatnonzero(misfit)[0])
        tree = int(np.flatnonzero(leaves[row] < 0)[0])
        return HeadScores(raw, np.asarray(misfit), self._told(tree, int(leaves[row, tree]), row, shares))

    def _sums(self, at: NDArray[np.int64]) -> Floats:
        """Return the sums of the values of leaves, shape (n_samples, n_outputs).

        Args:
            at: Shape (n_samples, n_trees): rows of `values`.
        """
        if self.output[0] < 0:
            return np.asarray(self.values[at].sum(axis=1))
        added = self.values[at, 0]
        if self.n_outputs == 1:
            return np.asarray(added.sum(axis=1, keepdims=True))
        return np.column_stack([added[:, self.output == output].sum(axis=1) for output in range(self.n_outputs)])

    def _told(self, tree: int, found: int, row: int, shares: Mapping[str, Floats]) -> str:
        """Return what is wrong with one tree of one sample, and whose masks it is that do not fit."""
        words = slice(int(self.first_word[tree]), int(self.first_word[tree + 1]))
        n_leaves = self.n_leaves[tree : tree + 1]
        alone = {
            party: int(surviving_leaves([np.ascontiguousarray(masks[row : row + 1, words])], n_leaves)[0, 0])
            for party, masks in shares.items()
        }
        broken = [party for party, leaf in alone.items() if leaf in (NONE, NO_MASK)]
        left = "more than one leaf" if found == SEVERAL else "no leaf"
        return f"tree {tree}: the masks of {', '.join(broken or shares)} leave {left}, where one must be left"
