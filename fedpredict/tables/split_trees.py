"""A part of split trees as rows: those of summed trees, where a leaf adds its bit to its word of the mask.

So `output` is a word and `leaf_value` a power of two; what leaves are worth is in `fp_head_leaves`, at the initiator.
A node that another party splits has its children, and NULL for all that a split asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedpredict.errors import TableCorruptError
from fedpredict.model.arrays import Floats
from fedpredict.model.leaf_masks import LEAVES_PER_WORD, word_starts
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.trees import Trees
from fedpredict.tables.trees import node_rows, nodes_from_rows, with_special_rows

if TYPE_CHECKING:
    from fedpredict.tables.version import ModelVersion


def split_trees_to_rows(part: SplitTreesPart) -> pa.Table:
    """Return the rows of a part, without partition columns; raises as `trees_to_rows`."""
    word, bit = _bits(part.trees)
    inner = bit == 0.0
    rows = node_rows(part).append_column("output", pa.array(word, pa.int32(), mask=inner))
    return with_special_rows(part, rows.append_column("leaf_value", pa.array(bit, mask=inner)))


def split_trees_from_rows(rows: pa.Table, version: ModelVersion) -> SplitTreesPart:
    """Return the part that `split_trees_to_rows` wrote; arguments and errors as of `trees_from_rows`."""
    found = nodes_from_rows(rows, version)
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
        n_outputs=version.n_outputs,
    )


def _bits(trees: Trees) -> tuple[NDArray[np.int64], Floats]:
    """Return for each leaf its word in a mask, and its bit there as a number; 0.0 at other nodes."""
    number = trees.leaf_numbers.astype(np.int64)
    first_word = np.repeat(word_starts(trees.n_leaves)[:-1], np.diff(trees.start))
    bit = np.where(number >= 0, np.ldexp(1.0, np.maximum(number, 0) % LEAVES_PER_WORD), 0.0)
    return first_word + np.maximum(number, 0) // LEAVES_PER_WORD, bit
