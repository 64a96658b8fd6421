"""What is told of predictions over HTTP: each once, however it ends, and by which way it came."""

from __future__ import annotations

import logging

import pytest

from fedpredict.errors import OverloadedError
from fedpredict.observe.page import Page
from fedpredict.observe.request_log import RequestLog
from fedpredict.observe.serving import ServingMetrics
from fedpredict.observe.settings import LogSettings
from fedpredict.observe.watch import PredictionWatch
from tests.integration.federation import eventually
from tests.integration.http.edge import PREDICT, HeldPredictor, open_edge, post

INFER = {"inputs": [{"name": "sample_id", "datatype": "BYTES", "shape": [1], "data": ["u1"]}]}


async def counted(serving: ServingMetrics) -> dict[tuple[str, str], int]:
    """Return requests by edge and outcome."""
    text = (await Page((serving,)).write(""))[1].decode()
    lines = [line for line in text.splitlines() if line.startswith("fedpredict_request_seconds_count{")]
    labels = [
        dict(pair.split("=") for pair in line[line.index("{") + 1 : line.index("}")].split(",")) for line in lines
    ]
    return {
        (each["edge"].strip('"'), each["outcome"].strip('"')): int(float(line.rpartition(" ")[2]))
        for each, line in zip(labels, lines, strict=True)
    }


async def test_every_prediction_is_counted_once_however_it_ends() -> None:
    serving, predictor = ServingMetrics({"m"}), HeldPredictor(held=False)
    async with open_edge(predictor, watch=PredictionWatch(serving)) as edge:
        async with await edge.connect() as wire:
            for path in ("/v1/predict", "/v1/predict?", "/v2/models/m/infer"):
                assert (await wire.ask(post(INFER if "v2" in path else PREDICT, path=path))).status == 200
            predictor.held = True
            await wire.send(post(PREDICT))
            await predictor.until_begun(4)
            predictor.release(OverloadedError("full", retry_after_ms=1200))
            overloaded = await wire.read()
            await wire.send(post(PREDICT))
            await predictor.until_begun(5)

        async def all_counted() -> bool:
            return sum((await counted(serving)).values()) == 5

        await eventually(all_counted)
        assert await counted(serving) == {
            ("http", "ok"): 2,
            ("oip_http", "ok"): 1,
            ("http", "overloaded"): 1,
            ("http", "cancelled"): 1,
        }
        assert overloaded.problem == (429, "overloaded")
        assert (overloaded.headers["retry-after"], overloaded.json["retry_after_ms"]) == ("2", 1200)


async def test_open_connections_are_counted() -> None:
    serving = ServingMetrics({"m"})
    async with open_edge(watch=PredictionWatch(serving)) as edge, await edge.connect() as wire:
        assert (await wire.ask(post(PREDICT))).status == 200
        text = (await Page((serving,)).write(""))[1].decode()

        assert 'fedpredict_open_connections{edge="http"} 1' in text


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict?"])
async def test_an_overload_is_not_told_line_by_line(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fedpredict")
    predictor = HeldPredictor()
    watch = PredictionWatch(log=RequestLog(LogSettings(requests="errors")))
    async with open_edge(predictor, watch=watch) as edge, await edge.connect() as wire:
        for number in range(1, 4):
            await wire.send(post(PREDICT, path=path))
            await predictor.until_begun(number)
            predictor.release(OverloadedError("full", retry_after_ms=1))
            assert (await wire.read()).status == 429
        assert (await wire.ask(post(b"{", path=path))).status == 400

    assert [record.__dict__["error"] for record in caplog.records if record.msg == "http.refused"] == ["FieldError"]
