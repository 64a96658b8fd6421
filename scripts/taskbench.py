"""Whole offline tasks, for `scripts/bench offline`: an initiator and two participants in processes, over TLS."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from freeports import free_ports

from fedpredict.client import Client, FileOf, Mode, OfflineState, Standing, TaskInfo, TlsFiles
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot, snapshot_name
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse

PARTIES = ("lab", "shop")
MODEL, POPULATION = "bench", "everybody"
MORNING = datetime(2026, 1, 1, tzinfo=UTC)
PROGRAM = (sys.executable, "-c", "from fedpredict.cli.main import main; main()")
STARTS_IN_S, CHECKED = 900.0, 1_000
WORKS = ("task-list", "task-standing", "task-stored")
"""A list, sent and scored; a standing population, scored; the same from stored shares."""


def measure(folder: Path, n_rows: int, n_features: int) -> None:
    """Measure every work once and print it: one JSON object a line."""
    for party in PARTIES:  # in processes of their own: what preparing takes must not count
        (folder / party).mkdir()
        where = f"pathlib.Path({str(folder)!r}), {party!r}"
        step = f"import taskbench, pathlib; taskbench.prepare({where}, {n_rows}, {n_features})"
        subprocess.run([sys.executable, "-c", step], check=True)
    pa.parquet.write_table(pa.table({"sample_id": _ids(n_rows)}), folder / "ids.parquet")
    tls = _settings(folder)
    for party in PARTIES:
        _command(folder, "task", "score", "--date", "2026-01-01", "--config", f"{party}/participant.toml")
    with ExitStack() as stack:
        running = {party: _start(stack, folder, party, "participant") for party in PARTIES}
        running["bank"] = _start(stack, folder, "bank", "initiator")
        address = _listening(folder, "bank")
        client = stack.enter_context(Client(address, server_party="bank", tls=tls))
        _until(lambda: any(each.ready for each in client.models(timeout_s=60.0)))
        began = time.perf_counter()
        task_id = client.submit(MODEL, FileOf(folder / "ids.parquet"), mode=Mode.NEARLINE)
        sent_s = time.perf_counter() - began
        _print("task-list", n_rows, n_features, client.wait(task_id), running, upload_s=round(sent_s, 1))
        _check(folder, client, task_id)
        _propose(folder)
        for work, mode in (("task-standing", Mode.NEARLINE), ("task-stored", Mode.OFFLINE)):
            task_id = client.submit(MODEL, Standing(POPULATION), mode=mode)
            _print(work, n_rows, n_features, client.wait(task_id), running)
            _check(folder, client, task_id)


def prepare(folder: Path, party: str, n_rows: int, n_features: int) -> None:
    """Fill a party's warehouse, and remember its shares of the first ids."""
    rng = np.random.default_rng(PARTIES.index(party))
    names = [f"{party}_{number}" for number in range(n_features)]
    view = FeatureView("people", 1, tuple(ViewFeature(each, each, ColumnType.DOUBLE) for each in names), "id", None)
    instants = pa.array(np.full(n_rows, 1_767_225_600_000_000), pa.timestamp("us", tz="UTC"))
    values = {name: np.round(rng.normal(100.0, 30.0, n_rows), at % 4) for at, name in enumerate(names)}
    table = pa.table({"sample_id": _ids(n_rows), "event_time": instants, **values})
    warehouse = LocalWarehouse(folder / party / "warehouse")
    publish_snapshot(warehouse, view, snapshot_name(MORNING), table)
    weights = rng.normal(size=(n_features, 1)) / 100
    model = PartialModel(
        MODEL, "run", party, Kind.LINEAR, (), False, LinearPart(tuple(names), weights, None, np.zeros(1))
    )
    publish_model(warehouse, model, view, "1" * 64)
    first = np.column_stack([each[:CHECKED] for each in values.values()]) @ weights
    np.save(folder / f"{party}.npy", first[:, 0])


def _ids(n_rows: int) -> pa.Array:
    return pa.array([f"u{number:011d}" for number in range(n_rows)])


