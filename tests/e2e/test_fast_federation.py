"""The fast way from end to end: several workers at every party, sockets between them, one party that dials out."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedpredict.client import Client, TlsFiles
from fedpredict.security.tls import server_name
from scripts.freeports import free_ports
from tests.e2e.test_workers import children

if TYPE_CHECKING:
    from tests.e2e.conftest import Daemon, Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LISTEN, DIAL = ("lab", "imaging"), "pharmacy"
"""Two participants listen for standing links; one opens no port and dials the initiator."""
PARTICIPANTS = (*LISTEN, DIAL)
WORKERS = 2
TIMEOUT_S = 60.0
ALL_LINKS = dict.fromkeys(itertools.product(range(WORKERS), PARTICIPANTS, range(WORKERS)), "socket")
PATIENCE = f"deadline_s = {TIMEOUT_S}"


@dataclass
class Federation:
    """A hospital that asks three participants, each of several workers.

    Attributes:
        shop: Where they live.
        http: host:port of the hospital's HTTP.
        ids: Patients.
        expected: Shape (n_patients,): scikit-learn's probability of class 1, on the joined table.
        daemons: Those that run, by party.
    """

    shop: Workshop
    http: str
    ids: list[str]
    expected: Any
    daemons: dict[str, Daemon] = field(default_factory=dict)

    @property
    def tls(self) -> TlsFiles:
        certs = self.shop.folder / "hospital" / "certs"
        return TlsFiles(certs / "ca.pem", certs / "risk-system.pem", certs / "risk-system.key")

    def start(self) -> None:
        """Start every daemon; return when each of the hospital's workers can answer, and is linked to everybody's."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._start, ("hospital", *PARTICIPANTS)))
        self.hospital.until(lambda: self._know_the_pin() == set(range(WORKERS)), "has a pin in every worker")
        self.hospital.wait_serving("hospital", self.tls, "model/cancer")
        self.hospital.until(lambda: self.links() == ALL_LINKS, "is linked to every worker over a socket")

    def _start(self, party: str) -> None:
        role = "initiator" if party == "hospital" else "participant"
        self.daemons[party] = self.shop.start(party, role, "serve", "--config", f"{party}/{role}.toml")

    @property
    def hospital(self) -> Daemon:
        return self.daemons["hospital"]

    def links(self) -> dict[tuple[int, str, int], str]:
        """Return what carries the calls, as the hospital's log tells: own worker, party and its worker -> carrier."""
        said = self._said_by_the_hospital("party.linked")
        return {(each["worker"], each["party"], each["peer_worker"]): each["carrier"] for each in said}

    def n_linked(self) -> int:
        """Return how often one of the hospital's workers was linked to one of a participant's."""
        return self.hospital.log.read_text().count("party.linked")

    def _know_the_pin(self) -> set[int]:
        """Return which of the hospital's workers know what is pinned: one that does not would refuse a question."""
        return {each["worker"] for each in self._said_by_the_hospital("catalogue.pin") if each["manifest"]}

    def _said_by_the_hospital(self, event: str) -> list[dict[str, Any]]:
        whole, _, _ = self.hospital.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines() if f'"{event}"' in line]

    @contextmanager
    def over_http(self) -> Iterator[Callable[[list[str]], list[Any]]]:
        """Give what asks over one connection of HTTP, with the risk system's certificate; it never asks twice."""
        context = ssl.create_default_context(cafile=self.tls.ca)
        context.load_cert_chain(self.tls.certificate, self.tls.key)
        host, _, port = self.http.rpartition(":")
        connection = http.client.HTTPConnection("hospital", timeout=TIMEOUT_S)
        connection.sock = context.wrap_socket(
            socket.create_connection((host, int(port))), server_hostname=server_name("hospital")
        )

        def ask(ids: list[str]) -> list[Any]:
            body = json.dumps({"model": "cancer", "sample_ids": ids, "timeout_ms": int(1000 * TIMEOUT_S)})
            connection.request("POST", "/v1/predict", body, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            assert answer.get("status") == ["OK"] * len(ids), answer
            return [row[0] for row in answer["predictions"]]

        try:
            yield ask
        finally:
            connection.close()

    @contextmanager
    def over_grpc(self) -> Iterator[Callable[[list[str]], list[Any]]]:
        """Give what asks over gRPC."""
        with Client(self.hospital.address, server_party="hospital", tls=self.tls) as client:
            yield lambda ids: list(client.predict("cancer", ids, timeout_s=TIMEOUT_S).values[:, 0])


@pytest.fixture(scope="module")
def prepared(shared_workshop: Workshop) -> Federation:
    """Train, cut and convert a model, and write everybody's settings; nothing runs yet."""
    shop = shared_workshop
    data = load_breast_cancer(as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(data.data, data.target)
    joblib.dump(model, shop.folder / "joint.joblib")
    ids = [f"p{row}" for row in range(len(data.data))]
    grpc, http_port, links, *free = (f"127.0.0.1:{port}" for port in free_ports(3 + 2 * len(LISTEN)))
    listening = dict(zip(LISTEN, zip(free[::2], free[1::2], strict=True), strict=True))
    shop.run("init", "initiator", "hospital", "--listen", grpc, "--http-listen", http_port)
    for party in PARTICIPANTS:
        listen, _ = listening.get(party, ("127.0.0.1:0", ""))
        shop.run("init", "participant", party, "--initiator", "hospital", "--listen", listen)
    write_settings(shop, grpc, links, listening)

    columns = dict(zip(PARTICIPANTS, np.array_split(list(data.data.columns), len(PARTICIPANTS)), strict=True))
    for party, names in columns.items():
        table = pa.table({"patient": ids, **{name: data.data[name].to_numpy() for name in names}})
        pa.csv.write_csv(table, shop.folder / f"{party}.csv")
        (shop.folder / f"{party}.columns").write_text("\n".join(names))
    shop.run(
        *("model", "split", "joint.joblib", "--intercept", "lab", "--model-id", "cancer", "--training-run", "run-1"),
        *[word for party in PARTICIPANTS for word in ("--party", f"{party}=@{party}.columns")],
        *("--out", "parts"),
    )

    def fill(party: str) -> None:
        config = f"{party}/participant.toml"
        shop.run("features", "load", f"{party}.csv", "--view", "patients", "--key", "patient", "--config", config)
        shop.run("model", "convert", f"parts/{party}.pkl", "--config", config)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fill, PARTICIPANTS))
    return Federation(shop, http_port, ids, model.predict_proba(data.data)[:, 1])


