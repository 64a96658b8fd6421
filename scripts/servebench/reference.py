"""A reference: any command that prints JSON lines with "rows", "conc", "qps", "p50" and "p99"."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import dataclass

from servebench.wrk import Measured

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3, "": 1.0}
TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Reference:
    """A command, and the work that it does.

    Attributes:
        command: As a shell would read it; it is not run by one.
        work: The work of ours that its numbers are set beside; empty: JSON of as many rows, by its own "rows".
    """

    command: str
    work: str = ""

    def run(self) -> dict[tuple[str, int], Measured]:
        """Run it, and return (work, connections) -> what it measured; raise `RuntimeError` where it fails."""
        done = subprocess.run(shlex.split(self.command), capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        found = {}
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                values = json.loads(line)
                work = self.work or f"json-{values['rows']}"
                found[work, int(values["conc"])] = Measured(
                    float(values["qps"]), milliseconds(values["p50"]), milliseconds(values["p99"]), 0
                )
        if done.returncode or not found:
            raise RuntimeError(f"the reference failed ({done.returncode}): {done.stderr.strip()[-500:]}")
        return found


def parse_reference(text: str) -> Reference:
    """Return a reference as the command line names it: `COMMAND`, or `WORK=COMMAND`.

    >>> parse_reference("inline-json=python3 other.py").work
    'inline-json'
    """
    named = re.match(r"([a-z][a-z0-9-]*)=(.+)", text, re.DOTALL)
    return Reference(named[2], named[1]) if named else Reference(text)


def milliseconds(value: object) -> float:
    """Return a time in milliseconds: a number is, text has its unit.

    >>> milliseconds("770.00us"), milliseconds("1.25s"), milliseconds(3)
    (0.77, 1250.0, 3.0)
    """
    if isinstance(value, int | float):
        return float(value)
    found = re.fullmatch(r"([0-9.]+)([a-z]*)", str(value))
    if found is None or found[2] not in _UNITS:
        raise RuntimeError(f"the reference says {value!r} for a time")
    return round(float(found[1]) * _UNITS[found[2]], 9)


def ratios(ours: Measured, theirs: Measured | None) -> dict[str, object]:
    """Return what is printed of a reference: ratios alone; above 1 is faster for `ratio`, slower for the others."""
    if theirs is None or not (theirs.per_s and theirs.p50_ms and theirs.p99_ms):
        return {}
    return {
        "ratio": ours.per_s / theirs.per_s,
        "ratio_p50": ours.p50_ms / theirs.p50_ms,
        "ratio_p99": ours.p99_ms / theirs.p99_ms,
    }
