"""A part of trees as rows: one for each split, and one for each leaf and output that the leaf adds to.

Two kinds of rows stand beside those of the trees (counted from 0): tree -1 is a lone leaf that adds the base score,
NULL where another party holds it, and tree -2 has for each text or closed feature (`node` is its position) the known
categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedpredict.errors import TableCorruptError
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.closed import Closed
from fedpredict.model.part import Family
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.trees import FOREIGN, LEAF, NO_SET, Ints, Trees, TreesPart
from fedpredict.tables.category_sets import codes_of_set, set_text
from fedpredict.tables.known_categories import closed_features, known_texts
from fedpredict.tables.schemas import TREES_COLUMNS
from fedpredict.tables.trees_options import TreesOptions, levels_of, options_of, parse_options
from fedpredict.warehouse.base import ARROW_TYPES

if TYPE_CHECKING:
    from fedpredict.tables.version import ModelVersion

BASE, KNOWN = -1, -2
"""Numbers of trees that are none."""
TREES_NAMES = [column.name for column in TREES_COLUMNS]
_SCHEMA = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in TREES_COLUMNS])


def trees_to_rows(part: TreesPart) -> pa.Table:
    """Return the rows of a part, without partition columns.

    Raises:
        ValueError: A set of categories of a text feature has a code that no text has.
    """
    nodes, options = node_rows(part), options_of(part)
    is_leaf, width = part.trees.feature == LEAF, part.values.shape[1]
    at = np.repeat(np.arange(len(is_leaf)), np.where(is_leaf, width, 1))
    place = np.arange(len(at)) - np.searchsorted(at, at)
    output = place if options.wide else part.output[nodes.column("tree").to_numpy()]
    split = ~is_leaf[at]
    rows = nodes.take(pa.array(at)).append_column("output", pa.array(output, pa.int32(), mask=split))
    rows = rows.append_column("leaf_value", pa.array(part.values[at, place], mask=split))
    return with_special_rows(part, rows)


def with_special_rows(part: TreesPart | SplitTreesPart, rows: pa.Table) -> pa.Table:
    """Return the rows of nodes and, before them, those of the base score and of the known texts."""
    return pa.concat_tables([_special_rows(part), rows.cast(_SCHEMA)]).combine_chunks()


def _special_rows(part: TreesPart | SplitTreesPart) -> pa.Table:
    base = [None] * part.n_scores if part.intercept is None else part.intercept.tolist()
    rows: list[dict[str, object]] = [
        {"tree": BASE, "node": 0, "level": 0, "output": output, "leaf_value": value}
        for output, value in enumerate(base)
    ]
    rows += [
        {"tree": KNOWN, "node": at, "feature": part.features[at], "categories": text}
        for at, text in known_texts(part.features, part.categories, part.closed)
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def node_rows(part: TreesPart | SplitTreesPart) -> pa.Table:
    """Return one row per node, without what leaves add; of a split of another party, no more than its children."""
    trees = part.trees
    tree = np.repeat(np.arange(trees.n_trees), np.diff(trees.start))
    start = trees.start[tree]
    is_leaf, is_set, asks_nothing = trees.feature == LEAF, trees.left_set != NO_SET, trees.feature < 0
    known = np.where(is_set, trees.known_set, NO_SET)
    names = np.array([*part.features, None], dtype=object)
    return pa.table(
        {
            "tree": pa.array(tree, pa.int32()),
            "node": pa.array(np.arange(len(tree)) - start, pa.int32()),
            "level": pa.array(levels_of(trees)),
            "feature": pa.array(names[np.where(trees.feature >= 0, trees.feature, -1)], pa.string()),
            "input": pa.array(_inputs(trees, options_of(part)), pa.int32(), mask=asks_nothing),
            "op": _texts(np.where(is_set, "in", "<" if trees.strict else "<="), asks_nothing),
            "threshold": pa.array(trees.threshold, mask=asks_nothing | is_set),
            "categories": _set_texts(part, trees.left_set),
            "known": _set_texts(part, known),
            "compare": _texts(np.full(len(tree), "float32" if trees.float32 else "float64"), asks_nothing),
            "missing": _texts(np.where(trees.missing_left, "left", "right"), asks_nothing),
            "zero_is_missing": pa.array(trees.zero_is_missing, mask=asks_nothing),
            "unknown": _texts(np.where(trees.unknown_left, "left", "right"), ~is_set),
            "left_child": pa.array(trees.left - start, pa.int32(), mask=is_leaf),
            "right_child": pa.array(trees.right - start, pa.int32(), mask=is_leaf),
        }
    )


def _texts(texts: NDArray[np.str_], mask: Bools) -> pa.Array:
    return pc.if_else(pa.array(mask), pa.scalar(None, pa.string()), pa.array(texts, pa.string()))


def _inputs(trees: Trees, options: TreesOptions) -> Ints:
    """Return for each node the place of what it looks at in `TreesOptions.inputs`; anything where it looks at none."""
    if not len(trees.feature):
        return np.zeros(0, dtype=np.int32)
    feature = np.maximum(trees.feature, LEAF)
    places = np.zeros((int(feature.max()) + 2, 2, 2), dtype=np.int32)  # a leaf's is the last feature's, unused
    for place, (at, zero_is_missing) in enumerate(options.inputs):
        places[at, int(zero_is_missing), int(place >= len(options.numbers))] = place
    is_set = (trees.left_set != NO_SET).astype(np.int64)
    return np.asarray(places[feature, trees.zero_is_missing.astype(np.int64), is_set], dtype=np.int32)


def _set_texts(part: TreesPart | SplitTreesPart, sets: Ints) -> pa.Array:
    """Return the text of each node's set, NULL where it has none."""
    texts: dict[tuple[int, int], str] = {}
    of_nodes: list[str | None] = [None] * len(sets)
    for node in np.flatnonzero(sets != NO_SET).tolist():
        key = int(sets[node]), int(part.trees.feature[node])
        if key not in texts:
            texts[key] = set_text(_members(part, *key))
        of_nodes[node] = texts[key]
    return pa.array(of_nodes, pa.string())


