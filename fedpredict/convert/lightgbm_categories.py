"""The categories of a LightGBM model: pandas' labels, or the codes themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.labels import shown
from fedpredict.convert.lightgbm_text import ModelText
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.trees import MAX_CODE, CodeRule

Indices = NDArray[np.int64]
_UNUSED = "none"


@dataclass(frozen=True, slots=True, eq=False)
class Categories:
    """What stands behind the codes of each categorical feature.

    Attributes:
        texts: Column -> its labels, in the order of their codes.
        numbers: Column -> its labels, which are whole numbers: a feature table has them as they are.
    """

    texts: dict[int, tuple[str, ...]]
    numbers: dict[int, Indices]

    def values(self, column: int, codes: Indices) -> Indices:
        """Return the codes as a feature table gives them: of texts their positions, of numbers the numbers.

        A code beyond the labels is of no value that can come, so it is left out.
        """
        if column in self.texts:
            return codes[codes < len(self.texts[column])]
        labels = self.numbers.get(column)
        return codes if labels is None else labels[codes[codes < len(labels)]]

    @property
    def rule(self) -> CodeRule:
        """Which numbers are codes: LightGBM cuts them, and pandas knows only its labels. There are not both."""
        return CodeRule.WHOLE if self.numbers else CodeRule.CUT


def read_categories(text: ModelText, features: Sequence[str]) -> Categories:
    """Return the labels of each feature that was of pandas' type category; none where the model has only codes.

    The text lists the labels of such columns in the order of the columns, but not which these are. They are the
    features whose range is a list of codes; where their number is another, labels would be guessed.

    Raises:
        UnsupportedModelError: Columns and labels cannot be told apart, or labels are numbers that are no codes.
        ModelFileError: The head does not have one range for each feature.
    """
    found = Categories({}, {})
    ranges = text.head.text("feature_infos").split()
    if len(ranges) != len(features):
        raise ModelFileError(f"the LightGBM model has ranges of {len(ranges)} features, not {len(features)}")
    if not text.categories:
        return found
    columns = [column for column, said in enumerate(ranges) if said != _UNUSED and not said.startswith("[")]
    if len(columns) != len(text.categories):
        raise UnsupportedModelError(
            f"the LightGBM model has pandas' labels for {len(text.categories)} columns, but {len(columns)} categorical "
            "features: which belong together is not in the file. Give constant and ordered categories to LightGBM as "
            "numbers, and no other column as categorical_feature"
        )
    for column, labels in zip(columns, text.categories, strict=True):
        if all(isinstance(label, str) for label in labels):
            if len(set(map(str, labels))) != len(labels):
                raise ModelFileError("pandas_categorical of the LightGBM model names a category twice")
            found.texts[column] = tuple(map(str, labels))
        else:
            found.numbers[column] = _numbers(labels, features[column])
    return found


def _numbers(labels: list[object], feature: str) -> Indices:
    whole = [label for label in labels if isinstance(label, int | float) and 0 <= label <= MAX_CODE and label % 1 == 0]
    if len(whole) != len(labels):
        raise UnsupportedModelError(
            f"the categories of feature {shown([feature])} are not all texts, nor all whole numbers from 0 up: make "
            "them texts before training"
        )
    return np.array(whole, dtype=np.int64)
