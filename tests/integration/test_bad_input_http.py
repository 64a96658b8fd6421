"""What a user over HTTP gets for bodies that cannot be answered: a real initiator, a real party, a real socket."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from fedpredict.security.identity import IdentityKind
from tests.integration.federation import Certificates, Federation, ScriptedParty
from tests.integration.http.client import HttpsClient
from tests.integration.http.edge import get, post

SECRET = "geheim-4711"  # noqa: S105  an id that must not be logged
TABLE = {b"u1": [2.0], SECRET.encode(): [3.0]}
MODEL = {"m": {"parties": ["lab"]}}


@pytest.fixture
async def lab(federation: Federation) -> ScriptedParty:
    return await federation.party("lab", TABLE, np.array([[1.0]]))


@pytest.fixture
async def desk(federation: Federation, lab: ScriptedParty) -> HttpsClient:
    """Return a client of a ready initiator."""
    server = await federation.initiator(MODEL, http_listen="127.0.0.1:0")
    await federation.ready()
    assert server.http_address is not None
    return HttpsClient(server.http_address, federation.certificates.of("desk", IdentityKind.CLIENT))


def body(**changes: object) -> dict[str, object]:
    return {"model": "m", "sample_ids": ["u1"], **changes}


BODIES: dict[str, tuple[object, str]] = {
    "nothing": (b"", "$: Input data was truncated"),
    "cut off": (b'{"model":"m"', "$: Input data was truncated"),
    "no JSON": (b"model=m", "$: JSON is malformed: invalid character (byte 0)"),
    "two bodies": (b'{"model":"m","sample_ids":["u1"]}{}', "$: JSON is malformed: trailing characters (byte 34)"),
    "not UTF-8": (b'{"model":"m","sample_ids":["\xff"]}', "$: the JSON is not UTF-8"),
    "half a surrogate": (b'{"model":"m","sample_ids":["\\ud800"]}', "$: "),
    "a list": ([], "$: Expected `object`, got `array`"),
    "no model": ({"sample_ids": ["u1"]}, "$: Object missing required field `model`"),
    "no ids": ({"model": "m"}, "$: Object missing required field `sample_ids`"),
    "a model that is a number": (body(model=7), "$.model: Expected `str`, got `int`"),
    "ids that are a text": (body(sample_ids=SECRET), "$.sample_ids: Expected `array`, got `str`"),
    "an id that is a number": (body(sample_ids=["u1", 4711]), "$.sample_ids[1]: Expected `str`, got `int`"),
    "an id that is null": (body(sample_ids=[None]), "$.sample_ids[0]: Expected `str`, got `null`"),
    "an unknown field": (body(sampel_ids=[]), "$: Object contains unknown field `sampel_ids`"),
    "a mode that is none": (body(mode=SECRET), "$.mode: not one of the values that it can have"),
    "a time that is a text": (body(timeout_ms="1"), "$.timeout_ms: Expected `int | null`, got `str`"),
    "a time that is not above 0": (body(timeout_ms=0), "$.timeout_ms: Expected `int` >= 1"),
    "a request id that breaks the rule": (
        body(request_id="a b"),
        "$.request_id: a request id is 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-'",
    ),
    "NaN": (b'{"model":"m","sample_ids":["u1"],"inputs":{"a":[NaN]}}', "$: JSON is malformed: invalid character"),
    "Infinity": (b'{"model":"m","sample_ids":["u1"],"inputs":{"a":[-Infinity]}}', "$: JSON is malformed: "),
    "a number beyond all": (
        b'{"model":"m","sample_ids":["u1"],"inputs":{"a":[1e999]}}',
        "$.inputs[...][0]: Number out of range",
    ),
    "inputs that are no values": (
        body(inputs={"a": [["4711"]]}),
        "$.inputs[...][0]: Expected `float | str | null`, got `array`",
    ),
    "inputs of numbers and texts": (
        body(sample_ids=["u1", "u2"], inputs={"a": ["4711", 1]}),
        "$.inputs.a: numbers and texts in one feature",
    ),
    "inputs for another number of ids": (body(inputs={"age": [1, 2]}), "$.inputs.age: 2 values for 1 sample ids"),
    "deep nesting": (b'{"model":' + b"[" * 100_000, "$.model: Expected `str`, got `array`"),
    "deep nesting under an unknown name": (b'{"x":' + b'{"x":' * 100_000, "$: Object contains unknown field `x`"),
    "an id for a name": (body(**{SECRET: 1}), f"$: Object contains unknown field `{SECRET}`"),
    "a feature named by an id": (body(inputs={SECRET: []}), f"$.inputs.{SECRET}: 0 values for 1 sample ids"),
    "a name of 10 kB": (body(**{"x" * 10_000: 1}), "$: Object contains unknown field `xxx"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_bad_body_is_refused_with_its_place_and_without_its_values(
    name: str, desk: HttpsClient, lab: ScriptedParty, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="fedpredict")
    content, detail = BODIES[name]
    lab.asked.clear()

    async with await desk.connect() as wire, await desk.connect() as other:
        reply = await wire.ask(post(content, "X-Request-Id: r-1"))

        assert reply.problem == (400, "field")
        assert reply.json["detail"].startswith(detail)
        assert len(reply.body) < 500
        assert reply.json["detail"] == f"{reply.json['place']}: {reply.json['problem']}"
        assert reply.headers["x-request-id"] == "r-1"
        assert (await other.ask(post(body()))).json["predictions"] == [[2.0]]
        assert (await wire.ask(post(body()))).json["predictions"] == [[2.0]]
    assert len(lab.asked) == 2
    assert_nothing_private(caplog)


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict?"])
@pytest.mark.parametrize(
    "headers",
    [["Content-Type: text/plain"], [], ["Content-Type: application/json", "Content-Encoding: gzip"]],
    ids=["text", "nothing", "gzip"],
)
async def test_a_body_that_is_no_json_by_its_headers_is_refused(
    desk: HttpsClient, headers: list[str], path: str
) -> None:
    lines = [f"POST {path} HTTP/1.1", "Host: edge", "Content-Length: 2", *headers, "", ""]
    reply = await desk.ask("\r\n".join(lines).encode() + b"{}")

    assert reply.problem == (415, "unsupported_media_type")


async def test_a_deadline_header_that_is_no_number_is_refused(desk: HttpsClient) -> None:
    for value in ("soon", "0", "-1", "1.5", "9" * 20, "²"):
        reply = await desk.ask(post(body(), f"X-Fedpredict-Deadline-Ms: {value}"))
        assert reply.json["detail"] == "header x-fedpredict-deadline-ms: expected 1 to 600000 milliseconds"


async def test_ids_that_can_name_nobody_get_a_status_and_null_and_the_others_a_number(
    desk: HttpsClient, lab: ScriptedParty, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="fedpredict")
    ids = ["u1", "", SECRET * 1000, "a\nb", "a\0b", "nobody", "émile", SECRET]

    reply = await desk.ask(post(body(sample_ids=ids)))

    invalid = "ID_INVALID"
    assert reply.status == 200
    assert reply.json["status"] == ["OK", invalid, invalid, invalid, invalid, "NOT_FOUND", "NOT_FOUND", "OK"]
    assert reply.json["predictions"] == [[2.0], None, None, None, None, None, None, [3.0]]
    assert reply.json["origin"] == ["MODEL", *["UNSPECIFIED"] * 6, "MODEL"]
    assert {"sample": 5, "party": "lab", "status": "NOT_FOUND"} in reply.json["reasons"]
    assert [reason["sample"] for reason in reply.json["reasons"]] == [1, 2, 3, 4, 5, 6]
    assert_nothing_private(caplog)


async def test_a_million_and_one_ids_are_refused_with_the_limit(
    desk: HttpsClient, lab: ScriptedParty, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="fedpredict")
    lab.asked.clear()
    async with await desk.connect() as wire, await desk.connect() as other:
        sending = asyncio.create_task(wire.ask(post(body(sample_ids=[SECRET[:9]] * 1_000_001))))
        assert (await other.ask(post(body()))).status == 200
        reply = await sending

        assert reply.problem == (400, "too_many_samples")
        assert (reply.json["limit"], reply.json["detail"]) == (
            10_000,
            "too many sample ids in one call; the limit is 10000",
        )
    assert len(lab.asked) == 1
    assert_nothing_private(caplog)


async def test_no_ids_and_an_unknown_model_are_told(desk: HttpsClient) -> None:
    nobody = await desk.ask(post(body(sample_ids=[])))
    unknown = await desk.ask(post(body(model="other")))
    misnamed = await desk.ask(post(body(model="no such name")))

    assert nobody.problem == (400, "empty_request")
    assert unknown.problem == (404, "model_not_found")
    assert misnamed.problem == (400, "name_refused")


async def test_a_client_that_leaves_mid_request_has_its_party_told(
    desk: HttpsClient, lab: ScriptedParty, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="fedpredict")
    lab.held = asyncio.Event()
    lab.scoring.clear()
    async with await desk.connect() as wire:
        await wire.send(post(body(sample_ids=[SECRET])))
        async with asyncio.timeout(20):
            await lab.scoring.wait()
    async with asyncio.timeout(20):
        await lab.left.wait()
    lab.held = None

    assert (await desk.ask(post(body()))).status == 200
    assert_nothing_private(caplog)


async def test_a_caller_without_a_certificate_or_with_a_strangers_gets_no_connection(
    desk: HttpsClient, federation: Federation, tmp_path: Path
) -> None:
    stranger = HttpsClient(
        desk.address, Certificates(tmp_path / "strange").of("desk", IdentityKind.CLIENT), verify=False
    )
    nobody = HttpsClient(desk.address, None)
    for client in (stranger, nobody):
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await client.ask(get("/v1/models"))

    assert (await desk.ask(get("/v1/models"))).status == 200


async def test_somebody_else_sees_no_model_and_a_stated_name_is_not_believed(
    desk: HttpsClient, federation: Federation
) -> None:
    other = HttpsClient(desk.address, federation.certificates.of("other", IdentityKind.CLIENT))

    stated = ("X-Fedpredict-Client: desk",)
    assert (await other.ask(get("/v1/models", *stated))).problem == (404, "model_not_found")
    assert (await other.ask(get("/v1/models/m", *stated))).problem == (404, "model_not_found")
    assert (await other.ask(post(body(), *stated))).problem == (404, "model_not_found")


async def test_models_and_health_are_told(desk: HttpsClient) -> None:
    listed = (await desk.ask(get("/v1/models"))).json["models"]

    assert [(model["model"], model["ready"], model["kind"], model["parties"]) for model in listed] == [
        ("m", True, "linear", ["lab"])
    ]
    assert listed[0]["link"] == "identity"
    assert (await desk.ask(get("/v1/models/m"))).json == listed[0]
    assert (await desk.ask(get("/v1/health/live"))).json == {"status": "live"}
    assert (await desk.ask(get("/v1/health/ready"))).json == {"status": "ready"}


async def test_a_party_that_is_down_is_named_in_the_answer(
    desk: HttpsClient, lab: ScriptedParty, federation: Federation
) -> None:
    ok = (await desk.ask(post(body()))).json["parties"][0]
    await lab.stop()

    reply = await desk.ask(post(body()))

    assert (ok["oldest_event_time"], ok["problem"]) == ("2023-11-14T22:13:20Z", "")
    assert reply.json["predictions"] == [None]
    assert reply.json["status"] == ["PARTY_UNAVAILABLE"]
    assert reply.json["reasons"] == [{"sample": 0, "party": "lab", "status": "PARTY_UNAVAILABLE"}]
    party = reply.json["parties"][0]
    assert (party["party"], party["oldest_event_time"], party["problem"]) == ("lab", None, "party lab is unavailable")


def assert_nothing_private(caplog: pytest.LogCaptureFixture) -> None:
    """Fail where a log line holds an id, a value or the text of a body."""
    lines = [json.dumps({**vars(record), "said": record.getMessage()}, default=repr) for record in caplog.records]
    for private in (SECRET, SECRET[:9], 'u1"', "sampel_ids=", "émile"):
        assert [line for line in lines if private in line] == []
