"""A part with steps as rows: the steps' numbers, and those of a linear core; other cores have tables of their own.

One row per number: step (INT, from 0), kind, feature (the column that it is about), name, item (INT, its row among the
numbers of that name), output (INT, its column), text or number (the key that a row of a `map` is for) and value. A
linear core follows as one more step of kind `linear`: weight (item: the column it reads; output: the score), intercept,
constant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.model.arrays import Floats
from fedpredict.model.linear import LinearPart
from fedpredict.model.network import NetworkPart
from fedpredict.model.part import Family, Part
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.step import ELEMENTWISE, Step
from fedpredict.model.steps import StepsPart
from fedpredict.model.trees import TreesPart
from fedpredict.tables.linear import exposure_of
from fedpredict.tables.network import network_engines
from fedpredict.tables.numbers import canonical_numbers
from fedpredict.tables.schemas import steps_schema
from fedpredict.tables.steps_options import (
    StepShape,
    StepsOptions,
    core_version,
    hive_steps_of,
    is_light,
    parse_options,
    plain_options,
)
from fedpredict.tables.trees_options import trees_engines
from fedpredict.warehouse.base import Column, TableSchema

if TYPE_CHECKING:
    from fedpredict.tables.layouts import Layout
    from fedpredict.tables.version import ModelVersion

STEPS_NAMES = ["step", "kind", "feature", "name", "item", "output", "text", "number", "value"]
LINEAR_KIND = "linear"
_OWN_TABLES = (Family.TREES, Family.NETWORK)
"""Families of cores that have tables of their own."""
_LAYOUT = pa.schema(
    [
        *((name, pa.int32()) for name in ("step",)),
        *((name, pa.string()) for name in ("kind", "feature", "name")),
        *((name, pa.int32()) for name in ("item", "output")),
        ("text", pa.string()),
        ("number", pa.float64()),
        ("value", pa.float64()),
    ]
)


_Labels: TypeAlias = tuple[Sequence[str], Sequence[str] | None, Floats | None]
"""The columns that rows are about, one for each row or one for all; and the texts, or numbers, that they are for."""


def steps_schemas(layouts: Mapping[Family, Layout], view: str, columns: Sequence[Column]) -> tuple[TableSchema, ...]:
    """Return the table of the steps and those of every family that may stand behind them."""
    own = [layouts[family].schemas(view, columns) for family in _OWN_TABLES if family in layouts]
    return (steps_schema(view), *(schema for schemas in own for schema in schemas))


def steps_columns(layouts: Mapping[Family, Layout], version: ModelVersion) -> tuple[list[str], ...]:
    """Return the columns of each table."""
    core = core_version(version, parse_options(version.options))
    own: list[list[str]] = []
    for family in _OWN_TABLES:
        if family in layouts:
            schemas = layouts[family].schemas(version.view, ())
            is_core = family is core.family
            own += layouts[family].columns(core) if is_core else [[s.columns[0].name] for s in schemas]
    return (STEPS_NAMES, *own)


def steps_to_rows(layouts: Mapping[Family, Layout], part: StepsPart) -> tuple[pa.Table, ...]:
    """Return the rows of each table."""
    own: list[pa.Table] = []
    for family in _OWN_TABLES:
        if family in layouts:
            if family is part.core.family:
                own += layouts[family].to_rows(part.core)
            else:
                own += [_without_keys(schema) for schema in layouts[family].schemas("none", ())]
    return (_own_rows(part), *own)


def steps_from_rows(layouts: Mapping[Family, Layout], rows: Sequence[pa.Table], version: ModelVersion) -> StepsPart:
    """Return the part that `steps_to_rows` wrote.

    Raises:
        TableCorruptError: Rows are missing, repeated, too many, or hold no finite number.
        ValueError: They make no part.
    """
    shape = parse_options(version.options)
    shapes = dict(enumerate(step.shapes for step in shape.steps))
    if shape.core is Family.LINEAR:
        of_scores = {"intercept": (1, version.n_scores)} if version.holds_intercept else {}
        weight = (len(shape.core_features), version.n_scores)
        shapes[len(shape.steps)] = {"weight": weight, "constant": (1, version.n_scores), **of_scores}
    numbers = _numbers(rows[0], shapes)
    steps = tuple(
        Step(step.kind, step.inputs, step.outputs, numbers[place], step.options)
        for place, step in enumerate(shape.steps)
    )
    core = _core(layouts, rows[1:], version, shape, numbers.get(len(shape.steps), {}))
    return StepsPart(version.features, version.categories, steps, core)


def steps_digest_fields(layouts: Mapping[Family, Layout], part: StepsPart) -> Iterator[bytes]:
    """Return the canonical bytes of features, texts, steps in their order, and the core."""
    for name in sorted(part.features):
        yield name.encode()
        texts = part.categories.get(name)
        yield b"" if texts is None else str(len(texts)).encode()
        yield from (text.encode("utf-8", "surrogatepass") for text in texts or ())
    yield str(len(part.steps)).encode()
    for step in part.steps:
        texts = (step.kind.value, json.dumps(dict(step.options), sort_keys=True))
        yield from (text.encode() for text in (*texts, str(len(step.inputs)), *step.inputs, *step.outputs))
        for name in sorted(step.numbers):
            yield name.encode()
            yield str(step.numbers[name].shape).encode()
            yield canonical_numbers(step.numbers[name])
    yield part.core.family.value.encode()
    yield str(len(part.core.features)).encode()
    yield from layouts[part.core.family].digest_fields(part.core)


def steps_options(layouts: Mapping[Family, Layout], part: StepsPart) -> dict[str, object]:
    """Return the JSON values that stand in the version's row."""
    core = part.core
    return plain_options(StepsOptions(_shapes(part), core.family, core.features, layouts[core.family].options(core)))


