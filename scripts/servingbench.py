"""What refreshing costs those who ask meanwhile, for `scripts/bench refresh --serving`.

Two participants and an initiator in processes, as `scripts/bench serve` sets them up, but one participant's features
come from a view's script over a raw table. Questions of one id arrive at a rate (`fedpredict bench`: an open loop).
`quiet` and `beside` take turns; beside, refreshes of the view follow each other without a pause, at the low priority at
which a schedule runs them, and the daemons publish what they find. `p99_ratio` is p99 beside by p99 quiet.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from servebench.bench import check_client
from servebench.federation import INITIATOR, MODEL, PROGRAM, VIEW, Federation, Layout, environment, sample_id
from typing_extensions import override

from fedpredict.cli.scheduled import NICE
from fedpredict.warehouse.base import Column, ColumnType, TableSchema
from fedpredict.warehouse.local import LocalWarehouse

REFRESHED = "lab"
ASKED = 20_000
"""Different ids that are asked for."""


class RefreshedFederation(Federation):
    """Parties of which one extracts its features by a view's script."""

    @override
    def _party_commands(self, party: str, parts: Path) -> list[list[str]]:
        commands = super()._party_commands(party, parts)
        if party != REFRESHED:
            return commands
        self._write_view()
        config = self._config(party)
        made = [
            self._words("view", "register", self.home / f"{VIEW}.toml", *config),
            self._words("features", "refresh", VIEW, *config),
        ]
        return [*made, *commands[1:]]

    def _write_view(self) -> None:
        """Write the raw table, an event for each id, and the view that takes each id's newest values."""
        names, n_ids = self.layout.owners[REFRESHED], self.layout.n_ids
        columns = (
            Column("id", ColumnType.STRING),
            Column("event", ColumnType.STRING),
            Column("at", ColumnType.TIMESTAMP),
        )
        columns += tuple(Column(name, ColumnType.DOUBLE) for name in names)
        schema = TableSchema("raw_people", columns, (Column("day", ColumnType.STRING),))
        values = self.features(np.arange(n_ids, dtype=np.float64))
        ids = pa.array([sample_id(row) for row in range(n_ids)])
        instants = pa.array(np.full(n_ids, 1_767_225_600_000_000), pa.timestamp("us", tz="UTC"))
        rows = {"id": ids, "event": ids, "at": instants}
        rows |= {name: pa.array(values[:, self.names.index(name)]) for name in names}
        warehouse = LocalWarehouse(self.home / REFRESHED / "warehouse")
        warehouse.ensure(schema)
        warehouse.replace(schema.name, {"day": "2026-01-01"}, pa.table(rows))
        told = "".join(f'{name} = "double"\n' for name in names)
        features = "".join(f'[features.{name}]\ntype = "number"\n' for name in names)
        (self.home / f"{VIEW}.toml").write_text(
            f'name = "{VIEW}"\nkey = "id"\ntargets = ["duckdb"]\n[sources.raw]\nkind = "table"\ntable = "raw_people"\n'
            f'event_id = "event"\nevent_time = "at"\n[sources.raw.columns]\nid = "text"\nevent = "text"\n'
            f'at = "timestamp"\n{told}{features}'
        )
        selected = ", ".join(f"last(raw.{name}) AS {name}" for name in names)
        (self.home / f"{VIEW}.sql").write_text(f"SELECT raw.id AS id, {selected} FROM raw GROUP BY raw.id\n")  # noqa: S608


@dataclass
class Refreshes:
    """Refreshes one after the other, until told to stop."""

    federation: Federation
    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Keep refreshing while the block runs; the one that is under way at its end is waited for."""
        ended = threading.Event()
        thread = threading.Thread(target=self._work, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _work(self, ended: threading.Event) -> None:
        config = ("--config", str(self.federation.home / REFRESHED / "participant.toml"))
        command = ["nice", "-n", str(NICE), *PROGRAM, "features", "refresh", VIEW, *config]
        while not ended.is_set():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
            self.seconds.append(time.perf_counter() - began)


def measure(n_ids: int, rate: float, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Return a line for `quiet` and one for `beside`."""
    with tempfile.TemporaryDirectory(prefix="fedpredict-bench-") as folder:
        federation = RefreshedFederation(Path(folder), Layout("refreshed", n_ids=n_ids), tls=True)
        federation.set_up()
        _write_ids(federation.home / "asked.csv", n_ids)
        federation.start()
        try:
            check_client(federation)
            refreshes = Refreshes(federation)
            quiet, beside = [], []
            for _ in range(rounds):
                quiet.append(_asked(federation, rate, seconds))
                with refreshes.going_on():
                    beside.append(_asked(federation, rate, seconds))
            check_client(federation)
        finally:
            federation.stop()
    facts = {"rows": n_ids, "features": len(federation.layout.owners[REFRESHED]), "rate": rate}
    lines = [_line("serving-quiet", facts, quiet), _line("serving-beside", facts, beside)]
    lines[1] |= {
        "refreshes": len(refreshes.seconds),
        "refresh_s": round(statistics.median(refreshes.seconds), 2),
        "p50_ratio": round(lines[1]["p50_ms"] / lines[0]["p50_ms"], 2),
        "p99_ratio": round(lines[1]["p99_ms"] / lines[0]["p99_ms"], 2),
    }
    return lines


def _write_ids(path: Path, n_ids: int) -> None:
    asked = np.random.default_rng(3).permutation(n_ids)[:ASKED]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id"], *([sample_id(int(row))] for row in asked)])


def _asked(federation: Federation, rate: float, seconds: float) -> dict[str, Any]:
    """Ask at a rate, and return what `fedpredict bench` says of it."""
    command = [*PROGRAM, "bench", "--model", MODEL, "--in", str(federation.home / "asked.csv"), "--id-column", "id"]
    command += ["--config", str(federation.home / INITIATOR / "client.toml"), "--rate", str(rate), "--stream", "--json"]
    command += ["--duration", str(seconds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment(), text=True)
    (run,) = json.loads(done.stdout)["runs"]
    return dict(run)


def _line(work: str, facts: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    line: dict[str, Any] = {"work": work, **facts}
    line["per_s"] = round(statistics.median(run["per_s"] for run in runs), 1)
    for name in ("p50_ms", "p99_ms", "max_ms"):
        line[name] = round(statistics.median(run[name] for run in runs), 2)
    line["errors"] = sum(sum(run["errors"].values()) for run in runs)
    line["generator_limited"] = any(run["generator"]["limited"] for run in runs)
    return line
