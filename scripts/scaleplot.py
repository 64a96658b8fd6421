"""The picture of `scripts/bench scale`: memory by rows, and seconds of each phase by rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROCESSES = {
    "bank": "initiator", "lab": "participant 1", "shop": "participant 2",
    "lab score": "participant 1, task score", "shop score": "participant 2, task score",
    "caller": "client and benchmark",
}  # fmt: skip
PHASES = ("score", "propose", "upload", "task", "fetch")


def draw(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Save the picture.

    Args:
        path: The file; its suffix says the format.
        runs: Lines of `work` `run`; of several of the same size the last counts.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

    latest = {run["rows"]: run for run in runs}
    sizes = sorted(latest)
    figure = Figure(figsize=(12.5, 5.0), layout="constrained")
    memory, phases_of = figure.subplots(1, 2)
    for name, points in _by_name([latest[size] for size in sizes], "peak_anon_mb").items():
        if not name.endswith("prepare"):
            memory.plot(*zip(*points, strict=True), marker="o", label=PROCESSES.get(name, name))
    memory.set(xscale="log", xlabel="rows", ylabel="peak of anonymous memory, MB", ylim=(0, None))
    phases = _by_name([latest[size] for size in sizes], "seconds")
    for name in PHASES:
        if name in phases:
            phases_of.plot(*zip(*phases[name], strict=True), marker="o", label=name)
    if "task" in phases:
        rows, seconds = phases["task"][-1]
        line = [seconds * size / rows for size in sizes]
        phases_of.plot(sizes, line, ":", color="grey", label="in proportion to the rows")
    phases_of.set(xscale="log", yscale="log", xlabel="rows", ylabel="seconds")
    for axis in (memory, phases_of):
        axis.grid(visible=True, which="major", alpha=0.4)
        axis.legend()
    facts = latest[sizes[-1]]
    figure.suptitle(
        f"two parties, {facts['features']} features each, {facts['population']} population, mode {facts['mode']}, "
        f"answered from the {facts['answer_from']}"
    )
    figure.savefig(path, dpi=120)


def _by_name(runs: Sequence[Mapping[str, Any]], field: str) -> dict[str, list[tuple[int, float]]]:
    """Return name -> (rows, value) of each run that has it."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for run in runs:
        for name, value in run[field].items():
            found[name].append((run["rows"], value))
    return found
