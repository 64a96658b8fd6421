import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.errors import ModelNotReadyError, ProtocolError, TooManySamplesError
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.links import Link
from fedpredict.model.manifest import PartDescription
from fedpredict.model.prediction import ModelInfo, Origin, PartyReport, Prediction, PredictTask
from fedpredict.model.scorer import NO_EVENT_TIME, ModelRef, PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, Share, build_share
from fedpredict.wire import codec, task_codec
from fedpredict.wire.channel import MAX_MODELS
from fedpredict.wire.description import description_from_wire, description_to_wire
from fedpredict.wire.status import error_from_failure
from fedpredict.wire.v1 import common_pb2, initiator_pb2, participant_pb2

IDS = st.lists(st.binary(max_size=40), max_size=20)


def query(sample_ids: list[bytes]) -> ScoreQuery:
    return ScoreQuery(
        request_id="r-1", model_id="credit", manifest_sha256="ab" * 32, params_sha256="cd" * 32,
        mode=Mode.NEARLINE, sample_ids=sample_ids, epoch=3,
    )  # fmt: skip


def reply() -> PartyReply:
    share = build_share(np.array([[1.5, -0.0], [2.0, 3.0]]), np.array([1, SampleStatus.NOT_FOUND], np.uint8))
    return PartyReply(share=share, oldest_event_time=-5, elapsed_s=0.25)


@given(IDS)
def test_any_bytes_travel_as_sample_ids(ids: list[bytes]) -> None:
    assert list(codec.ids_from_wire(codec.ids_to_wire(ids))) == ids


@pytest.mark.parametrize("offsets", [[1, 2], [0, 3], [0, 2, 1, 2], [0, 0xFFFFFFFF, 2], [], [0]])
def test_offsets_that_do_not_cut_the_data_are_refused(offsets: list[int]) -> None:
    message = common_pb2.SampleIds(data=b"ab", offsets=np.array(offsets, dtype="<u4").tobytes())
    with pytest.raises(ProtocolError, match="offsets"):
        codec.ids_from_wire(message)


def test_half_an_offset_is_refused() -> None:
    with pytest.raises(ProtocolError, match="row of uint32"):
        codec.ids_from_wire(common_pb2.SampleIds(data=b"", offsets=b"\0\0\0\0\0"))


def test_more_ids_than_any_process_takes_are_refused_before_they_are_cut() -> None:
    uncut = np.ones(100_002, dtype="<u4").tobytes()  # a message that is cut first would be a ProtocolError
    with pytest.raises(TooManySamplesError) as caught:
        codec.ids_from_wire(common_pb2.SampleIds(data=b"", offsets=uncut))
    assert caught.value.limit == 100_000
    most = [b""] * 100_000
    assert list(codec.ids_from_wire(codec.ids_to_wire(most))) == most


@given(IDS)
def test_a_sub_task_survives_the_wire(ids: list[bytes]) -> None:
    back = codec.query_from_wire(codec.query_to_wire(query(ids), 200))
    asked = query(ids)
    assert [getattr(back, name) for name in asked.__slots__] == [getattr(asked, name) for name in asked.__slots__]


def test_a_span_travels_with_a_sub_task() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    back = codec.query_from_wire(codec.query_to_wire(replace(query([b"u"]), traceparent=parent), 200))
    assert back.traceparent == parent


@pytest.mark.parametrize(
    "broken",
    ["x", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "00-" + "A" * 32 + "-b7ad6b7169203331-01", "0" * 10_000],
)
def test_a_broken_span_counts_as_none_and_the_sub_task_is_taken(broken: str) -> None:
    message = codec.query_to_wire(query([b"u"]), 200)
    message.traceparent = broken
    assert codec.query_from_wire(message).traceparent == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: setattr(m, "protocol_version", 2),
        lambda m: setattr(m, "request_id", ""),
        lambda m: setattr(m, "request_id", "a b"),
        lambda m: setattr(m, "request_id", "x" * 65),
        lambda m: setattr(m, "model_id", "../etc"),
        lambda m: setattr(m, "manifest_sha256", b"short"),
        lambda m: setattr(m, "params_sha256", b""),
        lambda m: setattr(m, "mode", 0),
        lambda m: setattr(m, "mode", 99),
    ],
)
def test_a_damaged_sub_task_is_refused(damage: Callable[[Message], None]) -> None:
    message = codec.query_to_wire(query([b"a"]), 200)
    damage(message)
    with pytest.raises(ProtocolError):
        codec.query_from_wire(message)


