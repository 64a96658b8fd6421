"""What the audit log costs: processor time of every party for a question, and throughput, with the log and without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from servebench import grpc_load
from servebench.bench import Bench, check_client, ids_of, rows_of
from servebench.federation import TWO, Federation, children
from servebench.result import Line

AT_ONCE = 64
ROUNDS = 4
N_QUESTIONS = 20_000
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def audit_cost(bench: Bench) -> Iterator[Line]:
    """Measure each way in turn; the order changes with every round, and medians of the ratios within rounds count."""
    asked = [ids_of(each) for each in rows_of(1, TWO.n_ids, N_QUESTIONS)]
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    federation = bench.use(TWO)
    for number in range(max(ROUNDS, bench.rounds)):
        for audited in (True, False) if number % 2 else (False, True):
            federation.stop()
            federation.audited = audited
            federation = bench.use(TWO)
            check_client(federation)
            found[audited].append(_measure(bench, federation, asked))
    federation.stop()
    federation.audited = True
    for what in found[True][0]:
        pairs = [(with_log[what], without[what]) for with_log, without in zip(found[True], found[False], strict=True)]
        more = {
            "of": what,
            "with": median(one for one, _ in pairs),
            "without": median(other for _, other in pairs),
            "ratio": median(one / other for one, other in pairs),
        }
        yield Line("audit", AT_ONCE, 1, bench.tls, non_ok=0, more=more)


def _measure(bench: Bench, federation: Federation, asked: list[list[str]]) -> dict[str, float]:
    """Return the questions a second, and the microseconds of processor time that each party takes for one."""
    grpc_load.closed(lambda: grpc_load.stream(federation, asked), slots=AT_ONCE, seconds=0.5, warm_up_s=0.0)
    before = {name: _cpu_s(process.pid) for name, process in federation.processes.items()}
    measured, _ = grpc_load.closed(
        lambda: grpc_load.stream(federation, asked), slots=AT_ONCE, seconds=bench.seconds, warm_up_s=0.0
    )
    n_questions = measured.per_s * bench.seconds
    us = {
        f"{name}, us": 1e6 * (_cpu_s(each.pid) - before[name]) / n_questions
        for name, each in federation.processes.items()
    }
    return {"per_s": measured.per_s, **us}


def _cpu_s(pid: int) -> float:
    total = 0
    for each in (pid, *children(pid)):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_S
