"""A part of split trees as rows: those of summed trees, where a leaf adds its bit to its word of the mask.

So `output` is a word and `leaf_value` a power of two; what leaves are worth is in `fp_head_leaves`, at the initiator.
A node that another party splits is two rows, of `output` 0 and 1: both children of the first are its left one, both of
the second its right one, so that a statement that joins nodes sends a sample both ways. All that a split asks is NULL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedpredict.errors import TableCorruptError
from fedpredict.model.arrays import Floats
from fedpredict.model.leaf_masks import LEAVES_PER_WORD, word_starts
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.trees import FOREIGN, Trees
from fedpredict.tables.trees import node_rows, nodes_from_rows, with_special_rows
from fedpredict.tables.trees_options import plain_options

if TYPE_CHECKING:
    from fedpredict.tables.version import ModelVersion


def split_trees_to_rows(part: SplitTreesPart) -> pa.Table:
    """Return the rows of a part, without partition columns; raises as `trees_to_rows`."""
    word, bit = _bits(part.trees)
    rows = node_rows(part).append_column("output", pa.array(word, pa.int32(), mask=bit == 0.0))
    rows = rows.append_column("leaf_value", pa.array(bit, mask=bit == 0.0))
    foreign = part.trees.feature == FOREIGN
    at = np.repeat(np.arange(len(foreign)), np.where(foreign, 2, 1))
    rows, is_second = rows.take(pa.array(at)), np.diff(at, prepend=-1) == 0
    both, of_both = pa.array(is_second.astype(np.int32)), pa.array(foreign[at])
    child = pc.if_else(pa.array(is_second), rows.column("right_child"), rows.column("left_child"))
    for name, value in (("left_child", child), ("right_child", child), ("output", both)):
        column = pc.if_else(of_both, value, rows.column(name))
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return with_special_rows(part, rows)


def split_trees_options(part: SplitTreesPart) -> dict[str, object]:
    """Return the options of the trees, and the number of raw scores that the head makes."""
    return {**plain_options(part), "n_outputs": part.n_outputs}


def split_trees_from_rows(rows: pa.Table, version: ModelVersion) -> SplitTreesPart:
    """Return the part that `split_trees_to_rows` wrote; arguments and errors as of `trees_from_rows`."""
    found = nodes_from_rows(_one_row_each(rows), version)
    word, bit = _bits(found.trees)
    columns = {name: found.rows.column(name).cast(pa.float64()).fill_null(0.0) for name in ("output", "leaf_value")}
    if len(found.first) != len(found.rows) or not (
        np.array_equal(columns["leaf_value"], bit) and np.array_equal(columns["output"], np.where(bit > 0.0, word, 0))
    ):
        raise TableCorruptError("a leaf has not one row that adds its bit to its word")
    return SplitTreesPart(
        features=version.features,
        categories=version.categories,
        may_miss=found.may_miss,
        trees=found.trees,
        n_outputs=version.n_raw,
        closed=found.closed,
    )


def _one_row_each(rows: pa.Table) -> pa.Table:
    """Return rows in which a node of another party is one row with its two children."""
    if not rows.num_rows:
        return rows
    rows = rows.sort_by([("tree", "ascending"), ("node", "ascending"), ("output", "ascending")])
    is_foreign = pc.and_(pc.is_null(rows.column("feature")), pc.is_valid(rows.column("left_child")))
    foreign = rows.filter(is_foreign)
    first, second = (
        foreign.take(pa.array(np.arange(0, len(foreign), 2))),
        foreign.take(pa.array(np.arange(1, len(foreign), 2))),
    )
    if len(first) != len(second) or any(
        not first.column(name).equals(second.column(name)) for name in ("tree", "node", "level")
    ):
        raise TableCorruptError("a split of another party is not two rows")
    for half, output in ((first, 0), (second, 1)):
        if not half.column("left_child").equals(half.column("right_child")) or set(
            half.column("output").to_pylist()
        ) - {output}:
            raise TableCorruptError("a row of another party's split is not one for each child")
    place = first.column_names.index
    first = first.set_column(place("right_child"), "right_child", second.column("left_child"))
    first = first.set_column(place("output"), "output", pa.nulls(len(first), rows.schema.field("output").type))
    return pa.concat_tables([rows.filter(pc.invert(is_foreign)), first])


def _bits(trees: Trees) -> tuple[NDArray[np.int64], Floats]:
    """Return for each leaf its word in a mask, and its bit there as a number; 0.0 at other nodes."""
    number = trees.leaf_numbers.astype(np.int64)
    first_word = np.repeat(word_starts(trees.n_leaves)[:-1], np.diff(trees.start))
    bit = np.where(number >= 0, np.ldexp(1.0, np.maximum(number, 0) % LEAVES_PER_WORD), 0.0)
    return first_word + np.maximum(number, 0) // LEAVES_PER_WORD, bit
