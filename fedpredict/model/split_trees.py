"""A party's part of decision trees whose splits belong to several parties: features -> leaf masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedpredict.model.arrays import Bools, Floats, Statuses
from fedpredict.model.closed import Closed, ClosedColumns
from fedpredict.model.combination import Combination, Combining
from fedpredict.model.part import Family
from fedpredict.model.tree_shape import structure_sha256
from fedpredict.model.trees import Trees, check_inputs, statuses_of_trees


@dataclass(frozen=True, slots=True, eq=False)
class SplitTreesPart:
    """Trees with this party's splits alone; of a node that another party splits, only the children are known.

    What the leaves are worth stands in the head, at the initiator.

    Attributes:
        features: The feature names, in the order of the columns; none where no split is this party's.
        categories: For each text feature, its texts in the order of their codes.
        may_miss: Shape (n_features,): whether a sample without the feature is scored, as the trees say.
        trees: The nodes; `FOREIGN` in `feature` where another party splits.
        n_outputs: The number of raw scores that the head makes.
        closed: As in `TreesPart`.
    """

    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    may_miss: Bools
    trees: Trees
    n_outputs: int
    closed: Closed = field(default_factory=dict)
    _closed: ClosedColumns | None = field(init=False)
    combination: Combination = field(init=False, repr=False)
    """What it must have in common with the other parts, and with the head."""

    def __post_init__(self) -> None:
        closed = check_inputs(self.features, self.categories, self.may_miss, self.trees, self.closed)
        object.__setattr__(self, "_closed", closed)
        if not self.trees.n_trees:
            raise ValueError("no trees")
        structure = structure_sha256(self.trees)
        object.__setattr__(self, "combination", Combination(Combining.LEAF_MASKS, structure, self.n_outputs))

    @property
    def family(self) -> Family:
        """Split trees."""
        return Family.SPLIT_TREES

    @property
    def intercept(self) -> Floats | None:
        """None: the base score stands in the head."""
        return None

    @property
    def n_scores(self) -> int:
        """The number of words in a mask."""
        return self.trees.n_words

    @property
    def n_splits(self) -> int:
        """How many nodes are split by this party."""
        return int((self.trees.feature >= 0).sum())

    @property
    def n_bytes(self) -> int:
        """The memory of all arrays."""
        return self.trees.n_bytes + self.may_miss.nbytes

    def partial_scores(self, features: Floats) -> Floats:
        """Return leaf masks, as `Part.partial_scores`: shape (n_samples, n_words), whole numbers."""
        if features.ndim != 2 or features.shape[1] != len(self.features):
            raise ValueError(f"features of shape {features.shape} for {len(self.features)} features")
        return self.trees.masks(features)

    def magnitudes(self, features: Floats) -> Floats:
        """Return zeros: a mask is exact, so any difference is too much."""
        return np.zeros((len(features), self.n_scores))

    def statuses(self, features: Floats) -> Statuses | None:
        """Return why samples cannot be scored, as `Part.statuses`, by the same rule as for summed trees."""
        return statuses_of_trees(features, self.may_miss, self.trees, self._closed)

    def scores_and_statuses(self, features: Floats) -> tuple[Floats, Statuses | None]:
        """Return scores and statuses, as `Part.scores_and_statuses`."""
        return self.partial_scores(features), self.statuses(features)