def several() -> ScoreQuery:
    """Two requests for a model, and one of two rows for another."""
    further = (ModelRef("m2", "2d" * 32, "3e" * 32),)
    return replace(query([b"a", b"b", b"c", b"d"]), segments=(1, 1, 2), further=further, model_rows=(2, 2))


def test_a_sub_task_for_several_models_survives_the_wire() -> None:
    asked = several()
    back = codec.query_from_wire(codec.query_to_wire(asked, 200))
    names = ("model_id", "manifest_sha256", "params_sha256")
    assert [[getattr(each, name) for name in names] for each in back.models] == [
        [getattr(each, name) for name in names] for each in asked.models
    ]
    assert (back.segments, back.model_rows, list(back.sample_ids)) == ((1, 1, 2), (2, 2), [b"a", b"b", b"c", b"d"])


def test_a_peer_of_protocol_version_1_refuses_a_sub_task_for_several_models() -> None:
    message = codec.query_to_wire(several(), 200)
    with pytest.raises(ProtocolError, match="protocol version 2"):
        codec.check_protocol_version(message.protocol_version)


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: setattr(m, "protocol_version", 1),
        lambda m: m.ClearField("further"),
        lambda m: m.ClearField("model_rows"),
        lambda m: m.ClearField("segments"),
        lambda m: setattr(m, "model_rows", struct.pack("<2I", 1, 2)),
        lambda m: setattr(m, "model_rows", struct.pack("<2I", 4, 0)),
        lambda m: setattr(m, "model_rows", struct.pack("<2I", 3, 1)),
        lambda m: setattr(m, "model_rows", struct.pack("<3I", 1, 1, 2)),
        lambda m: setattr(m, "model_rows", struct.pack("<1I", 4)),
        lambda m: setattr(m, "model_rows", b"\2\0\0"),
        lambda m: setattr(m.further[0], "model_id", "../etc"),
        lambda m: setattr(m.further[0], "manifest_sha256", b"short"),
        lambda m: setattr(m.further[0], "params_sha256", b""),
        lambda m: m.further.extend([m.further[0]] * MAX_MODELS),
    ],
)
def test_a_damaged_sub_task_for_several_models_is_refused(damage: Callable[[Message], None]) -> None:
    message = codec.query_to_wire(several(), 200)
    damage(message)
    with pytest.raises(ProtocolError):
        codec.query_from_wire(message)


def failed_reply() -> participant_pb2.ScoreReply:
    """The first model has a share, the second has none."""
    values = np.array([[1.5], [2.5], [np.nan], [np.nan]])
    status = np.array([1, 1, SampleStatus.REFUSED, SampleStatus.REFUSED], dtype=np.uint8)
    share = Share(values, status)
    failures = {1: ModelNotReadyError("no snapshot")}
    times = np.array([5, 6, NO_EVENT_TIME])
    given = PartyReply(share=share, oldest_event_time=5, elapsed_s=0.0, segment_event_times=times, failures=failures)
    return codec.reply_to_wire(several(), given)


def test_why_a_model_has_no_share_survives_the_wire() -> None:
    failures = codec.failures_from_wire(failed_reply(), several())
    assert list(failures) == [1]
    assert isinstance(error_from_failure(failures[1]), ModelNotReadyError)


@pytest.mark.parametrize(
    ("damage", "asked"),
    [
        (lambda m: setattr(m.failures[0], "place", 2), several()),
        (lambda m: m.failures.extend([m.failures[0]]), several()),
        (lambda m: setattr(m, "status", b"\1\1\1" + bytes([SampleStatus.REFUSED])), several()),
        (lambda m: None, query([b"a", b"b", b"c", b"d"])),
    ],
    ids=["of a model not asked for", "twice of one model", "with a row that has a number", "of one model alone"],
)
def test_a_failure_that_cannot_be_is_refused(damage: Callable[[Message], None], asked: ScoreQuery) -> None:
    message = failed_reply()
    damage(message)
    with pytest.raises(ProtocolError):
        codec.failures_from_wire(message, asked)