def _settings(folder: Path) -> TlsFiles:
    authority = certs.create_ca(folder / "ca", "bench CA")
    ports = free_ports(1 + 2 * len(PARTIES))
    named = {name: Identity(IdentityKind.PARTY, name) for name in (*PARTIES, "bank")}
    files = {name: certs.issue(authority, who, folder / f"certs-{name}") for name, who in named.items()}

    def tls_of(party: str) -> str:
        each = files[party]
        return f'[tls]\nca = "{each.ca}"\ncertificate = "{each.certificate}"\nkey = "{each.key}"\n'

    (folder / "bank").mkdir()
    bank = f'party = "bank"\nlisten = "127.0.0.1:{ports[0]}"\npoll_s = 1.0\n{tls_of("bank")}'
    for at, party in enumerate(PARTIES):
        listen, link = ports[1 + 2 * at], ports[2 + 2 * at]
        (folder / party / "participant.toml").write_text(
            f'party = "{party}"\nlisten = "127.0.0.1:{listen}"\nlink_listen = "127.0.0.1:{link}"\npoll_s = 1.0\n'
            f'{tls_of(party)}[warehouse]\npath = "warehouse"\n[callers.bank]\nmodels = ["*"]\n'
        )
        bank += f'[parties.{party}]\naddress = "127.0.0.1:{listen}"\n'
    bank += f"[models.{MODEL}]\nparties = {json.dumps(PARTIES)}\n"
    (folder / "bank" / "initiator.toml").write_text(f'{bank}[clients.desk]\nmodels = ["*"]\n')
    return certs.issue(authority, Identity(IdentityKind.CLIENT, "desk"), folder / "certs-desk")


def _propose(folder: Path) -> None:
    bank = ("--config", "bank/initiator.toml")
    _command(folder, "population", "propose", POPULATION, "--file", "ids.parquet", "--model", MODEL, *bank)

    def is_there(party: str) -> bool:
        listed = json.loads(_command(folder, "population", "list", "--json", "--config", f"{party}/participant.toml"))
        return any(each["state"] == "proposed" for each in listed)

    for party in PARTIES:
        _until(lambda party=party: is_there(party))
        config = ("--config", f"{party}/participant.toml")
        _command(folder, "population", "accept", POPULATION, "--from", "bank", *config)

    def knows() -> bool:  # a participant goes by what it has read for some time
        shown = json.loads(_command(folder, "population", "show", POPULATION, "--json", *bank))
        return all(each["state"] == "accepted" for each in shown["parties"])

    _until(knows)


def _command(folder: Path, *words: str) -> str:
    return subprocess.run([*PROGRAM, *words], cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def _start(stack: ExitStack, folder: Path, party: str, role: str) -> int:
    out = stack.enter_context((folder / f"{party}.out").open("w"))
    log = stack.enter_context((folder / f"{party}.log").open("w"))
    words = [*PROGRAM, role, "serve", "--config", f"{party}/{role}.toml"]
    process = subprocess.Popen(words, cwd=folder, stdout=out, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    _until(lambda: process.poll() is None and "listening on" in (folder / f"{party}.out").read_text())
    return process.pid


def _listening(folder: Path, party: str) -> str:
    return (folder / f"{party}.out").read_text().split()[2]


def _until(condition: Any) -> None:
    ends = time.monotonic() + STARTS_IN_S
    while not condition():
        if time.monotonic() > ends:
            raise SystemExit("it takes too long; see the logs")
        time.sleep(0.2)


def _peak_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def _print(work: str, n_rows: int, n_features: int, info: TaskInfo, running: Mapping[str, int], **more: float) -> None:
    if info.state is not OfflineState.DONE or info.started_at is None or info.finished_at is None:
        raise SystemExit(f"{work}: {info.state}: {info.problem}")
    seconds = (info.finished_at - info.started_at).total_seconds()
    line = {"work": work, "rows": n_rows, "features": n_features, "per_s": round(n_rows / seconds), **more}
    print(json.dumps({**line, "peak_mb": {name: _peak_mb(pid) for name, pid in running.items()}}), flush=True)


def _check(folder: Path, client: Client, task_id: str) -> None:
    """Hold the predictions of the first ids against what the features give."""
    expected = sum(np.load(folder / f"{party}.npy") for party in PARTIES)
    found: dict[str, float] = {}
    for batch in client.results(task_id):
        picked = batch.filter(pa.compute.less(batch.column("sample_id"), f"u{CHECKED:011d}"))
        found |= dict(zip(picked.column(0).to_pylist(), picked.column(1).to_pylist(), strict=True))
    ordered = np.array([found[f"u{number:011d}"] for number in range(len(expected))])
    if not np.allclose(ordered, expected, rtol=1e-12, atol=1e-12):
        raise SystemExit("the predictions are wrong: their speed is of no interest")
