"""One person's rows go, and nobody else's, in every engine: from raw partitions, snapshots and stored shares."""

from __future__ import annotations

import uuid
from datetime import timedelta

import numpy as np
import pytest

from fedpredict.features.refresh import refresh_view
from fedpredict.features.registration import register_view
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.scoring.erase import update_task
from fedpredict.scoring.tasks import damaged_buckets, score_day
from fedpredict.tables.erasure import copy_without, partitions_with, put_back, snapshot_without
from fedpredict.tables.models import publish_model
from fedpredict.tables.share_rows import read_shares
from fedpredict.tables.shares import SHARES, TaskState, finished_buckets, list_tasks
from fedpredict.tables.views import list_snapshots, read_snapshot_rows
from fedpredict.warehouse.base import Warehouse
from tests.raw_transactions import AS_OF, Event, Merchant, example, renamed, store

pytestmark = pytest.mark.timeout(600)

_, DEFINITION, SCRIPT = example("transactions")
WHO, OTHERS = "it's a1", ["a0", "a2"]


def test_a_person_is_taken_out_of_raw_rows_snapshots_and_shares(warehouse: Warehouse) -> None:
    suffix = f"_{uuid.uuid4().hex[:12]}"
    people = [OTHERS[0], WHO, OTHERS[1]]
    events = [Event(f"e{who}", AS_OF - timedelta(hours=1), who, "m0", "1.50", "web") for who in people]
    store(warehouse, [*events, Event("e", None, None, "m0", "1.00", "web")], [Merchant("m0", "food", None)], suffix)
    view, definition = renamed(DEFINITION, suffix)
    registered, _ = register_view(warehouse, view, definition, SCRIPT)
    snapshot = refresh_view(warehouse, registered, AS_OF).snapshot
    part = LinearPart(("n_30d",), np.array([[2.0]]), None, np.array([0.0]))
    model = PartialModel(f"m{suffix}", "run", "lab", Kind.LINEAR, (), False, part)
    version = publish_model(warehouse, model, registered.view.feature_view(1), "a" * 64, lambda _: {})[0]
    task = score_day(warehouse, version, AS_OF.date(), n_buckets=1).task

    raw = warehouse.describe(f"raw_transactions{suffix}")
    assert raw is not None
    ((partition, n_rows),) = partitions_with(warehouse, raw, WHO, "account")
    copy_without(warehouse, raw, partition, WHO, "account")
    put_back(warehouse, raw, partition)
    made = snapshot_without(warehouse, snapshot, WHO)
    (shares_of,) = [each for each, _ in partitions_with(warehouse, SHARES, WHO) if each["model_id"] == task.model_id]
    update_task(warehouse, task, {0: shares_of}, WHO, made.snapshot)

    assert n_rows == 1
    assert warehouse.describe(f"no_such_table{suffix}") is None
    left = warehouse.read(raw.name, ["account", "id"], {}).to_pylist()
    assert sorted((row["account"] or "", row["id"]) for row in left) == [("", "e"), ("a0", "ea0"), ("a2", "ea2")]
    assert [each.snapshot for each in list_snapshots(warehouse) if each.view.name == view.name] == [made.snapshot]
    rows = read_snapshot_rows(warehouse, made, ["sample_id", "spent_30d", "event_time"]).to_pylist()
    assert sorted((row["sample_id"], row["spent_30d"], row["event_time"]) for row in rows) == [
        (who, 1.5, AS_OF) for who in OTHERS
    ]
    (after,) = list_tasks(warehouse, model_id=task.model_id)
    state = TaskState(after, finished_buckets(warehouse, after))
    assert damaged_buckets(warehouse, state) == []
    assert (after.n_ids, after.n_rows, after.snapshot, after.erased) == (2, 2, made.snapshot, 1)
    stored = read_shares(warehouse, after).to_pylist()
    assert sorted((row["sample_id"], row["score_0"]) for row in stored) == [(who, 2.0) for who in OTHERS]
    assert [each for each, _ in partitions_with(warehouse, raw, WHO, "account")] == []