def _shapes(part: StepsPart) -> tuple[StepShape, ...]:
    return tuple(
        StepShape(
            step.kind,
            step.inputs,
            step.outputs,
            step.options,
            {name: (each.shape[0], each.shape[1]) for name, each in step.numbers.items()},
        )
        for step in part.steps
    )


def steps_engines(layouts: Mapping[Family, Layout], part: StepsPart) -> tuple[str, ...]:
    """Return the engines of the core; without Hive where steps and core together take more than it has room for."""
    shapes = _shapes(part)
    if isinstance(part.core, TreesPart | SplitTreesPart):
        engines = trees_engines(part.core, hive_steps_of(shapes))
    elif isinstance(part.core, NetworkPart):
        engines = network_engines(part.core, hive_steps_of(shapes))
    else:
        engines = layouts[part.core.family].engines(part.core)
    return engines if is_light(shapes) else tuple(name for name in engines if name != "hive")


def _without_keys(schema: TableSchema) -> pa.Table:
    keys = {column.name for column in schema.partitioned_by}
    return schema.arrow_schema.empty_table().select([each.name for each in schema.columns if each.name not in keys])


def _own_rows(part: StepsPart) -> pa.Table:
    tables = [
        _rows_of(
            place,
            step.kind.value,
            name,
            numbers,
            (_features_of(step), part.categories.get(step.inputs[0]), step.numbers.get("key")),
        )
        for place, step in enumerate(part.steps)
        for name, numbers in sorted(step.numbers.items())
        if name != "key"
    ]
    core = part.core
    if isinstance(core, LinearPart):
        of_core = {"weight": core.weights, "constant": core.constant.reshape(1, -1)}
        if core.intercept is not None:
            of_core["intercept"] = core.intercept.reshape(1, -1)
        tables += [
            _rows_of(
                len(part.steps), LINEAR_KIND, name, numbers, (core.features if name == "weight" else (), None, None)
            )
            for name, numbers in sorted(of_core.items())
        ]
    return pa.concat_tables(tables) if tables else _LAYOUT.empty_table()


def _features_of(step: Step) -> tuple[str, ...]:
    """The columns that the rows of a step's numbers are about: one for each row, or one for all."""
    return step.inputs if step.kind in ELEMENTWISE else step.inputs[:1]


def _rows_of(step: int, kind: str, name: str, numbers: Floats, labels: _Labels) -> pa.Table:
    n_items, n_outputs = numbers.shape
    features, texts, keys = labels
    named: list[str | None] = list(features) if len(features) == n_items else [*features[:1]] * n_items
    of_text = list(texts) if texts is not None and name == "values" else [None] * n_items
    of_number = keys[:, 0] if keys is not None and name == "values" else [None] * n_items
    items = np.repeat(np.arange(n_items), n_outputs)
    columns = {
        "step": np.full(numbers.size, step),
        "kind": [kind] * numbers.size,
        "feature": pa.array(named or [None] * n_items, pa.string()).take(pa.array(items)),
        "name": [name] * numbers.size,
        "item": items,
        "output": np.tile(np.arange(n_outputs), n_items),
        "text": pa.array(of_text, pa.string()).take(pa.array(items)),
        "number": pa.array(of_number, pa.float64()).take(pa.array(items)),
        "value": np.ascontiguousarray(numbers, dtype=np.float64).reshape(-1),
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in _LAYOUT})


def _numbers(rows: pa.Table, shapes: Mapping[int, Mapping[str, tuple[int, int]]]) -> dict[int, dict[str, Floats]]:
    numbers = {step: {name: np.full(sizes, np.nan) for name, sizes in of.items()} for step, of in shapes.items()}
    columns = (rows.column(name).to_pylist() for name in ("step", "name", "item", "output", "number", "value"))
    for step, name, item, output, number, value in zip(*columns, strict=True):
        known = numbers.get(step, {}).get(name)
        if known is None or not (0 <= item < known.shape[0] and 0 <= output < known.shape[1]) or value is None:
            raise TableCorruptError(f"a row of step {step}, {name}, that no step has")
        if not np.isnan(known[item, output]):
            raise TableCorruptError(f"two rows of step {step}, {name}, item {item}, output {output}")
        known[item, output] = value
        keys = numbers[step].get("key") if name == "values" else None
        if keys is not None and number is not None:
            keys[item, 0] = number
    for step, of_step in numbers.items():
        for name, known in of_step.items():
            if not np.isfinite(known).all():
                raise TableCorruptError(f"step {step} lacks a number of {name}, or has one that is not finite")
    return numbers


def _core(
    layouts: Mapping[Family, Layout],
    rows: Sequence[pa.Table],
    version: ModelVersion,
    shape: StepsOptions,
    numbers: Mapping[str, Floats],
) -> Part:
    if shape.core is Family.LINEAR:
        intercept = numbers["intercept"][0] if version.holds_intercept else None
        exposure = exposure_of(shape.core_options)
        return LinearPart(shape.core_features, numbers["weight"], intercept, numbers["constant"][0], exposure)
    start = 0
    for family in _OWN_TABLES:
        count = len(layouts[family].schemas(version.view, ())) if family in layouts else 0
        if family is shape.core and count:
            return layouts[family].from_rows(rows[start : start + count], core_version(version, shape))
        start += count
    raise TableCorruptError(f"a core of family {shape.core}, which no steps stand in front of")
