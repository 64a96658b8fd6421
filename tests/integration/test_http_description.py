"""The description of the HTTP edge: schemathesis holds the running edge to it, and the page needs nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.http.edge import get, open_edge, post

HOOKS = Path(__file__).parent / "schemathesis_hooks.py"
CONFIG = """
seed = 4
color = false
[generation]
mode = "all"
deterministic = true
database = "none"
max-examples = 20
[phases.stateful]
enabled = false
# tensors and columns have to fit each other, which JSON Schema cannot say
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409", "415", "501", "503"]
"""


@pytest.fixture
def address() -> Iterator[str]:
    """Serve in another thread: schemathesis is a process of its own, and the edge needs its loop."""
    told: list[str] = []
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with open_edge() as edge:
            told.append(edge.server.address)
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(30)
    yield told[0]
    stop.set()
    thread.join(30)


async def test_schemathesis_finds_nothing(address: str, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"http://{address}/openapi.json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS)},
    )
    async with asyncio.timeout(240):
        out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()
    assert re.search(r"\d{3,} generated", out.decode())


async def test_the_page_fetches_nothing_from_elsewhere() -> None:
    async with open_edge() as edge:
        page = await edge.ask(get("/docs"))
        files = [await edge.ask(get(path)) for path in re.findall(r'(?:src|href)="(/[^"]+)"', page.body.decode())]

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert [reply.status for reply in files] == [200] * 4
    for reply in (page, *files):
        assert re.findall(rb"https?://", reply.body) == []
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert b"<script>" not in page.body
    assert b"style=" not in page.body


async def test_every_operation_that_is_described_is_served_and_every_answer_fits_its_type() -> None:
    async with open_edge() as edge:
        document = (await edge.ask(get("/openapi.json"))).json
        statuses = {
            (method, path): (await edge.ask(asked(method, path))).status
            for path, operations in document["paths"].items()
            for method in operations
        }

    assert document["openapi"] == "3.1.0"
    assert document["components"]["schemas"]["PredictBody"]["additionalProperties"] is False
    assert document["components"]["schemas"]["PredictBody"]["properties"]["sample_ids"]["maxItems"] == 1000
    assert {key for key, status in statuses.items() if status != 200} == {
        key
        for key in statuses
        if "{version}" in key[1]  # made-up answers have no version
    }


def asked(method: str, path: str) -> bytes:
    target = path.replace("{model}", "m").replace("{version}", "0" * 12)
    if method == "get":
        return get(target)
    tensor = {"name": "sample_id", "datatype": "BYTES", "shape": [1], "data": ["u1"]}
    body: dict[str, Any] = {"inputs": [tensor]} if "infer" in path else {"model": "m", "sample_ids": ["u1"]}
    return post(json.loads(json.dumps(body)), path=target)
