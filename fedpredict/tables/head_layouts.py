"""How heads lie in tables, by what they do with shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fedpredict.model.combination import Combining
from fedpredict.model.head import Head
from fedpredict.tables.head_layers import HEAD_LAYERS, top_digest_fields, top_from_rows, top_options, top_to_rows
from fedpredict.tables.head_leaves import is_wide, leaf_digest_fields, leaves_from_rows, leaves_to_rows
from fedpredict.tables.head_version import HeadVersion
from fedpredict.tables.schemas import HEAD_LEAVES
from fedpredict.warehouse.base import TableSchema


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """How heads of one kind lie in a table.

    Attributes:
        schema: The table of the numbers.
        to_rows: A head -> its rows, without partition columns.
        from_rows: Its rows and its version -> the head; raises `TableCorruptError` or `ValueError`.
        digest_fields: The canonical bytes of the numbers.
        options: What of a head stands in its row of `fp_heads`: JSON values by name.
    """

    schema: TableSchema
    to_rows: Callable[[Any], pa.Table]
    from_rows: Callable[[pa.Table, HeadVersion], Head]
    digest_fields: Callable[[Any], Iterator[bytes]]
    options: Callable[[Any], Mapping[str, object]]


_LEAVES = HeadLayout(
    schema=HEAD_LEAVES,
    to_rows=leaves_to_rows,
    from_rows=leaves_from_rows,
    digest_fields=leaf_digest_fields,
    options=lambda head: {"wide": is_wide(head)},
)
_TOP = HeadLayout(
    schema=HEAD_LAYERS,
    to_rows=top_to_rows,
    from_rows=top_from_rows,
    digest_fields=top_digest_fields,
    options=top_options,
)


def layout_of(combining: Combining) -> HeadLayout:
    """Return how heads that combine so lie in tables."""
    return _LEAVES if combining is Combining.LEAF_MASKS else _TOP
