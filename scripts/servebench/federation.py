"""Parties to measure, set up from the command line as their users would, in a temporary folder."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from freeports import free_ports
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from fedpredict.client import Client, Identity, IdentityKind, TlsFiles

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-c", "from fedpredict.cli.main import main; main()")
BATCH = """
import json, sys
from fedpredict.cli.main import run
for words in json.load(sys.stdin):
    code = run(words)
    if code:
        sys.exit(f"fedpredict {' '.join(words)}: exit code {code}")
"""
INITIATOR, CLIENT, MODEL, VIEW = "bank", "risk-system", "m", "people"
N_FEATURES = 10
STARTS_IN_S, STOPS_IN_S = 90.0, 20.0
TRAINING_ROWS = 2_000
N_TREES, DEPTH = 100, 6
"""Of all parties together."""

# wrk has no client certificate: the HTTP edge is plain text on loopback, every link between parties mutual TLS.
PLAIN_EDGE = "http_insecure = true\n"


@dataclass(frozen=True)
class Layout:
    """Who there is, and what they hold."""

    name: str
    participants: tuple[str, ...] = ("lab", "shop")
    own_features: int = 0
    n_ids: int = 100_000
    n_models: int = 1
    trees: bool = False
    """Whether models are boosted trees, each of features of one party, instead of linear."""
    masked: tuple[str, ...] = ()
    """Models of which only the sum of the participants' shares is read."""

    @property
    def owners(self) -> dict[str, list[str]]:
        """Party -> its features, the initiator's first if it holds any."""
        own = {INITIATOR: [f"{INITIATOR}_f{k}" for k in range(self.own_features)]} if self.own_features else {}
        return own | {party: [f"{party}_f{k}" for k in range(N_FEATURES)] for party in self.participants}

    @property
    def models(self) -> list[str]:
        """The models' ids."""
        return [MODEL, *(f"{MODEL}{number:03d}" for number in range(1, self.n_models))]


TWO = Layout("two")
TREES = Layout("trees", trees=True)
HUNDRED = Layout("hundred", n_models=100)
FIVE = Layout("five", participants=("lab", "shop", "post", "road", "mill"))
MASKED = Layout("masked", n_models=2, masked=(f"{MODEL}001",))
OWN = Layout("own", participants=("lab",), own_features=100)
MILLION = Layout("million", participants=("lab",), n_ids=1_000_000)


