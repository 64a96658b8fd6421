from __future__ import annotations

import numpy as np
import pytest

from fedpredict.model.linear import LinearPart, partial_scores_of


@pytest.mark.parametrize(("n_features", "n_scores"), [(3, 1), (3, 2), (600, 2)], ids=["narrow", "two scores", "wide"])
@pytest.mark.parametrize("n_rows", [[1, 1, 1], [2, 1, 4], [1]], ids=["a row each", "several rows", "one part"])
def test_several_parts_give_their_rows_what_each_gives_alone(n_features: int, n_scores: int, n_rows: list[int]) -> None:
    random = np.random.default_rng(1)
    names = tuple(f"f{number}" for number in range(n_features))
    parts = [
        LinearPart(names, random.normal(size=(n_features, n_scores)), random.normal(size=n_scores), np.zeros(n_scores))
        for _ in n_rows
    ]
    features = random.normal(size=(sum(n_rows), n_features))
    features[0, 0] = np.nan

    scores = partial_scores_of(parts, n_rows, features)

    starts = np.cumsum([0, *n_rows])
    for part, start, stop in zip(parts, starts, starts[1:], strict=False):
        assert part.intercept is not None
        expected = features[start:stop] @ part.weights + part.intercept
        np.testing.assert_allclose(scores[start:stop], expected, rtol=0, atol=1e-12 * n_features)


def test_several_parts_with_other_features_than_given_are_refused() -> None:
    part = LinearPart(("a", "b"), np.ones((2, 1)), None, np.zeros(1))
    with pytest.raises(ValueError, match="other features"):
        partial_scores_of([part, part], [1, 1], np.ones((2, 3)))
