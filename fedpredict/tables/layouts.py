"""The layouts of all families of parts, by name: what `models` and `digest` know of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fedpredict.model.part import Family, Part
from fedpredict.tables.linear import linear_columns, linear_digest_fields, part_from_rows, part_to_rows
from fedpredict.tables.network import (
    network_columns,
    network_digest_fields,
    network_engines,
    network_from_rows,
    network_options,
    network_schemas,
    network_to_rows,
)
from fedpredict.tables.schemas import linear_schema
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
    return part_from_rows(rows[0], version.features, version.n_scores, holds_intercept=version.holds_intercept)


LAYOUTS: Mapping[Family, Layout] = {
    Family.LINEAR: Layout(
        schemas=lambda view, columns: (linear_schema(view, columns),),
        columns=lambda version: (linear_columns(version.features),),
        to_rows=lambda part: (part_to_rows(part),),
        from_rows=_linear_from_rows,
        digest_fields=linear_digest_fields,
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
}
"""The one place that says where a family's parameters are."""
