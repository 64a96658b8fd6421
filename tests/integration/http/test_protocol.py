"""HTTP/1.1 on the path without ASGI, byte for byte, on both event loops."""

from __future__ import annotations

import asyncio

import pytest

from fedpredict.errors import ConfigError, ModelNotReadyError, PartyTimeoutError
from tests.integration.federation import eventually
from tests.integration.http.edge import PREDICT, HeldPredictor, get, open_edge, places, post


async def test_an_answer_names_the_request_and_the_date_and_not_the_server() -> None:
    async with open_edge() as edge:
        reply = await edge.ask(post(PREDICT, "X-Request-Id: r-7"))

        assert reply.status == 200
        assert set(reply.headers) == {"content-type", "content-length", "x-request-id", "date"}
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["x-request-id"] == reply.json["request_id"] == "r-7"
        assert reply.json["status"] == ["OK"]


async def test_a_request_id_that_breaks_the_rule_is_replaced() -> None:
    async with open_edge() as edge:
        for header in ((), ("X-Request-Id: no spaces",), (f"X-Request-Id: {'x' * 65}",)):
            reply = await edge.ask(post(PREDICT, *header))
            assert len(reply.headers["x-request-id"]) == 32


async def test_the_bodys_request_id_goes_before_the_headers() -> None:
    async with open_edge() as edge:
        reply = await edge.ask(post({**PREDICT, "request_id": "from-body"}, "X-Request-Id: from-header"))

        refused = await edge.ask(post({**PREDICT, "sample_ids": [], "request_id": "from-body"}))

        assert reply.headers["x-request-id"] == reply.json["request_id"] == "from-body"
        assert refused.problem == (400, "empty_request")
        assert refused.headers["x-request-id"] == "from-body"


async def test_a_connection_is_kept_and_used_again() -> None:
    async with open_edge() as edge, await edge.connect() as wire:
        for number in range(3):
            assert (await wire.ask(post(PREDICT, f"X-Request-Id: r-{number}"))).status == 200
            assert (await wire.ask(get("/v1/models"))).status == 200


async def test_pipelined_requests_are_answered_in_their_order_whichever_path_they_take() -> None:
    predictor = HeldPredictor()
    async with open_edge(predictor) as edge, await edge.connect() as wire:
        await wire.send(
            post(PREDICT, "X-Request-Id: r-1")
            + get("/v1/models", "X-Request-Id: r-2")
            + post(b"not json", "X-Request-Id: r-3")
            + post(PREDICT, "X-Request-Id: r-4")
        )
        await predictor.until_begun(1)
        predictor.held = False
        predictor.release()
        replies = [await wire.read() for _ in range(4)]

        assert places(replies) == ["r-1", "r-2", "r-3", "r-4"]
        assert [reply.status for reply in replies] == [200, 200, 400, 200]


async def test_thousands_of_pipelined_requests_are_answered() -> None:
    async with open_edge() as edge, await edge.connect() as wire:
        sending = asyncio.create_task(wire.send(post(b"{}") * 5000))
        replies = [await wire.read() for _ in range(5000)]
        await sending

        assert {reply.problem for reply in replies} == {(400, "field")}


async def test_a_request_that_comes_in_single_bytes_is_one_request() -> None:
    async with open_edge() as edge, await edge.connect() as wire:
        reply = await wire.ask(*(bytes([byte]) for byte in post(PREDICT)))

        assert reply.status == 200


async def test_a_chunked_body_is_one_body() -> None:
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    async with open_edge() as edge, await edge.connect() as wire:
        for _ in range(2):
            reply = await wire.ask(
                head, b'1B\r\n{"model":"m","sample_ids":[\r\n', b'6;x=1\r\n"u1"]}\r\n0\r\nT: x\r\n\r\n'
            )
            assert reply.json["status"] == ["OK"]


