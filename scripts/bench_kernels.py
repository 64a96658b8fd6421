"""scripts/bench kernels: parts of models beside the training library's predict; one JSON object a line.

Everything runs in one thread and is measured in processor time, which differs least on a machine with other work. Both
sides take turns, the medians of the rounds are printed, and before anything is timed the numbers must agree.

- `linear`: `LinearPart` beside numpy's `X @ w`. `trees`: `TreesPart` beside LightGBM's predict on the joined matrix.
  `ratio` is their time over ours (above 1: ours is faster).
- `trees-1`: microseconds for one row through `TreesPart.partial_scores`; a different row each time.
- `masks-1`: microseconds for the leaf masks of one row at each of two parties, and for what survives of both.
- `memory`: bytes of a loaded part as it states them (`n_bytes`) and as the process grows by it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fedpredict.model.arrays import Floats
from fedpredict.model.leaf_masks import surviving_leaves
from fedpredict.model.linear import LinearPart
from fedpredict.model.trees import FOREIGN, LEAF, NO_SET, Trees, TreesPart

Fields = dict[str, Any]
Nodes = list[tuple[int, float, int, int, bool, float]]
"""(feature, threshold, left, right, whether missing goes left, leaf value) a node."""


def main(argv: list[str]) -> int:
    """Measure what the arguments ask for and print it; return 0, or 1 where numbers do not agree."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(WORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, three rounds")
    parser.add_argument("--json", action="store_true", help="what is printed anyway")
    parser.add_argument("--load", choices=list(LOADED), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.load:
        print(json.dumps(_grown(LOADED[given.load])))
        return 0
    rounds, part = (3, 10) if given.quick else (given.rounds, 1)
    agreed = True
    with threadpool_limits(1):
        for name, work in WORKS.items():
            if given.only in (None, name):
                for fields in work(rounds, part):
                    print(json.dumps({"work": name} | fields), flush=True)
                    agreed &= fields.get("problem") is None
    return 0 if agreed else 1


def _in_turn(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """The median processor seconds of each call."""
    taken: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(rounds):
        for call, times in zip(calls, taken, strict=True):
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
    return [statistics.median(times) for times in taken]


def _beside(rounds: int, ours: Callable[[], Floats], theirs: Callable[[], Floats], to_reach: float) -> Fields:
    expected, found = theirs(), ours()
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if difference > 1e-9:
        return {"problem": "WRONG", "max_rel": difference}
    our_s, their_s = _in_turn(rounds, ours, theirs)
    return {
        "ours_ms": round(our_s * 1e3, 1),
        "theirs_ms": round(their_s * 1e3, 1),
        "ratio": round(their_s / our_s, 2),
        "to_reach": to_reach,
        "max_rel": difference,
    }


def _microseconds(rounds: int, call: Callable[[Floats], object], rows: Floats) -> float:
    """The median over the rounds of the mean for one row, each a matrix of its own."""
    singles = [row[None].copy() for row in rows[:1000]]

    def all_singles() -> None:
        for single in singles:
            call(single)

    return round(_in_turn(rounds, all_singles)[0] / len(singles) * 1e6, 1)


def _linear(rounds: int, part: int) -> Iterator[Fields]:
    rng = np.random.default_rng(1)
    features, weights = rng.normal(size=(1_000_000 // part, 100)), rng.normal(size=(100, 1))
    own = _linear_part(weights)
    fields = _beside(rounds, lambda: own.partial_scores(features), lambda: features @ weights, 0.8)
    yield {"rows": len(features), "features": 100} | fields


def _linear_part(weights: Floats) -> LinearPart:
    return LinearPart(tuple(f"f{number}" for number in range(len(weights))), weights, None, np.zeros(1))


def _trees(rounds: int, part: int) -> Iterator[Fields]:
    booster, features = _grown_by_lightgbm()
    features = features[: len(features) // part]
    own = _part_of(booster)
    fields = _beside(
        rounds, lambda: own.partial_scores(features)[:, 0], lambda: booster.predict(features, num_threads=1), 0.5
    )
    yield {"rows": len(features), "trees": 100, "depth": 6} | fields


def _one_row(rounds: int, part: int) -> Iterator[Fields]:
    booster, features = _grown_by_lightgbm()
    own = _part_of(booster)
    yield {
        "trees": 100,
        "depth": 6,
        "ours_us": _microseconds(rounds, own.partial_scores, features),
        "theirs_us": _microseconds(rounds, lambda row: booster.predict(row, num_threads=1), features[: 1000 // part]),
        "to_reach_us": 50,
    }


def _grown_by_lightgbm() -> tuple[Any, Floats]:
    import lightgbm  # noqa: PLC0415  not in the process whose memory is measured

    rng = np.random.default_rng(2)
    features = rng.normal(size=(100_000, 30))
    outcome = np.sin(features[:, 0]) + features[:, 1] * features[:, 2] + features @ rng.normal(size=30)
    options = {"max_depth": 6, "num_leaves": 63, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    few = lightgbm.Dataset(features[:10_000], outcome[:10_000])
    return lightgbm.train(options, few, num_boost_round=100), features


def _part_of(booster: Any) -> TreesPart:
    """The booster's trees as a part; numeric splits alone."""
    nodes: Nodes = []
    start = [0]

    def add(node: Fields) -> int:
        at = len(nodes)
        nodes.append((LEAF, 0.0, LEAF, LEAF, False, node.get("leaf_value", 0.0)))
        if "leaf_value" not in node:
            left, right = add(node["left_child"]), add(node["right_child"])
            missing_left = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0
            nodes[at] = (node["split_feature"], node["threshold"], left, right, missing_left, 0.0)
        return at

    for tree in booster.dump_model()["tree_info"]:
        add(tree["tree_structure"])
        start.append(len(nodes))
    feature, threshold, left, right, missing_left, values = (np.array(each) for each in zip(*nodes, strict=True))
    return _sum_of(
        _numeric(np.array(start), feature, threshold, (left, right), missing_left), values, booster.num_feature()
    )


def _sum_of(trees: Trees, values: Floats, n_features: int) -> TreesPart:
    names = tuple(f"f{number}" for number in range(n_features))
    output = np.zeros(trees.n_trees, dtype=np.int32)
    return TreesPart(names, {}, np.ones(n_features, dtype=bool), trees, 1, output, values[:, None].copy(), None)


def _numeric(start: Any, feature: Any, threshold: Floats, children: tuple[Any, Any], missing_left: Any) -> Trees:
    n_nodes = len(feature)
    return Trees(
        start=start,
        feature=feature.astype(np.int32),
        threshold=threshold,
        left=children[0].astype(np.int32),
        right=children[1].astype(np.int32),
        missing_left=missing_left,
        zero_is_missing=np.zeros(n_nodes, dtype=bool),
        left_set=np.full(n_nodes, NO_SET, dtype=np.int32),
        known_set=np.full(n_nodes, NO_SET, dtype=np.int32),
        unknown_left=np.zeros(n_nodes, dtype=bool),
        sets=(),
        strict=False,
        float32=False,
    )


def _complete(n_trees: int, depth: int, own: Any = None) -> Trees:
    """Complete trees over 20 features, of which a party has `own` (None: all)."""
    rng = np.random.default_rng(3)
    n_inner, n_nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    number = np.tile(np.arange(n_nodes), n_trees)
    first = np.repeat(np.arange(n_trees) * n_nodes, n_nodes)
    inner = number < n_inner
    feature = np.where(inner, rng.integers(0, 20, len(number)), LEAF)
    threshold = np.where(inner, rng.normal(size=len(number)) * 0.7, 0.0)
    if own is not None:
        foreign = inner & ~np.isin(feature, own)
        feature, threshold = np.where(foreign, FOREIGN, feature), np.where(foreign, 0.0, threshold)
    left = np.where(inner, first + 2 * number + 1, LEAF)
    right = np.where(inner, left + 1, LEAF)
    return _numeric(
        np.arange(n_trees + 1) * n_nodes, feature, threshold, (left, right), np.zeros(len(number), dtype=bool)
    )


def _masks(rounds: int, part: int) -> Iterator[Fields]:
    del part
    features = np.random.default_rng(4).normal(size=(1000, 20))
    whole, halves = _complete(500, 8), [_complete(500, 8, np.arange(first, first + 10)) for first in (0, 10)]
    masks = [half.masks(features) for half in halves]
    if (surviving_leaves(masks, whole.n_leaves) != whole.leaf_numbers[whole.leaves(features)]).any():
        yield {"problem": "WRONG"}
        return
    singles = iter(np.resize(np.arange(1000), 10_000_000))
    n_leaves = whole.n_leaves

    def survive(_: Floats) -> object:
        row = next(singles)
        return surviving_leaves([each[row : row + 1] for each in masks], n_leaves)

    yield {
        "trees": 500,
        "depth": 8,
        "parties_us": [_microseconds(rounds, half.masks, features) for half in halves],
        "survive_us": _microseconds(rounds, survive, features),
        "masks_1000_ms": round(_in_turn(rounds, lambda: halves[0].masks(features))[0] * 1e3, 1),
        "survive_1000_ms": round(_in_turn(rounds, lambda: surviving_leaves(masks, n_leaves))[0] * 1e3, 1),
        "to_reach_us": 300,
    }


def _memory(rounds: int, part: int) -> Iterator[Fields]:
    del rounds, part
    for name in LOADED:
        command = [sys.executable, "-c", "import bench_kernels, sys; bench_kernels.main(sys.argv[1:])", "--load", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
        yield {"part": name} | json.loads(done.stdout)


def _loaded_trees(n_trees: int, depth: int) -> TreesPart:
    trees = _complete(n_trees, depth)
    return _sum_of(trees, np.zeros(len(trees.feature)), 20)


def _loaded_half(n_trees: int, depth: int) -> Trees:
    half = _complete(n_trees, depth, np.arange(10))
    half.masks(np.zeros((1, 20)))
    return half


def _grown(build: Callable[[], Any]) -> Fields:
    """What a process grows by when it has built a part; one is built before, for what stays behind of the building."""
    first = build()
    before = _anonymous_bytes()
    loaded = build()
    grown = _anonymous_bytes() - before
    del first
    return {"n_bytes": loaded.n_bytes, "resident_bytes": grown}


def _anonymous_bytes() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


WORKS: dict[str, Callable[[int, int], Iterator[Fields]]] = {
    "linear": _linear,
    "trees": _trees,
    "trees-1": _one_row,
    "masks-1": _masks,
    "memory": _memory,
}
LOADED: dict[str, Callable[[], Any]] = {
    "linear, 1,000 features": lambda: _linear_part(np.ones((1000, 1))),
    "trees, 100 of depth 6": lambda: _loaded_trees(100, 6),
    "trees, 500 of depth 8": lambda: _loaded_trees(500, 8),
    "trees split, 500 of depth 8, half of the features": lambda: _loaded_half(500, 8),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
