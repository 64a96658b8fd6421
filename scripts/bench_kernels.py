"""scripts/bench kernels: parts of models beside the training library's predict; one JSON object a line.

Method and results: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator

from kernelbench import memory, parts, trees
from kernelbench.measure import Effort, Fields

ROUNDS, QUICK_ROUNDS = 7, 3
QUICK_PART = 10


def main(argv: list[str]) -> int:
    """Measure what the arguments ask for and print it; return 0, or 1 where numbers do not agree."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="WORK,...", type=_works, default=list(WORKS), help=", ".join(WORKS))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each side (default {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, three rounds")
    parser.add_argument("--json", action="store_true", help="what is printed anyway")
    given = parser.parse_args(argv)
    effort = Effort(QUICK_ROUNDS, QUICK_PART) if given.quick else Effort(given.rounds, 1)
    agreed = True
    for name in given.only:
        for fields in WORKS[name](effort):
            print(json.dumps({"work": name} | fields), flush=True)
            agreed &= fields.get("problem") is None
    return 0 if agreed else 1


def _works(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in WORKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such work: {', '.join(unknown)}; there is {', '.join(WORKS)}")
    return names


WORKS: dict[str, Callable[[Effort], Iterator[Fields]]] = {
    "linear": parts.linear,
    "ordinal": parts.ordinal,
    "network": parts.network,
    "scorecard": parts.scorecard,
    "steps": parts.steps,
    "trees": trees.trees,
    "trees-1": trees.trees_1,
    "forests": trees.forests,
    "masks-1": trees.masks_1,
    "memory": memory.memory,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
