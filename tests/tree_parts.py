"""Parts of random trees, and random rows that come close to what their splits ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Floats
from fedpredict.model.part import UNKNOWN_CATEGORY, Part
from fedpredict.model.trees import LEAF, NO_SET, CodeRule, Ints, Trees, TreesPart

Places = NDArray[np.int64]

TEXTS = (
    "",
    "red",
    "a|b",
    "a",
    "b",
    "~",
    "~1",
    "|",
    "Ünïcode 年",
    "ag'e",
    'qu"ote',
    "back\\slash",
    "%s",
    ":x",
    " ",
    "A",
)
"""What a category may be: every character that some way of writing sets could stumble over."""


def trees_part(part: Part) -> TreesPart:
    """Return the part, which must be of trees."""
    assert isinstance(part, TreesPart)
    return part


@dataclass
class Shape:
    """What a random part is like."""

    n_trees: int = 4
    depth: int = 4
    n_numbers: int = 3
    n_texts: int = 0
    n_scores: int = 1
    with_sets: bool = False
    wide: bool = False
    strict: bool = False
    float32: bool = False
    zero_is_missing: bool = False
    may_miss: bool = True
    base: bool = True
    codes: CodeRule = CodeRule.CUT
    closed: bool = False


class _Growing:
    """Nodes of trees that are being made."""

    def __init__(self, random: np.random.Generator, shape: Shape) -> None:
        self.random, self.shape = random, shape
        self.columns: dict[str, list[float]] = {name: [] for name in (
            "feature", "threshold", "left", "right", "missing_left", "zero_is_missing", "left_set", "known_set",
            "unknown_left",
        )}  # fmt: skip
        self.sets: list[Ints] = []

    def grow(self, depth: int) -> int:
        """Add a node and all below it; return its number."""
        random, columns = self.random, self.columns
        node = len(columns["feature"])
        is_leaf = depth == 0 or (depth < self.shape.depth and random.random() < 0.15)
        for column in columns.values():
            column.append(0)
        for name in ("feature", "left", "right", "left_set", "known_set"):
            columns[name][node] = LEAF
        if is_leaf:
            return node
        feature = int(random.integers(self.shape.n_numbers + self.shape.n_texts))
        is_text = feature >= self.shape.n_numbers
        columns["feature"][node] = feature
        columns["missing_left"][node] = random.random() < 0.5
        columns["zero_is_missing"][node] = self.shape.zero_is_missing and not is_text and random.random() < 0.5
        if is_text or (self.shape.with_sets and random.random() < 0.4):
            columns["left_set"][node] = self.add_set()
            columns["known_set"][node] = self.add_set() if random.random() < 0.5 else NO_SET
            columns["unknown_left"][node] = random.random() < 0.5
        else:
            columns["threshold"][node] = random.choice(numbers(random, 8))
        columns["left"][node] = self.grow(depth - 1)
        columns["right"][node] = self.grow(depth - 1)
        return node

    def add_set(self) -> int:
        codes = np.flatnonzero(self.random.random(len(TEXTS)) < 0.5).astype(np.int32)
        self.sets.append(codes)
        return len(self.sets) - 1


def random_part(random: np.random.Generator, shape: Shape) -> TreesPart:
    """Return a part of random trees."""
    growing = _Growing(random, shape)
    roots = [growing.grow(shape.depth) for _ in range(shape.n_trees)]
    columns = growing.columns
    n_nodes, names = len(columns["feature"]), [f"n{at}" for at in range(shape.n_numbers)]
    texts = [f"t{at}" for at in range(shape.n_texts)]
    types = {"threshold": np.float64, "missing_left": np.bool_, "zero_is_missing": np.bool_, "unknown_left": np.bool_}
    arrays: dict[str, Any] = {
        name: np.array(values, dtype=types.get(name, np.int32)) for name, values in columns.items()
    }
    closed: dict[str, Ints | None] = dict.fromkeys(texts) if shape.closed else {}
    if shape.closed and names:
        closed[names[-1]] = np.flatnonzero(random.random(len(TEXTS)) < 0.7).astype(np.int32)
    wide = shape.wide and shape.n_trees > 0
    values = random.normal(size=(n_nodes, shape.n_scores if wide else 1))
    values[arrays["feature"] != LEAF] = 0.0
    output = np.full(shape.n_trees, -1) if wide else random.integers(shape.n_scores, size=shape.n_trees)
    return TreesPart(
        features=(*names, *texts),
        categories=dict.fromkeys(texts, TEXTS),
        may_miss=np.full(len(names) + len(texts), shape.may_miss),
        trees=Trees(
            start=np.array([*roots, n_nodes], dtype=np.int64),
            **arrays,
            sets=tuple(growing.sets),
            strict=shape.strict,
            float32=shape.float32,
            codes=shape.codes,
        ),
        n_scores=shape.n_scores,
        output=output.astype(np.int32),
        values=values,
        intercept=random.normal(size=shape.n_scores) if shape.base else None,
        closed=closed,
    )


def numbers(random: np.random.Generator, count: int) -> Floats:
    """Return numbers of all sizes, many of them whole and small."""
    chosen = np.array(
        [0.0, -0.0, 1.0, 2.0, -1.0, 5e-324, 1e-45, 1e-46, 1e-35, -1e-36, 2e-35, 1 + 2.0**-24, 1 + 2.0**-25, 3.4e38,
         16777217.0, 2147483647.5, 2147483648.0, 258.0, 511.5, -0.5, -1e-50, -1 + 2.0**-30, 3 - 2.0**-30, 0.5,
         0.1, 3.9, 15.0, 16.0]
    )  # fmt: skip
    return np.where(random.random(count) < 0.6, random.choice(chosen, count), random.normal(size=count))


def random_rows(random: np.random.Generator, part: TreesPart, count: int) -> Floats:
    """Return rows for a part: thresholds and their neighbours, missing and infinite values, categories."""
    columns = [_column(random, part, at, count) for at in range(len(part.features))]
    return np.column_stack(columns) if columns else np.zeros((count, 0))


def _column(random: np.random.Generator, part: TreesPart, at: int, count: int) -> Floats:
    if part.features[at] in part.categories:
        codes = random.integers(-1, len(TEXTS), count).astype(np.float64)
        assert UNKNOWN_CATEGORY == -1.0
        return np.where(random.random(count) < 0.1, np.nan, codes)
    asked = part.trees.threshold[part.trees.feature == at]
    near = np.concatenate([asked, np.nextafter(asked, np.inf), np.nextafter(asked, -np.inf), numbers(random, 8)])
    values = np.where(random.random(count) < 0.7, random.choice(near, count), numbers(random, count))
    known = part.closed.get(part.features[at])
    if known is not None:  # mostly one of them, some with a fraction, so that rows remain to be scored
        of_known = random.choice([-7.0, *known.tolist()], count) + np.where(random.random(count) < 0.2, 0.25, 0.0)
        values = np.where(random.random(count) < 0.8, of_known, values)
    chance = random.random(count)
    values = np.where(chance < 0.1, np.nan, values)
    values = np.where((chance > 0.1) & (chance < 0.12), random.choice([np.inf, -np.inf, 3.5e38, 1e300], count), values)
    return np.asarray(values)


def as_cells(part: TreesPart, rows: Floats, unknown: Sequence[str] = ("?",)) -> dict[str, list[object]]:
    """Return rows as a feature table holds them: texts for codes, NaN for a number and NULL for a text that is not."""
    cells: dict[str, list[object]] = {}
    for name, column in zip(part.features, rows.T.tolist(), strict=True):
        texts = part.categories.get(name)
        cells[name] = column if texts is None else [_cell(texts, code, unknown) for code in column]
    return cells


def _cell(texts: Sequence[str], code: float, unknown: Sequence[str]) -> str | None:
    if np.isnan(code):
        return None
    return unknown[0] if code < 0 else texts[int(code)]


def of_lightgbm(
    booster: Any, features: Sequence[str], categories: Mapping[str, Sequence[str]], base: float | None = None
) -> TreesPart:
    """Return a LightGBM model of one output, from what it dumps of itself."""
    trees = [_Written() for _ in booster.dump_model()["tree_info"]]
    for written, dumped in zip(trees, booster.dump_model()["tree_info"], strict=True):
        written.add_lightgbm(dumped["tree_structure"])
    intercept = None if base is None else np.array([base])
    return _joined(trees, features, categories, intercept, output=np.zeros(len(trees), dtype=np.int32))


def of_forest(forest: Any, features: Sequence[str]) -> TreesPart:
    """Return a scikit-learn forest of classifiers, with a value for each class at each leaf."""
    trees = [_Written() for _ in forest.estimators_]
    for written, estimator in zip(trees, forest.estimators_, strict=True):
        written.add_sklearn(estimator.tree_, len(trees))
    return _joined(trees, features, {}, None, output=np.full(len(trees), -1, dtype=np.int32), float32=True)


class _Written:
    """One tree, written node by node."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.values: list[Floats] = []

    def _add(self, values: Floats, **node: Any) -> int:
        self.nodes.append(node)
        self.values.append(values)
        return len(self.nodes) - 1

    def add_lightgbm(self, dumped: Mapping[str, Any]) -> int:
        if "leaf_value" in dumped:
            return self._add(np.array([dumped["leaf_value"]]))
        as_zero = dumped["missing_type"] == "None"
        is_set = dumped["decision_type"] == "=="
        node = {"feature": dumped["split_feature"], "zero_is_missing": dumped["missing_type"] == "Zero"}
        if is_set:
            node |= {"codes": sorted(int(code) for code in dumped["threshold"].split("||")), "missing_left": False}
        else:
            threshold = float(dumped["threshold"])
            node |= {"threshold": threshold, "missing_left": threshold >= 0.0 if as_zero else dumped["default_left"]}
        at = self._add(np.zeros(1), **node)
        self.nodes[at]["left"] = self.add_lightgbm(dumped["left_child"])
        self.nodes[at]["right"] = self.add_lightgbm(dumped["right_child"])
        return at

    def add_sklearn(self, tree: Any, n_trees: int) -> None:
        shares = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True) / n_trees
        for at in range(tree.node_count):
            if tree.children_left[at] < 0:
                self._add(shares[at])
                continue
            self._add(
                np.zeros(shares.shape[1]),
                feature=int(tree.feature[at]),
                threshold=float(tree.threshold[at]),
                missing_left=bool(tree.missing_go_to_left[at]),
                left=int(tree.children_left[at]),
                right=int(tree.children_right[at]),
            )


