"""scripts/bench realtime: a question in mode realtime at one party, raw rows to share; one JSON object a line.

- `realtime`: what `LocalParty` takes, from the query to its reply: the events of the ids out of the event store, the
  view computed, the model scored. `rows` are the events stored, `ids` those asked for in one round, `per_s` ids a
  second one round after the other; `p50_ms` and `p99_ms` are of a round, `cpu_ms` is the median of its processor time.
- `engine` is what computes: `numpy`, or `duckdb`, which plans the same query each time.
- `load`: events into the store, from JSON lines, checked.

The database is SQLite, in a folder of the machine's temporary ones. What is measured runs in this process, alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from fedpredict.features.event_feed import feed_of
from fedpredict.features.event_intake import json_lines, take_events
from fedpredict.features.event_source import EventSource
from fedpredict.features.memory import MemoryStore
from fedpredict.features.realtime import RealtimeView
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.linear import LinearPart
from fedpredict.model.manifest import PartDescription
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.state.events import SqlEventStore, open_event_store
from fedpredict.tables.script_store import RegisteredView
from fedpredict.tables.script_view import ScriptView
from fedpredict.warehouse.local_engine import MemoryEngine

EVENTS_EACH = 50
DIGEST = "ab" * 32
AGGREGATES = (
    "SUM(tx.amount) FILTER (WHERE tx.at >= :as_of - INTERVAL '{days}' DAY)",
    "COUNT(*) FILTER (WHERE tx.at >= :as_of - INTERVAL '{days}' DAY)",
    "AVG(tx.amount) FILTER (WHERE tx.channel = 'web' AND tx.at >= :as_of - INTERVAL '{days}' DAY)",
    "MAX(tx.amount) FILTER (WHERE tx.at >= :as_of - INTERVAL '{days}' DAY)",
    "last(tx.amount) FILTER (WHERE tx.at >= :as_of - INTERVAL '{days}' DAY)",
)
COLUMNS = {"id": "text", "at": "timestamp", "account": "text", "amount": "decimal(12,2)", "channel": "text"}


def main(argv: list[str]) -> int:
    """Measure what the arguments ask for and print it; return 0."""
    parser = argparse.ArgumentParser(prog="scripts/bench realtime", description=__doc__)
    parser.add_argument("--people", type=int, default=10_000, help=f"with {EVENTS_EACH} events each")
    parser.add_argument("--rounds", type=int, default=1_000, help="of one id; a tenth of that of 100")
    parser.add_argument("--aggregates", default="1,5,20", help="of the views (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the people, a fifth of the rounds")
    parser.add_argument("--json", action="store_true", help="what is printed anyway")
    arguments = parser.parse_args(argv)
    people = arguments.people // 10 if arguments.quick else arguments.people
    rounds = max(20, arguments.rounds // 5 if arguments.quick else arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        store = open_event_store("sqlite:///events.db", Path(folder))
        views = {count: _view(count) for count in map(int, arguments.aggregates.split(","))}
        _load(store, next(iter(views.values())), people)
        for view in views.values():
            for engine in ("numpy", "duckdb"):
                asyncio.run(_measure(store, view, people, rounds, engine))
        store.close()
    return 0


def _view(n_aggregates: int) -> RegisteredView:
    texts = [AGGREGATES[at % len(AGGREGATES)].format(days=30 - at // len(AGGREGATES)) for at in range(n_aggregates)]
    source = {"table": "raw_transactions", "event_id": "id", "event_time": "at", "columns": COLUMNS}
    features = {f"f{at}": {"type": "number"} for at in range(n_aggregates)}
    content = {"name": f"v{n_aggregates}", "key": "account", "targets": ["duckdb"], "sources": {"tx": source}}
    script = ", ".join(f"{text} AS f{at}" for at, text in enumerate(texts))
    view = ScriptView.model_validate({**content, "features": features})
    text = f"SELECT tx.account, {script} FROM tx GROUP BY tx.account"  # noqa: S608  texts of our own
    return RegisteredView(view, 1, "", text, datetime.now(UTC))


def _load(store: SqlEventStore, view: RegisteredView, people: int) -> None:
    feed, n_events = feed_of(view, [view]), people * EVENTS_EACH
    seconds, busy, n_bytes = 0.0, 0.0, 0
    for lines in _lines(people):
        began, busy_before = time.perf_counter(), time.process_time()
        take_events(store, feed, json_lines(lines))
        seconds += time.perf_counter() - began
        busy += time.process_time() - busy_before
        n_bytes += len(lines)
    _print(
        work="load",
        rows=n_events,
        features=len(COLUMNS),
        per_s=round(n_events / seconds),
        cpu_s=round(busy, 2),
        mb=n_bytes >> 20,
        peak_mb=_peak_mb(),
    )


def _lines(people: int) -> Iterator[bytes]:
    rng, now = np.random.default_rng(people), datetime.now(UTC)
    for start in range(0, people * EVENTS_EACH, 10_000):
        rows = []
        for number in range(start, min(start + 10_000, people * EVENTS_EACH)):
            at = now - timedelta(seconds=float(rng.uniform(1, 40 * 86400)))
            content = {
                "id": f"e{number}",
                "at": at.isoformat(),
                "account": _id(number % people).decode(),
                "amount": f"{rng.uniform(1, 500):.2f}",
                "channel": ("web", "card", "app")[number % 3],
            }
            rows.append(json.dumps(content))
        yield "\n".join(rows).encode()


async def _measure(store: SqlEventStore, registered: RegisteredView, people: int, rounds: int, engine: str) -> None:
    query_engine = MemoryEngine()
    view = RealtimeView(registered, EventSource(store, feed_of(registered, [registered])), query_engine)
    view.put_dimensions({})
    if engine == "duckdb":
        view.array_rows = -1
    state = _state(registered)
    party = LocalParty("bank", lambda: state, MemoryStore(), realtime=lambda _view, _version: view)
    rng = np.random.default_rng(1)
    for n_ids, n_rounds in ((1, rounds), (100, rounds // 10)):
        taken, busied = [], []
        for at in range(n_rounds + 5):
            ids = [_id(each) for each in rng.choice(people, n_ids, replace=False)]
            query = ScoreQuery(
                request_id="r", model_id="m", manifest_sha256=DIGEST, params_sha256=DIGEST, mode=Mode.REALTIME,
                sample_ids=SampleIds.of(ids),
            )  # fmt: skip
            began, busy = time.perf_counter(), time.process_time()
            reply = await party.score(query, deadline_s=60.0)
            if at >= 5:  # the first ones open connections
                taken.append(time.perf_counter() - began)
                busied.append(time.process_time() - busy)
            assert reply.oldest_event_time  # noqa: S101
        _print(
            work="realtime",
            engine=engine,
            rows=people * EVENTS_EACH,
            features=len(registered.view.features),
            ids=n_ids,
            p50_ms=round(float(np.percentile(taken, 50)) * 1e3, 3),
            p99_ms=round(float(np.percentile(taken, 99)) * 1e3, 3),
            cpu_ms=round(float(np.percentile(busied, 50)) * 1e3, 3),
            per_s=round(n_ids * len(taken) / sum(taken)),
            peak_mb=_peak_mb(),
        )
    query_engine.close()


def _state(registered: RegisteredView) -> PartyState:
    names = tuple(registered.view.features)
    part = LinearPart(names, np.full((len(names), 1), 0.01), np.zeros(1), np.zeros(1))
    description = PartDescription(
        party="bank", model_id="m", params_sha256=DIGEST, training_run="r", kind=Kind.LINEAR,
        link=own_link(Kind.LINEAR), classes=(), n_scores=1, holds_intercept=True, fit_intercept=True,
    )  # fmt: skip
    model = LoadedModel(description=description, part=part, view=registered.view.name, view_version=1, columns=names)
    return PartyState(current={"m": model}, loaded={("m", DIGEST): model}, read_once=True)


def _id(number: int) -> bytes:
    return b"u%011d" % number


def _peak_mb() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def _print(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