def _members(part: TreesPart | SplitTreesPart, number: int, feature: int) -> list[str]:
    codes = part.trees.sets[number].tolist()
    known = part.categories.get(part.features[feature]) if feature >= 0 else None
    if known is None:
        return [str(code) for code in codes]
    if codes and codes[-1] >= len(known):
        raise ValueError(f"a set of feature {part.features[feature]!a} has category {codes[-1]} of {len(known)}")
    return [known[code] for code in codes]


def trees_from_rows(rows: pa.Table, version: ModelVersion) -> TreesPart:
    """Return the part that `trees_to_rows` wrote.

    Args:
        rows: The columns `TREES_NAMES`, in any order of rows.
        version: Whose part it is.

    Raises:
        TableCorruptError: Rows are missing, repeated, or do not say what they must.
        ValueError: They make no trees.
    """
    found = nodes_from_rows(rows, version)
    output, values = _leaf_values(found, version)
    return TreesPart(
        features=version.features,
        categories=version.categories,
        may_miss=found.may_miss,
        trees=found.trees,
        n_scores=version.n_scores,
        output=output,
        values=values,
        intercept=found.base,
        closed=found.closed,
    )


@dataclass(frozen=True, slots=True, eq=False)
class NodeRows:
    """What the rows of a part say but for what leaves add.

    Attributes:
        rows: Those of the nodes, in order; of a leaf one for each output that it adds to.
        first: Shape (n_nodes,): the first row of each node.
        trees: The nodes.
        options: What holds for all.
        may_miss: Shape (n_features,).
        base: Shape (n_scores,): the base score; None where another party holds it.
        closed: As in the part.
    """

    rows: pa.Table
    first: NDArray[np.int64]
    trees: Trees
    options: TreesOptions
    may_miss: Bools
    base: Floats | None
    closed: Closed


def nodes_from_rows(rows: pa.Table, version: ModelVersion) -> NodeRows:
    """Return what rows say of nodes; raises as `trees_from_rows`."""
    options = parse_options(version.options)
    if not rows.num_rows:
        raise TableCorruptError("there are no parameter rows")
    rows = rows.cast(_SCHEMA).sort_by([("tree", "ascending"), ("node", "ascending"), ("output", "ascending")])
    tree = _whole(rows, "tree")
    closed = closed_features(rows.filter(pa.array(tree == KNOWN)), version, options.closed)
    nodes = rows.filter(pa.array(tree >= 0))
    if (tree < KNOWN).any():
        raise TableCorruptError(f"there are rows of tree {tree.min()}")
    first = _first_rows(nodes, options)
    trees = _trees(nodes.take(pa.array(first)), version, options)
    if any(at >= len(version.features) for at in options.may_miss):
        raise TableCorruptError("the model's row says of a feature that there is not that it may miss")
    may_miss = np.isin(np.arange(len(version.features)), options.may_miss)
    base = _base(rows.filter(pa.array(tree == BASE)), version)
    return NodeRows(nodes, first, trees, options, may_miss, base, closed)


