"""The head of split trees as rows: one for each leaf and output that it adds to, and the base score as tree -1."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.model.arrays import Floats
from fedpredict.model.tree_head import TreeHead
from fedpredict.tables.head_version import HeadVersion
from fedpredict.tables.numbers import canonical_numbers
from fedpredict.tables.schemas import HEAD_LEAVES

BASE = -1
"""In `fp_head_leaves.tree`: the base score."""
LEAF_COLUMNS = [column.name for column in HEAD_LEAVES.columns]


def is_wide(head: TreeHead) -> bool:
    """Return whether every leaf has a value for each output."""
    return bool((head.output == -1).all())


def leaf_digest_fields(head: TreeHead) -> Iterator[bytes]:
    """Return the canonical bytes of the numbers."""
    yield head.n_leaves.astype(">i8").tobytes()
    yield head.output.astype(">i4").tobytes()
    yield canonical_numbers(head.values)
    yield canonical_numbers(head.intercept)


def leaves_to_rows(head: TreeHead) -> pa.Table:
    """Return the rows of a head, without partition columns."""
    width = head.values.shape[1]
    tree = np.repeat(np.arange(len(head.n_leaves)), head.n_leaves)
    leaf = np.arange(len(tree)) - head.first_leaf[tree]
    output = np.tile(np.arange(width), len(tree)) if is_wide(head) else head.output[tree]
    columns = {
        "tree": np.concatenate([np.full(head.n_outputs, BASE), np.repeat(tree, width)]),
        "leaf": np.concatenate([np.zeros(head.n_outputs, dtype=np.int64), np.repeat(leaf, width)]),
        "output": np.concatenate([np.arange(head.n_outputs), output]),
    }
    numbers = np.concatenate([head.intercept, head.values.ravel()])
    return pa.table({**{name: pa.array(each, pa.int32()) for name, each in columns.items()}, "value": numbers})


def leaves_from_rows(rows: pa.Table, version: HeadVersion) -> TreeHead:
    """Return the head that `leaves_to_rows` wrote.

    Args:
        rows: The columns `LEAF_COLUMNS`, in any order of rows.
        version: Which head it is.

    Raises:
        TableCorruptError: Rows are missing, repeat, or hold a NULL.
        ValueError: They make no head.
    """
    if not rows.num_rows or any(rows.column(name).null_count for name in LEAF_COLUMNS):
        raise TableCorruptError("there are no rows of leaf values, or one has a NULL")
    rows = rows.sort_by([("tree", "ascending"), ("leaf", "ascending"), ("output", "ascending")])
    tree, output = (rows.column(name).to_numpy().astype(np.int64) for name in ("tree", "output"))
    value: Floats = rows.column("value").to_numpy().astype(np.float64)
    n_outputs, is_base = version.combination.n_outputs, tree == BASE
    wide = version.options.get("wide") is True
    if not np.array_equal(output[is_base], np.arange(n_outputs)):
        raise TableCorruptError("the base score has not one row for each output")
    width = n_outputs if wide else 1
    if len(value[~is_base]) % width:
        raise TableCorruptError("a leaf has not one value for each output")
    first = np.flatnonzero(np.diff(tree[~is_base], prepend=BASE))
    n_leaves = np.diff(first, append=len(value[~is_base])) // width
    of_tree = np.full(len(first), -1) if wide else output[~is_base][first]
    head = TreeHead(
        n_leaves=n_leaves,
        n_outputs=n_outputs,
        output=of_tree.astype(np.int32),
        values=value[~is_base].reshape(-1, width),
        intercept=value[is_base],
        structure_sha256=version.combination.structure_sha256,
    )
    again = leaves_to_rows(head)
    if any(not np.array_equal(again.column(name), rows.column(name)) for name in ("tree", "leaf", "output")):
        raise TableCorruptError("trees or leaves are missing, or repeat")
    return head