def test_more_failures_than_models_are_refused_before_they_are_read() -> None:
    message = failed_reply()
    message.failures[0].place = 77
    message.failures.extend([message.failures[0]] * 2)
    with pytest.raises(ProtocolError, match="3 failures of 2 models"):
        codec.failures_from_wire(message, several())


def test_a_share_survives_the_wire_bit_for_bit() -> None:
    asked = query([b"a", b"b"])
    back = codec.reply_from_wire(codec.reply_to_wire(asked, reply()), asked, 2)
    assert back.share.values[0].tobytes() == np.array([1.5, -0.0]).tobytes()
    assert np.isnan(back.share.values[1]).all()
    assert back.share.status.tolist() == [SampleStatus.OK, SampleStatus.NOT_FOUND]
    assert (back.oldest_event_time, back.elapsed_s) == (-5, 0.25)


def _number_where_not_ok(message: participant_pb2.ScoreReply) -> None:
    message.values.values = np.ones((2, 2)).tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: setattr(m, "request_id", "r-2"),
        lambda m: setattr(m, "manifest_sha256", b"\0" * 32),
        lambda m: setattr(m, "status", b"\1"),
        lambda m: setattr(m, "status", b"\0\1"),
        lambda m: setattr(m, "status", b"\1\xff"),
        lambda m: setattr(m, "elapsed_s", -1.0),
        lambda m: setattr(m, "elapsed_s", float("nan")),
        lambda m: setattr(m, "oldest_event_time_us", 2**63 - 1),
        lambda m: setattr(m, "oldest_event_time_us", -(2**63)),
        lambda m: m.ClearField("values"),
        lambda m: setattr(m.values, "rows", 1),
        lambda m: setattr(m.values, "columns", 0xFFFFFFFF),
        lambda m: setattr(m.values, "values", b""),
        _number_where_not_ok,
    ],
)
def test_a_damaged_share_is_refused(damage: Callable[[Message], None]) -> None:
    asked = query([b"a", b"b"])
    message = codec.reply_to_wire(asked, reply())
    damage(message)
    with pytest.raises(ProtocolError):
        codec.reply_from_wire(message, asked, 2)


def test_a_share_of_another_width_is_refused() -> None:
    asked = query([b"a", b"b"])
    with pytest.raises(ProtocolError, match="2 × 2"):
        codec.reply_from_wire(codec.reply_to_wire(asked, reply()), asked, 1)


PART = PartDescription(
    party="lab", model_id="credit", params_sha256="cd" * 32, training_run="r", kind=Kind.ONE_VS_REST,
    link=own_link(Kind.ONE_VS_REST), classes=("a", "b", "c"), n_scores=3, holds_intercept=False, fit_intercept=True,
)  # fmt: skip


def test_a_description_survives_the_wire() -> None:
    assert description_from_wire(description_to_wire("r-1", PART)) == PART


LINKED = replace(PART, kind=Kind.LINEAR, link=Link("power", 0.1), classes=())

ORDINAL = replace(
    PART, kind=Kind.ORDINAL, link=Link("cumulative_logit", numbers=(-0.1, 1 / 3)), n_scores=1
)  # fmt: skip


INDEPENDENT = replace(PART, link=Link("logit"))


@pytest.mark.parametrize("linked", [LINKED, ORDINAL, INDEPENDENT], ids=str)
def test_a_description_with_another_link_survives_the_wire(linked: PartDescription) -> None:
    assert description_from_wire(description_to_wire("r-1", linked)) == linked


def test_an_initiator_that_does_not_know_ordinal_models_refuses_a_part_of_one() -> None:
    message = description_to_wire("r-1", ORDINAL)
    assert message.kind == common_pb2.KIND_UNSPECIFIED  # what it looks at, as it knows no links or no such kind
    message.link = ""
    with pytest.raises(ProtocolError, match="kind"):
        description_from_wire(message)


