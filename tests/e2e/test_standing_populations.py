"""A standing population between processes: proposed on the command line, brought in spite of kill -9, predicted."""

from __future__ import annotations

import signal

import pytest

from fedpredict.client import Client, Mode, Standing
from fedpredict.security.tls import TlsFiles
from scripts.freeports import free_ports
from tests.e2e.conftest import Daemon, Workshop
from tests.e2e.test_offline_tasks import IDS, WEIGHTS, prepare, serve, serve_bank

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

AT_BANK = ("--config", "bank/initiator.toml")


def test_a_population_is_brought_in_spite_of_a_kill_accepted_and_predicted(workshop: Workshop) -> None:
    prepare(workshop)
    parties = {party: serve(workshop, party) for party in WEIGHTS}
    (port,) = free_ports(1)
    workshop.run("init", "initiator", "bank", "--listen", f"127.0.0.1:{port}", "--http-listen", "127.0.0.1:0")
    path = workshop.folder / "bank" / "initiator.toml"
    addresses = "".join(f'[parties.{party}]\naddress = "{each.address}"\n' for party, each in parties.items())
    text = path.read_text().replace("poll_s = 5.0", "poll_s = 0.2")
    path.write_text(
        f'{text}\n{addresses}[models.credit]\nparties = ["lab", "shop"]\n[tasks]\nleast_buckets = 256\nlease_s = 2.0\n'
    )
    certs = workshop.folder / "bank" / "certs"
    tls = TlsFiles(certs / "ca.pem", certs / "risk-system.pem", certs / "risk-system.key")
    (workshop.folder / "ids.txt").write_text("\n".join(IDS))
    bank = serve_bank(workshop)

    workshop.run("population", "propose", "people", "--file", "ids.txt", "--model", "credit", *AT_BANK)

    def states() -> dict[str, str]:
        shown = workshop.json("population", "show", "people", *AT_BANK)
        return {each["party"]: each["state"] for each in shown["parties"]}

    bank.until(lambda: "receiving" in states().values() or "proposed" in states().values(), "begins to bring it")
    assert bank.stop(signal.SIGKILL) == -signal.SIGKILL
    bank = serve_bank(workshop)
    bank.until(lambda: set(states().values()) == {"proposed"}, "brings it")
    for party in WEIGHTS:
        workshop.run("population", "accept", "people", "--from", "bank", "--config", f"{party}/participant.toml")
    results = predicted(bank, tls)

    assert results == {f"u{row}": row * sum(weight**2 for weight in WEIGHTS.values()) for row in range(len(IDS))}
    assert parties["lab"].stop(signal.SIGTERM) == 0  # and writes what it answered
    answered = workshop.json("task", "answered", "--config", "lab/participant.toml")
    assert {each["bucket"] for each in answered} == set(range(256))
    assert sum(each["n_rows"] for each in answered) >= len(IDS)


def predicted(bank: Daemon, tls: TlsFiles) -> dict[str, float]:
    with Client(bank.address, server_party="bank", tls=tls) as client:
        bank.wait_serving("bank", tls, "model/credit")
        task_id = client.submit("credit", Standing("people"), mode=Mode.NEARLINE)
        results = client.results_table(task_id).to_pydict()
    return dict(zip(results["sample_id"], results["prediction"], strict=True))
