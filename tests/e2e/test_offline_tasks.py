"""An offline task whose processes are killed, one after the other, while it runs: it ends with every id once."""

from __future__ import annotations

import signal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from fedpredict.client import Client
from fedpredict.convert.write import write_partial
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.security.tls import TlsFiles
from fedpredict.warehouse.local import LocalWarehouse
from scripts.freeports import free_ports
from tests.e2e.conftest import Daemon, Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

N_ROWS, N_BUCKETS = 20_000, 256
WEIGHTS = {"lab": 0.5, "shop": -2.0}


def prepare(shop: Workshop) -> None:
    """Convert a part for each party, and load its features."""
    shop.run("certs", "ca", "ca")
    ids = [f"u{row}" for row in range(N_ROWS)]
    pa.csv.write_csv(pa.table({"id": ids}), shop.folder / "ids.csv")
    for party, weight in WEIGHTS.items():
        column = f"of_{party}"
        values = np.arange(N_ROWS) * weight
        pa.csv.write_csv(pa.table({"id": ids, column: values}), shop.folder / f"{party}.csv")
        part = LinearPart((column,), np.array([[weight]]), None, np.zeros(1))
        model = PartialModel("credit", "run-1", party, Kind.LINEAR, (), False, part)
        write_partial(shop.folder / f"{party}.json", model)
        port, link_port = free_ports(2)
        shop.run("init", "participant", party, "--initiator", "bank", "--listen", f"127.0.0.1:{port}")
        settings = shop.folder / party / "participant.toml"
        settings.write_text(settings.read_text().replace(f"127.0.0.1:{port + 1}", f"127.0.0.1:{link_port}"))
        config = ("--config", f"{party}/participant.toml")
        shop.run("features", "load", f"{party}.csv", "--view", "people", "--key", "id", *config)
        shop.run("model", "convert", f"{party}.json", *config)


def serve(shop: Workshop, party: str) -> Daemon:
    return shop.start(party, "participant", "serve", "--config", f"{party}/participant.toml")


def serve_bank(shop: Workshop) -> Daemon:
    return shop.start("bank", "initiator", "serve", "--config", "bank/initiator.toml")


def test_a_task_whose_processes_are_killed_ends_with_every_id_once(workshop: Workshop) -> None:
    prepare(workshop)
    parties = {party: serve(workshop, party) for party in WEIGHTS}
    (port,) = free_ports(1)
    workshop.run("init", "initiator", "bank", "--listen", f"127.0.0.1:{port}")
    path = workshop.folder / "bank" / "initiator.toml"
    addresses = "".join(f'[parties.{party}]\naddress = "{each.address}"\n' for party, each in parties.items())
    text = path.read_text().replace("poll_s = 5.0", "poll_s = 0.2")
    path.write_text(f'{text}\n{addresses}[models.credit]\nparties = ["lab", "shop"]\n'
                    f"[tasks]\nleast_buckets = {N_BUCKETS}\n")  # fmt: skip
    certs = workshop.folder / "bank" / "certs"
    tls = TlsFiles(certs / "ca.pem", certs / "risk-system.pem", certs / "risk-system.key")
    bank = serve_bank(workshop)
    bank.wait_serving("bank", tls, "model/credit")
    config = ("--config", "bank/client.toml")
    asked = ("credit", "--ids", "ids.csv", "--mode", "nearline", "--idempotency-key", "daily")
    task_id = workshop.json("task", "submit", *asked, *config)["task_id"]

    with Client(bank.address, server_party="bank", tls=tls) as client:

        def done_of(n_buckets: int) -> bool:
            return client.task(task_id).buckets_done >= n_buckets

        bank.until(lambda: done_of(8), "does some buckets")
        assert bank.stop(signal.SIGKILL) == -signal.SIGKILL
        bank = serve_bank(workshop)
        reached = client.task(task_id).buckets_done
        assert reached < N_BUCKETS
        bank.until(lambda: done_of(reached + 8), "goes on")
        assert parties["lab"].stop(signal.SIGKILL) == -signal.SIGKILL
        serve(workshop, "lab")
        assert workshop.json("task", "submit", *asked, *config)["task_id"] == task_id

    shown = workshop.json("task", "show", task_id, "--wait", *config)
    assert (shown["state"], shown["buckets_done"], shown["scored"]) == ("done", N_BUCKETS, N_ROWS)
    told = [each["what"] for each in workshop.json("task", "logs", task_id, "--config", "bank/initiator.toml")]
    assert "taken over" in told
    assert workshop.json("task", "results", task_id, "--out", "results.parquet", *config)["rows"] == N_ROWS
    results = pa.parquet.read_table(workshop.folder / "results.parquet").to_pydict()
    expected = {f"u{row}": row * sum(weight**2 for weight in WEIGHTS.values()) for row in range(N_ROWS)}
    assert dict(zip(results["sample_id"], results["prediction"], strict=True)) == expected
    stored = LocalWarehouse(workshop.folder / "bank" / "tasks").read("fp_results", ["sample_id"], {"task_id": task_id})
    assert sorted(stored.column("sample_id").to_pylist()) == sorted(expected)
