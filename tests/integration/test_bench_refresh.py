"""scripts/bench refresh prints what its page promises, for every store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.redis
def test_every_store_is_measured(redis_address: str) -> None:
    command = [sys.executable, str(ROOT / "scripts/bench_refresh.py"), "--ids", "3000", "--features", "3"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    done = subprocess.run(
        [*command, "--url", f"redis://{redis_address}", "--json"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    published = [line for line in lines if line["work"] == "publish"]
    assert [line["store"] for line in published] == ["mapped", "redis", "memory"]
    for line in lines:
        assert {"work", "store", "rows", "features", "per_s", "peak_mb"} <= set(line)
        assert (line["rows"], line["features"]) == (3000, 3)
        assert line["per_s"] > 0
