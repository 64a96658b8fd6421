"""What the tests of boosting libraries share: data of every sort, and the comparison with the library's own numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedpredict.model.arrays import Floats
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus


def mixed_data(seed: int, n_rows: int = 400, missing: float = 0.1) -> Floats:
    """Features as organisations have them: normal, whole, constant, repeated, huge, tiny, mostly zero; with gaps."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=n_rows)
    columns = [
        normal,
        rng.integers(-3, 9, n_rows),
        np.full(n_rows, 7.5),
        normal,
        rng.normal(size=n_rows) * 1e30,
        rng.normal(size=n_rows) * 1e-30,
        rng.normal(size=n_rows) * (rng.random(n_rows) < 0.3),
        rng.choice([0.1, 0.2, 0.3], n_rows),
    ]
    features = np.column_stack(columns).astype(np.float64)
    features[rng.random(features.shape) < missing] = np.nan
    return features


def signal(features: Floats) -> Floats:
    """A target that depends on several of the columns of `mixed_data`, also on what is missing."""
    known = np.nan_to_num(features)
    return np.asarray(
        known[:, 0]
        + 0.3 * known[:, 1]
        + known[:, 6]
        + (known[:, 4] > 0)
        + (known[:, 5] > 0)
        - np.isnan(features[:, 7])
        + 5 * known[:, 7]
    )


def assert_raw_scores(partial: PartialModel, features: Floats, expected: Any, relative: float) -> None:
    """Every sample is scored, and as the library does, relative to the sum of the absolute terms."""
    part = partial.part
    statuses = part.statuses(features)
    assert statuses is None or (statuses == SampleStatus.OK).all()
    ours, terms = part.partial_scores(features), part.magnitudes(features)
    theirs = np.asarray(expected, dtype=np.float64).reshape(ours.shape)
    assert (np.abs(ours - theirs) <= relative * terms).all(), np.abs(ours - theirs).max()
