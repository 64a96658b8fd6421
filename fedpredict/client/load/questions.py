"""What is asked under load: sample ids, some a request, in an order of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from fedpredict.client.ids import encode_ids
from fedpredict.errors import EmptyRequestError, InputError
from fedpredict.model.prediction import PredictTask
from fedpredict.model.share import Mode
from fedpredict.wire import task_codec
from fedpredict.wire.v1 import initiator_pb2

MAX_IDS = 1_000_000
"""In all questions together; they are written before the first is sent."""


def groups(sample_ids: Sequence[str | bytes], rows: int, seed: int) -> list[list[str | bytes]]:
    """Return the ids of each question: all ids once, shuffled, `rows` at a time; fewer than `rows` are repeated.

    Args:
        sample_ids: The ids.
        rows: Ids a question.
        seed: Of the order.

    Raises:
        EmptyRequestError: There are no ids.

    >>> [len(group) for group in groups(["a", "b", "c", "d", "e"], 2, seed=0)]
    [2, 2]
    """
    if not sample_ids:
        raise EmptyRequestError("there are no sample ids to ask for")
    order = np.random.default_rng(seed).permutation(min(len(sample_ids), MAX_IDS))
    count = max(1, len(order) // rows)
    picked = np.resize(order, count * rows).tolist()
    return [[sample_ids[place] for place in picked[start : start + rows]] for start in range(0, len(picked), rows)]


def json_bodies(model_id: str, asked: Sequence[Sequence[str | bytes]], mode: Mode) -> list[bytes]:
    """Return the body of `POST /v1/predict` for each question.

    Raises:
        InputError: An id is no text, so that JSON cannot hold it.

    >>> json_bodies("credit", [["u1"]], Mode.NEARLINE)
    [b'{"model":"credit","sample_ids":["u1"]}']
    """
    further = "" if mode is Mode.NEARLINE else f',"mode":{json.dumps(mode.name.lower())}'
    head = f'{{"model":{json.dumps(model_id)},"sample_ids":['
    return [(f"{head}{','.join(map(_quoted, ids))}]{further}}}").encode() for ids in asked]


def tasks(model_id: str, asked: Sequence[Sequence[str | bytes]], mode: Mode) -> list[bytes]:
    """Return a `PredictRequest` for each question, as it travels; the server names the requests."""
    made = (PredictTask(request_id="", model_id=model_id, mode=mode, sample_ids=encode_ids(ids)) for ids in asked)
    return [task_codec.task_to_wire(task).SerializeToString() for task in made]


def _quoted(sample_id: str | bytes) -> str:
    try:
        text = sample_id if isinstance(sample_id, str) else sample_id.decode()
        json.dumps(text, ensure_ascii=False).encode()
    except UnicodeError:
        raise InputError("a sample id is not UTF-8, and JSON holds text alone; ask over gRPC (no --http)") from None
    return json.dumps(text, ensure_ascii=False)


def stream_calls(messages: Sequence[bytes], timeout_s: float) -> list[initiator_pb2.PredictCall]:
    """Return the calls of a `PredictStream` for some `PredictRequest`s."""
    remaining_ms = int(timeout_s * 1e3)
    return [
        initiator_pb2.PredictCall(remaining_ms=remaining_ms, predict=initiator_pb2.PredictRequest.FromString(message))
        for message in messages
    ]


def has_numbers(body: bytes) -> bool:
    """Return whether a JSON answer of `POST /v1/predict` has a number for every sample.

    >>> has_numbers(b'{"predictions":[0.5]}'), has_numbers(b'{"predictions":[0.5,null]}'), has_numbers(b"{}")
    (True, False, False)
    """
    if b"null" not in body:  # the usual case, which must cost the generator nothing
        return b'"predictions"' in body
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and _no_null(answer.get("predictions"))


def _no_null(value: object) -> bool:
    return all(map(_no_null, value)) if isinstance(value, list) else value is not None