async def test_a_caller_that_expects_100_continue_is_asked_for_the_body() -> None:
    whole = post(PREDICT, "Expect: 100-continue")
    head, body = whole.split(b"\r\n\r\n")
    async with open_edge() as edge, await edge.connect() as wire:
        for _ in range(2):
            interim = await wire.ask(head + b"\r\n\r\n")
            final = await wire.ask(body)

            assert (interim.status, interim.headers) == (100, {})
            assert final.status == 200


async def test_a_pipelined_caller_is_asked_for_its_body_when_its_turn_comes() -> None:
    predictor = HeldPredictor()
    head, body = post(PREDICT, "Expect: 100-continue").split(b"\r\n\r\n")
    async with open_edge(predictor) as edge, await edge.connect() as wire:
        await wire.send(post(PREDICT) + head + b"\r\n\r\n")
        await predictor.until_begun()
        predictor.held = False
        predictor.release()

        assert (await wire.read()).status == 200
        assert (await wire.read()).status == 100
        assert (await wire.ask(body)).status == 200


async def test_a_body_that_is_sent_with_its_expectation_gets_no_100() -> None:
    async with open_edge() as edge:
        reply = await edge.ask(post(PREDICT, "Expect: 100-continue"))

        assert reply.status in {100, 200}


async def test_any_other_expectation_is_refused() -> None:
    async with open_edge() as edge:
        reply = await edge.ask(post(PREDICT, "Expect: the-unexpected"))

        assert reply.problem == (417, "expectation_failed")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_the_path_takes_nothing_but_post(method: str) -> None:
    async with open_edge() as edge, await edge.connect() as wire:
        await wire.send(get("/v1/predict", method=method))
        reply = await wire.read(to_head=method == "HEAD")

        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        assert (await wire.ask(post(PREDICT))).status == 200


async def test_an_unknown_path_is_a_problem() -> None:
    async with open_edge() as edge:
        assert (await edge.ask(get("/v1/nothing"))).problem == (404, "no_such_path")
        assert (await edge.ask(get("/v1/models/"))).problem == (404, "no_such_path")


async def test_other_spellings_of_the_path_get_the_same_answer() -> None:
    async with open_edge() as edge:
        for path in ("/v1/predict?x=1", "/v1/%70redict", "http://edge/v1/predict"):
            reply = await edge.ask(post(PREDICT, "X-Request-Id: r-1", path=path))
            assert (reply.status, reply.json["request_id"], reply.json["status"]) == (200, "r-1", ["OK"])


async def test_http_10_is_answered_and_closed() -> None:
    async with open_edge() as edge:
        for request in (post(PREDICT, version="1.0"), b"GET /v1/models HTTP/1.0\r\n\r\n"):
            async with await edge.connect() as wire:
                reply = await wire.ask(request)
                assert (reply.status, reply.headers["connection"]) == (200, "close")
                assert await wire.is_closed()


async def test_a_caller_that_asks_for_it_is_closed_after_the_answer() -> None:
    async with open_edge() as edge:
        for request in (post(PREDICT, "Connection: close"), get("/v1/models", "Connection: close")):
            async with await edge.connect() as wire:
                reply = await wire.ask(request)
                assert (reply.status, reply.headers["connection"]) == (200, "close")
                assert await wire.is_closed()


async def test_a_prediction_that_fails_later_is_a_problem_too() -> None:
    predictor = HeldPredictor()
    async with open_edge(predictor) as edge, await edge.connect() as wire:
        await wire.send(post(PREDICT))
        await predictor.until_begun(1)
        predictor.release(PartyTimeoutError("10.0.0.7 took 3 s", party="lab"))
        slow = await wire.read()
        await wire.send(post(PREDICT))
        await predictor.until_begun(2)
        predictor.release(ModelNotReadyError("internal reason"))
        unready = await wire.read()
        await wire.send(post(PREDICT))
        await predictor.until_begun(3)
        predictor.release(KeyError("secret"))
        broken = await wire.read()

        assert slow.problem == (504, "party_timeout")
        assert (slow.json["party"], slow.json["detail"]) == ("lab", "party lab did not answer in time")
        assert unready.problem == (503, "model_not_ready")
        assert broken.problem == (500, "internal")
        assert b"secret" not in broken.body


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict?"])
async def test_a_caller_that_leaves_gives_its_prediction_up(path: str) -> None:
    predictor = HeldPredictor()
    async with open_edge(predictor) as edge:
        async with await edge.connect() as wire:
            await wire.send(post(PREDICT, "X-Request-Id: r-1", path=path))
            await predictor.until_begun()

        async def given_up() -> bool:
            return predictor.given_up == ["r-1"]

        await eventually(given_up)
        assert await edge.serves_others()


