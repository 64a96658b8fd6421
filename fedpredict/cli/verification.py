"""Files of verification rows: features, and the partial scores that the training side has for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from fedpredict.errors import FeatureFileError
from fedpredict.features.files import FileColumns, read_columns
from fedpredict.features.values import to_feature
from fedpredict.model.arrays import Floats
from fedpredict.model.part import UNKNOWN_CATEGORY
from fedpredict.model.partial import PartialModel, VerificationRows
from fedpredict.warehouse.base import ColumnType


def _names(what: str, count: int) -> list[str]:
    return [what] if count == 1 else [f"{what}_{at}" for at in range(count)]


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
    file, part = read_columns(path), partial.part
    scores, predictions = _names("score", part.n_scores), _names("prediction", partial.n_outputs)
    chosen = predictions if predictions[0] in file.columns and scores[0] not in file.columns else scores
    missing = [name for name in (*part.features, *chosen) if name not in file.columns]
    if missing:
        raise FeatureFileError(
            f"{path}: has no column {', '.join(map(repr, missing))}; verification rows have the part's features, and "
            f"{', '.join(scores)} or {', '.join(predictions)}"
        )
    expected = np.column_stack([_numbers(file, name) for name in chosen])
    features = np.full((len(expected), len(part.features)), np.nan)
    for at, name in enumerate(part.features):
        features[:, at] = _codes(file, name, part.categories.get(name))
    if chosen is scores:
        return VerificationRows(features, expected)
    return VerificationRows(features, np.full((len(expected), part.n_scores), np.nan), expected)


def _numbers(file: FileColumns, name: str) -> Floats:
    values, _ = to_feature(file.columns[name], name, typed=file.typed, expected=ColumnType.DOUBLE)
    return np.asarray(values.to_numpy(), dtype=np.float64)


def _codes(file: FileColumns, name: str, texts: tuple[str, ...] | None) -> Floats:
    if texts is None:
        return _numbers(file, name)
    values, _ = to_feature(file.columns[name], name, typed=file.typed, expected=ColumnType.STRING)
    codes = values.cast(pa.string())
    code_of = {text: float(code) for code, text in enumerate(texts)}
    cells = [np.nan if text is None else code_of.get(text, UNKNOWN_CATEGORY) for text in codes.to_pylist()]
    return np.array(cells, dtype=np.float64)
