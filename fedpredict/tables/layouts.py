"""The layouts of all families of parts, by name: what `models` and `digest` know of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fedpredict.model.part import Family, Part
from fedpredict.tables.linear import (
    exposure_of,
    linear_columns,
    linear_digest_fields,
    linear_options,
    part_from_rows,
    part_to_rows,
)
from fedpredict.tables.network import (
    network_columns,
    network_digest_fields,
    network_engines,
    network_from_rows,
    network_options,
    network_schemas,
    network_to_rows,
)
from fedpredict.tables.schemas import linear_schema, scorecard_schema, trees_schema
from fedpredict.tables.scorecard import (
    SCORECARD_COLUMNS,
    scorecard_digest_fields,
    scorecard_from_rows,
    scorecard_options,
    scorecard_to_rows,
)
from fedpredict.tables.split_trees import split_trees_from_rows, split_trees_options, split_trees_to_rows
from fedpredict.tables.steps import (
    steps_columns,
    steps_digest_fields,
    steps_engines,
    steps_from_rows,
    steps_options,
    steps_schemas,
    steps_to_rows,
)
from fedpredict.tables.trees import TREES_NAMES, trees_from_rows, trees_to_rows
from fedpredict.tables.trees_digest import split_trees_digest_fields, trees_digest_fields
from fedpredict.tables.trees_options import plain_options, trees_engines
from fedpredict.warehouse.base import Column, TableSchema

if TYPE_CHECKING:
    from fedpredict.tables.version import ModelVersion

ENGINES = ("numpy", "duckdb", "spark", "hive")
"""Where shares can be computed: in process, in the embedded warehouse, in Spark, in Apache Hive."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How parts of one family lie in tables; sequences are in the order of the tables.

    Attributes:
        schemas: A view's name and feature columns -> the parameter tables, at least one.
        columns: The columns of each table that make up the part of a version.
        to_rows: A part -> the rows of each table, without partition columns; a table may get none.
        from_rows: The columns of each table (a table that does not exist has columns of type null) and the version ->
            the part; raises `TableCorruptError` or `ValueError` where they do not make one.
        digest_fields: The canonical bytes of a part's parameters: the same for parts that score the same by the same
            numbers, and for no others.
        options: What of a part stands in the version's row rather than in the tables: JSON values by name.
        engines: Those of `ENGINES` that can compute a part.
    """

    schemas: Callable[[str, Sequence[Column]], tuple[TableSchema, ...]]
    columns: Callable[[ModelVersion], tuple[list[str], ...]]
    to_rows: Callable[[Any], tuple[pa.Table, ...]]
    from_rows: Callable[[Sequence[pa.Table], ModelVersion], Part]
    digest_fields: Callable[[Any], Iterator[bytes]]
    options: Callable[[Any], dict[str, object]] = lambda _: {}
    engines: Callable[[Any], tuple[str, ...]] = lambda _: ENGINES


def _linear_from_rows(rows: Sequence[pa.Table], version: ModelVersion) -> Part:
    return part_from_rows(
        rows[0],
        version.features,
        version.n_scores,
        holds_intercept=version.holds_intercept,
        exposure=exposure_of(version.options),
    )


LAYOUTS: Mapping[Family, Layout] = {
    Family.LINEAR: Layout(
        schemas=lambda view, columns: (linear_schema(view, columns),),
        columns=lambda version: (linear_columns(version.features),),
        to_rows=lambda part: (part_to_rows(part),),
        from_rows=_linear_from_rows,
        digest_fields=linear_digest_fields,
        options=linear_options,
    ),
    Family.SCORECARD: Layout(
        schemas=lambda view, _: (scorecard_schema(view),),
        columns=lambda _: (SCORECARD_COLUMNS,),
        to_rows=lambda part: (scorecard_to_rows(part),),
        from_rows=lambda rows, version: scorecard_from_rows(
            rows[0], version.features, version.options, holds_intercept=version.holds_intercept
        ),
        digest_fields=scorecard_digest_fields,
        options=scorecard_options,
    ),
    Family.STEPS: Layout(
        schemas=lambda view, columns: steps_schemas(LAYOUTS, view, columns),
        columns=lambda version: steps_columns(LAYOUTS, version),
        to_rows=lambda part: steps_to_rows(LAYOUTS, part),
        from_rows=lambda rows, version: steps_from_rows(LAYOUTS, rows, version),
        digest_fields=lambda part: steps_digest_fields(LAYOUTS, part),
        options=lambda part: steps_options(LAYOUTS, part),
        engines=lambda part: steps_engines(LAYOUTS, part),
    ),
    Family.TREES: Layout(
        schemas=lambda view, _: (trees_schema(view),),
        columns=lambda _: (TREES_NAMES,),
        to_rows=lambda part: (trees_to_rows(part),),
        from_rows=lambda rows, version: trees_from_rows(rows[0], version),
        digest_fields=trees_digest_fields,
        options=plain_options,
        engines=trees_engines,
    ),
    Family.NETWORK: Layout(
        schemas=network_schemas,
        columns=network_columns,
        to_rows=network_to_rows,
        from_rows=network_from_rows,
        digest_fields=network_digest_fields,
        options=network_options,
        engines=network_engines,
    ),
    Family.SPLIT_TREES: Layout(
        schemas=lambda view, _: (trees_schema(view),),
        columns=lambda _: (TREES_NAMES,),
        to_rows=lambda part: (split_trees_to_rows(part),),
        from_rows=lambda rows, version: split_trees_from_rows(rows[0], version),
        digest_fields=split_trees_digest_fields,
        options=split_trees_options,
        engines=trees_engines,
    ),
}
"""The one place that says where a family's parameters are."""
