"""Whole offline tasks, for `scripts/bench offline` and `scale`: an initiator and two participants, over TLS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import benchrows
import numpy as np
import pyarrow as pa
import pyarrow.compute
from freeports import free_ports

from fedpredict.client import Client, FileOf, Mode, OfflineState, Standing, TaskInfo, TlsFiles
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import Snapshot, snapshot_name
from fedpredict.warehouse.local import LocalWarehouse

PARTIES = ("lab", "shop")
MODEL, POPULATION = "bench", "everybody"
MORNING, DAY = datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01"
PROGRAM = (sys.executable, "-c", "from fedpredict.cli.main import main; main()")
STARTS_IN_S, CHECKED = 900.0, 1_000
TAKES_S = 14_400.0
"""A population of so many ids is sent within it."""
WORKS = ("task-list", "task-standing", "task-stored")
"""A list, sent and scored; a standing population, scored; the same from stored shares."""


def measure(folder: Path, n_rows: int, n_features: int) -> None:
    """Measure every work once and print it: one JSON object a line."""
    prepare_all(folder, n_rows, n_features)
    tls = write_settings(folder)
    for party in PARTIES:
        command(folder, "task", "score", "--date", DAY, "--config", f"{party}/participant.toml")
    with ExitStack() as stack:
        running = {party: start(stack, folder, party, "participant") for party in PARTIES}
        running["bank"] = start(stack, folder, "bank", "initiator")
        client = stack.enter_context(connected(folder, tls))
        began = time.perf_counter()
        task_id = client.submit(MODEL, FileOf(folder / "ids.parquet"), mode=Mode.NEARLINE)
        sent_s = time.perf_counter() - began
        _print("task-list", n_rows, n_features, client.wait(task_id), running, upload_s=round(sent_s, 1))
        check(client, task_id, n_rows, n_features)
        propose(folder)
        accept(folder)
        for work, mode in (("task-standing", Mode.NEARLINE), ("task-stored", Mode.OFFLINE)):
            task_id = client.submit(MODEL, Standing(POPULATION), mode=mode)
            _print(work, n_rows, n_features, client.wait(task_id), running)
            check(client, task_id, n_rows, n_features)


def prepare_all(folder: Path, n_rows: int, n_features: int, begun: Callable[[str, int], None] | None = None) -> None:
    """Write the ids and fill every party's warehouse, in processes of their own: their memory must not count.

    Args:
        folder: Where.
        n_rows: Ids.
        n_features: Of each party.
        begun: Told the name and process id of each step.
    """
    steps = [("ids", f"prepare_ids({n_rows})")]
    _all_of(folder, steps, begun)
    _all_of(folder, [(party, f"prepare({party!r}, {n_rows}, {n_features})") for party in PARTIES], begun)
    (folder / "order.parquet").unlink()


def _all_of(folder: Path, steps: Sequence[tuple[str, str]], begun: Callable[[str, int], None] | None) -> None:
    running = []
    for name, call in steps:
        running.append(python(folder, f"import taskbench; taskbench.{call}"))
        if begun is not None:
            begun(f"{name} prepare", running[-1].pid)
    codes = [step.wait() for step in running]
    if any(codes):
        raise SystemExit("the rows could not be prepared; see the messages above")


def prepare_ids(n_rows: int) -> None:
    """Write the ids, and their order, into the folder that this is run in."""
    benchrows.write_order(Path("order.parquet"), n_rows)
    benchrows.write_ids(Path("ids.parquet"), n_rows)


def prepare(party: str, n_rows: int, n_features: int) -> None:
    """Fill a party's warehouse in the folder that this is run in."""
    view = benchrows.view_of(_names(party, n_features))
    root = Path(party) / "warehouse"
    root.parent.mkdir()
    snapshot = Snapshot(view, snapshot_name(MORNING), n_rows, n_rows, has_places=True)
    benchrows.publish(root, Path("order.parquet"), PARTIES.index(party), snapshot)
    part = LinearPart(_names(party, n_features), _weights(party, n_features), None, np.zeros(1))
    model = PartialModel(MODEL, "run", party, Kind.LINEAR, (), False, part)
    publish_model(LocalWarehouse(root), model, view, "1" * 64)


