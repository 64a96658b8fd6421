"""A publisher may be killed at any step, or race with others: a reader sees the old version or the new one, whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.tables.models import current_versions, delete_model, list_versions, load_model, publish_model, rollback
from fedpredict.tables.views import (
    FeatureView,
    Snapshot,
    ViewFeature,
    latest_snapshot,
    publish_snapshot,
    read_snapshot_rows,
    snapshot_name,
)
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.linear_parts import linear

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def view_of(*names: str, version: int = 1) -> FeatureView:
    return FeatureView("bank", version, tuple(ViewFeature(name, name, ColumnType.DOUBLE) for name in names), "id", None)


NARROW, WIDE = view_of("a", "b"), view_of("a", "b", "c", version=2)


def partial_of(number: float, view: FeatureView = NARROW) -> PartialModel:
    """Return a part all of whose numbers are `number`, so that a mixture of two would show."""
    names = tuple(feature.name for feature in view.features)
    part = LinearPart(names, np.full((len(names), 2), number), np.full(2, number), np.full(2, number))
    return PartialModel("credit", f"run-{number}", "bank", Kind.LINEAR, (), True, part)


def publish(warehouse: LocalWarehouse, number: int, view: FeatureView = NARROW) -> None:
    publish_model(warehouse, partial_of(float(number), view), view, f"{number:064x}")


def load_features(warehouse: LocalWarehouse, number: int, view: FeatureView) -> Snapshot:
    columns = {feature.column: [float(number)] * 3 for feature in view.features}
    moments = pa.array([NOON] * 3, pa.timestamp("us", tz="UTC"))
    rows = pa.table({"sample_id": ["x", "y", "z"], "event_time": moments, **columns})
    return publish_snapshot(warehouse, view, snapshot_name(NOON + timedelta(days=number)), rows)


def visible(warehouse: LocalWarehouse) -> tuple[float | None, float | None]:
    """Return the number that the current model is made of, and that of the latest snapshot; fail on a mixture."""
    model = snapshot = None
    if "credit" in (current := current_versions(warehouse)):
        part = load_model(warehouse, current["credit"]).part
        assert part.intercept is not None
        numbers = {*linear(part).weights.ravel().tolist(), *part.intercept.tolist(), *linear(part).constant.tolist()}
        assert len(numbers) == 1
        model = numbers.pop()
    if latest := latest_snapshot(warehouse, "bank"):
        columns = [feature.column for feature in latest.view.features]
        rows = read_snapshot_rows(warehouse, latest, columns)
        numbers = {value for column in columns for value in rows.column(column).to_pylist()}
        assert len(numbers) == 1
        snapshot = numbers.pop()
    return model, snapshot


def prepare(warehouse: LocalWarehouse) -> None:
    publish(warehouse, 1)
    publish(warehouse, 2)
    load_features(warehouse, 2, NARROW)


def repeat_snapshot(warehouse: LocalWarehouse) -> None:
    load_features(warehouse, 3, WIDE)


OPERATIONS: dict[str, Callable[[LocalWarehouse], object]] = {
    "publish": lambda warehouse: publish(warehouse, 3),
    "publish over a wider view": lambda warehouse: publish(warehouse, 3, WIDE),
    "publish an older file": lambda warehouse: publish(warehouse, 1),
    "load features": repeat_snapshot,
    "roll back": lambda warehouse: rollback(warehouse, "credit", 1),
    "delete": lambda warehouse: delete_model(warehouse, "credit"),
}
BEFORE = (2.0, 2.0)
AFTER: dict[str, tuple[float | None, float | None]] = {
    "publish": (3.0, 2.0),
    "publish over a wider view": (3.0, 2.0),
    "publish an older file": (1.0, 2.0),
    "load features": (2.0, 3.0),
    "roll back": (1.0, 2.0),
    "delete": (None, 2.0),
}

KILLED = """
import importlib.util, json, os, shutil, signal, sys
from pathlib import Path
file, operation, base, target = sys.argv[1:]
spec = importlib.util.spec_from_file_location("steps", file)
steps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(steps)

def run(root, kill_at):
    # every step that changes the disk or waits for it; the process dies before step number kill_at
    count = 0
    def dying(call):
        def step(*arguments, **options):
            nonlocal count
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return call(*arguments, **options)
        return step
    for name in ("fsync", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    steps.OPERATIONS[operation](steps.LocalWarehouse(root))
    os._exit(0)

killed = 0
while True:
    root = Path(target) / str(killed)
    shutil.copytree(base, root)
    child = os.fork()
    if child == 0:
        run(root, killed)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    killed += 1
print(json.dumps({"killed": killed, "last": os.WEXITSTATUS(status)}))
"""


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_a_kill_between_any_two_steps_leaves_the_old_or_the_new_and_repeating_heals(
    tmp_path: Path, operation: str
) -> None:
    prepare(LocalWarehouse(tmp_path / "base"))

    arguments = [__file__, operation, str(tmp_path / "base"), str(tmp_path / "killed")]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)

    assert outcome["last"] == 0
    assert outcome["killed"] >= 4
    seen = []
    for step in range(outcome["killed"]):
        warehouse = LocalWarehouse(tmp_path / "killed" / str(step))
        seen.append(visible(warehouse))
        OPERATIONS[operation](warehouse)
        assert visible(warehouse) == AFTER[operation], f"not healed after a kill before step {step}"
        assert not list((tmp_path / "killed" / str(step)).rglob(".tmp-*"))
    assert set(seen) <= {BEFORE, AFTER[operation]}
    assert seen == sorted(seen, key=lambda each: each == AFTER[operation]), "what was visible disappeared again"
    assert BEFORE in seen


PUBLISHER = """
import importlib.util, sys
from pathlib import Path
file, root, first = sys.argv[1:]
spec = importlib.util.spec_from_file_location("steps", file)
steps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(steps)
warehouse = steps.LocalWarehouse(Path(root))
for number in range(int(first), int(first) + 15):
    steps.publish(warehouse, number, steps.WIDE if number % 2 else steps.NARROW)
    steps.load_features(warehouse, number, steps.NARROW)
"""


def test_racing_publishers_never_show_a_mixture_to_readers(tmp_path: Path) -> None:
    root = tmp_path / "warehouse"
    warehouse = LocalWarehouse(root)
    prepare(warehouse)

    publishers = [
        subprocess.Popen([sys.executable, "-c", PUBLISHER, __file__, str(root), str(first)], stderr=subprocess.PIPE)
        for first in (100, 200, 300)
    ]
    seen = {visible(warehouse)}
    while any(publisher.poll() is None for publisher in publishers):
        seen.add(visible(warehouse))
    errors = [publisher.communicate()[1] for publisher in publishers]

    assert errors == [b"", b"", b""]
    assert [publisher.returncode for publisher in publishers] == [0, 0, 0]
    assert len(seen) > 2
    versions = list_versions(warehouse, "credit")
    assert [version.version for version in versions] == list(range(1, len(versions) + 1))
    assert {load_model(warehouse, version).training_run for version in versions} >= {"run-1.0", "run-2.0"}
    assert visible(warehouse)[0] in {114.0, 214.0, 314.0}


def test_a_copy_of_the_folder_is_a_warehouse(tmp_path: Path) -> None:
    """Nothing in the files depends on where they are: a backup is a copy."""
    prepare(LocalWarehouse(tmp_path / "base"))
    shutil.copytree(tmp_path / "base", tmp_path / "copy")

    assert visible(LocalWarehouse(tmp_path / "copy")) == BEFORE
