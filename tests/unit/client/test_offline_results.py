"""Results of offline tasks as a client fetches them: they go on where they were, whatever happens to the connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.client import core, offline
from fedpredict.client.offline import OfflineCalls
from fedpredict.client.populations import Standing
from fedpredict.client.session import Session
from fedpredict.errors import ProtocolError, ServerUnavailableError, TaskFailedError
from fedpredict.model.offline import RankBy, TaskInfo
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode
from fedpredict.tables.results import RESULTS, write_results
from fedpredict.warehouse.base import Warehouse
from fedpredict.wire.offline_arrow import results_to_wire
from fedpredict.wire.v1 import initiator_pb2

N_ROWS = 10


def stored() -> pa.Table:
    """Return results as they are stored; the third has no prediction."""
    kept: list[pa.Table] = []

    class Kept:
        def replace(self, _table: str, _partition: object, rows: pa.Table) -> None:
            kept.append(rows)

    values, status = np.arange(float(N_ROWS))[:, None], np.ones(N_ROWS, dtype=np.uint8)
    values[2], status[2] = np.nan, 2
    origin = np.array([1, 1, 0, 2, 3, 1, 1, 1, 1, 1], dtype=np.uint8)
    ids = SampleIds.of([f"u{row}".encode() for row in range(N_ROWS)])
    write_results(cast(Warehouse, Kept()), "t", 0, ids, predictions=values, status=status, origin=origin)
    return kept[0]


def batch(first: int, stop: int, *, last: bool = False, offset: int | None = None) -> initiator_pb2.ResultBatch:
    rows = stored().slice(first, stop - first) if stop > first else RESULTS.arrow_schema.empty_table()
    message = results_to_wire(rows, first if offset is None else offset, (), 1)
    message.last = last
    return message


@dataclass
class Server:
    """Stands in for a connection and its session: each call gives the next script's messages, or its error.

    Attributes:
        scripts: What each call gives.
        offsets: What each call asked for.
    """

    scripts: list[list[initiator_pb2.ResultBatch | Exception]]
    offsets: list[int] = field(default_factory=list)

    def connection(self) -> Server:
        return self

    async def fetch(self, question: core.Question) -> AsyncGenerator[bytes]:
        self.offsets.append(initiator_pb2.FetchResultsRequest.FromString(question.message).offset)
        for each in self.scripts.pop(0):
            if isinstance(each, Exception):
                raise each
            yield each.SerializeToString()


async def fetched(server: Server, offset: int = 0) -> list[dict[str, Any]]:
    calls = OfflineCalls(cast(Session, server))
    return [row async for each in calls.results("t-1", offset) for row in each.to_pylist()]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "MAX_LOOK_S", 0.0)
    monkeypatch.setattr(offline, "FIRST_LOOK_S", 0.0)


ORIGINS = ["model", "model", "unspecified", "default_partial", "fallback_model", *["model"] * 5]
EXPECTED = [
    {
        "sample_id": f"u{row}",
        "prediction": None if row == 2 else float(row),
        "status": "not_found" if row == 2 else "ok",
        "origin": ORIGINS[row],
    }
    for row in range(N_ROWS)
]


async def test_after_a_lost_connection_and_while_the_task_runs_they_go_on_at_the_next_row() -> None:
    server = Server([
        [batch(0, 4), ServerUnavailableError("lost")],
        [ServerUnavailableError("away")],
        [batch(4, 7)],
        [],
        [batch(7, 10), batch(10, 10, last=True)],
    ])  # fmt: skip
    assert await fetched(server) == EXPECTED
    assert server.offsets == [0, 4, 4, 7, 7]


async def test_from_the_last_row_on_there_is_a_batch_without_rows() -> None:
    calls = OfflineCalls(cast(Session, Server([[batch(10, 10, last=True)]])))
    (found,) = [each async for each in calls.results("t-1", 10)]
    assert (found.num_rows, found.schema.names) == (0, ["sample_id", "prediction", "status", "origin"])


async def test_a_task_that_failed_gives_what_there_is_and_then_its_error() -> None:
    server = Server([[batch(0, 4), TaskFailedError("no", state="failed", problem="no room")]])
    results = OfflineCalls(cast(Session, server)).results("t-1")
    assert (await anext(results)).column("sample_id").to_pylist() == ["u0", "u1", "u2", "u3"]
    with pytest.raises(TaskFailedError):
        await anext(results)


def ranked(first: int, stop: int, *, last: bool = False) -> initiator_pb2.ResultBatch:
    rows = stored().append_column("rank", pa.array(np.arange(1, N_ROWS + 1)))
    message = results_to_wire(rows.slice(first, stop - first), first, (), 1, has_rank=True)
    message.last = last
    return message


async def first_of(server: Server, top: int) -> list[int]:
    calls = OfflineCalls(cast(Session, server))
    return [rank async for each in calls.results("t-1", top=top) for rank in each.column("rank").to_pylist()]


async def test_the_first_are_given_as_the_initiator_sends_them() -> None:
    assert await first_of(Server([[ranked(0, 3), ranked(3, 5), ranked(5, 5, last=True)]]), 5) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "answer", [batch(0, 3), ranked(0, 4), batch(0, 0, last=True)], ids=["no ranks", "too many", "nothing"]
)
async def test_an_initiator_that_does_not_know_what_the_first_are_is_found_out(
    answer: initiator_pb2.ResultBatch,
) -> None:
    with pytest.raises(ProtocolError, match="knows no ranks: have it updated"):
        await first_of(Server([[answer]]), 3)


@pytest.mark.parametrize("rank_by", [None, RankBy("", 0)])
async def test_an_initiator_that_drops_ranks_from_a_submission_is_found_out(
    rank_by: RankBy | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that was built before there were ranks: it queues the task without."""

    async def info(*_: object) -> TaskInfo:
        return cast(TaskInfo, SimpleNamespace(task_id="t-1", rank_by=None))

    calls = OfflineCalls(cast(Session, Server([])))
    monkeypatch.setattr(calls, "_about", info)
    asking = calls.submit(
        "m", Standing("p"), mode=Mode.NEARLINE, idempotency_key=None, note="", rank_by=rank_by, timeout_s=5.0
    )
    if rank_by is None:
        assert await asking == "t-1"
    else:
        with pytest.raises(ProtocolError, match=r"knows no ranks: have it updated.* has begun task t-1 without"):
            await asking


async def test_rows_that_do_not_follow_are_refused() -> None:
    with pytest.raises(ProtocolError, match="from row 5 on, not 4"):
        await fetched(Server([[batch(0, 4), batch(4, 7, offset=5)]]))


async def test_a_server_that_is_away_for_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "PATIENCE_S", -1.0)
    with pytest.raises(ServerUnavailableError, match="away"):
        await fetched(Server([[ServerUnavailableError("away")]]))
