"""What is asked under load."""

from __future__ import annotations

import json

import pytest

from fedpredict.client.load import questions
from fedpredict.errors import EmptyRequestError, InputError
from fedpredict.model.share import Mode
from fedpredict.wire import task_codec
from fedpredict.wire.v1 import initiator_pb2


def test_every_id_is_asked_once_before_any_is_asked_again() -> None:
    ids = [f"u{number}" for number in range(100)]

    asked = questions.groups(ids, 7, seed=1)

    flat = [each for group in asked for each in group]
    assert {len(group) for group in asked} == {7}
    assert len(flat) == len(set(flat)) == 98


def test_fewer_ids_than_rows_are_repeated() -> None:
    (asked,) = questions.groups(["a", "b"], 5, seed=0)

    assert (len(asked), set(asked)) == (5, {"a", "b"})


def test_no_ids_are_refused() -> None:
    with pytest.raises(EmptyRequestError):
        questions.groups([], 1, seed=0)


def test_json_says_ids_as_they_are() -> None:
    ids: list[str | bytes] = ['a"b\\', "年龄", "x'; --", b"bytes"]

    (body,) = questions.json_bodies("m", [ids], Mode.REALTIME)

    assert json.loads(body) == {"model": "m", "sample_ids": ['a"b\\', "年龄", "x'; --", "bytes"], "mode": "realtime"}


@pytest.mark.parametrize("sample_id", [b"\xff", "\ud800"])
def test_an_id_that_json_cannot_hold_is_told(sample_id: str | bytes) -> None:
    with pytest.raises(InputError, match="not UTF-8"):
        questions.json_bodies("m", [[sample_id]], Mode.NEARLINE)


def test_grpc_asks_for_the_same() -> None:
    (message,) = questions.tasks("m", [["a", b"\xff"]], Mode.NEARLINE)

    task = task_codec.task_from_wire(initiator_pb2.PredictRequest.FromString(message))
    assert (task.model_id, list(task.sample_ids), task.mode) == ("m", [b"a", b"\xff"], Mode.NEARLINE)