def write_settings(shop: Workshop, grpc: str, links: str, listening: dict[str, tuple[str, str]]) -> None:
    """Give everybody two workers, and tell who dials whom; `listening` has the addresses for calls and for links."""
    head = f"workers = {WORKERS}\n"
    peers = [f'[parties.{party}]\naddress = "{address}"' for party, (address, _) in listening.items()]
    peers += [f'[parties.{DIAL}]\nconnect = "in"', f"[models.cancer]\nparties = {list(PARTICIPANTS)}\n{PATIENCE}\n"]
    path = shop.folder / "hospital" / "initiator.toml"
    text = path.read_text().replace("poll_s = 5.0", "poll_s = 0.2").replace("deadline_s = 2.0", PATIENCE)
    path.write_text(f'{head}link_listen = "{links}"\n' + "\n".join([text, *peers]))
    for party in PARTICIPANTS:
        path = shop.folder / party / "participant.toml"
        text = path.read_text()
        if party == DIAL:
            text = 'connect = "out"\n' + re.sub(r"(?m)^link_listen.*\n", "", text)
            text += f'\n[initiators.hospital]\naddresses = ["{grpc}"]\nlink_addresses = ["{links}"]\n'
        else:
            text = re.sub(r"(?m)^link_listen.*$", f'link_listen = "{listening[party][1]}"', text)
        path.write_text(head + text)


@pytest.fixture
def federation(prepared: Federation) -> Federation:
    """Everybody at work; started where a test before stopped them."""
    if not prepared.daemons:
        prepared.start()
    return prepared


@pytest.mark.parametrize("way", ["over_http", "over_grpc"])
def test_every_patients_prediction_is_scikit_learns(way: str, federation: Federation) -> None:
    with getattr(federation, way)() as ask:
        answers = ask(federation.ids)

    np.testing.assert_allclose(answers, federation.expected, rtol=0.0, atol=1e-12)


def test_all_calls_go_over_sockets_whoever_dialled(federation: Federation) -> None:
    assert federation.links() == ALL_LINKS
    assert '"event": "participant.attached"' in federation.daemons[DIAL].log.read_text()


@pytest.mark.parametrize("party", [LISTEN[0], DIAL])
def test_a_worker_that_is_killed_loses_no_request(party: str, federation: Federation) -> None:
    daemon, n_linked = federation.daemons[party], federation.n_linked()
    deaths = daemon.log.read_text().count("worker.died")
    load = Load(federation)
    with load.running():
        load.wait_answered(50)
        os.kill(children(daemon.process.pid)[0], signal.SIGKILL)
        daemon.until(lambda: daemon.log.read_text().count("worker.died") == deaths + 1, "noticed")
        federation.hospital.until(lambda: federation.n_linked() >= n_linked + WORKERS, "is linked to its successor")
        load.wait_answered(50)

    assert load.wrong == []


def test_one_signal_each_stops_everybody_in_order(federation: Federation) -> None:
    daemons, federation.daemons = federation.daemons, {}
    workers = [pid for daemon in daemons.values() for pid in children(daemon.process.pid)]
    for daemon in daemons.values():
        daemon.process.send_signal(signal.SIGTERM)

    codes = {party: daemon.process.wait(TIMEOUT_S) for party, daemon in daemons.items()}

    assert codes == dict.fromkeys(("hospital", *PARTICIPANTS), 0)
    assert len(workers) == WORKERS * len(codes)
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []


class Load:
    """Callers that ask without a pause, over connections of their own, and compare what they get."""

    def __init__(self, federation: Federation) -> None:
        self.wrong: list[str] = []
        """What was no prediction, or another one than scikit-learn's."""
        self._federation = federation
        self._answered = threading.Semaphore(0)
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        ways = [self._federation.over_http] * 3 + [self._federation.over_grpc]
        threads = [threading.Thread(target=self._ask, args=(way, seed)) for seed, way in enumerate(ways)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def wait_answered(self, count: int) -> None:
        """Return when so many further requests were answered."""
        while self._answered.acquire(blocking=False):
            pass
        for _ in range(count):
            assert self._answered.acquire(timeout=TIMEOUT_S), self.wrong

    def _ask(self, way: Callable[[], Any], seed: int) -> None:
        random = np.random.default_rng(seed)
        expected = self._federation.expected
        try:
            with way() as ask:
                while not self._stop.is_set():
                    rows = random.integers(0, len(expected), random.integers(1, 40))
                    answers = ask([self._federation.ids[row] for row in rows])
                    np.testing.assert_allclose(answers, expected[rows], rtol=0.0, atol=1e-12)
                    self._answered.release()
        except Exception as error:  # noqa: BLE001  whatever it is, the test shows it
            self.wrong.append(f"{type(error).__name__}: {error}")
