"""Random trees with everything that trees can have, and a plain walk of them by the words of `Trees`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fedpredict.model.arrays import Floats
from fedpredict.model.trees import FOREIGN, LEAF, MAX_CODE, NO_SET, CodeRule, Trees

THRESHOLDS = (0.0, 1.0, -2.5, 0.1, 1e-35, -1e-40, 3.4028234663852886e38, 1e39, -1e39, 1 + 2.0**-24, 16777217.0, 1e308)
CODES = (0, 1, 2, 3, 63, 64, 65, 1023, 1024, 5000, 16777216, 16777217, MAX_CODE)


def random_trees(
    rng: np.random.Generator, *, n_trees: int, n_features: int, max_leaves: int = 12, foreign: float = 0.0
) -> Trees:
    """Return random trees; children stand anywhere after their parents."""
    start, left, right = [0], [], []
    for _ in range(n_trees):
        first = start[-1]
        leaves = [first]
        n_nodes = 1
        children: dict[int, tuple[int, int]] = {}
        for _ in range(int(rng.integers(0, max_leaves)) if n_features else 0):
            parent = leaves.pop(int(rng.integers(len(leaves))))
            pair = [first + n_nodes, first + n_nodes + 1]
            rng.shuffle(pair)
            children[parent] = (pair[0], pair[1])
            leaves += pair
            n_nodes += 2
        left += [children.get(first + node, (LEAF, LEAF))[0] for node in range(n_nodes)]
        right += [children.get(first + node, (LEAF, LEAF))[1] for node in range(n_nodes)]
        start.append(first + n_nodes)
    n = len(left)
    inner = np.array(left, dtype=np.int32) != LEAF
    feature = np.where(inner, rng.integers(0, max(n_features, 1), n), LEAF)
    feature = np.where(inner & (rng.random(n) < foreign), FOREIGN, feature).astype(np.int32)
    sets = tuple(np.array(sorted(rng.choice(CODES, rng.integers(0, 8), replace=False)), np.int32) for _ in range(6))
    categorical = (feature >= 0) & (rng.random(n) < rng.choice([0.0, 0.3]))
    return Trees(
        start=np.array(start, dtype=np.int64),
        feature=feature,
        threshold=np.where((feature >= 0) & ~categorical, rng.choice(THRESHOLDS, n), 0.0),
        left=np.array(left, dtype=np.int32),
        right=np.array(right, dtype=np.int32),
        missing_left=rng.random(n) < 0.5,
        zero_is_missing=rng.random(n) < rng.choice([0.0, 0.3]),
        left_set=np.where(categorical, rng.integers(0, len(sets), n), NO_SET).astype(np.int32),
        known_set=np.where(categorical, rng.integers(NO_SET, len(sets), n), NO_SET).astype(np.int32),
        unknown_left=rng.random(n) < 0.5,
        sets=sets,
        strict=bool(rng.random() < 0.5),
        float32=bool(rng.random() < 0.5),
        codes=list(CodeRule)[int(rng.integers(len(CodeRule)))],
    )


def random_features(rng: np.random.Generator, n_samples: int, n_features: int) -> Floats:
    """Return features around the thresholds, at both precisions, and codes, and what is odd."""
    pool = [*THRESHOLDS, *CODES, math.nan, math.inf, -math.inf, -0.0, -0.5, -1.0, 2.0**31, 1.5, 1e-36, -1e-35, 1.1e-35]
    for threshold in THRESHOLDS:
        with np.errstate(over="ignore"):
            near = np.float32(threshold)
            sides = [np.nextafter(near, np.float32(side)) for side in (-np.inf, np.inf)]
        pool += [float(each) for each in (near, *sides)]
        pool += [(float(near) + float(each)) / 2 for each in sides]
    pool += [float(np.nextafter(each, side)) for each in pool for side in (-np.inf, np.inf)]
    return rng.choice(np.array(pool, dtype=np.float64), (n_samples, n_features))


def walk(trees: Trees, tree: int, row: Floats) -> Iterator[int]:
    """Yield the leaves that a sample can come to in one tree, from left to right."""
    waiting = [int(trees.start[tree])]
    while waiting:
        node = waiting.pop()
        if trees.feature[node] == LEAF:
            yield node
        elif trees.feature[node] == FOREIGN:
            waiting += [int(trees.right[node]), int(trees.left[node])]
        else:
            left = goes_left(trees, node, float(row[trees.feature[node]]))
            waiting.append(int(trees.left[node] if left else trees.right[node]))


def goes_left(trees: Trees, node: int, x: float) -> bool:
    """Return where a value goes, in the words of `Trees`."""
    given = x
    if trees.float32:
        with np.errstate(over="ignore"):
            x = float(np.float32(x))
    if math.isnan(x) or (trees.zero_is_missing[node] and abs(x) <= float(np.float32(1e-35))):
        return bool(trees.missing_left[node])
    if trees.left_set[node] == NO_SET:
        threshold = float(trees.threshold[node])
        return x < threshold if trees.strict else x <= threshold
    code = code_of(trees, given if trees.codes is CodeRule.WHOLE else x)
    known = trees.known_set[node]
    if code is None or (known != NO_SET and code not in trees.sets[known]):
        return bool(trees.unknown_left[node])
    return code in trees.sets[trees.left_set[node]]


def code_of(trees: Trees, x: float) -> int | None:
    """Return the code of a number, None where it has none, in the words of `CodeRule`."""
    if trees.codes is CodeRule.BYTE:
        return None if x < 0 else math.trunc(x) % 256 if x < MAX_CODE + 1.0 else 0
    if math.isinf(x) or (trees.codes is CodeRule.WHOLE and x != math.floor(x)):
        return None
    if trees.codes is CodeRule.CUT_FROM_ZERO and x < 0:
        return None
    code = math.trunc(x)
    return code if 0 <= code <= MAX_CODE else None
