"""NVIDIA's HTTP client as its users have it; run by a test, because its gevent wants a process of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton


def main(address: str, ca: str, certificate: str, key: str) -> dict[str, Any]:
    """Return what the client saw of model "m"."""
    options = {"ca_certs": ca, "certfile": certificate, "keyfile": key, "server_hostname": "bank.party.fedpredict"}
    client = triton.InferenceServerClient(address, ssl=True, ssl_options=options)
    said: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("m"),
        "name": client.get_model_metadata("m")["name"],
        "server": client.get_server_metadata()["name"],
    }
    for way in ("binary", "json"):
        wanted = [triton.InferRequestedOutput(name, binary_data=way == "binary") for name in ("prediction", "status")]
        result = client.infer("m", [ids(["u1", "u2"], way)], outputs=wanted, request_id="7")
        said[way] = {
            "prediction": result.as_numpy("prediction").tolist(),
            "status": texts(result.as_numpy("status")),
            "id": result.get_response()["id"],
        }
    said["partial"] = texts(client.infer("m", [ids(["u1", "nobody"], "binary")], timeout=5_000_000).as_numpy("status"))
    try:
        wanted = [triton.InferRequestedOutput("prediction", binary_data=False)]
        client.infer("m", [ids(["nobody"], "json")], outputs=wanted)
    except triton.InferenceServerException as error:
        said["refused"] = [error.status(), error.message()]
    client.close()
    return said


def ids(names: list[str], way: str) -> triton.InferInput:
    """Return the input tensor."""
    tensor = triton.InferInput("sample_id", [len(names)], "BYTES")
    tensor.set_data_from_numpy(
        np.array([name.encode() for name in names], dtype=np.object_), binary_data=way == "binary"
    )
    return tensor


def texts(cells: Any) -> list[str]:
    """Return BYTES cells as text: bytes from a binary answer, text from JSON."""
    return [cell.decode() if isinstance(cell, bytes) else cell for cell in cells.tolist()]


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))  # noqa: T201
