"""What loaded parts and heads take: as they state it, and as a fresh process grows by them."""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Floats
from fedpredict.model.combination import Combining
from fedpredict.model.dense import Dense
from fedpredict.model.network import Embedding, NetworkPart
from fedpredict.model.scorecard import FeaturePoints, Interval, ScorecardPart
from fedpredict.model.step import Step, StepKind
from fedpredict.model.steps import StepsPart
from fedpredict.model.top_head import TopHead
from fedpredict.model.tree_head import TreeHead
from kernelbench.measure import Effort, Fields, names
from kernelbench.parts import linear_part, network_part
from kernelbench.trees import split_part, summed_part

_COMMAND = "import sys; from kernelbench import memory; memory.print_grown(sys.argv[1])"


def memory(effort: Effort) -> Iterator[Fields]:
    """Measure each in a process of its own."""
    del effort
    for name in LOADED:
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, name],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        yield {"part": name} | json.loads(done.stdout)


def print_grown(name: str) -> None:
    """Print what a process grows by when it has built a part; one is built before, for what stays of the building."""
    first = LOADED[name]()
    before = _anonymous_bytes()
    loaded = LOADED[name]()
    grown = _anonymous_bytes() - before
    del first
    print(json.dumps({"n_bytes": loaded.n_bytes, "resident_bytes": grown}))


def _anonymous_bytes() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def _embeddings() -> NetworkPart:
    vectors = Embedding(np.ones((100_000, 16)), np.zeros(16))
    return NetworkPart(("f0",), {}, {"f0": vectors}, (Dense(np.ones((16, 1)), np.zeros(1)),), None)


def _top() -> TopHead:
    layers = (
        Dense(np.ones((256, 512)), np.zeros(512), Activation.RELU),
        Dense(np.ones((512, 1)), np.zeros(1)),
    )
    return TopHead(Combining.TOP_CONCAT, "0" * 64, ("a", "b"), (128, 128), layers)


def _leaf_values() -> TreeHead:
    n_leaves = np.full(500, 256)
    output = np.zeros(500, dtype=np.int32)
    return TreeHead(n_leaves, 1, output, np.ones((500 * 256, 1)), np.zeros(1), "0" * 64)


def _scorecard(n_features: int, n_bins: int) -> ScorecardPart:
    bounds = [float("-inf"), *(float(number) for number in range(n_bins - 1)), float("inf")]
    return ScorecardPart(
        tuple(
            FeaturePoints(
                name,
                tuple(
                    Interval(float(place), low, high) for place, (low, high) in enumerate(itertools.pairwise(bounds))
                ),
                missing=0.0,
            )
            for name in names(n_features)
        ),
        None,
    )


def _steps() -> StepsPart:
    """A thousand columns filled and scaled, and a map of 100,000 numbers."""
    inputs, filled, scaled = (tuple(f"{prefix}{number}" for number in range(1000)) for prefix in "fgh")
    column: Floats = np.ones((1000, 1))
    rows = np.arange(100_000.0)[:, None]
    steps = (
        Step(StepKind.FILL, inputs, filled, {"number": column.copy()}),
        Step(StepKind.SCALE, filled, scaled, {"subtract": column.copy(), "divide": column.copy()}),
        Step(
            StepKind.MAP,
            ("code",),
            ("worth",),
            {"key": rows, "values": rows.copy()},
            {"unknown": "invalid", "missing": "missing"},
        ),
    )
    core = linear_part(np.ones((1001, 1)))
    own = (*scaled, "worth")
    return StepsPart((*inputs, "code"), {}, steps, type(core)(own, core.weights, None, core.constant))


LOADED: dict[str, Callable[[], Any]] = {
    "linear, 1,000 features": lambda: linear_part(np.ones((1000, 1))),
    "network, 100 -> 256 -> 64 -> 1": lambda: network_part(Activation.RELU),
    "network, 100,000 embeddings of 16": _embeddings,
    "head, top model 256 -> 512 -> 1": _top,
    "scorecard, 20 features of 10 bins": lambda: _scorecard(20, 10),
    "scorecard, 1,000 features of 10 bins": lambda: _scorecard(1000, 10),
    "steps, 1,000 columns filled and scaled, a map of 100,000": _steps,
    "trees, 100 of depth 6": lambda: summed_part(100, 6),
    "trees, 500 of depth 8": lambda: summed_part(500, 8),
    "split trees, 500 of depth 8, half of the features": lambda: split_part(500, 8, 0),
    "head, leaf values of 500 of depth 8": _leaf_values,
}
