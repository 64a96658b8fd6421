"""scikit-learn's fitted transformers of numbers as steps; encoders are in `sklearn_encoders`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, combinations_with_replacement
from typing import TypeAlias

import numpy as np

from fedpredict.convert.nodes import Node
from fedpredict.convert.sklearn_encoders import onehot_encoder, ordinal_encoder
from fedpredict.convert.sklearn_state import Estimator, read_estimator
from fedpredict.convert.steps_builder import Builder, Column
from fedpredict.convert.values import clipped, described
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.step import BOX_COX, YEO_JOHNSON, StepKind

Transform: TypeAlias = Callable[[Builder, Estimator, Sequence[Column]], list[Column]]
"""(what gets the steps, the fitted transformer, the columns that it reads) -> the columns that it makes. Raises as
`sklearn_pipeline.transformed` says."""

_OLDEST = (1, 2)
_MAX_TERMS = 20_000
_MARGIN = 1e-7
"""What QuantileTransformer takes for its ends, where it makes a normal distribution."""


def _identity(_: Builder, transformer: Estimator, columns: Sequence[Column]) -> list[Column]:
    if transformer.state.get("func") is not None:
        raise UnsupportedModelError(
            "FunctionTransformer runs a function of the training side, which no file may: compute its columns before, "
            "as features"
        )
    return list(columns)


def _standard(builder: Builder, scaler: Estimator, columns: Sequence[Column]) -> list[Column]:
    numbers = {}
    if scaler.flag("with_mean"):
        numbers["subtract"] = _vector(scaler, "mean_", len(columns))
    if scaler.flag("with_std"):
        numbers["divide"] = _vector(scaler, "scale_", len(columns))
    return builder.add(StepKind.SCALE, columns, len(columns), numbers)


def _robust(builder: Builder, scaler: Estimator, columns: Sequence[Column]) -> list[Column]:
    numbers = {}
    if scaler.flag("with_centering"):
        numbers["subtract"] = _vector(scaler, "center_", len(columns))
    if scaler.flag("with_scaling"):
        numbers["divide"] = _vector(scaler, "scale_", len(columns))
    return builder.add(StepKind.SCALE, columns, len(columns), numbers)


def _min_max(builder: Builder, scaler: Estimator, columns: Sequence[Column]) -> list[Column]:
    count = len(columns)
    numbers = {"multiply": _vector(scaler, "scale_", count), "add": _vector(scaler, "min_", count)}
    scaled = builder.add(StepKind.SCALE, columns, count, numbers)
    if not scaler.flag("clip", default=False):
        return scaled
    match scaler.state.get("feature_range"):
        case (low, high):
            return _clipped(builder, scaled, _number(scaler, low), _number(scaler, high))
    raise ModelFileError(f"{scaler.name}.feature_range is damaged")


def _max_abs(builder: Builder, scaler: Estimator, columns: Sequence[Column]) -> list[Column]:
    numbers = {"divide": _vector(scaler, "scale_", len(columns))}
    scaled = builder.add(StepKind.SCALE, columns, len(columns), numbers)
    return _clipped(builder, scaled, -1.0, 1.0) if scaler.flag("clip", default=False) else scaled


def _clipped(builder: Builder, columns: Sequence[Column], low: float, high: float) -> list[Column]:
    bounds = {"low": np.full(len(columns), low), "high": np.full(len(columns), high)}
    return builder.add(StepKind.CLIP, columns, len(columns), bounds)


def _imputer(builder: Builder, imputer: Estimator, columns: Sequence[Column]) -> list[Column]:
    """Texts are not filled here: the encoder that follows is told what stands for a missing one."""
    _check_missing_values(imputer)
    known = _statistics(imputer, len(columns))
    keeps_empty = imputer.flag("keep_empty_features", default=False)
    kept = [(column, value) for column, value in zip(columns, known, strict=True) if keeps_empty or not _is_nan(value)]
    numeric = [(column, value) for column, value in kept if isinstance(value, float)]
    filled = {}
    if numeric:
        numbers = {"number": np.array([value for _, value in numeric])}
        made = builder.add(StepKind.FILL, [column for column, _ in numeric], len(numeric), numbers)
        filled = {id(column): output for (column, _), output in zip(numeric, made, strict=True)}
    result = [
        filled[id(column)] if isinstance(value, float) else Column(column.name, column.fill or value)
        for column, value in kept
    ]
    return result + _indicated(builder, imputer, columns, known)


def _indicated(
    builder: Builder, imputer: Estimator, columns: Sequence[Column], known: Sequence[str | float]
) -> list[Column]:
    if not imputer.flag("add_indicator", default=False):
        return []
    indicator = read_estimator(imputer.state.get("indicator_"), imputer.arrays, "SimpleImputer.indicator_")
    places = indicator.arrays.numbers(indicator.state.get("features_"), "MissingIndicator.features_").reshape(-1)
    if not ((places >= 0) & (places < len(columns))).all():
        raise ModelFileError("MissingIndicator.features_ names a column that there is not")
    at = [int(place) for place in places]
    if any(isinstance(known[place], str) for place in at):
        raise UnsupportedModelError("SimpleImputer(add_indicator=True) of texts is not served: encode the missing text")
    return builder.add(StepKind.MISSING, [columns[place] for place in at], len(at), {}) if at else []


def _check_missing_values(imputer: Estimator) -> None:
    value = imputer.state.get("missing_values")
    if value is not None and not _is_nan(value):
        raise UnsupportedModelError(
            f"SimpleImputer whose missing_values is {clipped(described(value))} is not served: what is missing is "
            "NULL or NaN in a feature table"
        )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _statistics(imputer: Estimator, count: int) -> list[str | float]:
    """What stands for a missing value in each column: a text or a number; NaN where the column is dropped."""
    what = f"{imputer.name}.statistics_"
    labels = imputer.arrays.labels(imputer.state.get("statistics_"), what)
    if len(labels) != count:
        raise ModelFileError(f"{what} has {len(labels)} values for {count} columns")
    return [label if isinstance(label, str) else float(label) for label in labels]


def _bins(builder: Builder, transformer: Estimator, columns: Sequence[Column]) -> list[Column]:
    if transformer.version < _OLDEST:
        raise UnsupportedModelError(
            f"KBinsDiscretizer of scikit-learn {transformer.version_text}: train with 1.2 or later"
        )
    kind = transformer.state.get("dtype")
    if kind is not None and "32" in repr(kind):
        raise UnsupportedModelError("KBinsDiscretizer(dtype=float32) is not served: leave dtype out")
    listed = transformer.arrays.objects(transformer.state.get("bin_edges_"), "KBinsDiscretizer.bin_edges_").values
    if len(listed) != len(columns):
        raise ModelFileError(f"KBinsDiscretizer.bin_edges_ has {len(listed)} entries for {len(columns)} columns")
    encode = transformer.text("encode")
    result: list[Column] = []
    for column, value in zip(columns, listed, strict=True):
        edges = transformer.arrays.numbers(value, "KBinsDiscretizer.bin_edges_").reshape(-1)
        binned = builder.add(StepKind.BINS, [column], 1, {"edge": edges[1:-1]})
        if encode != "ordinal":
            n_bins = max(1, len(edges) - 1)
            binned = builder.add(StepKind.ONEHOT, binned, n_bins, {"number": np.arange(float(n_bins))})
        result += binned
    return result


def _power(builder: Builder, transformer: Estimator, columns: Sequence[Column]) -> list[Column]:
    method = transformer.text("method")
    if method not in {YEO_JOHNSON, BOX_COX}:
        raise UnsupportedModelError(f"PowerTransformer(method='{clipped(method)}') is unknown")
    numbers = {"exponent": _vector(transformer, "lambdas_", len(columns))}
    powered = builder.add(StepKind.POWER, columns, len(columns), numbers, {"method": method})
    if not transformer.flag("standardize"):
        return powered
    scaler = read_estimator(transformer.state.get("_scaler"), transformer.arrays, "PowerTransformer._scaler")
    return _standard(builder, scaler, powered)


def _quantile(builder: Builder, transformer: Estimator, columns: Sequence[Column]) -> list[Column]:
    shape = transformer.text("output_distribution")
    if shape not in {"uniform", "normal"}:
        raise UnsupportedModelError(f"QuantileTransformer(output_distribution='{clipped(shape)}') is unknown")
    margin = np.array([0.0 if shape == "uniform" else _MARGIN])
    points = transformer.arrays.numbers(transformer.state.get("quantiles_"), "QuantileTransformer.quantiles_")
    reached = transformer.arrays.numbers(transformer.state.get("references_"), "QuantileTransformer.references_")
    if reached.ndim != 1 or points.shape != (len(reached), len(columns)):
        raise ModelFileError(f"QuantileTransformer.quantiles_ has shape {points.shape} for {len(columns)} columns")
    result: list[Column] = []
    for place, column in enumerate(columns):
        result += builder.add(
            StepKind.QUANTILE, [column], 1, {"from": points[:, place], "to": reached, "margin": margin}
        )
    return result if shape == "uniform" else builder.add(StepKind.NORMAL, result, len(result), {})


def _polynomial(builder: Builder, transformer: Estimator, columns: Sequence[Column]) -> list[Column]:
    lowest, highest = _degrees(transformer)
    choose = combinations if transformer.flag("interaction_only") else combinations_with_replacement
    terms: list[list[int]] = [[]] if transformer.flag("include_bias") else []
    for degree in range(max(1, lowest), highest + 1):
        for term in choose(range(len(columns)), degree):
            terms.append(list(term))
            if len(terms) > _MAX_TERMS:
                raise UnsupportedModelError(f"PolynomialFeatures of more than {_MAX_TERMS} columns")
    return builder.add(StepKind.PRODUCT, columns, len(terms), {}, {"terms": terms})


def _degrees(transformer: Estimator) -> tuple[int, int]:
    match transformer.state.get("degree"):
        case int(highest) if highest <= _MAX_TERMS:  # degrees without terms take time too
            return 0, highest
        case (int(lowest), int(highest)) if highest <= _MAX_TERMS:
            return lowest, highest
    raise ModelFileError("PolynomialFeatures.degree is damaged")


def _vector(estimator: Estimator, key: str, count: int) -> Floats:
    value = estimator.state.get(key)
    if not isinstance(value, Node):
        raise UnsupportedModelError(f"{estimator.name} is not fitted: it has no {key}")
    array = estimator.arrays.numbers(value, f"{estimator.name}.{key}")
    if array.shape != (count,):
        raise ModelFileError(f"{estimator.name}.{key} has shape {array.shape} for {count} columns")
    return array


def _number(estimator: Estimator, value: object) -> float:
    return estimator.arrays.scalar(value, f"a number of {estimator.name}")


TRANSFORMERS: Mapping[tuple[str, str], Transform] = {
    ("sklearn.impute", "SimpleImputer"): _imputer,
    ("sklearn.preprocessing", "FunctionTransformer"): _identity,
    ("sklearn.preprocessing", "KBinsDiscretizer"): _bins,
    ("sklearn.preprocessing", "MaxAbsScaler"): _max_abs,
    ("sklearn.preprocessing", "MinMaxScaler"): _min_max,
    ("sklearn.preprocessing", "OneHotEncoder"): onehot_encoder,
    ("sklearn.preprocessing", "OrdinalEncoder"): ordinal_encoder,
    ("sklearn.preprocessing", "PolynomialFeatures"): _polynomial,
    ("sklearn.preprocessing", "PowerTransformer"): _power,
    ("sklearn.preprocessing", "QuantileTransformer"): _quantile,
    ("sklearn.preprocessing", "RobustScaler"): _robust,
    ("sklearn.preprocessing", "StandardScaler"): _standard,
}
"""(the module's first two parts, class) -> what reads it."""
