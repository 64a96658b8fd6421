"""The Open Inference Protocol over gRPC: NVIDIA's client as it is, and messages that it would not send."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from fedpredict.errors import (
    FedPredictError,
    FieldError,
    InputError,
    InputsRefusedError,
    ModelNotFoundError,
    TooManySamplesError,
)
from fedpredict.security.identity import IdentityKind
from fedpredict.wire.inference import grpc_service_pb2 as pb
from tests.integration.federation import ANSWERS_IN_S, Certificates, Federation

SERVICE = "inference.GRPCInferenceService"
TABLE = {b"u1": [1.0], b"u2": [2.0]}


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    """Two parties whose shares of u1 are 2 and 0.5, and of u2 twice that; the model is linear."""
    async with Federation(tmp_path, Certificates(tmp_path / "certificates")) as federation:
        await federation.party("lab", TABLE, np.array([[2.0]]))
        await federation.party("shop", TABLE, np.array([[0.5]]))
        await federation.initiator({"m": {"parties": ["lab", "shop"]}})
        await federation.ready()
        yield federation


CLIENT = """
import json, sys
import numpy as np
from fedpredict.wire.inference import grpc_service_pb2  # beside the client's own generated code
import tritonclient.grpc as triton

address, ca, certificate, key, authority = sys.argv[1:]
client = triton.InferenceServerClient(
    address, ssl=True, root_certificates=ca, certificate_chain=certificate, private_key=key,
    channel_args=[("grpc.ssl_target_name_override", authority)],
)
told = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready("m"),
    "server": client.get_server_metadata(as_json=True),
    "model": client.get_model_metadata("m", as_json=True),
}
ids = triton.InferInput("sample_id", [3], "BYTES")
ids.set_data_from_numpy(np.array([b"u1", b"nobody", b"u2"], dtype=np.object_))
result = client.infer("m", [ids], request_id="r-7", client_timeout=20.0)
told["prediction"] = [None if np.isnan(value) else value for value in result.as_numpy("prediction").ravel().tolist()]
told["shape"] = result.as_numpy("prediction").shape
told["status"] = [each.decode() for each in result.as_numpy("status").tolist()]
told["id"] = result.get_response().id
only = client.infer("m", [ids], outputs=[triton.InferRequestedOutput("status")], client_timeout=20.0)
told["only"] = [each.name for each in only.get_response().outputs]
try:
    client.infer("other", [ids], client_timeout=20.0)
except triton.InferenceServerException as error:
    told["refused"] = [error.status(), error.message()]
