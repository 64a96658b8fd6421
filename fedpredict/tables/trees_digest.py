"""The canonical bytes of a part of trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.trees import LEAF, NO_SET, CodeRule, Ints, Trees, TreesPart
from fedpredict.tables.numbers import canonical_numbers
from fedpredict.tables.trees_options import options_of


def trees_digest_fields(part: TreesPart) -> Iterator[bytes]:
    """Return the canonical bytes of the parameters, as docs/tables.md lists them; features sorted by name."""
    yield from shape_digest_fields(part)
    yield _whole_numbers(part.output)
    yield canonical_numbers(part.values[part.trees.feature == LEAF])
    yield b"" if part.intercept is None else canonical_numbers(part.intercept)


def split_trees_digest_fields(part: SplitTreesPart) -> Iterator[bytes]:
    """Return the canonical bytes of a part whose leaves' values the initiator holds."""
    yield from shape_digest_fields(part)
    yield str(part.n_outputs).encode()


def shape_digest_fields(part: TreesPart | SplitTreesPart) -> Iterator[bytes]:
    """Return the canonical bytes of features and nodes, without what leaves add."""
    trees, options = part.trees, options_of(part)
    by_name = sorted(range(len(part.features)), key=lambda each: part.features[each])
    for at in by_name:
        name = part.features[at]
        yield name.encode()
        yield f"{int(part.may_miss[at])}{'c' if name in part.closed else ''}".encode()
        texts = part.categories.get(name)
        yield b"" if texts is None else str(len(texts)).encode()
        yield from (text.encode() for text in texts or ())
        codes = part.closed.get(name)
        if codes is not None:
            yield _whole_numbers(codes)
    rule = "" if options.codes is CodeRule.CUT else options.codes.value
    yield f"{int(trees.strict)}{int(trees.float32)}{int(options.wide)}{rule}".encode()
    yield _whole_numbers(np.diff(trees.start))
    yield from _node_fields(trees, by_name)
    yield from _set_fields(trees)


def _node_fields(trees: Trees, by_name: Sequence[int]) -> Iterator[bytes]:
    """Return the bytes of each array of nodes, with what no node looks at left out."""
    rank = np.zeros(len(by_name) + 1, dtype=np.int64)
    rank[list(by_name)] = np.arange(len(by_name))
    split, is_set = trees.feature != LEAF, trees.left_set != NO_SET
    start = np.repeat(trees.start[:-1], np.diff(trees.start))
    yield _whole_numbers(np.where(trees.feature >= 0, rank[np.maximum(trees.feature, 0)], trees.feature))
    yield _whole_numbers(np.where(split, trees.left - start, LEAF))
    yield _whole_numbers(np.where(split, trees.right - start, LEAF))
    yield canonical_numbers(trees.threshold[split & ~is_set])
    yield (trees.missing_left & split).astype(np.uint8).tobytes()
    yield (trees.zero_is_missing & split).astype(np.uint8).tobytes()
    yield is_set.astype(np.uint8).tobytes()
    yield (trees.unknown_left & is_set).astype(np.uint8).tobytes()


def _set_fields(trees: Trees) -> Iterator[bytes]:
    """Return for each node with a set its codes, whether there are known codes, and those."""
    for node in np.flatnonzero(trees.left_set != NO_SET).tolist():
        known = int(trees.known_set[node])
        yield _whole_numbers(trees.sets[trees.left_set[node]])
        yield str(int(known != NO_SET)).encode()
        yield b"" if known == NO_SET else _whole_numbers(trees.sets[known])


def _whole_numbers(values: NDArray[np.int64] | Ints) -> bytes:
    return np.ascontiguousarray(values, dtype=">i8").tobytes()
