"""What an initiator does with parties that are away, slow, wrong or dishonest: real calls, real mutual TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from fedpredict.errors import (
    DistinctIdsUnavailableError,
    DistinctIdsUsedUpError,
    EmptyRequestError,
    FedPredictError,
    ModelNotFoundError,
    ModelNotReadyError,
    ProtocolError,
    ServerUnavailableError,
    TooManySamplesError,
    UnauthenticatedError,
)
from fedpredict.model.prediction import Origin, PartyReport, Prediction
from fedpredict.model.share import SampleStatus
from fedpredict.wire.v1 import initiator_pb2, participant_pb2
from tests.integration.federation import Federation, ScriptedParty, describe, digest_of, eventually

OK, NOT_FOUND, INVALID = SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.ID_INVALID
AWAY, REFUSED = SampleStatus.PARTY_UNAVAILABLE, SampleStatus.REFUSED
NAN = float("nan")
MODEL = {"m": {"parties": ["lab", "shop"]}}

LAB = {b"u1": [1.0], b"u2": [2.0], b"u3": [3.0]}
SHOP = {b"u1": [10.0, 1.0], b"u2": [20.0, 0.0], b"u4": [40.0, 0.0]}
LAB_WEIGHTS = np.array([[2.0]])
SHOP_WEIGHTS = np.array([[0.5], [-1.0]])
U1, U2 = 2.0 + 5.0 - 1.0, 4.0 + 10.0


@pytest.fixture
async def lab(federation: Federation) -> ScriptedParty:
    return await federation.party("lab", LAB, LAB_WEIGHTS)


@pytest.fixture
async def shop(federation: Federation) -> ScriptedParty:
    return await federation.party("shop", SHOP, SHOP_WEIGHTS)


def numbers(prediction: Prediction) -> list[float]:
    column: list[float] = prediction.predictions[:, 0].tolist()
    return column


def report_of(prediction: Prediction, party: str) -> PartyReport:
    (report,) = [report for report in prediction.parties if report.party == party]
    return report


async def test_shares_of_all_parties_are_added(federation: Federation, lab: ScriptedParty, shop: ScriptedParty) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    prediction = await federation.predict(b"u2", b"u1", b"u2")
    assert numbers(prediction) == [U2, U1, U2]
    assert prediction.origin.tolist() == [Origin.MODEL] * 3
    assert [report.party for report in prediction.parties] == ["lab", "shop"]
    for report in prediction.parties:
        assert (report.status, report.problem, report.elapsed_s) == (None, "", 0.25)
        assert report.oldest_event_time == 1_700_000_000_000_000
        assert report.round_trip_s > 0.0
    pinned = federation.store.pins()["m"][0].manifest
    assert prediction.manifest_sha256 == pinned.manifest_sha256
    assert {request.manifest_sha256.hex() for request in (*lab.asked, *shop.asked)} == {pinned.manifest_sha256}
    assert lab.asked[0].params_sha256.hex() == digest_of("lab")


async def test_an_unknown_sample_is_told_by_party_and_gets_no_number(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    prediction = await federation.predict(b"u1", b"u3", b"u4", b"nobody")
    np.testing.assert_array_equal(numbers(prediction), [U1, NAN, NAN, NAN])
    assert prediction.status.tolist() == [OK, NOT_FOUND, NOT_FOUND, NOT_FOUND]
    lab_status, shop_status = report_of(prediction, "lab").status, report_of(prediction, "shop").status
    assert lab_status is not None
    assert shop_status is not None
    assert lab_status.tolist() == [OK, OK, NOT_FOUND, NOT_FOUND]
    assert shop_status.tolist() == [OK, NOT_FOUND, OK, NOT_FOUND]


async def test_an_invalid_id_stays_at_home_and_the_others_are_answered(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    before = len(lab.asked)
    prediction = await federation.predict(b"", b"u1", b"\xff", b"u\n2", b"x" * 10_000, b"u2", b"\0")
    assert prediction.status.tolist() == [INVALID, OK, INVALID, INVALID, INVALID, OK, INVALID]
    np.testing.assert_array_equal(numbers(prediction), [NAN, U1, NAN, NAN, NAN, U2, NAN])
    assert [request.sample_ids.data for request in lab.asked[before:]] == [b"u1u2"]


async def test_a_request_of_invalid_ids_asks_nobody(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    before = len(lab.asked)
    prediction = await federation.predict(b"", b"\0")
    assert prediction.status.tolist() == [INVALID, INVALID]
    assert prediction.predictions.shape == (2, 1)
    assert len(lab.asked) == before


async def test_a_party_that_is_down_is_named(federation: Federation, lab: ScriptedParty, shop: ScriptedParty) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    await shop.stop()
    prediction = await federation.predict(b"u1", b"u4", b"")
    assert prediction.status.tolist() == [AWAY, AWAY, INVALID]
    assert np.isnan(prediction.predictions).all()
    assert report_of(prediction, "shop").problem == "party shop is unavailable"
    lab_report = report_of(prediction, "lab")
    assert lab_report.problem == ""
    assert lab_report.status is not None
    assert lab_report.status.tolist() == [OK, NOT_FOUND, INVALID]


async def test_a_slow_party_is_named_within_the_callers_deadline(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    shop.held = asyncio.Event()
    prediction = await federation.predict(b"u1", timeout_s=2.0)
    assert prediction.status.tolist() == [AWAY]
    assert report_of(prediction, "shop").problem == "party shop did not answer in time"
    assert report_of(prediction, "lab").problem == ""


async def test_the_models_own_deadline_is_kept(federation: Federation, lab: ScriptedParty, shop: ScriptedParty) -> None:
    await federation.initiator({"m": {"parties": ["lab", "shop"], "deadline_s": 0.5}})
    await federation.ready()
    shop.held = asyncio.Event()
    prediction = await federation.predict(b"u1")
    assert report_of(prediction, "shop").problem == "party shop did not answer in time"


async def test_a_caller_without_a_deadline_waits_as_long_as_the_settings_say(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    await federation.initiator(MODEL, deadline_s=0.5)
    await federation.ready()
    shop.held = asyncio.Event()
    prediction = await federation.predict(b"u1", timeout_s=None)
    assert prediction.status.tolist() == [AWAY]


async def test_the_deadline_travels(federation: Federation, lab: ScriptedParty, shop: ScriptedParty) -> None:
    await federation.initiator({"m": {"parties": ["lab", "shop"], "deadline_s": 15.0}})
    await federation.ready()
    await federation.predict(b"u1", timeout_s=8.0)
    await federation.predict(b"u1")
    stated = [request.remaining_ms for request in lab.asked]
    assert 0 < stated[0] <= 7_900
    assert 7_900 < stated[1] <= 15_000
    assert 0.0 < lab.remaining_s[0] < 8.0
    assert 7.9 < lab.remaining_s[1] < 16.0  # gRPC rounds up what it sends


async def test_a_caller_who_leaves_cancels_the_sub_tasks(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    shop.held = asyncio.Event()
    shop.scoring.clear()
    asking = asyncio.create_task(federation.predict(b"u1"))
    await shop.scoring.wait()
    asking.cancel()
    async with asyncio.timeout(10.0):
        await shop.left.wait()


USED_UP = "the daily limit of distinct sample ids of this caller is used up; it begins anew at 2026-11-28T00:00:00Z"


@pytest.mark.parametrize(
    ("error", "status", "problem"),
    [
        (ModelNotFoundError("x"), REFUSED, "party shop refused"),
        (UnauthenticatedError("x"), REFUSED, "party shop refused"),
        (TooManySamplesError("x", limit=3), REFUSED, "party shop refused"),
        (ProtocolError("x"), REFUSED, "party shop refused"),
        (DistinctIdsUsedUpError("x", until="2026-11-28T00:00:00Z"), REFUSED, USED_UP),
        (DistinctIdsUnavailableError("x"), AWAY, "party shop is unavailable"),
        (ModelNotReadyError("x"), AWAY, "party shop is unavailable"),
        (FedPredictError("secret of the shop"), AWAY, "party shop is unavailable"),
    ],
)
async def test_a_refusal_is_told_in_public_words(
    federation: Federation,
    lab: ScriptedParty,
    shop: ScriptedParty,
    *,
    error: FedPredictError,
    status: SampleStatus,
    problem: str,
) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    shop.raises = error
    prediction = await federation.predict(b"u1", b"nobody")
    assert prediction.status.tolist() == [status, status]
    assert report_of(prediction, "shop").problem == problem


def another_request(reply: participant_pb2.ScoreReply) -> None:
    reply.request_id = "r-2"


def another_manifest(reply: participant_pb2.ScoreReply) -> None:
    reply.manifest_sha256 = b"\1" * 32


def one_sample_less(reply: participant_pb2.ScoreReply) -> None:
    reply.status = reply.status[:-1]
    reply.values.rows -= 1
    reply.values.values = reply.values.values[:-8]


def two_scores_a_sample(reply: participant_pb2.ScoreReply) -> None:
    reply.values.columns = 2
    reply.values.values = reply.values.values * 2


def a_size_that_is_a_lie(reply: participant_pb2.ScoreReply) -> None:
    reply.values.columns = 4_000_000_000


def a_number_for_an_unknown_sample(reply: participant_pb2.ScoreReply) -> None:
    reply.status = bytes([NOT_FOUND] * len(reply.status))


def an_infinite_number(reply: participant_pb2.ScoreReply) -> None:
    reply.values.values = np.full(2, np.inf).tobytes()


def a_status_never_filled(reply: participant_pb2.ScoreReply) -> None:
    reply.status = bytes(len(reply.status))


def no_share(reply: participant_pb2.ScoreReply) -> None:
    reply.ClearField("values")


@pytest.mark.parametrize(
    "edit",
    [
        another_request,
        another_manifest,
        one_sample_less,
        two_scores_a_sample,
        a_size_that_is_a_lie,
        a_number_for_an_unknown_sample,
        an_infinite_number,
        a_status_never_filled,
        no_share,
    ],
)
async def test_a_reply_that_breaks_the_protocol_is_not_combined(
    federation: Federation,
    lab: ScriptedParty,
    shop: ScriptedParty,
    edit: Callable[[participant_pb2.ScoreReply], None],
) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    shop.edit = edit
    prediction = await federation.predict(b"u1", b"u2")
    assert prediction.status.tolist() == [REFUSED, REFUSED]
    assert np.isnan(prediction.predictions).all()
    assert report_of(prediction, "shop").problem == "party shop refused"


@pytest.mark.parametrize("method", ["Hello", "DescribeModel"])
async def test_a_party_that_sends_no_messages_is_named(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty, method: str
) -> None:
    await shop.stop()
    shop.garbage = method
    await shop.start()
    await federation.initiator(MODEL)
    await told(federation, "party shop: Error parsing message")


async def test_a_share_that_is_no_message_is_not_combined(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    await federation.initiator(MODEL)
    await federation.ready()
    await shop.stop()
    shop.garbage = "Score"
    await shop.start()

    async def is_refused() -> bool:
        return bool((await federation.predict(b"u1")).status[0] == REFUSED)

    await eventually(is_refused)


async def test_a_description_that_breaks_the_protocol_is_refused(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    shop.parts["m"] = describe("shop", params_sha256="ab")
    await federation.initiator(MODEL)
    await told(federation, "party shop: params_sha256 has 1 bytes")


async def test_a_party_that_calls_itself_another_is_not_asked(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    shop.claims = "lab"
    await federation.initiator(MODEL)
    await told(federation, "party shop: party 'lab' answers")
    assert shop.asked == []


async def test_a_party_of_another_protocol_is_not_asked(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    shop.protocol_version = 2
    await federation.initiator(MODEL)
    await told(federation, "protocol version 2; this process speaks 1")


async def test_a_server_with_another_partys_certificate_is_not_believed(
    federation: Federation, lab: ScriptedParty
) -> None:
    impostor = ScriptedParty(
        "mallory", federation.certificates.of("mallory"), {"m": describe("shop")}, SHOP, SHOP_WEIGHTS, claims="shop"
    )
    await impostor.start()
    federation.stack.push_async_callback(impostor.stop)
    federation.parties["shop"] = impostor.address
    await federation.initiator(MODEL)
    await told(federation, "party shop: UNAVAILABLE")
    assert impostor.asked == []


async def test_a_description_of_another_party_is_refused(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    shop.parts["m"] = describe("lab")
    await federation.initiator(MODEL)
    await told(federation, "party shop: it describes another model or party")


async def told(federation: Federation, text: str) -> None:
    """Return when the operator can read `text` in what is offered of the model."""

    async def is_told() -> bool:
        offer = federation.store.offers().get("m")
        return offer is not None and text in offer.problem

    await eventually(is_told)
    assert not (await federation.models())["m"].ready
    with pytest.raises(ModelNotReadyError):
        await federation.predict(b"u1")


async def test_replies_in_any_order_give_the_same_bits(federation: Federation) -> None:
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point."""
    one = np.array([[1.0]])
    names = ("ant", "bee", "cat")
    parties = [
        await federation.party(name, {b"u1": [value]}, one) for name, value in zip(names, (0.1, 0.2, 0.3), strict=True)
    ]
    await federation.initiator({"m": {"parties": ["cat", "ant", "bee"]}})
    await federation.ready()
    for first in parties:
        for party in parties:
            party.held = None if party is first else asyncio.Event()
            party.scoring.clear()
        asking = asyncio.create_task(federation.predict(b"u1"))
        for party in reversed(parties):
            await party.scoring.wait()
        for party in reversed(parties):
            if party.held is not None:
                party.held.set()
        assert numbers(await asking) == [(0.1 + 0.2) + 0.3]