def python(folder: Path, code: str) -> subprocess.Popen[bytes]:
    """Begin a step of Python in a process of its own."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=os.environ | {"PYTHONPATH": path})


def _names(party: str, n_features: int) -> tuple[str, ...]:
    return tuple(f"{party}_{number}" for number in range(n_features))


def _weights(party: str, n_features: int) -> Floats:
    return np.asarray(np.random.default_rng(PARTIES.index(party)).normal(size=(n_features, 1)) / 100)


def write_settings(
    folder: Path, answer_from: str = "store", bucket_rows: int | None = None, least_buckets: int = 1
) -> TlsFiles:
    """Write certificates and settings of everybody, and return the client's files.

    Args:
        folder: Where.
        answer_from: What participants answer buckets from: their online `store`, or their `warehouse`, without a store.
        bucket_rows: Of stored shares, at participants; None: the default.
        least_buckets: Into how many buckets a population is cut at least.
    """
    authority = certs.create_ca(folder / "ca", "bench CA")
    ports = free_ports(1 + 2 * len(PARTIES))
    named = {name: Identity(IdentityKind.PARTY, name) for name in (*PARTIES, "bank")}
    files = {name: certs.issue(authority, who, folder / f"certs-{name}") for name, who in named.items()}

    def tls_of(party: str) -> str:
        each = files[party]
        return f'[tls]\nca = "{each.ca}"\ncertificate = "{each.certificate}"\nkey = "{each.key}"\n'

    (folder / "bank").mkdir()
    answers = "[tasks]\n" if bucket_rows is None else f"[tasks]\nbucket_rows = {bucket_rows}\n"
    answers += 'answer_from = "warehouse"\n[store]\nkind = "none"\n' if answer_from == "warehouse" else ""
    bank = f'party = "bank"\nlisten = "127.0.0.1:{ports[0]}"\npoll_s = 1.0\n{tls_of("bank")}'
    for at, party in enumerate(PARTIES):
        listen, link = ports[1 + 2 * at], ports[2 + 2 * at]
        (folder / party / "participant.toml").write_text(
            f'party = "{party}"\nlisten = "127.0.0.1:{listen}"\nlink_listen = "127.0.0.1:{link}"\npoll_s = 1.0\n'
            f'{tls_of(party)}[warehouse]\npath = "warehouse"\n{answers}[populations]\nmax_ids = 1000000000\n'
            '[callers.bank]\nmodels = ["*"]\n'
        )
        bank += f'[parties.{party}]\naddress = "127.0.0.1:{listen}"\n'
    bank += f"[tasks]\nleast_buckets = {least_buckets}\n[models.{MODEL}]\nparties = {json.dumps(PARTIES)}\n"
    (folder / "bank" / "initiator.toml").write_text(f'{bank}[clients.desk]\nmodels = ["*"]\n')
    return certs.issue(authority, Identity(IdentityKind.CLIENT, "desk"), folder / "certs-desk")


def connected(folder: Path, tls: TlsFiles) -> Client:
    """Return a client of the running initiator, once it knows the model at every party."""
    client = Client((folder / "bank.out").read_text().split()[2], server_party="bank", tls=tls)
    _until(lambda: any(each.ready for each in client.models(timeout_s=60.0)))
    return client


def propose(folder: Path) -> None:
    """Make a standing population of all ids, at the initiator."""
    bank = ("--config", "bank/initiator.toml")
    command(folder, "population", "propose", POPULATION, "--file", "ids.parquet", "--model", MODEL, *bank)


def accept(folder: Path) -> None:
    """Wait until each participant has the population, and accept it there."""

    def is_there(party: str) -> bool:
        listed = json.loads(command(folder, "population", "list", "--json", "--config", f"{party}/participant.toml"))
        return any(each["state"] == "proposed" for each in listed)

    for party in PARTIES:
        _until(lambda party=party: is_there(party), TAKES_S)
        config = ("--config", f"{party}/participant.toml")
        command(folder, "population", "accept", POPULATION, "--from", "bank", *config)

    def knows() -> bool:  # a participant goes by what it has read for some time
        shown = json.loads(
            command(folder, "population", "show", POPULATION, "--json", "--config", "bank/initiator.toml")
        )
        return all(each["state"] == "accepted" for each in shown["parties"])

    _until(knows)


def command(folder: Path, *words: str) -> str:
    """Run a command as an operator does, and return what it prints."""
    return subprocess.run([*PROGRAM, *words], cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def start(stack: ExitStack, folder: Path, party: str, role: str) -> int:
    """Start a daemon, wait until it listens, and return its process id; the stack stops it."""
    out = stack.enter_context((folder / f"{party}.out").open("w"))
    log = stack.enter_context((folder / f"{party}.log").open("w"))
    words = [*PROGRAM, role, "serve", "--config", f"{party}/{role}.toml"]
    process = subprocess.Popen(words, cwd=folder, stdout=out, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    _until(lambda: process.poll() is None and "listening on" in (folder / f"{party}.out").read_text())
    return process.pid


def _until(condition: Callable[[], bool], seconds: float = STARTS_IN_S) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise SystemExit("it takes too long; see the logs")
        time.sleep(0.2)


def _peak_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def seconds_of(work: str, info: TaskInfo) -> float:
    """Return how long a task ran; end with its problem where it did not get done."""
    if info.state is not OfflineState.DONE or info.started_at is None or info.finished_at is None:
        raise SystemExit(f"{work}: {info.state}: {info.problem}")
    return (info.finished_at - info.started_at).total_seconds()


def _print(work: str, n_rows: int, n_features: int, info: TaskInfo, running: Mapping[str, int], **more: float) -> None:
    per_s = round(n_rows / seconds_of(work, info))
    line = {"work": work, "rows": n_rows, "features": n_features, "per_s": per_s, **more}
    print(json.dumps({**line, "peak_mb": {name: _peak_mb(pid) for name, pid in running.items()}}), flush=True)


def check(client: Client, task_id: str, n_rows: int, n_features: int) -> None:
    """Fetch all results, and hold those of some ids against what the features give.

    Raises:
        SystemExit: A number differs, an id is missing, or there are not as many results as ids.
    """
    numbers = np.unique(np.random.default_rng(n_rows).integers(0, n_rows, CHECKED))
    ids = benchrows.ids_of(numbers)
    expected = sum(
        benchrows.values_of(numbers, PARTIES.index(party), at) * weight
        for party in PARTIES
        for at, weight in enumerate(_weights(party, n_features)[:, 0])
    )
    found: dict[str, float] = {}
    fetched = 0
    for batch in client.results(task_id):
        fetched += batch.num_rows
        picked = batch.filter(pa.compute.is_in(batch.column("sample_id"), value_set=ids))
        found |= dict(zip(picked.column(0).to_pylist(), picked.column(1).to_pylist(), strict=True))
    if (fetched, len(found)) != (n_rows, len(numbers)):
        raise SystemExit(f"{fetched} results of {n_rows} ids, and {len(found)} of {len(numbers)} that were looked for")
    ordered = np.array([found[each] for each in ids.to_pylist()])
    if not np.allclose(ordered, expected, rtol=1e-12, atol=1e-12):
        raise SystemExit("the predictions are wrong: their speed is of no interest")
