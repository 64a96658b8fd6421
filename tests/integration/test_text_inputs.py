"""Texts of the initiator's own part that come with a request: by every edge, to the same predictions."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedpredict.client import AsyncClient
from fedpredict.convert.portable import from_portable
from fedpredict.errors import InputsRefusedError
from fedpredict.features.load import load_file
from fedpredict.initiator.server import InitiatorServer
from fedpredict.model.share import SampleStatus
from fedpredict.security.identity import IdentityKind
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import latest_snapshot
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.inference import grpc_service_pb2 as pb
from tests.integration.federation import ANSWERS_IN_S, Certificates, Federation
from tests.integration.http.client import HttpsClient
from tests.integration.http.edge import post
from tests.scorecards import CARD, NAMES, portable, walked

HOMES = ["own", "rent", "boat", None, "it's 100% ours\\", "年", ""]
AGE, DEBT, YEARS = 30.0, 50.0, 1.0
IDS = [f"new-{at}" for at in range(len(HOMES))]
STRICT = {
    **CARD,
    "features": [{**each, "outside": None} if each["name"] == "home" else each for each in CARD["features"]],
}


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    async with Federation(tmp_path, Certificates(tmp_path / "certificates")) as federation:
        yield federation


@pytest.fixture
async def server(federation: Federation) -> InitiatorServer:
    """An initiator that holds both models alone: "m", in which an unknown home has points, and "strict"."""
    warehouse = LocalWarehouse(federation.folder / "warehouse")
    federation.stack.callback(warehouse.close)
    with (federation.folder / "people.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["who", *NAMES], ["stored", AGE, "own", DEBT, YEARS]])
    load_file(warehouse, federation.folder / "people.csv", view="people", key="who")
    snapshot = latest_snapshot(warehouse, "people")
    assert snapshot is not None
    for model_id, card in (("m", CARD), ("strict", STRICT)):
        publish_model(warehouse, from_portable(portable(card, model_id=model_id)), snapshot.view, "0" * 64)
    models = {name: {"parties": ["bank"]} for name in ("m", "strict")}
    server = await federation.initiator(models, warehouse=warehouse, http_listen="127.0.0.1:0")
    await federation.ready()
    await federation.ready("strict")
    return server


def expected(homes: Sequence[str | None] = HOMES) -> list[float | str]:
    return [walked([AGE, home, DEBT, YEARS]) for home in homes]


def columns(homes: Sequence[object] = HOMES) -> dict[str, list[Any]]:
    return {
        NAMES[0]: [AGE] * len(homes),
        "home": list(homes),
        "debt": [DEBT] * len(homes),
        "years": [YEARS] * len(homes),
    }


async def test_every_edge_scores_the_texts_that_come_with_a_request(
    federation: Federation, server: InitiatorServer
) -> None:
    scored = [each if isinstance(each, float) else None for each in expected()]
    assert scored.count(None) == 1

    assert server.http_address is not None
    desk = HttpsClient(server.http_address, federation.certificates.of("desk", IdentityKind.CLIENT))
    reply = await desk.ask(post({"model": "m", "sample_ids": IDS, "inputs": columns()}))
    assert reply.json["predictions"] == [each if each is None else [pytest.approx(each)] for each in scored]
    assert reply.json["status"][3] == "FEATURE_MISSING"

    tls = federation.certificates.of("desk", IdentityKind.CLIENT)
    async with AsyncClient(federation.address, server_party="bank", tls=tls) as client:
        one_call = await client.predict("m", IDS, inputs=pd.DataFrame(columns()), timeout_s=ANSWERS_IN_S)
        many = 150  # more than travel as messages
        frame = pd.DataFrame(columns(HOMES * many)).astype({"home": "category"})
        as_arrow = await client.predict("m", IDS * many, inputs=frame, timeout_s=ANSWERS_IN_S)
        strict = await client.predict("strict", IDS, inputs=columns(), timeout_s=ANSWERS_IN_S)
        with pytest.raises(InputsRefusedError, match="'home' is text, and numbers were sent"):
            await client.predict("m", IDS[:1], inputs=columns([1.0]), timeout_s=ANSWERS_IN_S)
        with pytest.raises(InputsRefusedError, match="'debt' is a number, and texts were sent"):
            await client.predict("m", IDS[:1], inputs=columns(["own"]) | {"debt": ["50"]}, timeout_s=ANSWERS_IN_S)
    numbers = np.array([np.nan if each is None else each for each in scored])
    np.testing.assert_allclose(one_call.values[:, 0], numbers, rtol=1e-12)
    np.testing.assert_allclose(as_arrow.values[:, 0], np.tile(numbers, many), rtol=1e-12)
    unknown = [SampleStatus.FEATURE_INVALID if home in ("boat", "") else SampleStatus.OK for home in HOMES]
    unknown[3] = SampleStatus.FEATURE_MISSING
    assert strict.status.tolist() == unknown

    await assert_tensors_score(federation, desk, [home for home in HOMES if home is not None])


async def assert_tensors_score(federation: Federation, desk: HttpsClient, homes: list[str]) -> None:
    """Ask by the Open Inference Protocol, over gRPC with typed contents and over HTTP with JSON."""
    count = len(homes)
    numbers = {name: column for name, column in columns(homes).items() if name != "home"}
    request = pb.ModelInferRequest(model_name="m")
    for name, texts in (("sample_id", IDS[:count]), ("home", homes)):
        contents = pb.InferTensorContents(bytes_contents=[each.encode() for each in texts])
        request.inputs.add(name=name, datatype="BYTES", shape=[count], contents=contents)
    for name, column in numbers.items():
        contents = pb.InferTensorContents(fp64_contents=column)
        request.inputs.add(name=name, datatype="FP64", shape=[count], contents=contents)
    data = await federation.call("ModelInfer", request, "desk", ANSWERS_IN_S, service="inference.GRPCInferenceService")
    answer = pb.ModelInferResponse.FromString(data)
    found = np.frombuffer(answer.raw_output_contents[0], dtype="<f8")
    np.testing.assert_allclose(found, np.array(expected(homes), dtype=np.float64), rtol=1e-12)

    tensors = [
        {"name": "sample_id", "datatype": "BYTES", "shape": [count], "data": IDS[:count]},
        {"name": "home", "datatype": "BYTES", "shape": [count], "data": homes},
        *({"name": name, "datatype": "FP64", "shape": [count], "data": column} for name, column in numbers.items()),
    ]
    reply = await desk.ask(post(json.dumps({"inputs": tensors}).encode(), path="/v2/models/m/infer"))
    assert reply.json["outputs"][0]["data"] == found.tolist()