async def test_a_caller_that_half_closes_counts_as_gone() -> None:
    predictor = HeldPredictor()
    async with open_edge(predictor) as edge, await edge.connect() as wire:
        await wire.send(post(PREDICT, "X-Request-Id: r-1"))
        await predictor.until_begun()
        wire.writer.write_eof()

        assert await wire.is_closed()
        assert predictor.given_up == ["r-1"]
        assert await edge.serves_others()


async def test_a_deadline_is_the_smaller_of_header_and_body() -> None:
    predictor = HeldPredictor(held=False)
    async with open_edge(predictor) as edge:
        for timeout_ms, headers in ((None, []), (300, []), (300, ["X-Fedpredict-Deadline-Ms: 250"])):
            body = PREDICT if timeout_ms is None else {**PREDICT, "timeout_ms": timeout_ms}
            await edge.ask(post(body, *headers))

        assert predictor.deadlines == [None, 0.3, 0.25]


async def test_a_caller_that_does_not_read_is_not_worked_for() -> None:
    predictor = HeldPredictor(held=False, n_outputs=400)
    body = {"model": "m", "sample_ids": ["u"] * 500}
    async with open_edge(predictor) as edge, await edge.connect() as wire:
        sending = asyncio.create_task(wire.send(post(body) * 40))
        await predictor.until_begun()
        for _ in range(20):
            assert await edge.serves_others()
        begun = len(predictor.begun)
        replies = [await wire.read() for _ in range(40)]
        await sending

        assert begun < 40
        assert [len(reply.json["predictions"]) for reply in replies] == [500] * 40


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict?"])
async def test_a_stopping_server_answers_what_is_under_way_and_takes_nothing_new(path: str) -> None:
    predictor = HeldPredictor()
    async with open_edge(predictor) as edge:
        busy, idle = await edge.connect(), await edge.connect()
        assert (await idle.ask(get("/v1/health/ready"))).status == 200
        await busy.send(post(PREDICT, path=path))
        await predictor.until_begun()
        stopping = asyncio.create_task(edge.server.__aexit__(None, None, None))

        assert await idle.is_closed()
        with pytest.raises(ConnectionRefusedError):
            await edge.connect()
        predictor.release()
        reply = await busy.read()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await busy.is_closed()
        await stopping
        for wire in (busy, idle):
            wire.writer.close()


async def test_a_stop_waits_no_longer_than_it_may() -> None:
    predictor = HeldPredictor()
    async with open_edge(predictor, drain_s=0.2) as edge:
        wires = [await edge.connect(), await edge.connect()]
        for wire, path in zip(wires, ("/v1/predict", "/v1/predict?"), strict=True):
            await wire.send(post(PREDICT, path=path))
        await predictor.until_begun(2)
        await edge.server.__aexit__(None, None, None)

        async def given_up() -> bool:
            return len(predictor.given_up) == 2

        await eventually(given_up)
        for wire in wires:
            wire.writer.close()


async def test_a_taken_port_is_an_error() -> None:
    async with open_edge() as edge:
        with pytest.raises(ConfigError, match=f"http_listen: {edge.server.address} cannot be bound"):
            async with open_edge(listen=edge.server.address):
                pass
