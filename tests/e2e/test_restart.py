"""A participant's process is replaced while an initiator asks it: no request notices."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from fedpredict.client import Client
from fedpredict.convert.write import write_partial
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.security.tls import TlsFiles
from scripts.freeports import free_ports
from tests.e2e.conftest import Daemon, Workshop

pytestmark = pytest.mark.e2e

SERVE = ("participant", "serve", "--config", "lab/participant.toml")
IDS = ["u1", "u2"]
EXPECTED = [20.0, 25.0]
TIMEOUT_S = 60.0


@pytest.fixture
def lab(workshop: Workshop) -> Daemon:
    """A laboratory that serves its part of a model, at ports of its own."""
    (workshop.folder / "people.csv").write_text("id,age\nu1,40\nu2,50\n")
    part = LinearPart(("age",), np.array([[0.5]]), None, np.zeros(1))
    write_partial(workshop.folder / "lab.json", PartialModel("credit", "run-1", "lab", Kind.LINEAR, (), False, part))
    workshop.run("certs", "ca", "ca")
    port, link_port = free_ports(2)
    workshop.run("init", "participant", "lab", "--initiator", "bank", "--listen", f"127.0.0.1:{port}")
    settings = workshop.folder / "lab" / "participant.toml"
    settings.write_text(settings.read_text().replace(f"127.0.0.1:{port + 1}", f"127.0.0.1:{link_port}"))
    config = ("--config", "lab/participant.toml")
    workshop.run("features", "load", "people.csv", "--view", "people", "--key", "id", *config)
    workshop.run("model", "convert", "lab.json", *config)
    return workshop.start("lab", *SERVE)


@pytest.fixture
def bank(workshop: Workshop, lab: Daemon) -> Daemon:
    """An initiator that asks the laboratory, with time enough for a restart."""
    workshop.run("init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    path = workshop.folder / "bank" / "initiator.toml"
    text = path.read_text().replace("deadline_s = 2.0", "deadline_s = 60.0").replace("poll_s = 5.0", "poll_s = 0.2")
    path.write_text(f'{text}\n[parties.lab]\naddress = "{lab.address}"\n[models.credit]\nparties = ["lab"]\n')
    return workshop.start("bank", "initiator", "serve", "--config", "bank/initiator.toml")


@contextlib.contextmanager
def asking(bank: Daemon, tls: TlsFiles) -> Iterator[list[list[float]]]:
    """Ask from several threads for as long as the block runs; give the answers."""
    answers: list[list[float]] = []
    enough = threading.Event()

    def ask() -> None:
        with Client(bank.address, server_party="bank", tls=tls) as client:
            while not enough.is_set():
                values = client.predict("credit", IDS, timeout_s=TIMEOUT_S).values
                answers.append(values[:, 0].tolist())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        enough.set()
        for thread in threads:
            thread.join(TIMEOUT_S)


def test_a_participant_that_is_replaced_fails_no_request(workshop: Workshop, lab: Daemon, bank: Daemon) -> None:
    folder = workshop.folder / "bank" / "certs"
    tls = TlsFiles(folder / "ca.pem", folder / "risk-system.pem", folder / "risk-system.key")
    bank.wait_serving("bank", tls, "model/credit")
    with asking(bank, tls) as answers:
        bank.until(lambda: len(answers) > 50, "answers")
        assert lab.stop() == 0
        workshop.start("lab", *SERVE)
        before = len(answers)
        bank.until(lambda: len(answers) > before + 50, "answers after the restart")

    assert all(answer == EXPECTED for answer in answers)
    log = bank.log.read_text()
    assert '"carrier": "socket"' in log
    assert "party.failed" not in log