def _joined(
    trees: Sequence[_Written],
    features: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    intercept: Floats | None,
    *,
    output: Ints,
    float32: bool = False,
) -> TreesPart:
    sizes = [len(tree.nodes) for tree in trees]
    start = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)])
    nodes = [node for tree in trees for node in tree.nodes]
    first = np.repeat(start[:-1], sizes)
    sets = tuple(np.array(node["codes"], dtype=np.int32) for node in nodes if "codes" in node)
    left_set = np.full(len(nodes), NO_SET, dtype=np.int32)
    left_set[["codes" in node for node in nodes]] = np.arange(len(sets))

    def column(name: str, missing: float, kind: type) -> Any:
        return np.array([node.get(name, missing) for node in nodes], dtype=kind)

    def children(name: str) -> Ints:
        inside = column(name, LEAF, np.int32)
        return np.where(inside == LEAF, LEAF, inside + first).astype(np.int32)

    values = np.array([value for tree in trees for value in tree.values])
    return TreesPart(
        features=tuple(features),
        categories={name: tuple(texts) for name, texts in categories.items()},
        may_miss=np.ones(len(features), dtype=np.bool_),
        trees=Trees(
            start=start,
            feature=column("feature", LEAF, np.int32),
            threshold=column("threshold", 0.0, np.float64),
            left=children("left"),
            right=children("right"),
            missing_left=column("missing_left", False, np.bool_),
            zero_is_missing=column("zero_is_missing", False, np.bool_),
            left_set=left_set,
            known_set=np.full(len(nodes), NO_SET, dtype=np.int32),
            unknown_left=np.zeros(len(nodes), dtype=np.bool_),
            sets=sets,
            strict=False,
            float32=float32,
        ),
        n_scores=values.shape[1],
        output=output,
        values=values,
        intercept=intercept,
    )


