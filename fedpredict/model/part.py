"""What every family of parts has in common: features go in, partial scores come out, or a status says why not."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

import numpy as np

from fedpredict.model.arrays import Bools, Floats, Statuses, all_finite
from fedpredict.model.share import SampleStatus, all_ok, all_ok_statuses

UNKNOWN_CATEGORY = -1.0
"""The code of a text that is none of a feature's categories."""


class Family(StrEnum):
    """How a part computes its share. The names are those of the tables and the files."""

    LINEAR = "linear"
    TREES = "trees"
    SPLIT_TREES = "split_trees"
    SCORECARD = "scorecard"
    NETWORK = "network"
    STEPS = "steps"


class Part(Protocol):
    """One party's share of a model as parameters. Immutable; calls may come from any thread.

    Features are a matrix of float64 with one column for each of `features`. A text feature stands in it as a code: the
    position of the text in `categories`, `UNKNOWN_CATEGORY`, or NaN for NULL.
    """

    @property
    def family(self) -> Family:
        """How it computes."""

    @property
    def features(self) -> tuple[str, ...]:
        """The features that it reads, in the order of the columns."""

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """For each text feature, the texts that it knows, in the order of their codes."""

    @property
    def intercept(self) -> Floats | None:
        """What the joint model adds to every sample, shape (n_scores,); None where another party holds it, or none."""

    @property
    def n_scores(self) -> int:
        """The number of partial scores per sample."""

    @property
    def n_bytes(self) -> int:
        """The memory that its arrays take."""

    def partial_scores(self, features: Floats) -> Floats:
        """Return this party's share of the raw score, shape (n_samples, n_scores), in the order of `features`.

        For samples that `statuses` does not call OK, anything comes out; nothing warns or raises.

        Args:
            features: Shape (n_samples, n_features), as the feature table holds them.

        Raises:
            ValueError: Another number of columns than of features.
        """

    def statuses(self, features: Floats) -> Statuses | None:
        """Return OK, FEATURE_MISSING or FEATURE_INVALID for each sample, shape (n_samples,); None where all are OK."""

    def scores_and_statuses(self, features: Floats) -> tuple[Floats, Statuses | None]:
        """Return `partial_scores` and `statuses`; what both of them need is worked out once."""

    def magnitudes(self, features: Floats) -> Floats:
        """Return the sum of the absolute terms of each score, shape (n_samples, n_scores): what rounding scales with.

        NaN and infinities go through, without a warning.
        """


def statuses_of_numbers(features: Floats, may_miss: Bools | None = None) -> Statuses | None:
    """Return the statuses by the common rule: an infinite feature is invalid, else one that must not miss is missing.

    Args:
        features: Shape (n_samples, n_features).
        may_miss: Shape (n_features,): which features may be NaN; None for no feature.

    Returns:
        Shape (n_samples,), or None where all are OK.

    >>> statuses_of_numbers(np.array([[1.0, np.nan]]), np.array([False, True])) is None
    True
    >>> [SampleStatus(each).name for each in statuses_of_numbers(np.array([[1.0, np.nan], [np.inf, np.nan]]))]
    ['FEATURE_MISSING', 'FEATURE_INVALID']
    """
    if all_finite(features):
        return None
    # mostly few rows are odd, and only of those it is worth to know how
    odd = np.flatnonzero(~np.isfinite(features).all(axis=1))
    values = features[odd]
    missing = np.isnan(values)
    if may_miss is not None:
        missing &= ~may_miss
    status = all_ok_statuses(len(features))
    status[odd[missing.any(axis=1)]] = SampleStatus.FEATURE_MISSING
    status[odd[np.isinf(values).any(axis=1)]] = SampleStatus.FEATURE_INVALID
    return None if all_ok(status) else status
