"""The parts that `scripts/bench offline` and `scripts/bench scale` are made of, at toy size."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.compute as pc
import pytest

from fedpredict.tables.views import Snapshot, latest_snapshot, read_snapshot_rows
from fedpredict.warehouse.local import LocalWarehouse

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = "20260101T000000.000000Z"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Give `benchrows`; the others of its folder can be imported after it."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchrows")


def place_of(sample_id: str) -> str:
    """Return the place by the words of docs/offline.md: the hash's bits reversed, as eight hexadecimal digits."""
    bits = format(int(hashlib.md5(sample_id.encode(), usedforsecurity=False).hexdigest()[:8], 16), "032b")
    return f"{int(bits[::-1], 2):08x}"


def test_rows_are_published_piece_by_piece_as_features_load_would(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PIECE_ROWS", 700)
    names = ["f0", "f1"]
    snapshot = Snapshot(script.view_of(names), SNAPSHOT, 2_000, 2_000, has_places=True)

    script.write_order(tmp_path / "order.parquet", 2_000)
    script.publish(tmp_path / "warehouse", tmp_path / "order.parquet", 5, snapshot)

    warehouse = LocalWarehouse(tmp_path / "warehouse")
    found = latest_snapshot(warehouse, "people")
    assert found == snapshot
    rows = read_snapshot_rows(warehouse, snapshot, ["sample_id", "fp_place", *names])
    ids, places = rows.column("sample_id").to_pylist(), rows.column("fp_place").to_pylist()
    assert places == sorted(places)
    assert places == [place_of(each) for each in ids]
    assert sorted(ids) == [f"u{number:011d}" for number in range(2_000)]
    numbers = np.array([int(each[1:]) for each in ids])
    for at, name in enumerate(names):
        values = rows.column(name).to_numpy()
        np.testing.assert_array_equal(values, script.values_of(numbers, 5, at))
        np.testing.assert_array_equal(values, np.round(values, at))
        assert abs(values.mean() - 100) < 3
        assert abs(values.std() - 30) < 3
    assert pc.equal(rows.column("f0"), rows.column("f1")).to_pylist().count(True) < 100


def test_memory_is_that_of_a_process_and_of_what_it_started(script: ModuleType) -> None:
    del script
    memory = importlib.import_module("memorywatch")
    child = "import sys; held = bytearray(b'x' * (64 << 20)); print('held', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        watch = memory.MemoryWatch()
        watch.follow("both", process.pid)
        watch.phase = "holding"
        watch.look()
        process.communicate(b"")
    watch.look()

    series = watch.series["both"]
    assert (series.phase, len(series.anon_mb)) == (["holding"], 1)
    assert 64 <= series.peaks()["anon_mb"] <= series.peaks()["rss_mb"] < 1024
    assert series.peaks(("another",)) == {"anon_mb": 0, "rss_mb": 0}


def test_runs_of_a_file_are_drawn(script: ModuleType, tmp_path: Path) -> None:
    del script
    scale = importlib.import_module("bench_scale")
    facts = {"work": "run", "features": 2, "population": "list", "mode": "offline", "answer_from": "store"}
    lines = [
        {**facts, "rows": rows, "seconds": {"upload": 2.0, "task": rows / 1e5}, "peak_anon_mb": {"bank": 90, "lab": 80}}
        for rows in (100_000, 1_000_000)
    ]
    text = "\n".join(json.dumps(each) for each in [*lines, {"work": "memory", "process": "bank"}])
    (tmp_path / "scale.jsonl").write_text(text)

    scale.main(["--rows", "", "--out", str(tmp_path / "scale.jsonl"), "--plot", str(tmp_path / "scale.svg")])

    drawn = (tmp_path / "scale.svg").read_text()
    assert drawn.startswith("<?xml")


@pytest.mark.spark
@pytest.mark.further
def test_both_ways_of_a_server_are_measured() -> None:
    command = [sys.executable, "-c", "import bench_offline, sys; sys.exit(bench_offline.main(sys.argv[1:]))"]
    command += ["--engine", "spark", "--address", os.environ["FEDPREDICT_TEST_SPARK"], "--rows", "3000"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    done = subprocess.run(
        [*command, "--features", "3", "--buckets", "2", "--days", "2"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["work"], line["day"]) for line in lines] == [("bare", 1), ("task", 1), ("bare", 2), ("task", 2)]
    for line in lines:
        assert (line["engine"], line["rows"], line["features"], line["buckets"]) == ("spark", 3000, 3, 2)
        assert line["per_s"] > 0
    for bare, task in (lines[:2], lines[2:]):
        assert task["peak_mb"] > 0
        assert 1 + task["overhead"] == pytest.approx(task["seconds"] / bare["seconds"], rel=0.05)  # of rounded seconds
        whole_s = task["seconds"] + task["once_s"]
        assert 1 + task["whole_overhead"] == pytest.approx(whole_s / bare["seconds"], rel=0.05)
        inserts_s = task["statements_s"]["INSERT fp_partial_scores"]
        assert 1 + task["beside"] == pytest.approx(task["seconds"] / inserts_s, rel=0.05)
