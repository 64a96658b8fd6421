"""The categories of an XGBoost model: texts, whole numbers, or the codes themselves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.labels import shown
from fedpredict.convert.xgboost_document import Section
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.closed import Closed
from fedpredict.model.trees import MAX_CODE, CodeRule

Indices = NDArray[np.int64]
_FIRST_INVALID = 2**24
"""From here on, XGBoost takes no number for a code."""


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

        A code that XGBoost takes for invalid, whatever the tree says of it, is left out.

        Raises:
            ModelFileError: A code is none of the feature's.
        """
        labels = self.numbers.get(column)
        n_labels = len(labels) if labels is not None else len(self.texts[column]) if column in self.texts else None
        if n_labels is not None and ((codes < 0) | (codes >= n_labels)).any():
            raise ModelFileError(f"the XGBoost model splits feature {column} by a category that it does not name")
        return codes[codes < _FIRST_INVALID] if labels is None else labels[codes]

    def closed(self, features: Sequence[str]) -> Closed:
        """Return the features with labels: XGBoost refuses any other label, or takes the next one for it."""
        of_texts: dict[str, NDArray[np.int32] | None] = {features[column]: None for column in self.texts}
        return of_texts | {
            features[column]: np.unique(labels).astype(np.int32) for column, labels in self.numbers.items()
        }

    def rule(self, columns: AbstractSet[int]) -> CodeRule:
        """Return which numbers are codes, for the columns that trees split by categories.

        XGBoost cuts numbers that are codes, and refuses one that is no label.

        Raises:
            UnsupportedModelError: Some have labels that are numbers, others are codes.
        """
        labelled = columns & self.numbers.keys()
        if not labelled:
            return CodeRule.CUT_FROM_ZERO
        if columns - self.numbers.keys() - self.texts.keys():
            raise UnsupportedModelError(
                "the XGBoost model has categories that are labels and numbers, and others that are codes, whose "
                "fractions it treats in two ways: give it all categorical features as pandas' categories"
            )
        return CodeRule.WHOLE


def read_categories(model: Section, features: Sequence[str]) -> Categories:
    """Return the labels that a model keeps (from 3.1 on, if it was trained on a data frame); else there are none.

    Args:
        model: The section of the trees.
        features: The feature names, for messages.

    Raises:
        UnsupportedModelError: Labels are numbers, but not whole ones from 0 up, or texts beyond ASCII.
        ModelFileError: They are damaged.
    """
    found = Categories({}, {})
    if not model.has("cats"):
        return found
    listed = model.section("cats").sections("enc")
    if listed and len(listed) != len(features):
        raise ModelFileError(f"the XGBoost model has the categories of {len(listed)} features, not {len(features)}")
    for column, labels in enumerate(listed):
        if labels.has("offsets"):
            texts = _texts(labels, features[column])
            if texts:
                found.texts[column] = texts
        elif labels.has("values"):
            found.numbers[column] = _numbers(labels, features[column])
    return found


def _texts(labels: Section, feature: str) -> tuple[str, ...]:
    """The labels, whose letters stand one after another."""
    offsets, content = labels.integers("offsets"), labels.integers("values")
    if not len(offsets) and not len(content):
        return ()
    if offsets[:1].tolist() != [0] or offsets[-1:].tolist() != [len(content)] or (np.diff(offsets) < 0).any():
        raise ModelFileError(f"{labels.place} of the XGBoost model is damaged")
    if ((content < 0) | (content > 127)).any():
        # from pandas, XGBoost keeps as many bytes of a label as it has characters, and what follows is shifted
        raise UnsupportedModelError(
            f"the categories of feature {shown([feature])} are not plain ASCII, and XGBoost does not keep such labels "
            "whole: rename them before training"
        )
    letters = content.astype(np.uint8).tobytes().decode("ascii")
    texts = [letters[start:end] for start, end in itertools.pairwise(offsets.tolist())]
    if len(set(texts)) != len(texts):
        raise ModelFileError(f"{labels.place} of the XGBoost model names a category twice")
    return tuple(texts)


def _numbers(labels: Section, feature: str) -> Indices:
    values = labels.content["values"]
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise ModelFileError(f"{labels.place} of the XGBoost model is not an array of numbers")
    whole = np.isfinite(array) & (array >= 0) & (array <= min(MAX_CODE, 2**24)) & (array == np.floor(array))
    if not whole.all():
        raise UnsupportedModelError(
            f"the categories of feature {shown([feature])} are numbers, but not whole ones from 0 to 2^24: make them "
            "texts before training"
        )
    return array.astype(np.int64)