def full_trees(random: np.random.Generator, n_trees: int, depth: int, n_features: int) -> TreesPart:
    """Return trees of numbers whose leaves are all at one depth, node `i` above `2 i + 1` and `2 i + 2`."""
    size = 2 ** (depth + 1) - 1
    node, start = np.tile(np.arange(size), n_trees), np.repeat(np.arange(n_trees) * size, size)
    leaf = node >= size // 2
    children = np.where(leaf, LEAF, start + 2 * node + 1), np.where(leaf, LEAF, start + 2 * node + 2)
    return _of_numbers(random, np.arange(n_trees + 1) * size, *children, n_features)


def chain_of_splits(depth: int) -> TreesPart:
    """Return one tree in which every split has a leaf on its left."""
    at = np.arange(2 * depth + 1)
    leaf = (at % 2 == 1) | (at == 2 * depth)
    children = np.where(leaf, LEAF, at + 1), np.where(leaf, LEAF, at + 2)
    return _of_numbers(np.random.default_rng(5), np.array([0, len(at)]), *children, n_features=2)


def _of_numbers(random: np.random.Generator, start: Places, left: Places, right: Places, n_features: int) -> TreesPart:
    """Return trees of one output with random thresholds and leaf values."""
    leaf, count = left == LEAF, len(left)
    none, no = np.full(count, NO_SET, dtype=np.int32), np.zeros(count, dtype=np.bool_)
    trees = Trees(
        start=start,
        feature=np.where(leaf, LEAF, random.integers(0, n_features, count)).astype(np.int32),
        threshold=np.where(leaf, 0.0, random.normal(size=count)),
        left=left.astype(np.int32),
        right=right.astype(np.int32),
        missing_left=(random.random(count) < 0.5) & ~leaf,
        zero_is_missing=no,
        left_set=none,
        known_set=none,
        unknown_left=no,
        sets=(),
        strict=False,
        float32=False,
    )
    return TreesPart(
        features=tuple(f"f{at}" for at in range(n_features)),
        categories={},
        may_miss=np.ones(n_features, dtype=np.bool_),
        trees=trees,
        n_scores=1,
        output=np.zeros(len(start) - 1, dtype=np.int32),
        values=np.where(leaf, random.normal(size=count), 0.0)[:, None],
        intercept=np.array([0.5]),
    )
