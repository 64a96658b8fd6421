"""The features of a histogram gradient boosting as its trees count them, and the categories of those that have some.

Up to 1.3 a category is its own code, 0 to 255; a larger number is taken modulo 256, and from 2**31 up for 0, as those
versions do on x86-64. Since 1.4 an encoder stands in front, which numbers the categories of
each column in their order and moves these columns before the numeric ones; the trees see only that. What it does not
find among its categories, such as a number with a fraction, is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.convert.arrays import Label
from fedpredict.convert.nodes import Node
from fedpredict.convert.sklearn_state import Estimator, read_estimator
from fedpredict.convert.values import described, mapping
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Bools
from fedpredict.model.trees import MAX_CODE, CodeRule, Ints

_N_CODES = 256
_BIN_MAPPER = "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper"


@dataclass(frozen=True, slots=True, eq=False)
class TreeFeatures:
    """The features in the order in which trees count them.

    Attributes:
        columns: Shape (n_features,): the position of each among the features of training.
        codes: Counted as the trees do -> the code in a feature table of each of the trees' own codes 0, 1, ...; only
            features with categories.
        known: The same keys -> the trees' own codes that training knew, sorted.
        texts: Position among the features of training -> the texts of a text feature in the order of their codes.
        rule: Which numbers are the code of a category.
    """

    columns: Ints
    codes: Mapping[int, Ints]
    known: Mapping[int, Ints]
    texts: Mapping[int, tuple[str, ...]]
    rule: CodeRule


def tree_features(model: Estimator, n_features: int) -> TreeFeatures:
    """Return how the trees of a fitted model count its features.

    Raises:
        UnsupportedModelError: Categories are neither texts nor whole numbers that can be codes.
        ModelFileError: It is damaged.
    """
    is_categorical = _mask(model, n_features)
    encoder = model.state.get("_preprocessor")
    if encoder is None:
        columns, listed = np.arange(n_features, dtype=np.int32), {}
        positions = [int(at) for at in np.flatnonzero(is_categorical)]
        codes = dict.fromkeys(positions, np.arange(_N_CODES, dtype=np.int32))
    else:
        first = np.flatnonzero(is_categorical)
        columns = np.concatenate([first, np.flatnonzero(~is_categorical)]).astype(np.int32)
        positions = list(range(len(first)))
        listed = dict(zip(first.tolist(), _encoded(model, encoder, len(first)), strict=True))
        codes = {at: _codes(model, values, int(first[at])) for at, values in enumerate(listed.values())}
    texts = {at: tuple(map(str, values)) for at, values in listed.items() if values and isinstance(values[0], str)}
    known = {at: _known(model, at, len(codes[at])) for at in positions}
    rule = CodeRule.BYTE if encoder is None else CodeRule.WHOLE
    return TreeFeatures(columns, codes, known, texts, rule)


def _mask(model: Estimator, n_features: int) -> Bools:
    """Which features of training have categories, shape (n_features,)."""
    value = model.state.get("is_categorical_")
    if value is None:
        return np.zeros(n_features, dtype=np.bool_)
    mask = model.arrays.numbers(value, f"{model.name}.is_categorical_")
    if mask.shape != (n_features,):
        raise ModelFileError(f"{model.name}.is_categorical_ has shape {mask.shape} for {n_features} features")
    return np.asarray(mask != 0.0, dtype=np.bool_)


def _encoded(model: Estimator, value: object, count: int) -> list[list[Label]]:
    """The categories of each column that the encoder in front has, without the missing value at the end."""
    front = read_estimator(value, model.arrays, f"{model.name}._preprocessor")
    transformers = front.state.get("transformers_")
    found = next((each[1] for each in _triples(transformers) if each[0] == "encoder"), None)
    if front.name != "ColumnTransformer" or found is None:
        raise ModelFileError(f"{model.name}._preprocessor has no encoder")
    encoder = read_estimator(found, model.arrays, f"the encoder of {model.name}")
    listed = encoder.state.get("categories_")
    if encoder.name != "OrdinalEncoder" or not isinstance(listed, list) or len(listed) != count:
        raise ModelFileError(f"{model.name} has {count} columns of categories, its encoder another number")
    try:
        columns = [model.arrays.labels(each, "the categories of a column") for each in listed]
    except ModelFileError as error:
        raise UnsupportedModelError(f"{model.name}: {error}; train it with texts, whole numbers and NaN") from error
    return [values[:-1] if values and values[-1] != values[-1] else values for values in columns]


def _triples(value: object) -> Sequence[tuple[object, object, object]]:
    listed = value if isinstance(value, list) else []
    return [each for each in listed if isinstance(each, tuple) and len(each) == 3]


def _codes(model: Estimator, values: list[Label], column: int) -> Ints:
    """The codes in a feature table of the encoder's codes 0, 1, ...: a number is its own, a text's is its place."""
    if all(isinstance(value, str) for value in values):
        return np.arange(len(values), dtype=np.int32)
    numbers = [-1.0 if isinstance(value, str) else float(value) for value in values]
    if any(not 0 <= number <= MAX_CODE or number != int(number) for number in numbers):
        raise UnsupportedModelError(
            f"{model.name} has categories of feature {column} that are neither texts nor whole numbers from 0 to "
            f"{MAX_CODE}: make them texts before training"
        )
    return np.array(numbers, dtype=np.int32)


def _known(model: Estimator, feature: int, count: int) -> Ints:
    """The trees' own codes of a feature that training knew, sorted."""
    mapper = model.state.get("_bin_mapper")
    if not isinstance(mapper, Node) or mapper.path != _BIN_MAPPER:
        raise ModelFileError(f"{model.name}._bin_mapper is {described(mapper)}")
    listed = mapping(mapper.state, f"{model.name}._bin_mapper").get("bin_thresholds_")
    if not isinstance(listed, list) or not feature < len(listed):
        raise ModelFileError(f"{model.name}._bin_mapper has no categories for feature {feature}")
    codes = model.arrays.numbers(listed[feature], f"the categories of feature {feature}").ravel()
    if not ((codes >= 0) & (codes < min(count, _N_CODES))).all():
        raise ModelFileError(f"{model.name} has categories of feature {feature} that are no codes")
    return np.unique(codes.astype(np.int32))
