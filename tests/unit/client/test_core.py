"""Ids in, requests out; replies in, one result out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedpredict.client import core
from fedpredict.errors import EmptyRequestError, InputError, ManifestMismatchError, NameRefusedError, ProtocolError
from fedpredict.model.arrays import Statuses
from fedpredict.model.prediction import PartyReport, Prediction, PredictTask
from fedpredict.model.share import Mode
from fedpredict.wire import codec, task_codec
from fedpredict.wire.v1 import initiator_pb2

OK, NOT_FOUND = 1, 2


def statuses(*codes: int) -> Statuses:
    return np.array(codes, dtype=np.uint8)


def report(party: str = "lab", status: Statuses | None = None, moment: int | None = None) -> PartyReport:
    return PartyReport(party=party, status=status, oldest_event_time=moment, round_trip_s=0.5, elapsed_s=0.25)


def prediction(values: list[float], *, manifest: str = "ab" * 32, parties: tuple[PartyReport, ...] = ()) -> Prediction:
    return Prediction(
        request_id="r",
        manifest_sha256=manifest,
        predictions=np.array(values)[:, None],
        status=np.where(np.isnan(values), NOT_FOUND, OK).astype(np.uint8),
        origin=np.where(np.isnan(values), 0, 1).astype(np.uint8),
        classes=("no", "yes"),
        parties=parties or (report(),),
    )


def test_a_list_within_the_chunk_size_is_one_task_under_the_request_id() -> None:
    plan = core.plan("m", ["u1", "u2"], Mode.NEARLINE, 2)

    assert [task.request_id for task in plan.tasks] == [plan.request_id]


def test_a_longer_list_is_cut_in_order() -> None:
    plan = core.plan("m", ["u1", "u2", "u3", "u4", "u5"], Mode.OFFLINE, 2)

    assert [task.sample_ids for task in plan.tasks] == [[b"u1", b"u2"], [b"u3", b"u4"], [b"u5"]]
    assert [task.request_id for task in plan.tasks] == [f"{plan.request_id}.{number}" for number in range(3)]
    assert {task.mode for task in plan.tasks} == {Mode.OFFLINE}


def test_no_ids_are_an_error() -> None:
    with pytest.raises(EmptyRequestError):
        core.plan("m", [], Mode.NEARLINE, 10)


def test_a_model_id_that_breaks_the_rules_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(NameRefusedError, match="model id"):
        core.plan("no model", ["u1"], Mode.NEARLINE, 10)


@pytest.mark.parametrize("mode", ["fast", "", None, 5])
def test_a_mode_that_is_none_is_told_with_those_that_are(mode: Any) -> None:
    with pytest.raises(InputError, match="realtime, nearline, offline"):
        core.plan("m", ["u1"], mode, 10)


def test_the_name_of_a_mode_is_a_mode() -> None:
    assert core.plan("m", ["u1"], "offline", 10).tasks[0].mode is Mode.OFFLINE  # type: ignore[arg-type]  # as users do


def test_chunks_are_joined_in_order() -> None:
    joined = core.join("r", [prediction([0.1, np.nan]), prediction([0.3])])

    np.testing.assert_array_equal(joined.predictions, [[0.1], [np.nan], [0.3]])
    assert joined.status.tolist() == [OK, NOT_FOUND, OK]
    assert joined.origin.tolist() == [1, 0, 1]
    assert joined.request_id == "r"


def test_a_party_that_was_ok_for_one_chunk_and_not_for_another_has_a_status_for_each_sample() -> None:
    first = prediction([0.1, 0.2], parties=(report(moment=9),))
    second = prediction([np.nan], parties=(report(status=statuses(NOT_FOUND)),))

    joined = core.join("r", [first, second]).parties[0]

    assert joined.status is not None
    assert joined.status.tolist() == [OK, OK, NOT_FOUND]
    assert joined.oldest_event_time == 9


def test_of_a_party_the_oldest_event_time_the_longest_times_and_every_problem_are_kept() -> None:
    reports = [
        replace(report(moment=50), elapsed_s=2.0, problem="party lab is unavailable"),
        replace(report(moment=20), round_trip_s=3.0),
        replace(report(moment=None), problem="party lab is unavailable"),
    ]

    joined = core.join("r", [prediction([0.1], parties=(each,)) for each in reports]).parties[0]

    assert (joined.oldest_event_time, joined.round_trip_s, joined.elapsed_s) == (20, 3.0, 2.0)
    assert joined.problem == "party lab is unavailable"


def test_a_party_that_is_ok_everywhere_has_no_statuses() -> None:
    assert core.join("r", [prediction([0.1]), prediction([0.2])]).parties[0].status is None


def test_a_version_that_changes_between_chunks_is_an_error_and_no_mixture() -> None:
    with pytest.raises(ManifestMismatchError, match="changed between two chunks"):
        core.join("r", [prediction([0.1]), prediction([0.2], manifest="cd" * 32)])


@pytest.mark.parametrize(
    "other",
    [
        replace(prediction([0.2]), classes=("yes", "no")),
        replace(prediction([0.2]), simulated=True),
        prediction([0.2], parties=(report("imaging"),)),
        replace(prediction([0.2]), predictions=np.array([[0.2, 0.8]])),
    ],
)
def test_chunks_that_are_not_comparable_are_not_joined(other: Prediction) -> None:
    with pytest.raises(ManifestMismatchError):
        core.join("r", [prediction([0.1]), other])


def test_an_answer_to_another_request_is_refused() -> None:
    task = PredictTask(request_id="mine", model_id="m", mode=Mode.NEARLINE, sample_ids=[b"u1"])

    with pytest.raises(ProtocolError, match="another request"):
        core.parse_answer(task_codec.prediction_to_wire(prediction([0.1])).SerializeToString(), task)


@pytest.mark.parametrize("data", [b"\xff\xff", b"<html>"])
def test_an_answer_that_is_no_message_is_refused(data: bytes) -> None:
    task = PredictTask(request_id="r", model_id="m", mode=Mode.NEARLINE, sample_ids=[b"u1"])

    with pytest.raises(ProtocolError):
        core.parse_answer(data, task)


def test_the_methods_are_those_of_the_initiator_service() -> None:
    assert (core.PREDICT, core.LIST_MODELS) == (
        "/fedpredict.wire.v1.InitiatorService/Predict",
        "/fedpredict.wire.v1.InitiatorService/ListModels",
    )


def test_a_question_holds_the_task() -> None:
    task = PredictTask(request_id="r-1", model_id="m", mode=Mode.NEARLINE, sample_ids=[b"u1", b""])

    message = initiator_pb2.PredictRequest.FromString(core.question(task).message)

    assert (message.request_id, message.model_id, message.protocol_version) == ("r-1", "m", 1)
    assert list(codec.ids_from_wire(message.sample_ids)) == [b"u1", b""]


def test_progress_is_told_in_samples() -> None:
    told: list[tuple[int, int]] = []
    plan = core.plan("m", ["u1", "u2", "u3"], Mode.NEARLINE, 2)

    core.advance(lambda done, total: told.append((done, total)), [prediction([0.1, 0.2])], plan)

    assert told == [(2, 3)]
