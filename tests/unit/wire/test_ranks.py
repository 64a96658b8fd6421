"""Ranks on the wire: what a task asks for, and the column that its results have where the caller knows it."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from fedpredict.errors import FieldError, ProtocolError
from fedpredict.model.offline import RankBy
from fedpredict.model.share import Mode
from fedpredict.tables.results import RESULTS
from fedpredict.wire.offline_arrow import results_from_wire, results_to_wire
from fedpredict.wire.offline_codec import MAX_RANKED, Submission, submission_from_wire, submission_to_wire
from fedpredict.wire.v1 import initiator_pb2

SUBMISSION = Submission(request_id="r", model_id="m", mode=Mode.OFFLINE, table="people")
ROWS = pa.table(
    {
        "sample_id": ["a", "b"],
        "status": pa.array([1, 2], pa.int32()),
        "origin": pa.array([1, 0], pa.int32()),
        "predictions": [[0.5], None],
        "rank": pa.array([1, None], pa.int64()),
    }
)


@pytest.mark.parametrize("rank_by", [None, RankBy(), RankBy("good", 7), RankBy("", MAX_RANKED)])
def test_what_is_asked_for_comes_back(rank_by: RankBy | None) -> None:
    asked = replace(SUBMISSION, rank_by=rank_by)
    assert submission_from_wire(submission_to_wire(asked)) == asked


def test_more_ranks_than_there_can_be_are_refused() -> None:
    message = submission_to_wire(replace(SUBMISSION, rank_by=RankBy("", MAX_RANKED + 1)))
    with pytest.raises(FieldError, match="more than there can be"):
        submission_from_wire(message)


def test_a_message_of_a_client_that_knows_no_ranks_asks_for_none() -> None:
    message = submission_to_wire(replace(SUBMISSION, rank_by=RankBy("good")))
    message.ClearField("rank_by")
    assert submission_from_wire(message) == SUBMISSION


def test_results_have_ranks_where_they_are_asked_for() -> None:
    ranked = results_from_wire(results_to_wire(ROWS, 0, (), 1, has_rank=True))
    assert ranked.to_pylist() == [
        {"sample_id": "a", "prediction": 0.5, "status": "ok", "origin": "model", "rank": 1},
        {"sample_id": "b", "prediction": None, "status": "not_found", "origin": "unspecified", "rank": None},
    ]
    plain = results_from_wire(results_to_wire(ROWS, 0, (), 1))
    assert plain.schema.names == ["sample_id", "prediction", "status", "origin"]
    nothing = results_from_wire(results_to_wire(RESULTS.arrow_schema.empty_table(), 0, (), 1, has_rank=True))
    assert (nothing.num_rows, nothing.schema.names[-1]) == (0, "rank")


def test_ranks_of_another_type_are_refused() -> None:
    message = results_to_wire(ROWS, 0, (), 1, has_rank=True)
    with pa.ipc.open_stream(message.table) as reader:
        batch = reader.read_next_batch()
    at = batch.schema.names.index("rank")
    wrong = batch.set_column(at, "rank", batch.column("rank").cast(pa.float64()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, wrong.schema) as writer:
        writer.write_batch(wrong)
    with pytest.raises(ProtocolError, match="another type"):
        results_from_wire(initiator_pb2.ResultBatch(table=sink.getvalue().to_pybytes()))
