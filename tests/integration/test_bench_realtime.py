"""scripts/bench realtime prints what its page promises, for both engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_rounds_of_one_and_of_many_are_measured() -> None:
    command = [sys.executable, str(ROOT / "scripts/bench_realtime.py"), "--people", "120", "--rounds", "20"]
    done = subprocess.run(
        [*command, "--aggregates", "2", "--json"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    load, *rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert (load["work"], load["rows"]) == ("load", 6000)
    assert [(each["engine"], each["ids"]) for each in rounds] == [
        ("numpy", 1), ("numpy", 100), ("duckdb", 1), ("duckdb", 100),
    ]  # fmt: skip
    for line in rounds:
        assert (line["work"], line["rows"], line["features"]) == ("realtime", 6000, 2)
        assert 0 < line["p50_ms"] <= line["p99_ms"]
        assert min(line["per_s"], line["peak_mb"], line["cpu_ms"]) > 0