def test_an_ordinal_part_without_its_link_is_refused() -> None:
    message = description_to_wire("r-1", ORDINAL)
    message.link, message.linked_kind, message.kind = "", common_pb2.KIND_UNSPECIFIED, common_pb2.KIND_ORDINAL
    with pytest.raises(ProtocolError, match="an ordinal model needs its link"):
        description_from_wire(message)


def test_an_initiator_that_knows_no_links_refuses_a_part_that_has_one() -> None:
    message = description_to_wire("r-1", LINKED)
    message.ClearField("link")  # it skips fields that it does not know
    message.ClearField("linked_kind")
    with pytest.raises(ProtocolError, match="kind"):
        description_from_wire(message)


def test_a_link_is_not_sent_where_it_is_the_kinds_own() -> None:
    assert description_to_wire("r-1", PART).link == ""


@pytest.mark.parametrize(
    ("link", "linked_kind", "kind"),
    [
        ("loglog", common_pb2.KIND_LINEAR, 0),
        ("power:nan", common_pb2.KIND_LINEAR, 0),
        ("log", common_pb2.KIND_BINARY, 0),
        ("log", common_pb2.KIND_LINEAR, common_pb2.KIND_LINEAR),
        ("log", 0, 0),
        ("log", 99, 0),
        ("x" * 100_000, common_pb2.KIND_LINEAR, 0),
    ],
)
def test_a_link_that_is_none_or_another_kinds_is_refused(link: str, linked_kind: int, kind: int) -> None:
    message = description_to_wire("r-1", LINKED)
    message.link = link
    setattr(message, "linked_kind", linked_kind)  # noqa: B010  any number travels
    setattr(message, "kind", kind)  # noqa: B010
    with pytest.raises(ProtocolError):
        description_from_wire(message)


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: setattr(m, "model_id", "../etc"),
        lambda m: setattr(m, "params_sha256", b"short"),
        lambda m: setattr(m, "kind", 0),
        lambda m: setattr(m, "n_scores", 0xFFFFFFFF),
        lambda m: setattr(m, "training_run", ""),
        lambda m: setattr(m, "training_run", "x" * 201),
        lambda m: setattr(m, "training_run", "run\x1b[2J"),
    ],
)
def test_a_damaged_description_is_refused(damage: Callable[[Message], None]) -> None:
    message = description_to_wire("r-1", PART)
    damage(message)
    with pytest.raises(ProtocolError):
        description_from_wire(message)


def test_a_task_without_a_request_id_gets_one() -> None:
    message = initiator_pb2.PredictRequest(protocol_version=1, model_id="credit", mode=common_pb2.MODE_NEARLINE)
    first, second = task_codec.task_from_wire(message), task_codec.task_from_wire(message)
    assert len(first.request_id) == 32
    assert first.request_id != second.request_id


def prediction(simulated: bool = False) -> Prediction:
    return Prediction(
        request_id="r-1",
        manifest_sha256="" if simulated else "ab" * 32,
        predictions=np.array([[0.25], [np.nan]]),
        status=np.array([SampleStatus.OK, SampleStatus.STALE], np.uint8),
        origin=np.array([Origin.DEFAULT_PARTIAL, Origin.UNSPECIFIED], np.uint8),
        classes=("no", "yes"),
        parties=(
            PartyReport(party="a", status=None, oldest_event_time=7, round_trip_s=0.5, elapsed_s=0.25),
            PartyReport(
                party="b",
                status=np.array([1, SampleStatus.STALE], np.uint8),
                oldest_event_time=None,
                round_trip_s=0.5,
                elapsed_s=0.0,
                problem="late",
            ),
        ),
        simulated=simulated,
    )


@pytest.mark.parametrize("simulated", [False, True])
def test_a_prediction_survives_the_wire(simulated: bool) -> None:
    sent = prediction(simulated)
    back = task_codec.prediction_from_wire(task_codec.prediction_to_wire(sent), 2)
    for name in ("predictions", "status", "origin"):
        np.testing.assert_array_equal(getattr(back, name), getattr(sent, name))
    for name in ("request_id", "manifest_sha256", "classes", "simulated"):
        assert getattr(back, name) == getattr(sent, name)
    assert [(p.party, p.oldest_event_time, p.problem) for p in back.parties] == [("a", 7, ""), ("b", None, "late")]
    assert back.parties[0].status is None
    assert back.parties[1].status is not None
    assert back.parties[1].status.tolist() == [1, SampleStatus.STALE]


