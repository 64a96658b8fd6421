"""`task score` behind a real server, killed while a statement of a series is under way: no hole, and nothing twice."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from fedpredict.model.buckets import buckets_of
from fedpredict.scoring.tasks import damaged_buckets, score_day
from fedpredict.tables.share_rows import read_shares
from fedpredict.tables.shares import finished_buckets, list_tasks
from fedpredict.warehouse.hive import HiveWarehouse
from fedpredict.warehouse.hive_settings import HiveSettings
from tests.contract.conftest import Place
from tests.contract.test_engine_scores import NOON, new_view, publish, snapshot_of

pytestmark = [pytest.mark.further, pytest.mark.timeout(600)]

N_ROWS, N_BUCKETS, DAY = 60_000, 8, date(2026, 11, 22)
CHILD = """
import json, sys
from datetime import date
from fedpredict.scoring import bucket_writing
from fedpredict.scoring.tasks import score_day
from fedpredict.tables.models import current_versions
from fedpredict.warehouse.hive import HiveWarehouse
from fedpredict.warehouse.hive_settings import HiveSettings

bucket_writing.MOST_TOGETHER = 2
settings, model_id, day, n_buckets = json.loads(sys.argv[1])
warehouse = HiveWarehouse(HiveSettings(**settings))
version = current_versions(warehouse)[model_id]
tell = lambda done, of: print(done, flush=True)
score_day(warehouse, version, date.fromisoformat(day), n_buckets=n_buckets, advance=tell)
"""


@pytest.fixture(params=[pytest.param("spark", marks=pytest.mark.spark), pytest.param("hive", marks=pytest.mark.hive)])
def settings(request: pytest.FixtureRequest, places: Callable[[str], Place], tmp_path: Path) -> HiveSettings:
    found = places(request.param).settings
    assert found is not None
    return replace(found, staging=str(tmp_path))


def kill_at(settings: HiveSettings, model_id: str, n_written: int, later_s: float) -> None:
    """Score the day in a process, and kill it soon after it has begun the bucket that follows on so many."""
    told = json.dumps([asdict(settings), model_id, DAY.isoformat(), N_BUCKETS])
    with subprocess.Popen([sys.executable, "-c", CHILD, told], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        begun = next((int(line) for line in process.stdout if int(line) >= n_written), None)
        time.sleep(later_s)  # the statement is at the server, or is not: both must do
        process.kill()
    assert begun == n_written


def test_a_day_that_is_killed_in_the_middle_of_statements_ends_with_every_id_once(settings: HiveSettings) -> None:
    with contextlib.closing(HiveWarehouse(settings)) as warehouse:
        check_a_day_that_is_killed(warehouse, settings)


def check_a_day_that_is_killed(warehouse: HiveWarehouse, settings: HiveSettings) -> None:
    values = np.random.default_rng(8).normal(size=N_ROWS)
    ids = [f"person-{row}" for row in range(N_ROWS)]
    view = new_view(("x",))
    snapshot_of(warehouse, view, ids, {"x": values.tolist()}, [NOON - timedelta(days=1)] * N_ROWS)
    version = publish(warehouse, view, ("x",), np.array([[2.0]]), np.array([1.0]))

    for n_written, later_s, n_recorded in ((1, 0.0, 0), (1, 0.3, 0), (3, 0.1, 2), (5, 0.6, 4)):
        kill_at(settings, version.model_id, n_written, later_s)
        (left,) = list_tasks(warehouse, model_id=version.model_id)
        assert left.finished_at is None
        assert len(finished_buckets(warehouse, left)) >= n_recorded
    state = score_day(warehouse, version, DAY)

    rows = read_shares(warehouse, state.task)
    scores = dict(zip(rows.column("sample_id").to_pylist(), rows.column("score_0").to_pylist(), strict=True))
    assert (rows.num_rows, {*scores}) == (N_ROWS, {*ids})
    np.testing.assert_allclose([scores[name] for name in ids], 2 * values + 1, rtol=1e-12)
    of_buckets = np.bincount(buckets_of([each.encode() for each in ids], N_BUCKETS))
    assert [state.buckets[bucket].n_ids for bucket in range(N_BUCKETS)] == of_buckets.tolist()
    assert [sum(state.buckets[bucket].histograms[0]) for bucket in range(N_BUCKETS)] == of_buckets.tolist()
    assert damaged_buckets(warehouse, state) == []