def _first_rows(nodes: pa.Table, options: TreesOptions) -> NDArray[np.int64]:
    """Return the position of the first row of each node; the nodes of each tree must be numbered from 0."""
    tree, node = _whole(nodes, "tree"), _whole(nodes, "node")
    first = np.flatnonzero(np.diff(tree, prepend=-1) | np.diff(node, prepend=-1))
    tree, node = tree[first], node[first]
    new = np.flatnonzero(np.diff(tree, prepend=-1))
    if not np.array_equal(tree[new], np.arange(options.n_trees)):
        raise TableCorruptError(f"there are rows of {len(new)} trees, where there must be {options.n_trees}")
    expected = np.arange(len(node)) - np.repeat(new, np.diff(new, append=len(node)))
    odd = np.flatnonzero(node != expected)
    if len(odd):
        raise TableCorruptError(f"tree {tree[odd[0]]} has no node {expected[odd[0]]}")
    return first


def _trees(nodes: pa.Table, version: ModelVersion, options: TreesOptions) -> Trees:
    """Return the trees of one row per node."""
    tree = _whole(nodes, "tree")
    counts = np.bincount(tree, minlength=options.n_trees)
    start = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)]).astype(np.int64)
    is_leaf = nodes.column("left_child").is_null().to_numpy()
    feature = _features(nodes, version, is_leaf)
    asks = feature >= 0
    is_set = _is(nodes, "op", {"in": True, "<" if options.strict else "<=": False}, asks)
    sets, (left_set, known_set) = _sets(nodes, feature, version)
    if ((left_set != NO_SET) != is_set).any():
        raise TableCorruptError("a node with a set of categories that does not ask for one, or without one that does")
    wanted = "float32" if options.float32 else "float64"
    _is(nodes, "compare", {wanted: True}, asks)
    trees = Trees(
        start=start,
        feature=feature,
        threshold=_optional(nodes, "threshold", asks & ~is_set),
        left=_children(nodes, "left_child", start[tree], is_leaf),
        right=_children(nodes, "right_child", start[tree], is_leaf),
        missing_left=_is(nodes, "missing", {"left": True, "right": False}, asks),
        zero_is_missing=_is(nodes, "zero_is_missing", {True: True, False: False}, asks),
        left_set=left_set,
        known_set=known_set,
        unknown_left=_is(nodes, "unknown", {"left": True, "right": False}, is_set),
        sets=sets,
        strict=options.strict,
        float32=options.float32,
        codes=options.codes,
    )
    _check_for_sql(nodes, trees, options)
    return trees


def _features(nodes: pa.Table, version: ModelVersion, is_leaf: Bools) -> Ints:
    column = nodes.column("feature")
    found = pc.fill_null(pc.index_in(column, value_set=pa.array(version.features, pa.string())), LEAF).to_numpy()
    if version.family is Family.SPLIT_TREES:
        found = np.where(column.is_null().to_numpy() & ~is_leaf, FOREIGN, found)
    odd = np.flatnonzero((found == LEAF) != is_leaf)
    if len(odd):
        name = column[int(odd[0])].as_py()
        raise TableCorruptError(f"{_place(nodes, odd)} asks for feature {name!a}, which the model's row has not")
    return np.asarray(found, dtype=np.int32)


def _children(nodes: pa.Table, name: str, start: NDArray[np.int64], is_leaf: Bools) -> Ints:
    column = nodes.column(name)
    if (column.is_null().to_numpy() != is_leaf).any():
        raise TableCorruptError("a node has one child")
    children = pc.fill_null(column, 0).to_numpy()
    return np.where(is_leaf, LEAF, np.clip(children + start, LEAF, 2**31 - 1)).astype(np.int32)


def _sets(nodes: pa.Table, feature: Ints, version: ModelVersion) -> tuple[tuple[Ints, ...], list[Ints]]:
    """Return the sets, and which of them each node has in `categories` and in `known`."""
    code_of = [
        {text: code for code, text in enumerate(version.categories[name])} if name in version.categories else None
        for name in version.features
    ]
    sets: dict[tuple[int, ...], int] = {}
    found: dict[tuple[str, int], int] = {}
    of_columns = []
    for name in ("categories", "known"):
        texts = nodes.column(name)
        numbers = np.full(len(nodes), NO_SET, dtype=np.int32)
        for at in np.flatnonzero(texts.is_valid().to_numpy()).tolist():
            key = texts[at].as_py(), int(feature[at])
            if key not in found:
                codes = codes_of_set(key[0], code_of[key[1]] if key[1] >= 0 else None)
                found[key] = sets.setdefault(codes, len(sets))
            numbers[at] = found[key]
        of_columns.append(numbers)
    return tuple(np.array(codes, dtype=np.int32) for codes in sets), of_columns


