"""The Open Inference Protocol over HTTP: by hand, and by NVIDIA's client in a process of its own."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from fedpredict.security.identity import IdentityKind
from tests.integration.federation import Federation, describe
from tests.integration.http.client import HttpsClient
from tests.integration.http.edge import Reply, get, post

TABLE = {b"u1": [2.0], b"u2": [3.0]}
TRITON = Path(__file__).parent / "triton_http.py"


@pytest.fixture
async def desk(federation: Federation) -> HttpsClient:
    """Return a client of a ready initiator."""
    await federation.party("lab", TABLE, np.array([[1.0, -1.0]]), describe("lab", n_scores=2))
    server = await federation.initiator({"m": {"parties": ["lab"]}}, http_listen="127.0.0.1:0")
    await federation.ready()
    assert server.http_address is not None
    return HttpsClient(server.http_address, federation.certificates.of("desk", IdentityKind.CLIENT))


def ids(*names: str, **changes: object) -> dict[str, object]:
    return {"name": "sample_id", "datatype": "BYTES", "shape": [len(names)], "data": list(names), **changes}


async def infer(desk: HttpsClient, body: object, *headers: str, binary: bytes | None = None, path: str = "") -> Reply:
    data = json.dumps(body).encode()
    if binary is not None:
        headers = (*headers, f"Inference-Header-Content-Length: {len(data)}")
    return await desk.ask(post(data + (binary or b""), *headers, path=f"/v2/models/m{path}/infer"))


async def test_server_and_model_describe_themselves(desk: HttpsClient) -> None:
    server = (await desk.ask(get("/v2"))).json
    model = (await desk.ask(get("/v2/models/m"))).json
    manifest = (await desk.ask(get("/v1/models/m"))).json["manifest_sha256"]

    assert (server["name"], server["extensions"]) == ("fedpredict", ["binary_tensor_data"])
    assert model == {
        "name": "m",
        "versions": [manifest[:12]],
        "platform": "fedpredict",
        "inputs": [{"name": "sample_id", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "prediction", "datatype": "FP64", "shape": [-1, 2]},
            {"name": "status", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    for version in (manifest, manifest[:12]):
        assert (await desk.ask(get(f"/v2/models/m/versions/{version}"))).json == model
        assert (await desk.ask(get(f"/v2/models/m/versions/{version}/ready"))).status == 200
        assert (await infer(desk, {"inputs": [ids("u1")]}, path=f"/versions/{version}")).status == 200
    for path in ("", "/ready"):
        assert (await desk.ask(get(f"/v2/models/m/versions/1{path}"))).problem == (404, "model_not_found")
    assert (await infer(desk, {"inputs": [ids("u1")]}, path="/versions/1")).problem == (404, "model_not_found")


async def test_health_is_told(desk: HttpsClient) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m/ready"):
        assert (await desk.ask(get(path))).status == 200
    assert (await desk.ask(get("/v2/models/other/ready"))).problem == (404, "model_not_found")


async def test_json_in_and_out(desk: HttpsClient) -> None:
    reply = await infer(desk, {"id": "mine", "inputs": [ids("u2", "u1")]}, "X-Request-Id: r-1")

    assert reply.status == 200
    assert (reply.json["id"], reply.json["model_name"]) == ("mine", "m")
    assert reply.json["parameters"]["request_id"] == reply.headers["x-request-id"] == "r-1"
    assert reply.json["outputs"] == [
        {"name": "prediction", "datatype": "FP64", "shape": [2, 2], "data": [3.0, -3.0, 2.0, -2.0]},
        {"name": "status", "datatype": "BYTES", "shape": [2], "data": ["OK", "OK"]},
    ]


@pytest.mark.parametrize("path", ["/v2/models/m/infer?a=b", "/v2/models/%6D/infer", "/v2/models/m/versions/%31/infer"])
async def test_an_odd_spelling_of_the_path_is_answered_alike(path: str, desk: HttpsClient) -> None:
    body, header = json.dumps({"id": "a-1", "inputs": [ids("u1")]}).encode(), "x-request-id: r-1"
    usual = path.partition("?")[0].replace("%6D", "m").replace("%31", "1")

    odd = await desk.ask(post(body, header, path=path))
    plain = await desk.ask(post(body, header, path=usual))

    assert (odd.status, odd.headers["x-request-id"]) == (plain.status, plain.headers["x-request-id"])
    assert odd.status == (404 if "versions" in path else 200)
    assert sorted(odd.headers) == sorted(plain.headers)
    assert odd.json.get("outputs") == plain.json.get("outputs")


async def test_a_row_without_a_score_fails_a_json_answer_naming_it_unless_null_is_allowed(desk: HttpsClient) -> None:
    body = {"inputs": [ids("u1", "nobody", "")]}

    failed = await infer(desk, body)
    partial = await infer(desk, {**body, "parameters": {"allow_partial": True}})
    statuses = await infer(desk, {**body, "outputs": [{"name": "status"}]})

    assert failed.problem == (409, "unscored")
    assert failed.json["rows"] == "1 (NOT_FOUND), 2 (ID_INVALID)"
    assert failed.json["error"] == failed.json["detail"]
    assert partial.json["outputs"][0]["data"] == [2.0, -2.0, None, None, None, None]
    assert statuses.json["outputs"] == [
        {"name": "status", "datatype": "BYTES", "shape": [3], "data": ["OK", "NOT_FOUND", "ID_INVALID"]}
    ]


async def test_bytes_in_and_out_with_nan_for_a_row_without_a_score(desk: HttpsClient) -> None:
    raw = b"".join(struct.pack("<I", len(name)) + name for name in (b"u1", b"nobody"))
    tensor = {"name": "sample_id", "datatype": "BYTES", "shape": [2, 1], "parameters": {"binary_data_size": len(raw)}}
    outputs = [{"name": "status"}, {"name": "prediction", "parameters": {"binary_data": True}}]

    reply = await infer(desk, {"inputs": [tensor], "outputs": outputs}, binary=raw)

    length = int(reply.headers["inference-header-content-length"])
    said, numbers = json.loads(reply.body[:length]), np.frombuffer(reply.body[length:], dtype="<f8")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert said["outputs"][0]["data"] == ["OK", "NOT_FOUND"]
    assert said["outputs"][1]["parameters"] == {"binary_data_size": 32}
    assert numbers[:2].tolist() == [2.0, -2.0]
    assert np.isnan(numbers[2:]).all()


BAD = {
    "no JSON": (b"{", "$: Input data was truncated"),
    "no inputs": ({"inputs": []}, "tensor 'sample_id': needed, as BYTES of shape [-1]"),
    "an unknown field": ({"inputs": [ids("u1", dtype="x")]}, "$.inputs[0]: Object contains unknown field `dtype`"),
    "too few cells": ({"inputs": [ids("u1", shape=[2])]}, "tensor 'sample_id': 1 cells for a shape of 2"),
    "cells of another type": (
        {"inputs": [ids("u1", data=[7])]},
        "tensor 'sample_id': data: Expected `str`, got `int`",
    ),
    "no cells": ({"inputs": [ids("u1", data=None)]}, "tensor 'sample_id': data: Expected `array`, got `null`"),
    "an unknown output": (
        {"inputs": [ids("u1")], "outputs": [{"name": "p"}]},
        "outputs: outputs are prediction, status, each at most once",
    ),
    "deep nesting": (b'{"inputs":[{"name":"a","datatype":"FP64","shape":[1],"data":' + b"[" * 100_000, "$: nested too"),
    "nested parameters": ({"inputs": [ids("u1")], "parameters": {"x": [1]}}, "$.parameters[...]: Expected"),
    "shared memory": (
        {"inputs": [ids("u1")], "outputs": [{"name": "status", "parameters": {"shared_memory_region": "x"}}]},
        "parameter shared_memory_region: not served",
    ),
    "a time without end": (
        b'{"inputs":[{"name":"sample_id","datatype":"BYTES","shape":[1],"data":["u1"]}],"parameters":{"timeout_ms":'
        + b"9" * 400
        + b"}}",
        "parameter timeout_ms: expected a number above 0",
    ),
    "a shape without end": (
        b'{"inputs":[{"name":"sample_id","datatype":"BYTES","shape":[' + b"9" * 3000 + b',1],"data":["u1"]}]}',
        "tensor 'sample_id': a shape of more than 2147483648 rows",
    ),
    "bytes that are not there": (
        {"inputs": [ids("u1", parameters={"binary_data_size": 7})]},
        "tensor 'sample_id': binary_data_size is not the number of its bytes after the JSON",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_inference_is_refused_with_its_place(name: str, desk: HttpsClient) -> None:
    content, detail = BAD[name]

    reply = await desk.ask(post(content, path="/v2/models/m/infer"))

    assert reply.problem == (400, "field")
    assert reply.json["detail"].startswith(detail)
    assert reply.json["error"] == reply.json["detail"]


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/models/m/infer?"])
@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_what_a_form_of_another_site_can_send_is_refused(media: str, path: str, desk: HttpsClient) -> None:
    body = json.dumps({"inputs": [ids("u1")]}).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: edge", f"Content-Length: {len(body)}", f"Content-Type: {media}", "", ""]

    reply = await desk.ask("\r\n".join(lines).encode() + body)

    assert reply.problem == (415, "unsupported_media_type")


async def test_bytes_of_no_tensor_and_a_wrong_length_are_refused(desk: HttpsClient) -> None:
    body = {"inputs": [ids("u1")]}

    left = await infer(desk, body, binary=b"xx")
    lengths = [
        await desk.ask(post(body, f"Inference-Header-Content-Length: {length}", path="/v2/models/m/infer"))
        for length in ("100000", "-1", "x")
    ]

    assert left.json["detail"] == "body: more bytes after the JSON than the tensors have"
    assert {reply.json["place"] for reply in lengths} == {"header inference-header-content-length"}


async def test_tritons_client_works_unchanged(desk: HttpsClient) -> None:
    assert desk.tls is not None
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(TRITON), desk.address, str(desk.tls.ca), str(desk.tls.certificate), str(desk.tls.key)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    said = json.loads(out)
    assert said["live"] is said["ready"] is said["model_ready"] is True
    assert said["name"] == "m"
    for way in ("binary", "json"):
        assert said[way] == {"prediction": [[2.0, -2.0], [3.0, -3.0]], "status": ["OK", "OK"], "id": "7"}
    assert said["partial"] == ["OK", "NOT_FOUND"]
    assert said["refused"] == [
        "409",
        "rows without a score: 0 (NOT_FOUND); parameter allow_partial = true gives null for them",
    ]