async def test_bad_requests_are_refused_by_name(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    await federation.initiator(MODEL, max_samples=3)
    await federation.ready()
    with pytest.raises(EmptyRequestError):
        await federation.predict()
    with pytest.raises(TooManySamplesError) as raised:
        await federation.predict(*[b"u1"] * 4)
    assert raised.value.limit == 3
    with pytest.raises(ModelNotFoundError):
        await federation.predict(b"u1", model_id="nosuch")
    with pytest.raises(ProtocolError):
        await federation.call("Predict", initiator_pb2.PredictRequest(protocol_version=9), "desk", 5.0)


async def test_a_model_of_other_clients_looks_like_none(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    await federation.initiator(MODEL, clients={"desk": {"models": ["*"]}, "risk": {"models": ["other"]}})
    await federation.ready()
    for caller in ("risk", "stranger"):
        with pytest.raises(ModelNotFoundError, match="no such model"):
            await federation.predict(b"u1", caller=caller)
    assert await federation.models("risk") == {}
    with pytest.raises(ModelNotFoundError, match="no such model"):
        await federation.models("stranger")


async def test_default_partial_marks_what_it_made_up(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    model = {"m": {"parties": ["lab", "shop"], "policy": "default_partial", "defaults": {"shop": [100.0]}}}
    await federation.initiator(model)
    await federation.ready()
    prediction = await federation.predict(b"u1", b"u3", b"u4", b"nobody", b"")
    np.testing.assert_array_equal(numbers(prediction), [U1, 106.0, NAN, NAN, NAN])
    assert prediction.status.tolist() == [OK, OK, NOT_FOUND, NOT_FOUND, INVALID]
    assert prediction.origin.tolist() == [Origin.MODEL, Origin.DEFAULT_PARTIAL, 0, 0, 0]
    await shop.stop()
    prediction = await federation.predict(b"u1", b"u4")
    np.testing.assert_array_equal(numbers(prediction), [102.0, NAN])
    assert prediction.origin.tolist() == [Origin.DEFAULT_PARTIAL, 0]
    assert report_of(prediction, "shop").problem == "party shop is unavailable"
    await lab.stop()
    prediction = await federation.predict(b"u1")
    assert prediction.status.tolist() == [AWAY]
    assert np.isnan(prediction.predictions).all()


async def test_simulated_answers_are_marked_and_ask_nobody(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    await federation.initiator(MODEL, simulate=True)
    prediction = await federation.predict(b"u1", b"u1")
    assert prediction.simulated
    assert prediction.classes == ("0", "1")
    assert prediction.predictions[0] == prediction.predictions[1]
    assert (lab.asked, shop.asked) == ([], [])
    assert (await federation.models())["m"].ready


async def test_an_answer_that_no_message_holds_is_refused_with_the_limit(federation: Federation) -> None:
    part = describe("lab", n_scores=2_000)
    await federation.party("lab", {b"u1": [1.0]}, np.ones((1, 2_000)), part)
    await federation.initiator({"m": {"parties": ["lab"]}})
    await federation.ready()
    with pytest.raises(TooManySamplesError) as caught:
        await federation.predict(*[b"u1"] * 1_100)
    most = await federation.predict(*[b"u1"] * caught.value.limit)
    assert (most.predictions == 1.0).all()


async def test_a_request_that_is_still_arriving_over_http_keeps_no_other_edge_open(
    federation: Federation, lab: ScriptedParty, shop: ScriptedParty
) -> None:
    server = await federation.initiator(MODEL, http_listen="127.0.0.1:0", http_insecure=True)
    await federation.ready()
    assert server.http_address is not None
    host, _, port = server.http_address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/predict HTTP/1.1\r\n")
    await writer.drain()
    await asyncio.sleep(0.1)

    stopping = asyncio.ensure_future(server.stop())

    await asyncio.sleep(0.1)
    with pytest.raises(ServerUnavailableError):
        await federation.predict(b"u1")
    assert not stopping.done()  # the caller over HTTP has what is left of drain_s
    writer.close()
    await stopping
