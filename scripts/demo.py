"""The main job as its users do it: three organisations, real processes, real data, scikit-learn's numbers as truth.

Run by scripts/demo, which makes the environment. Everything goes through the `fedpredict` command and the Python
client; only training, the comparison and the picture happen here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pyarrow as pa
from freeports import free_ports
from matplotlib import use
from pyarrow import csv
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedpredict.client import Client, Predictions
from fedpredict.model.share import SampleStatus
from fedpredict.security.tls import TlsFiles

use("Agg")

OUT = Path("demo-output")
PARTIES = ("hospital", "lab", "imaging")
LIMIT = 1e-12
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Task:
    """One joint model: its data, and who holds which columns."""

    model_id: str
    view: str
    title: str
    features: np.ndarray
    names: list[str]
    pipeline: object
    expected: np.ndarray
    classes: list[str]

    @property
    def ids(self) -> list[str]:
        """Sample ids: what the parties know the same person by."""
        return [f"{self.view}-{row:03d}" for row in range(len(self.features))]

    def owned(self, party: str) -> list[str]:
        """Every third part of the columns, in order: what this party knows."""
        where = PARTIES.index(party)
        cuts = np.linspace(0, len(self.names), len(PARTIES) + 1).astype(int)
        return self.names[cuts[where] : cuts[where + 1]]


def tasks() -> list[Task]:
    """Train the three joint models on scikit-learn's bundled data."""
    made = []
    for model_id, view, title, load, estimator in (
        ("breast-cancer", "patient", "569 patients, two classes: sigmoid", load_breast_cancer, LogisticRegression()),
        ("wine", "wine", "178 wines, three classes: softmax", load_wine, LogisticRegression()),
        ("diabetes", "diabetes", "442 patients, a number: sum", load_diabetes, LinearRegression()),
    ):
        data = load(as_frame=True)
        pipeline = make_pipeline(StandardScaler(), estimator).fit(data.data, data.target)
        if hasattr(pipeline, "predict_proba"):
            expected = pipeline.predict_proba(data.data)
            expected = expected[:, 1:] if expected.shape[1] == 2 else expected
            classes = [str(name) for name in pipeline.classes_]
        else:
            expected, classes = pipeline.predict(data.data)[:, None], []
        names = [str(name) for name in data.data.columns]
        made.append(Task(model_id, view, title, data.data.to_numpy(), names, pipeline, expected, classes))
    return made


def command(*arguments: object, cwd: Path | None = None) -> str:
    """Run `fedpredict ARGUMENTS` as an operator would, and return what it printed; stop the demo where it fails."""
    words = [str(Path(sys.executable).with_name("fedpredict")), *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise SystemExit(f"$ fedpredict {' '.join(words[1:])}\n{done.stdout}{done.stderr}")
    return done.stdout


def write_settings(ports: dict[str, int], hive: str | None) -> None:
    """Write each party's configuration, and make its certificate and its empty warehouse."""
    command("certs", "ca", OUT / "ca")
    names = [("--party", party) for party in PARTIES] + [("--client", "risk-system")]
    for kind, name in names:
        folder = OUT / ("risk-system" if kind == "--client" else name) / "certs"
        command("certs", "issue", "--ca", OUT / "ca", kind, name, "--out", folder)
    for party in PARTIES:
        settings = [
            f'party = "{party}"',
            f'listen = "127.0.0.1:{ports[party]}"',
            "poll_s = 1.0",
            "[tls]",
            'ca = "certs/ca.pem"',
            f'certificate = "certs/{party}.pem"',
            f'key = "certs/{party}.key"',
            "[warehouse]",
            *warehouse_settings(party, hive),
        ]
        participant = [*settings, "[callers.hospital]", 'models = ["*"]', ""]
        (OUT / party / "participant.toml").write_text("\n".join(participant))
        if party == "hospital":
            (OUT / party / "initiator.toml").write_text("\n".join(settings + initiator_settings(ports)))


def warehouse_settings(party: str, hive: str | None) -> list[str]:
    """Return the [warehouse] lines: a folder of the party's own, or a database of its own."""
    if hive is None:
        return ['kind = "local"', 'path = "warehouse"']
    host, _, port = hive.rpartition(":")
    return ['kind = "hive"', f'host = "{host}"', f"port = {port}", f'database = "fedpredict_demo_{party}"']


def initiator_settings(ports: dict[str, int]) -> list[str]:
    """Return the initiator's further lines: where the others are, the models, and who may ask."""
    lines = []
    for party in PARTIES[1:]:
        lines += [f"[parties.{party}]", f'address = "127.0.0.1:{ports[party]}"']
    for model_id in ("breast-cancer", "wine", "diabetes"):
        lines += [f"[models.{model_id}]", f"parties = {json.dumps(PARTIES)}"]
    return [*lines, "[clients.risk-system]", 'models = ["*"]', ""]


def prepare(task: Task) -> None:
    """Cut the joint model into pickled parts, and let each party load its columns and convert its own part."""
    folder = OUT / "training" / task.model_id
    folder.mkdir(parents=True)
    joblib.dump(task.pipeline, folder / "joint.joblib")
    owners = [word for party in PARTIES for word in ("--party", f"{party}={','.join(task.owned(party))}")]
    identity = ("--model-id", task.model_id, "--training-run", f"{task.model_id}-1")
    command("model", "split", folder / "joint.joblib", *owners, "--intercept", "hospital", *identity, "--out", folder)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda party: load_and_convert(task, party, folder), PARTIES))