def sample_id(row: int) -> str:
    """Return the id of a row: all of one length, as account numbers are."""
    return f"u{row:07d}"


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process and its children, in MB."""
    total = 0.0
    for each in (pid, *children(pid)):
        with contextlib.suppress(OSError):
            found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{each}/status").read_text())
            total += int(found[1]) / 1024 if found else 0.0
    return total


def processor_s(pid: int) -> float:
    """Return the processor time of a process and its children, in seconds."""
    ticks = 0
    for each in (pid, *children(pid)):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that a process started, and theirs."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *children(child)]
    return found


@dataclass
class Federation:
    """The parties of one layout; `set_up` once, then `start` and `stop` as often as needed."""

    folder: Path
    layout: Layout
    tls: bool
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    http_port: int = 0
    grpc_port: int = 0
    offers_http: bool = True
    audited: bool = True
    """Whether the parties keep audit logs."""
    trained: dict[str, LogisticRegression | HistGradientBoostingClassifier] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The folder of this layout's parties."""
        return self.folder / self.layout.name

    @property
    def names(self) -> list[str]:
        """All features, in the joint model's order."""
        return [name for names in self.layout.owners.values() for name in names]

    @property
    def url(self) -> str:
        """Of the HTTP edge."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def address(self) -> str:
        """Of the gRPC edge."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def tls_files(self) -> TlsFiles | None:
        """The risk system's, None without TLS."""
        certs = self.home / INITIATOR / "certs"
        return TlsFiles(certs / "ca.pem", certs / f"{CLIENT}.pem", certs / f"{CLIENT}.key") if self.tls else None

    def client(self) -> Client:
        """Return a client as the risk system."""
        if self.tls:
            return Client(self.address, server_party=INITIATOR, tls=self.tls_files)
        return Client(self.address, insecure=True, identity=Identity(IdentityKind.CLIENT, CLIENT))

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Return the joint table's rows: the same numbers whenever they are asked for."""
        grid = np.add.outer(rows * 7919.0, np.arange(len(self.names)) * 104_729.0)
        return np.sin(grid)

    def expected(self, rows: np.ndarray, model: str = MODEL) -> np.ndarray:
        """Return what the joint model predicts: the truth, computed without any of our code."""
        features, trained = self.features(rows), self.trained[model]
        if self.layout.trees:
            return trained.predict_proba(features)[:, 1]
        return 1.0 / (1.0 + np.exp(-(features @ trained.coef_[0] + trained.intercept_[0])))

    def set_up(self) -> None:
        """Make certificates, settings, snapshots and parameter tables."""
        self.home.mkdir(parents=True)
        parts = self.home / "parts"
        parts.mkdir()
        commands: list[list[str]] = [
            self._words("init", "initiator", self.home / INITIATOR, "--client", CLIENT),
            *(
                self._words("init", "participant", self.home / party, "--initiator", INITIATOR)
                for party in self.layout.participants
            ),
        ]
        self._write_tables()
        batch(commands + [self._split(model, parts) for model in self.layout.models])
        with ThreadPoolExecutor(2) as pool:  # parties do their own side, two at a time
            list(pool.map(lambda party: batch(self._party_commands(party, parts)), self.layout.owners))
        self._keep_settings()

    def start(self) -> None:
        """Start every daemon, and return when every model can be answered."""
        ports = free_ports(len(self.layout.participants) + 2)
        self.grpc_port, self.http_port = ports[-2:]
        self._write_settings(ports)
        for party in self.layout.participants:
            self._start(party, "participant", "serve", *self._config(party))
        self._start(INITIATOR, "initiator", "serve", *self._config(INITIATOR))
        try:
            self._wait_ready()
        except HttpRefusedError:
            self.stop()
            self.offers_http = False
            self.start()

    def stop(self) -> None:
        """End every daemon."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOPS_IN_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes.clear()

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of every party."""
        return {name: resident_mb(process.pid) for name, process in self.processes.items()}

    def processor_s(self) -> float:
        """Return the processor time of all parties, in seconds."""
        return sum(processor_s(process.pid) for process in self.processes.values())

    def _words(self, *words: object) -> list[str]:
        return [str(word) for word in words]

    def _config(self, party: str) -> tuple[str, str]:
        name = "initiator.toml" if party == INITIATOR else "participant.toml"
        return ("--config", str(self.home / party / name))

    def _write_tables(self) -> None:
        for party, names in self.layout.owners.items():
            n_rows = 1_000 if party == INITIATOR else self.layout.n_ids  # its own features are sent inline
            rows = self.features(np.arange(n_rows, dtype=np.float64))
            columns = {"id": pa.array([sample_id(row) for row in range(n_rows)])}
            columns |= {name: pa.array(rows[:, self.names.index(name)]) for name in names}
            pq.write_table(pa.table(columns), self.home / f"{party}.parquet")

    def _party_commands(self, party: str, parts: Path) -> list[list[str]]:
        source, config = self.home / f"{party}.parquet", self._config(party)
        files = [parts / model / f"{party}.pkl" for model in self.layout.models]
        return [
            self._words("features", "load", source, "--view", VIEW, "--key", "id", *config),
            *(self._words("model", "convert", file, "--view", VIEW, *config) for file in files),
        ]

    def _split(self, model: str, parts: Path) -> list[str]:
        random = np.random.default_rng(self.layout.models.index(model))
        rows = self.features(np.arange(TRAINING_ROWS, dtype=np.float64))
        target = rows @ random.normal(size=rows.shape[1]) + random.normal(size=len(rows)) > 0.1
        trained = self._estimator().fit(rows, target)
        self.trained[model] = trained
        saved = copy.copy(trained)
        saved.feature_names_in_ = np.array(self.names, dtype=object)
        folder = parts / model
        folder.mkdir()
        joblib.dump(saved, folder / "joint.joblib")
        cuts = [f"{party}={','.join(names)}" for party, names in self.layout.owners.items()]
        owners = [word for cut in cuts for word in ("--party", cut)]
        identity = ("--model-id", model, "--training-run", "bench-1", "--intercept", next(iter(self.layout.owners)))
        return self._words("model", "split", folder / "joint.joblib", *owners, *identity, "--out", folder)

    def _estimator(self) -> LogisticRegression | HistGradientBoostingClassifier:
        if not self.layout.trees:
            return LogisticRegression(max_iter=50)
        owned = [[self.names.index(name) for name in names] for names in self.layout.owners.values()]
        return HistGradientBoostingClassifier(
            max_iter=N_TREES, max_depth=DEPTH, max_leaf_nodes=2**DEPTH, min_samples_leaf=5, early_stopping=False,
            interaction_cst=owned,
        )  # fmt: skip

    def _keep_settings(self) -> None:
        for path in self.home.glob("*/*.toml"):
            path.with_suffix(".written").write_text(path.read_text())

    def _write_settings(self, ports: list[int]) -> None:
        quick = {"poll_s = 5.0": "poll_s = 2.0", 'level = "info"': 'level = "warning"'}
        for party, port in zip(self.layout.participants, ports, strict=False):
            file = self.home / party / "participant.toml"
            self._rewrite(file, quick | {"127.0.0.1:7443": f"127.0.0.1:{port}"})
            others = json.dumps([other for other in self.layout.participants if other != party])
            masked = [f"[masked.{model}]\nparties = {others}\n" for model in self.layout.masked]
            file.write_text("\n".join([file.read_text(), *masked]))
        path = self.home / INITIATOR / "initiator.toml"
        edge = f'http_listen = "127.0.0.1:{self.http_port}"\n{PLAIN_EDGE if self.tls else ""}'
        head = edge if self.offers_http else ""
        self._rewrite(path, quick | {"127.0.0.1:7440": self.address}, head)
        lines = []
        for party, port in zip(self.layout.participants, ports, strict=False):
            lines += [f"[parties.{party}]", f'address = "127.0.0.1:{port}"']
        for model in self.layout.models:
            lines += [f"[models.{model}]", f"parties = {json.dumps(list(self.layout.owners))}"]
            lines += ["masked = true"] if model in self.layout.masked else []
        path.write_text(path.read_text() + "\n" + "\n".join(lines) + "\n")
        self._rewrite(self.home / INITIATOR / "client.toml", {"127.0.0.1:7440": self.address})

    def _rewrite(self, path: Path, words: dict[str, str], head: str = "") -> None:
        text = path.with_suffix(".written").read_text()
        text = re.sub(r"(?m)^http_listen = .*\n", "", text)
        # whatever else listens does so at a port of its own: many parties of this file are on one machine
        text = re.sub(r'(?m)^(\w+_listen = "127\.0\.0\.1):\d+"', lambda found: f'{found[1]}:{free_ports(1)[0]}"', text)
        for old, new in words.items():
            text = text.replace(old, new)
        if not self.audited and path.name != "client.toml":
            text += "\n[audit]\nenabled = false\n"
        if not self.tls:
            text = re.sub(r"\[tls\][^\[]*", "", text)
            head += "insecure = true\n"
            if path.name == "client.toml":
                head += f'identity = "{CLIENT}"\n'
        path.write_text(head + text)

    def _start(self, name: str, *words: str) -> None:
        with (self.home / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*PROGRAM, *words], stdout=log, stderr=log, env=environment(), start_new_session=True, cwd=self.home
            )

    def _wait_ready(self) -> None:
        problem, end = "", time.monotonic() + STARTS_IN_S
        with self.client() as client:
            while time.monotonic() < end:
                self._check_alive()
                try:
                    models = client.models(timeout_s=5.0)
                except Exception as error:  # noqa: BLE001  whatever it is, it may pass
                    problem = str(error)
                else:
                    problem = "; ".join(f"{each.model_id}: {each.problem}" for each in models if not each.ready)
                    if len(models) == len(self.layout.models) and not problem:
                        return
                time.sleep(0.2)
        raise SystemExit(f"{self.layout.name}: not ready after {STARTS_IN_S:.0f} s: {problem}\n{self._logs()}")

    def _check_alive(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is not None:
                if name == INITIATOR and process.returncode == 3 and self.offers_http:
                    raise HttpRefusedError
                raise SystemExit(f"{name} ended with {process.returncode}\n{self._logs()}")

    def _logs(self) -> str:
        return "".join(f"--- {log.name}\n{log.read_text()[-1000:]}" for log in sorted(self.home.glob("*.log")))


class HttpRefusedError(Exception):
    """The initiator knows no HTTP edge of these settings."""


def environment() -> dict[str, str]:
    """This process's environment without settings of ours, with this checkout first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDPREDICT_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def batch(commands: list[list[str]]) -> None:
    """Run commands of `fedpredict` one after the other, in one process, because starting Python takes a second."""
    done = subprocess.run(
        [sys.executable, "-c", BATCH],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
