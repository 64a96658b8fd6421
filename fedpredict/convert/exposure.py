"""Features that no trainer gave a weight: an offset enters as it is, an exposure by its logarithm."""

from __future__ import annotations

import numpy as np

from fedpredict.convert.labels import check_feature_names
from fedpredict.convert.options import ReadOptions
from fedpredict.errors import ModelConflictError
from fedpredict.model.arrays import Floats
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel


def with_offsets(
    names: tuple[str, ...], weights: Floats, offset: str | None, exposure: str | None
) -> tuple[tuple[str, ...], Floats]:
    """Return names and weights with an offset and an exposure behind them, each of weight 1 for every score.

    An exposure that is among the names already stays where it is: a part is written with it in its place.

    Args:
        names: The features that have weights.
        weights: Shape (n_features, n_scores).
        offset: A feature that is none of them, or None.
        exposure: The same, or one of them whose weights are 1.

    Raises:
        FeatureNamesError: A name is there twice.
    """
    further = [name for name in (offset, None if exposure in names else exposure) if name is not None]
    ones = np.ones((len(further), weights.shape[1]))
    return check_feature_names((*names, *further)), np.concatenate([weights, ones])


def check_applied(partial: PartialModel, options: ReadOptions) -> None:
    """Check that a model has the offset and the exposure that the operator named.

    Raises:
        ModelConflictError: It has not, because only linear models can have them.
    """
    part = partial.part
    for what, name in (("--offset", options.offset), ("--exposure", options.exposure)):
        if name is not None and not (isinstance(part, LinearPart) and name in part.features):
            raise ModelConflictError(
                f"{what} {name[:100]!a}: a model of family {part.family} cannot have one; only linear models can"
            )
