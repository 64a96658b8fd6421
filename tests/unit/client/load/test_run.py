"""Open and closed loops, against a server that stalls, refuses, hangs up or is not there."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import numpy as np
import pytest
import uvloop

from fedpredict.client.load import questions
from fedpredict.client.load.alarm import Alarm
from fedpredict.client.load.over_http import OverHttp, Site, parse_site
from fedpredict.client.load.record import Requests
from fedpredict.client.load.run import Progress, Run, run_closed, run_open
from fedpredict.errors import ConfigError, ServerUnavailableError
from fedpredict.model.arrays import Floats
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind
from tests.stub_http import Reply, StubServer
from tests.unit.client.load.conftest import Serve

BODY = b'{"model":"m","sample_ids":["a"]}'


def every(seconds: float, count: int) -> Floats:
    return np.arange(count, dtype=np.float64) * seconds


EVERY_10_MS = every(0.010, 100)


def target_of(server: StubServer) -> OverHttp:
    return OverHttp(parse_site(server.url, "/v1/predict"), [BODY], questions.has_numbers)


async def load(server: StubServer, due: Floats, *, slots: int = 64, timeout_s: float = 20.0) -> Requests:
    target = target_of(server)
    try:
        run = await run_open(target, due, slots=slots, timeout_s=timeout_s)
    finally:
        await target.close()
    return run.record.table()


@pytest.mark.parametrize("slots", [1, 64])
async def test_a_stall_shows_in_the_percentiles_although_few_requests_met_it(serve: Serve, slots: int) -> None:
    # from 0.4 s to 0.7 s the server answers nothing: the 30 requests due then wait 300, 290, ... 10 ms
    stall = (lambda n: max(0.0, (70 - n) * 0.010) if n >= 40 else 0.0) if slots > 1 else (lambda n: 0.3 * (n == 40))
    server = serve(StubServer(delay=stall))

    requests = await load(server, EVERY_10_MS, slots=slots)

    took_ms = np.sort(requests.took_s) * 1e3
    assert len(took_ms) == 100
    # by hand: of 100 sorted values the 71st to the 100th are 10, 20, ... 300
    assert took_ms[98] >= 285.0
    assert took_ms[89] >= 195.0
    assert took_ms[79] >= 95.0


async def test_the_server_does_not_choose_when_requests_are_sent(serve: Serve) -> None:
    seen: list[int] = []
    server = StubServer(delay=lambda n: 0.6 if n == 0 else 0.0)

    def reply(_body: bytes) -> Reply:
        seen.append(len(server.bodies))
        return 200, {}, b'{"predictions":[[1]]}'

    server.reply = reply
    serve(server)

    await load(server, every(0.010, 50))

    # the first answer comes last: all others were asked and answered meanwhile
    assert len(seen) == 50
    assert seen[-1] == 50


async def test_each_request_ends_once_whatever_becomes_of_it(serve: Serve) -> None:
    server = serve(StubServer(hang_up_after=7))

    requests = await load(server, EVERY_10_MS, slots=4)

    counts = requests.counts()
    assert sum(counts.values()) == 100
    assert counts["connection lost"] == 100 // 8
    assert counts["ok"] == 100 - 100 // 8


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind"),
    [
        (200, {}, b'{"predictions":[[0.5]]}', "ok"),
        (200, {}, b'{"predictions":[null]}', "no number"),
        (200, {}, b"not json, null", "no number"),
        (429, {"retry-after": "1"}, b"", "HTTP 429"),
        (429, {}, b"", "HTTP 429 without Retry-After"),
        (503, {}, b"", "HTTP 503"),
    ],
)
async def test_an_answer_is_counted_as_what_it_is(
    status: int, headers: dict[str, str], body: bytes, kind: str, *, serve: Serve
) -> None:
    server = serve(StubServer(reply=lambda _: (status, headers, body)))

    requests = await load(server, every(0.01, 5))

    assert requests.counts() == {kind: 5}


async def test_nobody_waits_longer_than_the_timeout(serve: Serve) -> None:
    server = serve(StubServer(delay=lambda n: 60.0 if n < 10 else 0.0))

    requests = await load(server, every(0.01, 20), slots=4, timeout_s=0.2)

    # four are sent and never answered; what is due behind them waits as long as they do
    assert requests.counts()["timeout"] >= 4
    timed_out = requests.took_s[requests.kind == requests.kinds.index("timeout")]
    assert timed_out.min() >= 0.2


async def test_a_server_that_is_not_there_is_an_error_of_every_request() -> None:
    server = StubServer(port=1)

    requests = await load(server, every(0.01, 5))

    assert requests.counts() == {"cannot connect": 5}


async def test_an_interrupted_run_has_what_had_ended(serve: Serve) -> None:
    server = serve(StubServer())
    target = target_of(server)
    ticked = asyncio.Event()

    def on_tick(progress: Progress) -> None:
        ticked.set()

    task = asyncio.ensure_future(run_open(target, every(0.001, 100_000), slots=8, timeout_s=5.0, on_tick=on_tick))
    await ticked.wait()
    task.cancel()
    run: Run = await task
    await target.close()

    assert run.interrupted
    assert 0 < len(run.record) < 100_000


async def test_a_closed_loop_keeps_so_many_under_way(serve: Serve) -> None:
    at_once: list[int] = []
    server = StubServer(delay=lambda _: 0.02)
    answered = 0

    def reply(_body: bytes) -> Reply:
        nonlocal answered
        at_once.append(len(server.bodies) - answered)
        answered += 1
        return 200, {}, b'{"predictions":[[1]]}'

    server.reply = reply
    serve(server)
    target = target_of(server)
    run = await run_closed(target, slots=6, seconds=0.3)
    await target.close()

    assert max(at_once) == 6
    assert run.record.table().counts() == {"ok": len(at_once)}


def test_the_same_holds_in_uvloop(serve: Serve) -> None:
    server = serve(StubServer())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        requests = runner.run(load(server, EVERY_10_MS))

    assert requests.counts() == {"ok": 100}


async def test_an_alarm_never_rings_early() -> None:
    alarm, loop = Alarm(), asyncio.get_running_loop()
    moments = [loop.time() + wait for wait in (0.0005, 0.0021, 0.0104)]
    rung = []
    for moment in moments:
        await alarm.until(moment)
        rung.append(loop.time())
    alarm.close()
    alarm.close()

    assert all(at >= moment for at, moment in zip(rung, moments, strict=True))


async def test_asking_where_nobody_listens_names_the_server() -> None:
    target = target_of(StubServer(port=1))
    with pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:1: cannot connect; is it running"):
        await target.ask(0)
    await target.close()


async def test_mutual_tls_proves_both_ends(serve: Serve, tmp_path: Path) -> None:
    ca = certs.create_ca(tmp_path / "ca", "test CA")
    bank = certs.issue(ca, Identity(IdentityKind.PARTY, "bank"), tmp_path / "bank")
    desk = certs.issue(ca, Identity(IdentityKind.CLIENT, "desk"), tmp_path / "desk")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(bank.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(bank.certificate, bank.key)
    server = serve(StubServer(tls=context))

    async def kinds(site: Site) -> dict[str, int]:
        target = OverHttp(site, [BODY], questions.has_numbers)
        run = await run_open(target, every(0.01, 5), slots=4, timeout_s=10.0)
        await target.close()
        return run.record.table().counts()

    assert await kinds(parse_site(server.url, "/", tls=desk, server_party="bank")) == {"ok": 5}
    assert await kinds(parse_site(server.url, "/", tls=desk, server_party="shop")) == {"cannot connect": 5}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("127.0.0.1:80", "is no URL"),
        ("ftp://x", "is no URL"),
        ("http://x:99999", "is no URL"),
        ("https://x", "needs the CA"),
    ],
)
def test_what_is_no_url_of_a_server_is_told(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_site(url, "/v1/predict")
