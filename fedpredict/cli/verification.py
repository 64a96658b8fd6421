"""Files of verification rows: features, and the partial scores that the training side has for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedpredict.cli.files import read_rows
from fedpredict.errors import FeatureFileError
from fedpredict.features.files import read_columns
from fedpredict.model.partial import PartialModel, VerificationRows


def _names(what: str, count: int) -> list[str]:
    return [what] if count == 1 else [f"{what}_{at}" for at in range(count)]


def _expected_names(partial: PartialModel) -> tuple[list[str], list[str]]:
    return _names("score", partial.part.n_scores), _names("prediction", partial.n_outputs)


def has_expected(path: Path, partial: PartialModel) -> bool:
    """Return whether a file of rows says what the training side gets for them, as `read_verification` reads it."""
    columns = set(read_columns(path).columns) - set(partial.part.features)
    return any(names[0] in columns for names in _expected_names(partial))


def read_verification(path: Path, partial: PartialModel) -> VerificationRows:
    """Return the verification rows in a CSV or Parquet file.

    Args:
        path: Has a column for each feature of the part, under its name, and the partial scores as `score` (`score_0`,
            `score_1`, ... where there are several), or, for a part that is the whole model, what it predicts as
            `prediction` (`prediction_0`, ...). A row without one is a row that the training library does not score.
            Other columns are not looked at.
        partial: Whose rows.

    Raises:
        FeatureFileError: The file cannot be read, lacks a column, or one holds something else.
    """
    present, part = read_columns(path).columns, partial.part
    scores, predictions = _expected_names(partial)
    chosen = predictions if predictions[0] in present and scores[0] not in present else scores
    missing = [name for name in (*part.features, *chosen) if name not in present]
    if missing:
        raise FeatureFileError(
            f"{path}: has no column {', '.join(map(repr, missing))}; verification rows have the part's features, and "
            f"{', '.join(scores)} or {', '.join(predictions)}"
        )
    expected = read_rows(path, chosen)[0]
    features = read_rows(path, part.features, part.categories)[0].reshape(len(expected), len(part.features))
    if chosen is scores:
        return VerificationRows(features, expected)
    return VerificationRows(features, np.full((len(expected), part.n_scores), np.nan), expected)