print(json.dumps(told))
"""


async def test_nvidias_client_works_as_it_is(federation: Federation) -> None:
    files = federation.certificates.of("desk", IdentityKind.CLIENT)
    arguments = [federation.address, str(files.ca), str(files.certificate), str(files.key), "bank.party.fedpredict"]

    client = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CLIENT,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    output, errors = await asyncio.wait_for(client.communicate(), 3 * ANSWERS_IN_S)

    assert client.returncode == 0, errors.decode()
    told = json.loads(output)
    assert (told["live"], told["ready"], told["model_ready"]) == (True, True, True)
    assert told["server"]["name"] == "fedpredict"
    assert told["model"]["inputs"] == [{"name": "sample_id", "datatype": "BYTES", "shape": ["-1"]}]
    assert told["model"]["outputs"] == [
        {"name": "prediction", "datatype": "FP64", "shape": ["-1", "1"]},
        {"name": "status", "datatype": "BYTES", "shape": ["-1"]},
    ]
    assert told["prediction"] == [2.5, None, 5.0]
    assert told["shape"] == [3, 1]
    assert told["status"] == ["OK", "NOT_FOUND", "OK"]
    assert told["id"] == "r-7"
    assert told["only"] == ["status"]
    assert told["refused"] == ["StatusCode.NOT_FOUND", "no such model"]


def ids_tensor(*sample_ids: bytes, **changes: object) -> pb.ModelInferRequest.InferInputTensor:
    fields = {"name": "sample_id", "datatype": "BYTES", "shape": [len(sample_ids)], **changes}
    return pb.ModelInferRequest.InferInputTensor(**fields, contents=pb.InferTensorContents(bytes_contents=sample_ids))  # type: ignore[arg-type]


async def infer(federation: Federation, request: pb.ModelInferRequest, caller: str = "desk") -> pb.ModelInferResponse:
    data = await federation.call("ModelInfer", request, caller, ANSWERS_IN_S, SERVICE)
    return pb.ModelInferResponse.FromString(data)


def numbers(response: pb.ModelInferResponse) -> list[float]:
    values: list[float] = np.frombuffer(response.raw_output_contents[0], "<f8").tolist()
    return values


async def test_typed_and_raw_contents_are_answered_alike(federation: Federation) -> None:
    typed = pb.ModelInferRequest(model_name="m", id="not a request id of ours", inputs=[ids_tensor(b"u2", b"u1")])
    raw = pb.ModelInferRequest(
        model_name="m",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="sample_id", datatype="BYTES", shape=[2, 1])],
        raw_input_contents=[struct.pack("<I2sI2s", 2, b"u2", 2, b"u1")],
    )

    answers = [await infer(federation, typed), await infer(federation, raw)]

    assert [numbers(each) for each in answers] == [[5.0, 2.5], [5.0, 2.5]]
    assert answers[0].id == "not a request id of ours"
    assert [list(each.shape) for each in answers[0].outputs] == [[2, 1], [2]]
    assert answers[0].raw_output_contents[1] == struct.pack("<I2sI2s", 2, b"OK", 2, b"OK")
    manifest = (await federation.models())["m"].manifest_sha256
    assert answers[0].model_version == manifest[:12]


async def test_a_version_is_the_pinned_one_or_there_is_none(federation: Federation) -> None:
    manifest = (await federation.models())["m"].manifest_sha256
    request = pb.ModelInferRequest(model_name="m", model_version=manifest[:12], inputs=[ids_tensor(b"u1")])

    assert numbers(await infer(federation, request)) == [2.5]
    request.model_version = "1"
    with pytest.raises(ModelNotFoundError):
        await infer(federation, request)


@pytest.mark.parametrize(
    ("inputs", "raw", "error"),
    [
        ([], [], FieldError),
        ([ids_tensor(b"u1", datatype="FP64")], [], FieldError),
        ([ids_tensor(b"u1", datatype="UINT8")], [], FieldError),
        ([ids_tensor(b"u1", shape=[2])], [], FieldError),
        ([ids_tensor(b"u1", shape=[-1])], [], FieldError),
        ([ids_tensor(b"u1", shape=[1 << 40])], [b"\x02\0\0\0u1"], FieldError),
        ([ids_tensor(b"u1")], [b"\x02\0\0\0u1", b""], FieldError),
        ([ids_tensor(b"u1")], [b"\xff\xff\xff\xffu1"], FieldError),
        ([ids_tensor(b"u1"), ids_tensor(b"u1")], [], FieldError),
        ([ids_tensor(b"u1"), ids_tensor(b"\xff", name="job")], [], FieldError),
        ([ids_tensor(*[b"u"] * 10_001)], [], TooManySamplesError),
        ([ids_tensor()], [], InputError),
    ],
    ids=["nothing", "type", "no type", "rows", "-1", "huge", "raws", "length", "twice", "no text", "many", "no rows"],
)
async def test_tensors_that_do_not_fit_are_refused(
    federation: Federation,
    inputs: list[pb.ModelInferRequest.InferInputTensor],
    raw: list[bytes],
    error: type[FedPredictError],
) -> None:
    request = pb.ModelInferRequest(model_name="m", inputs=inputs, raw_input_contents=raw)

    with pytest.raises(error):
        await infer(federation, request)


@pytest.mark.parametrize(
    ("datatype", "field", "cell"),
    [
        ("FP64", "fp64_contents", 1.5),
        ("FP32", "fp32_contents", 1.5),
        ("INT64", "int64_contents", 7),
        ("INT32", "int_contents", 7),
        ("BOOL", "bool_contents", True),
    ],
)
async def test_other_tensors_are_features_and_only_for_an_initiator_that_holds_a_part(
    federation: Federation, datatype: str, field: str, cell: object
) -> None:
    age = pb.ModelInferRequest.InferInputTensor(
        name="age",
        datatype=datatype,
        shape=[1],
        contents=pb.InferTensorContents(**{field: [cell]}),  # type: ignore[arg-type]
    )

    with pytest.raises(InputsRefusedError, match="holds no part"):
        await infer(federation, pb.ModelInferRequest(model_name="m", inputs=[ids_tensor(b"u1"), age]))


async def test_parameters_of_ours_are_checked_and_others_ignored(federation: Federation) -> None:
    request = pb.ModelInferRequest(model_name="m", inputs=[ids_tensor(b"u1")])
    request.parameters["sequence_id"].int64_param = 4
    request.parameters["empty"].SetInParent()
    request.parameters["timeout"].int64_param = 5_000_000

    assert numbers(await infer(federation, request)) == [2.5]
    request.parameters["mode"].string_param = "tomorrow"
    with pytest.raises(FieldError):
        await infer(federation, request)


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("ModelReady", pb.ModelReadyRequest),
        ("ModelMetadata", pb.ModelMetadataRequest),
        ("ModelInfer", pb.ModelInferRequest),
    ],
)
async def test_who_is_not_listed_sees_no_model(
    federation: Federation, method: str, request_type: type[pb.ModelReadyRequest]
) -> None:
    field = "model_name" if method == "ModelInfer" else "name"

    told = []
    for model_id in ("m", "no-such-model"):
        with pytest.raises(ModelNotFoundError) as raised:
            await federation.call(method, request_type(**{field: model_id}), "stranger", ANSWERS_IN_S, SERVICE)
        told.append(str(raised.value))

    assert told == ["no such model", "no such model"]
