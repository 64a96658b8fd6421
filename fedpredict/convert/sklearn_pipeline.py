"""scikit-learn's pipelines as steps: Pipeline, ColumnTransformer and FeatureUnion, whatever stands in them."""

from __future__ import annotations

from collections.abc import Sequence

from fedpredict.convert.nodes import Node, Pairs
from fedpredict.convert.sklearn_state import Estimator, read_estimator
from fedpredict.convert.sklearn_transformers import TRANSFORMERS
from fedpredict.convert.steps_builder import Builder, Column
from fedpredict.convert.values import clipped, described, mapping
from fedpredict.errors import ModelFileError, UnsupportedModelError

_MAX_DEPTH = 20


def transformed(builder: Builder, transformer: Estimator, columns: Sequence[Column], depth: int = 0) -> list[Column]:
    """Return the columns that a fitted transformer makes; its steps are added to the builder.

    Args:
        builder: Gets the steps.
        transformer: Any that is known, or a composition of such.
        columns: What it reads.
        depth: How many compositions are around it.

    Raises:
        UnsupportedModelError: There is one that is not known, or a setting of it.
        ModelFileError: It is damaged, or does not fit the columns.
        ValueError: Its numbers do not make a step.
    """
    if depth > _MAX_DEPTH:
        raise ModelFileError("pipelines stand in each other too deeply")
    transformer.check_n_features(len(columns))
    composed = {"Pipeline": _pipeline, "ColumnTransformer": _column_transformer, "FeatureUnion": _union}
    name = transformer.name
    if name in composed and transformer.package in {"sklearn.pipeline", "sklearn.compose"}:
        return composed[name](builder, transformer, columns, depth + 1)
    read = TRANSFORMERS.get((transformer.package, name))
    if read is None:
        known = ", ".join(sorted({known for _, known in TRANSFORMERS}))
        raise UnsupportedModelError(
            f"the pipeline has a step {clipped(name)}, which is not served; known are {known}, in Pipeline, "
            "ColumnTransformer and FeatureUnion"
        )
    return read(builder, transformer, columns)


def width_of(transformer: Estimator) -> int | None:
    """Return the number of columns that a transformer was fitted with; None where it does not say."""
    said = transformer.state.get("n_features_in_")
    if isinstance(said, int):
        return said
    first = _first(transformer)
    return None if first is None else width_of(first)


def names_of(transformer: Estimator) -> tuple[str, ...] | None:
    """Return the names that a transformer was fitted with, or the first in it that has names; None where none has.

    Raises:
        FeatureNamesError: A name is no text.
    """
    names, first = transformer.feature_names(), _first(transformer)
    return names_of(first) if names is None and first is not None else names


def _first(transformer: Estimator) -> Estimator | None:
    """The first estimator in a composition that hands on to it what it gets."""
    for key in ("steps", "transformer_list"):
        match transformer.state.get(key):
            case [(str(), Node() as first), *_]:
                return read_estimator(first, transformer.arrays, f"a step of {transformer.name}")
    return None


def _inner(builder: Builder, value: object, around: Estimator, columns: Sequence[Column], depth: int) -> list[Column]:
    if value is None or (isinstance(value, str) and value == "passthrough"):
        return list(columns)
    inner = read_estimator(value, around.arrays, f"a step of {around.name}")
    return transformed(builder, inner, columns, depth)


def _pipeline(builder: Builder, pipeline: Estimator, columns: Sequence[Column], depth: int) -> list[Column]:
    steps = pipeline.state.get("steps")
    if not isinstance(steps, list):
        raise ModelFileError("the pipeline has no list of steps")
    result = list(columns)
    for entry in steps:
        match entry:
            case (str(), step):
                result = _inner(builder, step, pipeline, result, depth)
            case _:
                raise ModelFileError("a step of the pipeline is damaged")
    return result


def _column_transformer(builder: Builder, outer: Estimator, columns: Sequence[Column], depth: int) -> list[Column]:
    """The outputs of the transformers in their order, the remainder last; columns are taken as they were at fit."""
    if outer.state.get("transformer_weights") is not None:
        raise UnsupportedModelError("ColumnTransformer(transformer_weights=...) is not served")
    listed = outer.state.get("transformers_")
    if not isinstance(listed, list):
        raise UnsupportedModelError("a ColumnTransformer is not fitted")
    positions = mapping(outer.state.get("_transformer_to_input_indices"), "the columns of ColumnTransformer")
    result: list[Column] = []
    for entry in listed:
        match entry:
            case (str(name), inner, _):
                own = _own(name, positions.get(name), columns)
            case _:
                raise ModelFileError("a step of ColumnTransformer is damaged")
        if own and not (isinstance(inner, str) and inner == "drop"):
            result += _inner(builder, inner, outer, own, depth)
    return result


def _own(name: str, positions: object, columns: Sequence[Column]) -> list[Column]:
    if not isinstance(positions, list):
        raise ModelFileError(f"ColumnTransformer does not say the columns of '{clipped(name)}'")
    if any(not isinstance(place, int) or not 0 <= place < len(columns) for place in positions):
        raise ModelFileError(f"ColumnTransformer names a column of '{clipped(name)}' that there is not")
    return [columns[place] for place in positions]


def _union(builder: Builder, union: Estimator, columns: Sequence[Column], depth: int) -> list[Column]:
    if union.state.get("transformer_weights") is not None:
        raise UnsupportedModelError("FeatureUnion(transformer_weights=...) is not served")
    listed = union.state.get("transformer_list")
    if not isinstance(listed, list):
        raise ModelFileError("a FeatureUnion has no list of transformers")
    result: list[Column] = []
    for entry in listed:
        match entry:
            case (str(), inner) if not isinstance(inner, Pairs):
                if not (isinstance(inner, str) and inner == "drop"):
                    result += _inner(builder, inner, union, columns, depth)
            case _:
                raise ModelFileError(f"a part of FeatureUnion is {described(entry)}")
    return result
