"""What a task's users may read of what happened to it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fedpredict.errors import ProtocolError
from fedpredict.initiator.offline.desk import _public_detail
from fedpredict.model.offline import CombinedBy
from fedpredict.model.share import Mode
from fedpredict.model.task_history import TaskEvent
from fedpredict.wire.codec import MODES
from fedpredict.wire.offline_codec import history_from_wire, history_to_wire, task_from_wire
from fedpredict.wire.v1 import initiator_pb2

AT = datetime(2026, 11, 27, 12, 30, 0, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("what", "detail", "told"),
    [
        ("submitted", "by client:desk: 10 ids in 1 buckets", "by client:desk: 10 ids in 1 buckets"),
        ("combined by", "numpy: a head finishes the shares", "numpy: a head finishes the shares"),
        ("goes on", "after 3 attempts", "after 3 attempts"),
        ("waiting", "PartyUnavailableError: party lab: 10.0.0.7:7443 refuses", "PartyUnavailableError"),
        ("failed", "WarehouseWriteError: /data/results: no space", "WarehouseWriteError"),
        ("failed", "bucket 3 at /data/results is damaged", ""),
        ("failed", "a password: secretError: x", ""),
        ("queued", "worker 5f3a stopped", ""),
    ],
)
def test_of_an_error_its_name_alone_is_told(what: str, detail: str, told: str) -> None:
    assert _public_detail(TaskEvent(AT, what, detail)) == told


def test_what_combines_shares_at_a_newer_initiator_is_not_known_and_the_task_is() -> None:
    task = initiator_pb2.Task(task_id="t-1", submitted_us=1, model_id="m", combined_by="quantum")
    task.state, task.mode = initiator_pb2.TASK_STATE_DONE, MODES[Mode.NEARLINE]
    assert task_from_wire(task).combined_by is CombinedBy.UNDECIDED


def test_a_history_travels_as_it_is_and_an_event_without_a_time_is_refused() -> None:
    events = [TaskEvent(AT, "submitted", "by client:desk"), TaskEvent(AT, "done", "")]

    assert history_from_wire(history_to_wire(events)) == events
    with pytest.raises(ProtocolError, match="without a time"):
        history_from_wire(initiator_pb2.TaskHistory(events=[initiator_pb2.TaskEvent(what="done")]))