def test_a_number_for_a_sample_that_was_not_scored_is_refused() -> None:
    message = task_codec.prediction_to_wire(prediction())
    message.predictions.values = np.array([[0.25], [0.5]]).tobytes()
    with pytest.raises(ProtocolError, match="not scored"):
        task_codec.prediction_from_wire(message, 2)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_scored_sample_without_a_number_is_refused(number: float) -> None:
    message = task_codec.prediction_to_wire(prediction())
    message.predictions.values = np.array([[number], [np.nan]]).tobytes()
    with pytest.raises(ProtocolError, match="none for one that was"):
        task_codec.prediction_from_wire(message, 2)


@pytest.mark.parametrize("micros", [-62_135_596_800_000_000, 253_402_300_799_999_999])
def test_every_instant_of_the_years_1_to_9999_travels(micros: int) -> None:
    asked = query([b"a", b"b"])
    message = codec.reply_to_wire(asked, reply())
    message.oldest_event_time_us = micros
    assert codec.reply_from_wire(message, asked, 2).oldest_event_time == micros
    message.oldest_event_time_us += 1 if micros > 0 else -1
    with pytest.raises(ProtocolError, match="years 1 to 9999"):
        codec.reply_from_wire(message, asked, 2)


def test_a_prediction_for_fewer_samples_than_asked_is_refused() -> None:
    with pytest.raises(ProtocolError, match="2 SampleStatus bytes for 3 samples"):
        task_codec.prediction_from_wire(task_codec.prediction_to_wire(prediction()), 3)


@pytest.mark.parametrize("kind", [None, *Kind])
def test_model_information_survives_the_wire(kind: Kind | None) -> None:
    info = ModelInfo(
        model_id="credit", ready=kind is not None, problem="" if kind else "lab is away", kind=kind,
        link=(ORDINAL.link if kind is Kind.ORDINAL else own_link(kind)) if kind else None,
        classes=("a",), parties=("x", "y"),
        manifest_sha256="ab" * 32, n_outputs=2,
    )  # fmt: skip
    assert task_codec.model_info_from_wire(task_codec.model_info_to_wire(info)) == info


def test_the_information_of_a_model_from_an_older_initiator_has_its_kinds_own_link() -> None:
    message = initiator_pb2.Model(model_id="credit", ready=True, kind=common_pb2.KIND_BINARY, n_outputs=1)
    assert task_codec.model_info_from_wire(message).link == Link("logit")


def test_a_task_survives_the_wire() -> None:
    task = PredictTask(request_id="x.1", model_id="credit", mode=Mode.OFFLINE, sample_ids=[b"a", b"", b"\xff"])
    back = task_codec.task_from_wire(task_codec.task_to_wire(task))
    assert (back.request_id, back.model_id, back.mode, back.sample_ids) == (
        "x.1",
        "credit",
        Mode.OFFLINE,
        [b"a", b"", b"\xff"],
    )


def test_the_enums_of_the_messages_are_the_models() -> None:
    assert {name.removeprefix("SAMPLE_STATUS_"): n for name, n in common_pb2.SampleStatus.items()} == {
        status.name: status.value for status in SampleStatus
    }
    assert {name.removeprefix("ORIGIN_"): n for name, n in initiator_pb2.Origin.items()} == {
        origin.name: origin.value for origin in Origin
    }


@pytest.mark.parametrize("classes", [["x" * 201, "b", "c"], [str(i) for i in range(10_001)]])
def test_a_description_with_endless_classes_is_refused(classes: list[str]) -> None:
    message = participant_pb2.DescribeModelReply(
        model_id="m", params_sha256=b"\0" * 32, training_run="r", kind=common_pb2.KIND_MULTINOMIAL,
        classes=classes, n_scores=3,
    )  # fmt: skip
    with pytest.raises(ProtocolError, match="classes"):
        description_from_wire(message)
