"""An offline task whose processes are killed, one after the other, while it runs: it ends with every id once."""

from __future__ import annotations

import signal
import urllib.request

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedpredict.client import Client, Mode, OfflineState
from fedpredict.features.load import load_file
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.security.tls import TlsFiles
from fedpredict.state.tasks import open_task_store
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import latest_snapshot
from fedpredict.warehouse.local import LocalWarehouse
from scripts.freeports import free_ports
from tests.e2e.conftest import Daemon, Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

N_ROWS, N_BUCKETS = 8_000, 128
IDS = [f"u{row}" for row in range(N_ROWS)]
WEIGHTS = {"lab": 0.5, "shop": -2.0}


def prepare(shop: Workshop) -> None:
    """Give each party its settings, its part and its features."""
    shop.run("certs", "ca", "ca")
    for party, weight in WEIGHTS.items():
        port, link_port = free_ports(2)
        shop.run("init", "participant", party, "--initiator", "bank", "--listen", f"127.0.0.1:{port}")
        settings = shop.folder / party / "participant.toml"
        settings.write_text(settings.read_text().replace(f"127.0.0.1:{port + 1}", f"127.0.0.1:{link_port}"))
        column, file = f"of_{party}", shop.folder / f"{party}.parquet"
        pa.parquet.write_table(pa.table({"id": IDS, column: np.arange(N_ROWS) * weight}), file)
        warehouse = LocalWarehouse(shop.folder / party / "warehouse")
        load_file(warehouse, file, view="people", key="id")
        snapshot = latest_snapshot(warehouse, "people")
        assert snapshot is not None
        part = LinearPart((column,), np.array([[weight]]), None, np.zeros(1))
        model = PartialModel("credit", "run-1", party, Kind.LINEAR, (), False, part)
        publish_model(warehouse, model, snapshot.view, "a" * 64)


def serve(shop: Workshop, party: str) -> Daemon:
    return shop.start(party, "participant", "serve", "--config", f"{party}/participant.toml")


def serve_bank(shop: Workshop) -> Daemon:
    return shop.start("bank", "initiator", "serve", "--config", "bank/initiator.toml")


def read_metrics(port: int) -> dict[tuple[str, ...], float]:
    """Return what a process counts, by name and values of labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_a_task_whose_processes_are_killed_ends_with_every_id_once(workshop: Workshop) -> None:
    prepare(workshop)
    parties = {party: serve(workshop, party) for party in WEIGHTS}
    port, metrics = free_ports(2)
    workshop.run("init", "initiator", "bank", "--listen", f"127.0.0.1:{port}", "--http-listen", "127.0.0.1:0")
    path = workshop.folder / "bank" / "initiator.toml"
    addresses = "".join(f'[parties.{party}]\naddress = "{each.address}"\n' for party, each in parties.items())
    text = path.read_text().replace("poll_s = 5.0", "poll_s = 0.2")
    path.write_text(f'{text}\n{addresses}[models.credit]\nparties = ["lab", "shop"]\n'
                    f"[tasks]\nleast_buckets = {N_BUCKETS}\nlease_s = 2.0\n"
                    f"[metrics]\nlisten = '127.0.0.1:{metrics}'\n")  # fmt: skip
    certs = workshop.folder / "bank" / "certs"
    tls = TlsFiles(certs / "ca.pem", certs / "risk-system.pem", certs / "risk-system.key")
    bank = serve_bank(workshop)
    bank.wait_serving("bank", tls, "model/credit")
    with Client(bank.address, server_party="bank", tls=tls) as client:

        def submit() -> str:
            return client.submit("credit", IDS, mode=Mode.NEARLINE, idempotency_key="daily")

        def done_of(n_buckets: int) -> bool:
            return client.task(task_id).buckets_done >= n_buckets

        task_id = submit()
        bank.until(lambda: done_of(4), "does some buckets")
        assert bank.stop(signal.SIGKILL) == -signal.SIGKILL
        bank = serve_bank(workshop)
        reached = client.task(task_id).buckets_done
        assert reached < N_BUCKETS
        bank.until(lambda: done_of(reached + 4), "goes on")
        assert parties["lab"].stop(signal.SIGKILL) == -signal.SIGKILL
        serve(workshop, "lab")
        assert submit() == task_id
        results = client.results_table(task_id).to_pydict()
        info = client.task(task_id)
        counted = read_metrics(metrics)
        ranked = client.submit("credit", IDS, mode=Mode.NEARLINE, rank_by="")
        bank.until(lambda: client.task(ranked).buckets_done >= 4, "does some buckets")
        assert bank.stop(signal.SIGKILL) == -signal.SIGKILL
        bank = serve_bank(workshop)
        ranks = client.results_table(ranked).to_pydict()
        who = ["--server", bank.address, "--server-party", "bank", "--ca", str(tls.ca)]
        who += ["--cert", str(tls.certificate), "--key", str(tls.key)]
        workshop.run("task", "results", ranked, "--top", "3", "--out", "first.csv", *who)

    assert N_BUCKETS - reached <= counted["fedpredict_task_bucket_seconds_count", "credit"] <= N_BUCKETS - 4
    assert {party: counted["fedpredict_task_rows_total", "credit", party, "ok"] > 0 for party in WEIGHTS} == {
        "lab": True,
        "shop": True,
    }
    assert (info.state, info.buckets_done, info.scored) == (OfflineState.DONE, N_BUCKETS, N_ROWS)
    expected = {f"u{row}": row * sum(weight**2 for weight in WEIGHTS.values()) for row in range(N_ROWS)}
    assert dict(zip(results["sample_id"], results["prediction"], strict=True)) == expected
    in_order = sorted(expected, key=lambda each: (-expected[each], each.encode()))
    assert dict(zip(ranks["sample_id"], ranks["rank"], strict=True)) == {
        each: rank for rank, each in enumerate(in_order, 1)
    }
    lines = (workshop.folder / "first.csv").read_text().splitlines()
    assert [line.split(",")[0].strip('"') for line in lines] == ["sample_id", *in_order[:3]]
    warehouse = LocalWarehouse(workshop.folder / "bank" / "warehouse")
    stored = warehouse.read("fp_results", ["sample_id"], {"task_id": task_id})
    assert sorted(stored.column("sample_id").to_pylist()) == sorted(expected)
    store = open_task_store("sqlite:///state.db", workshop.folder / "bank")
    assert "taken over" in [each.what for each in store.events(task_id)]
    store.close()
