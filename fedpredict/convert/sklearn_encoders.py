"""scikit-learn's fitted encoders of categories as steps: each column becomes the number of its category first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.convert.arrays import ArrayReader, Label
from fedpredict.convert.sklearn_state import Estimator
from fedpredict.convert.steps_builder import Builder, Column
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.step import INVALID, MISSING, NAN, VALUE, StepKind

_NOTHING = -1.0
"""The number of what is encoded as zeros throughout."""


@dataclass(frozen=True, slots=True, eq=False)
class _Categories:
    """The categories of one column.

    Attributes:
        texts: Where they are texts; without the missing one.
        numbers: Where they are numbers; without the missing one.
        places: Shape (n_categories,): where each of these stands among all.
        missing: Where the missing one stands; None where there is none.
        is_none: Whether the missing one is None: to scikit-learn a category like another, where NaN is not.
        group: Shape (n_all,): the group of each; its own, where there are no infrequent ones.
        infrequent: The group of the infrequent ones; None where there are none.
    """

    texts: tuple[str, ...] | None
    numbers: Floats
    places: list[int]
    missing: int | None
    is_none: bool
    group: list[int]
    infrequent: int | None


def onehot_encoder(builder: Builder, encoder: Estimator, columns: Sequence[Column]) -> list[Column]:
    """Return a column for each category or group that is not dropped; as `sklearn_transformers.Transform`."""
    handling = encoder.text("handle_unknown")
    if handling not in {"error", "ignore", "infrequent_if_exist", "warn"}:
        raise UnsupportedModelError(f"OneHotEncoder(handle_unknown='{clipped(handling)}') is unknown")
    dropped = _dropped(encoder, len(columns))
    result: list[Column] = []
    for column, known, drop in zip(columns, _categories(encoder, len(columns)), dropped, strict=True):
        unknown: float | None = None
        if handling != "error":
            takes_group = handling != "ignore" and known.infrequent is not None
            unknown = float(known.infrequent or 0) if takes_group else _NOTHING
        missing = unknown if known.missing is None else float(known.group[known.missing])
        codes = [float(known.group[place]) for place in known.places]
        numbers = np.array([group for group in range(max(known.group) + 1) if group != drop], dtype=np.float64)
        coded = _coded(builder, column, known, _Codes(np.array(codes), unknown, missing))
        result += builder.add(StepKind.ONEHOT, coded, len(numbers), {"number": numbers})
    return result


def ordinal_encoder(builder: Builder, encoder: Estimator, columns: Sequence[Column]) -> list[Column]:
    """Return each column as the number of its category; as `sklearn_transformers.Transform`."""
    handling = encoder.text("handle_unknown")
    if handling not in {"error", "use_encoded_value"}:
        raise UnsupportedModelError(f"OrdinalEncoder(handle_unknown='{clipped(handling)}') is unknown")
    unknown = _optional(encoder, "unknown_value") if handling == "use_encoded_value" else None
    of_missing = _optional(encoder, "encoded_missing_value", math.nan)
    result: list[Column] = []
    for column, known in zip(columns, _categories(encoder, len(columns)), strict=True):
        missing = unknown
        if known.missing is not None:
            missing = float(known.group[known.missing]) if known.is_none else of_missing
        codes = np.array([float(known.group[place]) for place in known.places])
        result += _coded(builder, column, known, _Codes(codes, unknown, missing))
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Codes:
    """The number of each category, of an unknown one and of a missing one; NaN is missing, None is refused."""

    known: Floats
    unknown: float | None
    missing: float | None


def _coded(builder: Builder, column: Column, known: _Categories, codes: _Codes) -> list[Column]:
    """Add the map from a column's categories to their numbers."""
    missing = codes.missing
    numbers = {"values": codes.known}
    if known.texts is not None:
        builder.know(column.name, known.texts)
        if column.fill is not None and known.missing is None:  # else the imputer in front left None, and NULL, alone
            missing = codes.known[known.texts.index(column.fill)] if column.fill in known.texts else codes.unknown
    else:
        order = np.argsort(known.numbers)
        numbers = {"key": known.numbers[order], "values": codes.known[order]}
    options: dict[str, object] = {}
    for name, code, refused in (("unknown", codes.unknown, INVALID), ("missing", missing, MISSING)):
        options[name] = refused if code is None else NAN if math.isnan(code) else VALUE
        if options[name] == VALUE:
            numbers[name] = np.array([code])
    return builder.add(StepKind.MAP, [column], 1, numbers, options)