def _check_for_sql(nodes: pa.Table, trees: Trees, options: TreesOptions) -> None:
    """Check what only SQL looks at, and what follows from the rest: `input`, `level`, and the depth."""
    if any(feature > trees.feature.max(initial=LEAF) for feature, _ in options.inputs):
        raise TableCorruptError("the model's row names inputs that no node looks at")
    levels = levels_of(trees)
    inputs = np.where(trees.feature >= 0, _inputs(trees, options), LEAF)
    for name, expected in (("input", inputs), ("level", levels)):
        column = nodes.column(name)
        odd = np.flatnonzero(pc.fill_null(column, LEAF).to_numpy() != expected)
        if len(odd):
            raise TableCorruptError(f"{_place(nodes, odd)}: {name} is {column[int(odd[0])]}, not {expected[odd[0]]}")
    if options.depth != levels.max(initial=0):
        raise TableCorruptError(f"the model's row says that trees are {options.depth} deep; they are {levels.max()}")


def _leaf_values(found: NodeRows, version: ModelVersion) -> tuple[Ints, Floats]:
    """Return `TreesPart.output` and `TreesPart.values`."""
    nodes, first, trees, options = found.rows, found.first, found.trees, found.options
    is_leaf = trees.feature == LEAF
    width, counts = version.n_scores if options.wide else 1, np.diff(first, append=len(nodes))
    odd = np.flatnonzero(counts != np.where(is_leaf, width, 1))
    if len(odd):
        where = _place(nodes.take(pa.array(first)), odd)
        raise TableCorruptError(
            f"{where} has {counts[odd[0]]} rows, where there must be {width if is_leaf[odd[0]] else 1}"
        )
    of_leaf = np.repeat(is_leaf, counts)
    numbers = _optional(nodes, "leaf_value", of_leaf)
    outputs = _optional(nodes, "output", of_leaf)[of_leaf].astype(np.int32)
    values = np.zeros((len(is_leaf), width))
    values[is_leaf] = numbers[of_leaf].reshape(-1, width)
    if options.wide:
        if not np.array_equal(outputs, np.tile(np.arange(width), int(is_leaf.sum()))):
            raise TableCorruptError(f"a leaf has not one row for each of {width} outputs")
        return np.full(trees.n_trees, -1, dtype=np.int32), values
    tree = np.repeat(np.arange(trees.n_trees), np.diff(trees.start))[is_leaf]
    output = np.zeros(trees.n_trees, dtype=np.int32)
    output[tree] = outputs
    if (output[tree] != outputs).any():
        raise TableCorruptError("the leaves of one tree add to different outputs")
    return output, values


def _base(rows: pa.Table, version: ModelVersion) -> Floats | None:
    if rows.column("output").to_pylist() != list(range(version.n_scores)):
        raise TableCorruptError(f"there is not one base score for each of {version.n_scores} outputs")
    if version.holds_intercept:
        return _optional(rows, "leaf_value", np.ones(len(rows), dtype=np.bool_))
    if rows.column("leaf_value").null_count != len(rows):
        raise TableCorruptError("there is a base score, but the model's row says that another party holds it")
    return None


def _whole(rows: pa.Table, name: str) -> NDArray[np.int64]:
    if rows.column(name).null_count:
        raise TableCorruptError(f"column {name} holds a NULL")
    return np.asarray(rows.column(name).to_numpy(), dtype=np.int64)


def _optional(rows: pa.Table, name: str, wanted: Bools) -> Floats:
    """Return finite numbers where they are wanted, and 0.0 elsewhere, where there must be NULL."""
    column = rows.column(name)
    numbers = np.asarray(pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(), dtype=np.float64)
    odd = np.flatnonzero((column.is_valid().to_numpy() != wanted) | ~np.isfinite(numbers))
    if len(odd):
        raise TableCorruptError(f"{_place(rows, odd)}: {name} is {column[int(odd[0])]}")
    return numbers


def _is(rows: pa.Table, name: str, meaning: dict[object, bool], wanted: Bools) -> Bools:
    """Return what words mean where they are wanted, and False elsewhere, where there must be NULL."""
    column = rows.column(name)
    place = pc.index_in(column, value_set=pa.array(list(meaning), column.type))
    odd = np.flatnonzero(place.is_valid().to_numpy() != wanted)
    if len(odd):
        raise TableCorruptError(f"{_place(rows, odd)}: {name} is {column[int(odd[0])]}")
    words = np.array([*meaning.values(), False])
    return np.asarray(words[pc.fill_null(place, len(meaning)).to_numpy()], dtype=np.bool_)


def _place(rows: pa.Table, odd: NDArray[np.int64]) -> str:
    """Return what a message calls the first of the odd rows."""
    at = int(odd[0])
    return f"node {rows.column('node')[at]} of tree {rows.column('tree')[at]}"
