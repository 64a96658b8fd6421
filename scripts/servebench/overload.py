"""Twice as much as the server can do: who is refused, how fast, and how those who are not fare."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import uvloop

from fedpredict.client.load import questions
from fedpredict.client.load.arrivals import MAX_RATE, Arrival, due_times
from fedpredict.client.load.over_http import OverHttp, parse_site
from fedpredict.client.load.record import OK, Requests, Summary, summarise
from fedpredict.client.load.run import Run, run_closed, run_open
from servebench.bench import CALLER, PREDICT, Bench, check_json, ids_of, json_body, rows_of
from servebench.federation import TWO
from servebench.grpc_load import of_kind
from servebench.result import Line

SLOTS = 4_096
AT_ONCE = 64
"""Requests under way where the capacity is looked for: none of them is refused."""
TIMEOUT_S = 5.0
AT_CAPACITY, OVER, AFTER, AFTER_S = 0.9, 2.0, 0.5, 3.0
N_QUESTIONS = 2_000
ROWS = 1_000
"""A request: so many that the server has work to do, and the generator beside it little."""
REFUSED, WITHOUT_HINT = "HTTP 429", "without"


@dataclass(frozen=True)
class _Phase:
    """One rate: its numbers, and its requests."""

    summary: Summary
    requests: Requests


def overload(bench: Bench) -> Iterator[Line]:
    """Find the capacity, then send twice as much, openly, then half, and see how soon all is well."""
    federation = bench.use_http(TWO)
    check_json(federation)
    site = parse_site(federation.url, PREDICT)
    bodies = [json_body(ids_of(each)) for each in rows_of(ROWS, TWO.n_ids, N_QUESTIONS)]

    async def measure() -> tuple[float, _Phase, _Phase]:
        target = OverHttp(site, bodies, questions.has_numbers, CALLER)
        try:
            # risk systems hold their connections open: a storm of new ones is another thing than too many requests
            await run_closed(target, slots=SLOTS, seconds=1.0)
            await run_closed(target, slots=AT_ONCE, seconds=0.5)
            capacity = _capacity(await run_closed(target, slots=AT_ONCE, seconds=bench.seconds), bench.seconds)
            at_capacity = await _phase(target, [(AT_CAPACITY * capacity, bench.seconds)])
            # one run: what the overload left behind is there when the rate falls
            over = await _phase(target, [(OVER * capacity, bench.seconds), (AFTER * capacity, AFTER_S)])
            return capacity, at_capacity, over
        finally:
            await target.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield _line(bench, *runner.run(measure()))


def _capacity(run: Run, seconds: float) -> float:
    summary = summarise(run.record, asked_per_s=0.0, since_s=0.0, until_s=seconds, busy=run.busy)
    if not summary.ok:
        raise RuntimeError(f"nothing was answered: {dict(summary.errors)}")
    return summary.per_s


async def _phase(target: OverHttp, rates: list[tuple[float, float]]) -> _Phase:
    """Send requests at one rate after the other; the summary is that of the first."""
    parts, start = [], 0.0
    for rate, seconds in rates:
        parts.append(start + due_times(Arrival.POISSON, min(rate, MAX_RATE), seconds, seed=1))
        start += seconds
    run = await run_open(target, np.concatenate(parts), slots=SLOTS, timeout_s=TIMEOUT_S)
    summary = summarise(run.record, asked_per_s=rates[0][0], since_s=0.0, until_s=rates[0][1], busy=run.busy)
    return _Phase(summary, run.record.table())


def _line(bench: Bench, capacity: float, at: _Phase, over: _Phase) -> Line:
    requests, after = _part(over.requests, 0.0, bench.seconds), _part(over.requests, bench.seconds, np.inf)
    accepted = requests.took_s[of_kind(requests, lambda kind: kind == OK)]
    refused = requests.took_s[of_kind(requests, lambda kind: kind.startswith(REFUSED))]
    unhinted = int(of_kind(requests, lambda kind: kind.startswith(REFUSED) and WITHOUT_HINT in kind).sum())
    p99_at, p99_over = at.summary.histogram.at_ms(99.0) or 0.0, _percentile_ms(accepted, 99.0)
    more: dict[str, object] = {
        "capacity_per_s": capacity,
        "asked_per_s": over.summary.asked_per_s,
        "refused_part": len(refused) / max(len(requests.took_s), 1),
        "refused_without_hint": unhinted,
        "refusal_p99_ms": _percentile_ms(refused, 99.0),
        "p99_to_capacity": None if p99_over is None or not p99_at else p99_over / p99_at,
        "recovery_s": _recovery_s(after, 2.0 * p99_at / 1e3),
        "generator_limited": over.summary.generator_limited,
    }
    other = len(requests.took_s) - len(accepted) - len(refused)
    if other:
        more["errors"] = ", ".join(f"{n} {kind}" for kind, n in requests.counts().items() if kind != OK)
    return Line(
        "overload", SLOTS, ROWS, bench.tls, over.summary.per_s, _percentile_ms(accepted, 50.0), p99_over, other, more
    )


def _part(requests: Requests, since_s: float, until_s: float) -> Requests:
    kept = (requests.due_s >= since_s) & (requests.due_s < until_s)
    return Requests(requests.due_s[kept] - since_s, requests.took_s[kept], requests.kind[kept], requests.kinds)


def _recovery_s(requests: Requests, limit_s: float) -> float:
    """Return when the last request was due that took longer than it should, in seconds after the overload."""
    slow = (requests.took_s > limit_s) | ~of_kind(requests, lambda kind: kind == OK)
    # a hundredth may be slow at any time: only what stands in a tenth of a second with many others counts
    tenth = (requests.due_s // 0.1).astype(np.int64)
    many = [number for number in np.unique(tenth) if slow[tenth == number].mean() > 0.05]
    return (max(many) + 1) * 0.1 if many else 0.0


def _percentile_ms(times: np.ndarray, percentile: float) -> float | None:
    return float(np.percentile(times, percentile)) * 1e3 if len(times) else None