def _categories(encoder: Estimator, count: int) -> list[_Categories]:
    listed = encoder.state.get("categories_")
    if not isinstance(listed, list) or len(listed) != count:
        raise UnsupportedModelError(f"{encoder.name} is not fitted, or for another number of columns than {count}")
    groups = _per_column(encoder, "_default_to_infrequent_mappings", count)
    rare = _per_column(encoder, "_infrequent_indices", count)
    return [_column(encoder, *each) for each in zip(listed, groups, rare, strict=True)]


def _per_column(encoder: Estimator, key: str, count: int) -> list[object]:
    value = encoder.state.get(key)
    if value is None:
        return [None] * count
    if not isinstance(value, list) or len(value) != count:
        raise ModelFileError(f"{encoder.name}.{key} is damaged")
    return value


def _column(encoder: Estimator, categories: object, groups: object, rare: object) -> _Categories:
    what = f"{encoder.name}.categories_"
    labels = encoder.arrays.labels_or_none(categories, what)
    values = _values(encoder.arrays, labels, what)
    gaps = [place for place, value in enumerate(values) if value is None]
    if len(gaps) > 1:
        raise UnsupportedModelError(
            f"{what} has None and NaN; in a feature table both are NULL: train with one of them"
        )
    places = [place for place, value in enumerate(values) if value is not None]
    texts = tuple(value for value in values if isinstance(value, str))
    numbers = np.array([value for value in values if isinstance(value, float)])
    if texts and len(numbers):
        raise UnsupportedModelError(f"{what} has texts and numbers in one column")
    group = list(range(len(values)))
    infrequent = None
    if groups is not None:
        group = _positions(encoder, groups, len(values))
        infrequent = next((group[place] for place in _positions(encoder, rare, len(group))), None)
    if len(group) != len(values) or not values:
        raise ModelFileError(f"{what} does not fit its infrequent groups, or is empty")
    is_text = bool(texts) or not len(numbers)
    missing, is_none = (gaps[0], labels[gaps[0]] is None) if gaps else (None, False)
    return _Categories(texts if is_text else None, numbers, places, missing, is_none, group, infrequent)


def _values(arrays: ArrayReader, labels: Sequence[Label | None], what: str) -> list[str | float | None]:
    """The categories of a column: texts, numbers, and None for a missing one."""
    found: list[str | float | None] = []
    for label in labels:
        if label is None or isinstance(label, str):
            found.append(label)
        else:
            number = arrays.scalar(label, what)
            found.append(None if math.isnan(number) else number)
    return found


def _positions(encoder: Estimator, value: object, count: int) -> list[int]:
    """Whole numbers from 0 and below a count."""
    what = f"the infrequent groups of {encoder.name}"
    found = encoder.arrays.numbers(value, what).reshape(-1)
    if not ((found >= 0) & (found < count) & (found == np.floor(found))).all():
        raise ModelFileError(f"{what} are no positions among {count}")
    return [int(each) for each in found]


def _dropped(encoder: Estimator, count: int) -> list[int | None]:
    """The group of each column that has no output."""
    value = encoder.state.get("_drop_idx_after_grouping", encoder.state.get("drop_idx_"))
    if value is None:
        return [None] * count
    what = f"{encoder.name}.drop_idx_"
    listed = encoder.arrays.labels_or_none(value, what)
    if len(listed) != count:
        raise ModelFileError(f"{what} has {len(listed)} entries for {count} columns")
    numbers = [None if each is None else encoder.arrays.scalar(each, what) for each in listed]
    if not all(each is None or math.isfinite(each) for each in numbers):
        raise ModelFileError(f"{what} holds NaN or an infinity")
    return [None if each is None else int(each) for each in numbers]


def _optional(encoder: Estimator, key: str, default: float | None = None) -> float:
    value = encoder.state.get(key, default)
    if value is None:
        raise ModelFileError(f"{encoder.name} has no {key}")
    return encoder.arrays.scalar(value, f"{encoder.name}.{key}")
