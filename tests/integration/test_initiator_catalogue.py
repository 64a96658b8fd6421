"""Meeting parties, pinning, readiness, and the life of the process: real servers, real mutual TLS."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from typing_extensions import override

from fedpredict.errors import ConfigError, ModelNotFoundError, ModelNotReadyError, ServerUnavailableError, StateError
from fedpredict.initiator.server import InitiatorServer, serve
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.manifest import Manifest, PartDescription
from fedpredict.model.share import SampleStatus
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import stated_identity
from fedpredict.state.base import Offer, Pin, PinStore
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire import codec
from fedpredict.wire.v1 import initiator_pb2
from tests.integration.federation import Federation, ScriptedParty, describe, digest_of, eventually

MODEL = {"m": {"parties": ["lab", "shop"]}}
ONE = np.array([[1.0]])
LAB, SHOP = {b"u1": [1.0]}, {b"u1": [10.0]}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def both(
    federation: Federation, lab: PartDescription | None = None, shop: PartDescription | None = None
) -> tuple[ScriptedParty, ScriptedParty]:
    return (
        await federation.party("lab", LAB, ONE, lab or describe("lab")),
        await federation.party("shop", SHOP, ONE, shop or describe("shop")),
    )


async def offered(federation: Federation, digest: str) -> None:
    async def is_offered() -> bool:
        offer = federation.store.offers().get("m")
        return offer is not None and offer.manifest is not None and ("shop", digest) in offer.manifest.digests

    await eventually(is_offered)


async def answers(federation: Federation, number: float) -> None:
    async def is_answered() -> bool:
        return bool((await federation.predict(b"u1")).predictions[0, 0] == number)

    await eventually(is_answered)


async def health(federation: Federation, name: str, caller: str = "desk") -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    data = await federation.call("Check", request, caller, 10.0, service="grpc.health.v1.Health")
    return int(health_pb2.HealthCheckResponse.FromString(data).status)


CLASSES: dict[str, Any] = {"kind": Kind.BINARY, "link": Link("logit"), "classes": ("good", "bad")}


@pytest.mark.parametrize(
    ("lab", "shop", "message"),
    [
        (
            {"holds_intercept": True, "fit_intercept": True},
            {"holds_intercept": True, "fit_intercept": True},
            "model m: lab and shop each hold an intercept",
        ),
        ({"fit_intercept": True}, {"fit_intercept": True}, "model m has an intercept, but none of lab, shop holds it"),
        ({}, {"training_run": "run-2"}, "the parts differ in training_run: lab says run-1; shop says run-2"),
        ({}, {"n_scores": 2}, "the parts differ in n_scores: lab says 1; shop says 2"),
        (CLASSES, {}, "the parts differ in kind: lab says binary; shop says linear"),
        ({"link": Link("log")}, {}, "the parts differ in link: lab says log; shop says identity"),
        ({}, {"fit_intercept": True}, "the parts differ in fit_intercept"),
    ],
)
async def test_parts_that_make_no_model_are_told_to_the_operator_by_party(
    federation: Federation, lab: dict[str, Any], shop: dict[str, Any], message: str
) -> None:
    await both(federation, describe("lab", **lab), describe("shop", **shop))
    await federation.initiator(MODEL)

    async def is_told() -> bool:
        offer = federation.store.offers().get("m")
        return offer is not None and message in offer.problem

    await eventually(is_told)
    info = (await federation.models())["m"]
    assert (info.ready, info.problem, info.kind) == (False, "the parts of the model do not fit", None)
    with pytest.raises(ModelNotReadyError, match="the model is not ready"):
        await federation.predict(b"u1")
    assert dict(federation.store.pins()) == {}


async def test_the_first_manifest_is_pinned_and_described_to_users(federation: Federation) -> None:
    await both(federation, describe("lab", **CLASSES), describe("shop", **CLASSES))
    await federation.initiator(MODEL)
    await federation.ready()
    (pin,) = federation.store.pins()["m"]
    assert pin.pinned_by == "first use"
    assert pin.manifest.digests == (("lab", digest_of("lab")), ("shop", digest_of("shop")))
    info = (await federation.models())["m"]
    assert (info.kind, info.classes, info.parties, info.n_outputs) == (
        Kind.BINARY,
        ("good", "bad"),
        ("lab", "shop"),
        1,
    )
    assert info.manifest_sha256 == pin.manifest.manifest_sha256


async def test_a_new_digest_is_offered_and_only_a_pin_accepts_it(federation: Federation) -> None:
    _, shop = await both(federation)
    await federation.initiator(MODEL)
    await federation.ready()
    old = federation.store.pins()["m"][0].manifest
    new_digest = digest_of("new")
    shop.serves = {digest_of("shop"), new_digest}
    shop.parts["m"] = describe("shop", params_sha256=new_digest)
    await offered(federation, new_digest)
    prediction = await federation.predict(b"u1")
    assert prediction.manifest_sha256 == old.manifest_sha256
    assert shop.asked[-1].params_sha256.hex() == digest_of("shop")
    assert (await federation.models())["m"].ready
    assert [pin.manifest for pin in federation.store.pins()["m"]] == [old]

    accepted = federation.accept()
    assert dict(accepted.digests) == {"lab": digest_of("lab"), "shop": new_digest}

    async def is_new() -> bool:
        return (await federation.predict(b"u1")).manifest_sha256 == accepted.manifest_sha256

    await eventually(is_new)
    assert shop.asked[-1].params_sha256.hex() == new_digest
    assert [pin.pinned_by for pin in federation.store.pins()["m"]] == ["ada", "first use"]


async def test_a_party_that_no_longer_serves_the_pinned_version_makes_the_model_not_ready(
    federation: Federation,
) -> None:
    _, shop = await both(federation)
    await federation.initiator(MODEL)
    await federation.ready()
    shop.parts["m"] = describe("shop", params_sha256=digest_of("new"))

    async def is_not_ready() -> bool:
        return not (await federation.models())["m"].ready

    await eventually(is_not_ready)
    assert (await federation.models())["m"].problem == "not the version that is served"
    prediction = await federation.predict(b"u1")
    assert prediction.status.tolist() == [SampleStatus.REFUSED]
    (report,) = [report for report in prediction.parties if report.party == "shop"]
    assert report.problem == "not the version that is served"
    federation.accept()
    await federation.ready()
    await answers(federation, 11.0)


async def test_a_manual_model_waits_for_the_operator(federation: Federation) -> None:
    await both(federation)
    await federation.initiator({"m": {"parties": ["lab", "shop"], "pin": "manual"}})
    await offered(federation, digest_of("shop"))
    assert not (await federation.models())["m"].ready
    with pytest.raises(ModelNotReadyError):
        await federation.predict(b"u1")
    federation.accept()
    await federation.ready()
    await answers(federation, 11.0)


async def test_parts_of_two_runs_do_not_disturb_the_pinned_model(federation: Federation) -> None:
    _, shop = await both(federation)
    await federation.initiator(MODEL)
    await federation.ready()
    shop.serves = {digest_of("shop"), digest_of("new")}
    shop.parts["m"] = describe("shop", params_sha256=digest_of("new"), training_run="run-2")

    async def is_told() -> bool:
        return "the parts differ in training_run" in federation.store.offers()["m"].problem

    await eventually(is_told)
    assert (await federation.models())["m"].ready
    await answers(federation, 11.0)


async def test_a_restarted_party_needs_nothing(federation: Federation) -> None:
    _, shop = await both(federation)
    await federation.initiator(MODEL)
    await federation.ready()
    await shop.stop()

    async def is_away() -> bool:
        return (await federation.models())["m"].problem == "party shop is unavailable"

    await eventually(is_away)
    await shop.start()
    await federation.ready()
    await answers(federation, 11.0)


async def test_parties_may_start_after_the_initiator(federation: Federation) -> None:
    parties = await both(federation)
    for party in parties:
        await party.stop()
    await federation.initiator(MODEL)
    assert await health(federation, "") == SERVING
    assert await health(federation, "model/m") == NOT_SERVING
    for party in reversed(parties):
        await party.start()
    await federation.ready()
    await answers(federation, 11.0)


async def test_a_pin_outlives_the_initiator_and_needs_no_description(federation: Federation) -> None:
    _, shop = await both(federation)
    before = await federation.initiator(MODEL)
    await federation.ready()
    await before.stop()
    del shop.parts["m"]
    shop.serves = {digest_of("shop")}
    await federation.initiator(MODEL)
    await answers(federation, 11.0)


async def test_a_model_that_a_party_does_not_offer_is_waited_for(federation: Federation) -> None:
    _, shop = await both(federation)
    part = shop.parts.pop("m")
    await federation.initiator(MODEL)

    async def is_told() -> bool:
        offer = federation.store.offers().get("m")
        return offer is not None and "party shop offers no model m to this initiator" in offer.problem

    await eventually(is_told)
    shop.parts["m"] = part
    await federation.ready()


async def test_settings_that_name_other_parties_than_the_pin_are_not_ready(federation: Federation) -> None:
    await both(federation)
    before = await federation.initiator(MODEL)
    await federation.ready()
    await before.stop()
    await federation.initiator({"m": {"parties": ["lab"]}})
    with pytest.raises(ModelNotReadyError):
        await federation.predict(b"u1")

    async def is_offered() -> bool:
        manifest = federation.store.offers()["m"].manifest
        return manifest is not None and manifest.parties == ("lab",)

    await eventually(is_offered)
    federation.accept()
    await federation.ready()
    await answers(federation, 1.0)


async def test_a_fallback_model_that_is_pinned_for_other_parties_answers_nothing(
    federation: Federation, tmp_path: Path
) -> None:
    await federation.party("lab", LAB, ONE, describe("lab"), describe("lab", "spare"))
    shop = await federation.party("shop", LAB, ONE, describe("shop", "spare"))
    before = await federation.initiator({"m": {"parties": ["lab"]}, "spare": {"parties": ["lab", "shop"]}})
    await federation.ready()
    await federation.ready("spare")
    await before.stop()
    await shop.stop()
    del federation.parties["shop"]
    models: dict[str, Any] = {
        "m": {"parties": ["lab"], "policy": "fallback_model", "fallback_model": "spare"},
        "spare": {"parties": ["bank"]},
    }
    await federation.initiator(models, warehouse=LocalWarehouse(tmp_path / "own"))
    prediction = await federation.predict(b"u1", b"nobody")
    assert prediction.status.tolist() == [SampleStatus.OK, SampleStatus.NOT_FOUND]
    assert np.isnan(prediction.predictions[1]).all()


async def test_constants_of_another_width_than_the_model_are_not_ready(federation: Federation) -> None:
    await both(federation)
    model = {"parties": ["lab", "shop"], "policy": "default_partial", "defaults": {"lab": [0.0, 1.0]}}
    await federation.initiator({"m": model})
    await offered(federation, digest_of("shop"))
    with pytest.raises(ModelNotReadyError):
        await federation.predict(b"u1")


async def test_two_initiators_on_one_database_pin_the_same(federation: Federation) -> None:
    await both(federation)
    first = await federation.initiator(MODEL)
    second = await federation.initiator(MODEL)
    for server in (first, second):
        federation.address = server.address
        await federation.ready()
    assert len(federation.store.pins()["m"]) == 1


class AwayStore(PinStore):
    """A store whose database can be taken away."""

    def __init__(self, store: PinStore) -> None:
        self.store = store
        self.away = False
        self.error: Exception = StateError("the database is away")

    def _reach(self) -> PinStore:
        if self.away:
            raise self.error
        return self.store

    @override
    def pin(self, manifest: Manifest, *, by: str, replaces: str | None) -> Pin:
        return self._reach().pin(manifest, by=by, replaces=replaces)

    @override
    def pins(self) -> Mapping[str, tuple[Pin, ...]]:
        return self._reach().pins()

    @override
    def offer(self, model_id: str, manifest: Manifest | None, problem: str = "") -> Offer:
        return self._reach().offer(model_id, manifest, problem)

    @override
    def offers(self) -> Mapping[str, Offer]:
        return self._reach().offers()

    @override
    def close(self) -> None:
        self.store.close()


@pytest.mark.parametrize(
    ("error", "event"),
    [(StateError("the database is away"), "state.unavailable"), (KeyError("a bug"), "watch.failed")],
)
async def test_a_database_that_goes_away_stops_no_prediction_and_is_used_when_it_is_back(
    federation: Federation, caplog: pytest.LogCaptureFixture, error: Exception, event: str
) -> None:
    _, shop = await both(federation)
    federation.store = store = AwayStore(federation.store)
    await federation.initiator(MODEL)
    await federation.ready()
    store.error, store.away = error, True
    new = digest_of("new")
    shop.serves = {digest_of("shop"), new}
    shop.parts["m"] = describe("shop", params_sha256=new)

    async def is_logged() -> bool:
        return any(record.getMessage() == event for record in caplog.records)

    await eventually(is_logged)
    await answers(federation, 11.0)
    store.away = False
    await offered(federation, new)


async def test_health_is_told_to_those_who_may_know(federation: Federation) -> None:
    await both(federation)
    await federation.initiator(MODEL, clients={"desk": {"models": ["m"]}, "risk": {"models": ["other"]}})
    await federation.ready()
    assert await health(federation, "model/m") == SERVING
    assert await health(federation, "", "stranger") == SERVING
    for name, caller in (("model/m", "risk"), ("model/other", "risk"), ("model/x y", "desk"), ("whatever", "desk")):
        with pytest.raises(ModelNotFoundError):
            await health(federation, name, caller)


async def test_a_taken_port_is_an_error(federation: Federation) -> None:
    server = await federation.initiator({})
    with pytest.raises(ConfigError, match=f"{server.address} cannot be bound"):
        await federation.initiator({}, listen=server.address)


async def test_a_certificate_of_another_party_is_an_error(federation: Federation) -> None:
    with pytest.raises(ConfigError, match=r"tls\.certificate is of party bank, and party is shop"):
        await federation.initiator({}, party="shop")


async def test_sigterm_lets_the_calls_under_way_finish(federation: Federation) -> None:
    _, shop = await both(federation)
    shop.held = asyncio.Event()
    tls = federation.certificates.of("bank")
    settings = InitiatorSettings.model_validate(
        {
            "party": "bank",
            "listen": "127.0.0.1:0",
            "deadline_s": 30.0,
            "poll_s": 0.05,
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
            "parties": {name: {"address": address} for name, address in federation.parties.items()},
            "models": MODEL,
            "clients": {"desk": {"models": ["*"]}},
        }
    )
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, federation.store, tls, ready=listening.set_result))
    federation.address = await listening
    await federation.ready()
    asking = asyncio.create_task(federation.predict(b"u1"))
    await shop.scoring.wait()
    os.kill(os.getpid(), signal.SIGTERM)

    async def refuses_new_calls() -> bool:
        try:
            await health(federation, "")
        except ServerUnavailableError:
            return True
        return False

    await eventually(refuses_new_calls)
    shop.held.set()
    assert (await asking).predictions.tolist() == [[11.0]]
    async with asyncio.timeout(20.0):
        await serving


async def test_plain_text_takes_the_stated_identity(federation: Federation) -> None:
    settings = InitiatorSettings.model_validate(
        {
            "party": "bank",
            "listen": "127.0.0.1:0",
            "insecure": True,
            "models": {"m": {"parties": ["lab"]}},
            "parties": {"lab": {"address": "127.0.0.1:1"}},
            "clients": {"desk": {"models": ["*"]}},
        }
    )
    request = initiator_pb2.ListModelsRequest(protocol_version=codec.PROTOCOL_VERSION).SerializeToString()
    server = await federation.stack.enter_async_context(InitiatorServer(settings, federation.store, None))
    async with grpc.aio.insecure_channel(server.address) as channel:
        listing = channel.unary_unary("/fedpredict.wire.v1.InitiatorService/ListModels", None, None)
        stated = stated_identity(Identity(IdentityKind.CLIENT, "desk"))
        reply = initiator_pb2.ListModelsReply.FromString(await listing(request, metadata=stated))
        assert [model.model_id for model in reply.models] == ["m"]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await listing(request)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