def load_and_convert(task: Task, party: str, folder: Path) -> None:
    """Do one party's side: its columns become a feature view, its part becomes rows of a parameter table."""
    columns = {"patient_id": pa.array(task.ids)}
    for name in task.owned(party):
        columns[name] = pa.array(task.features[:, task.names.index(name)])
    source = OUT / party / f"{task.view}.csv"
    csv.write_csv(pa.table(columns), source)
    config = ("--config", OUT / party / "participant.toml")
    command("features", "load", source, "--view", task.view, "--key", "patient_id", *config)
    command("model", "convert", folder / f"{party}.pkl", "--view", task.view, *config)


class Daemons:
    """The three processes; stopped on the way out whatever happens."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: object, name: str) -> None:
        """Start one daemon in a session of its own, its output in a log file."""
        words = [str(Path(sys.executable).with_name("fedpredict")), *map(str, arguments)]
        with (OUT / f"{name}.log").open("wb") as log:
            self.running.append(subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True))

    def check(self) -> None:
        """Say which daemon died, with the end of its log."""
        for process in self.running:
            if process.poll() is not None:
                logs = "".join(f"--- {log}\n{log.read_text()[-2000:]}" for log in sorted(OUT.glob("*.log")))
                raise SystemExit(f"{process.args} ended with {process.returncode}\n{logs}")

    def stop(self) -> None:
        """Ask all to end, and end what does not."""
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()


def wait_until_ready(client: Client, daemons: Daemons, n_models: int) -> None:
    """Wait until the initiator has met every party of every model."""
    problem, end = "", time.monotonic() + 60
    while time.monotonic() < end:
        daemons.check()
        with contextlib.suppress(Exception):
            models = client.models()
            problem = "; ".join(f"{model.model_id}: {model.problem}" for model in models if not model.ready)
            if len(models) == n_models and not problem:
                return
        time.sleep(0.2)
    raise SystemExit(f"the models are not ready after a minute: {problem or 'the initiator does not answer'}")


def show(task: Task, answer: Predictions, unknown: Predictions) -> float:
    """Print a few samples beside scikit-learn's numbers, and return the largest difference over all."""
    table = Table(title=f"{task.model_id}: {task.title}", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("sample id")
    for party in PARTIES:
        table.add_column(party)
    table.add_column("fedpredict", justify="right")
    table.add_column("scikit-learn", justify="right")
    for row in (*range(0, len(task.ids), max(1, len(task.ids) // 4)),):
        states = dict(answer.reasons[row])
        numbers = ["\n".join(f"{number:.8f}" for number in line[row]) for line in (answer.values, task.expected)]
        table.add_row(task.ids[row], *(states.get(party, SampleStatus.OK).name for party in PARTIES), *numbers)
    states = dict(unknown.reasons[0])
    table.add_row("nobody", *(states[party].name for party in PARTIES), "no number", "")
    console.print(table)
    difference = float(np.abs(answer.values - task.expected).max())
    if not np.isnan(unknown.values).all():
        raise SystemExit("an unknown patient got a number")
    console.print(f"largest difference over all {len(task.ids)}: {difference:.1e}  (must be ≤ {LIMIT:.0e})\n")
    return difference


def draw(answers: list[tuple[Task, Predictions]]) -> Path:
    """Save the picture: predictions against scikit-learn's per model, and the calibration of the binary one."""
    from matplotlib import pyplot as plt  # noqa: PLC0415  slow to import, and only needed at the very end
    from sklearn.calibration import calibration_curve  # noqa: PLC0415

    figure, axes = plt.subplots(1, 4, figsize=(17, 4.4), layout="constrained")
    for axis, (task, answer) in zip(axes, answers, strict=False):
        for column in range(answer.values.shape[1]):
            label = f"class {task.classes[column]}" if answer.values.shape[1] > 1 else None
            axis.plot(task.expected[:, column], answer.values[:, column], ".", alpha=0.6, label=label)
        ends = [float(task.expected.min()), float(task.expected.max())]
        axis.plot(ends, ends, color="black", linewidth=0.8, zorder=0)
        largest = np.abs(answer.values - task.expected).max()
        axis.set(title=f"{task.model_id}\nlargest difference {largest:.1e}")
        axis.set(xlabel="scikit-learn on the joined table", ylabel="fedpredict, three parties")
        if answer.values.shape[1] > 1:
            axis.legend()
    task, answer = answers[0]
    target = load_breast_cancer().target
    for values, style, label in (
        (task.expected[:, 0], "o-", "scikit-learn"),
        (answer.values[:, 0], "x--", "fedpredict"),
    ):
        observed, predicted = calibration_curve(target, values, n_bins=10)
        axes[3].plot(predicted, observed, style, label=label, markersize=9, fillstyle="none")
    axes[3].plot([0, 1], [0, 1], color="black", linewidth=0.8, zorder=0)
    axes[3].set(title="calibration, breast-cancer", xlabel="predicted probability", ylabel="observed share")
    axes[3].legend()
    path = OUT / "predictions.png"
    figure.savefig(path, dpi=110)
    return path


def stop_kept() -> None:
    """Stop the daemons that an earlier `--keep` left running."""
    kept = OUT / "kept.json"
    for pid in json.loads(kept.read_text()) if kept.exists() else []:
        with contextlib.suppress(ProcessLookupError):
            if b"fedpredict" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGTERM)
                console.print(f"stopped {pid}")
    kept.unlink(missing_ok=True)


def keep(daemons: Daemons, port: int) -> None:
    """Leave the daemons running, and say how to talk to them."""
    (OUT / "kept.json").write_text(json.dumps([process.pid for process in daemons.running]))
    daemons.running.clear()
    certs = OUT / "risk-system" / "certs"
    tls = f"--ca {certs}/ca.pem --cert {certs}/risk-system.pem --key {certs}/risk-system.key"
    console.print("the three daemons are still running; try by hand:", style="bold")
    for line in (
        f"predict --model breast-cancer --server 127.0.0.1:{port} --server-party hospital {tls} patient-000 nobody",
        f"model list --config {OUT}/lab/participant.toml",
        f"score --model breast-cancer --engine warehouse --config {OUT}/lab/participant.toml",
        f"catalogue list --config {OUT}/hospital/initiator.toml",
        f"doctor --config {OUT}/hospital/initiator.toml",
    ):
        console.print(f"  .venv/bin/fedpredict {line}", soft_wrap=True)
    console.print("  scripts/demo --stop     # ends them")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--hive")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stop_kept()
    if options.stop:
        return
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    started, daemons = time.monotonic(), Daemons()
    try:
        run(options, daemons)
        console.print(f"done in {time.monotonic() - started:.0f} s")
    except KeyboardInterrupt:
        daemons.stop()
        console.print("interrupted; everything is stopped")
        raise SystemExit(130) from None
    finally:
        daemons.stop()


def run(options: argparse.Namespace, daemons: Daemons) -> None:
    """Do the job from training to the picture."""
    ports = dict(zip(PARTIES, free_ports(len(PARTIES)), strict=True))
    console.print("training three joint models with scikit-learn (this part happens outside fedpredict) ...")
    work = tasks()
    where = f"databases in the HiveServer2 at {options.hive}" if options.hive else "warehouse folders"
    console.print(f"three parties, each with certificates and {where} of its own ...")
    write_settings(ports, options.hive)
    if options.hive:
        for party in PARTIES:
            command("init", "database", "--config", OUT / party / "participant.toml")
    for task in work:
        console.print(f"{task.model_id}: cutting the model, loading each party's columns, converting each part ...")
        prepare(task)
    console.print("starting three daemons with mutual TLS ...")
    for party in PARTIES[1:]:
        daemons.start("participant", "serve", "--config", OUT / party / "participant.toml", name=party)
    daemons.start("initiator", "serve", "--config", OUT / "hospital" / "initiator.toml", name="hospital")
    certs = OUT / "risk-system" / "certs"
    tls = TlsFiles(certs / "ca.pem", certs / "risk-system.pem", certs / "risk-system.key")
    with Client(f"127.0.0.1:{ports['hospital']}", server_party="hospital", tls=tls) as client:
        wait_until_ready(client, daemons, len(work))
        answers = [(task, client.predict(task.model_id, task.ids)) for task in work]
        console.print()
        unknown = [client.predict(task.model_id, ["nobody"]) for task in work]
    worst = max(show(task, answer, nobody) for (task, answer), nobody in zip(answers, unknown, strict=True))
    console.print(f"the picture is in {draw(answers)}")
    if worst > LIMIT:
        raise SystemExit(f"a prediction differs from scikit-learn's by {worst:.1e}")
    if options.keep:
        keep(daemons, ports["hospital"])


if __name__ == "__main__":
    main()
