"""What a warehouse that is away, and a disk that is full while converting, get: real processes, a really full disk."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from typing_extensions import override

from fedpredict.model.manifest import PartDescription
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.wire import codec
from fedpredict.wire.channel import channel_options
from fedpredict.wire.description import description_from_wire
from fedpredict.wire.v1 import participant_pb2
from tests.e2e.conftest import PROGRAM, RUNS_IN_S, Daemon, environment

if TYPE_CHECKING:
    from tests.e2e.conftest import Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LAB = "lab/participant.toml"
NAMESPACE = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))
"""A mount that this process alone sees; without root, root of a user namespace does it."""
ROOM = "1m"


def may_mount() -> bool:
    """Return whether this machine lets us mount a small disk of our own."""
    trial = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@dataclass
class Caller:
    """The bank, asking the laboratory's participant."""

    channel: grpc.Channel

    def call(self, method: str, request: Any, service: str = "fedpredict.wire.v1.ParticipantService") -> bytes:
        answer: bytes = self.channel.unary_unary(f"/{service}/{method}", None, None)(
            request.SerializeToString(), timeout=30.0
        )
        return answer

    def health(self) -> int:
        data = self.call("Check", health_pb2.HealthCheckRequest(), "grpc.health.v1.Health")
        return int(health_pb2.HealthCheckResponse.FromString(data).status)

    def describe(self) -> PartDescription:
        request = participant_pb2.DescribeModelRequest(protocol_version=1, request_id="r", model_id="credit")
        reply = participant_pb2.DescribeModelReply.FromString(self.call("DescribeModel", request))
        return description_from_wire(reply)

    def score(self, digest: str, *sample_ids: bytes) -> list[float]:
        query = ScoreQuery(
            request_id="r",
            model_id="credit",
            manifest_sha256="5c" * 32,
            params_sha256=digest,
            mode=Mode.NEARLINE,
            sample_ids=sample_ids,
        )
        data = self.call("Score", codec.query_to_wire(query, 30_000))
        share = codec.reply_from_wire(participant_pb2.ScoreReply.FromString(data), query, 1).share
        assert (share.status == SampleStatus.OK).all()
        numbers: list[float] = share.values[:, 0].tolist()
        return numbers


@pytest.fixture
def lab(workshop: Workshop) -> Workshop:
    """A laboratory with certificates that looks at its warehouse often, and the bank's certificate."""
    workshop.run("certs", "ca", "ca")
    workshop.run("init", "participant", "lab", "--initiator", "bank", "--listen", "127.0.0.1:0")
    settings = workshop.folder / LAB
    settings.write_text(settings.read_text().replace("poll_s = 5.0", "poll_s = 0.2"))
    return workshop


@pytest.fixture
def caller(lab: Workshop) -> Iterator[Callable[[Daemon], Caller]]:
    """Give callers with the bank's certificate."""
    ca = certs.ca_files(lab.folder / "ca")
    tls: TlsFiles = certs.issue(ca, Identity(IdentityKind.PARTY, "bank"), lab.folder / "bank")
    channels: list[grpc.Channel] = []

    def call(daemon: Daemon) -> Caller:
        options = channel_options(server_name("lab"))
        channels.append(grpc.secure_channel(daemon.address, channel_credentials(tls), options=options))
        return Caller(channels[-1])

    yield call
    for channel in channels:
        channel.close()


def write_model(path: Path, weight: float) -> None:
    content = {
        "format": "fedpredict-partial-1",
        "model_id": "credit",
        "training_run": "run-1",
        "party": "lab",
        "kind": "linear",
        "classes": [],
        "fit_intercept": False,
        "features": ["age", "income"],
        "weights": [weight, 0.5],
    }
    path.write_text(json.dumps(content))


def test_a_hive_server_that_is_away_is_waited_for_by_daemons_and_named_by_commands(
    lab: Workshop, caller: Callable[[Daemon], Caller]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = probe.getsockname()[1]
    settings = lab.folder / LAB
    text = settings.read_text()
    local = [line for line in text.splitlines() if line.startswith(('kind = "local"', 'path = "warehouse"'))]
    settings.write_text(
        text.replace(local[0], 'kind = "hive"\nhost = "127.0.0.1"').replace(local[1], f"port = {closed}")
    )

    done = lab.attempt("model", "list", "--config", LAB)
    daemon = lab.start("lab", "participant", "serve", "--config", LAB)
    bank = caller(daemon)

    assert done.returncode == 7
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: no session with 127.0.0.1:{closed}: ")
    assert bank.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError, match="the model is not ready"):
        bank.describe()
    assert daemon.stop() == 0
    assert "warehouse.problem" in daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()


LEASE_BYTES = 512
"""What is room enough for a lease, and too little for rows of parameters."""
NO_ROWS = "error: cannot write {folder}/fp_.*: {reason}; nothing of it became visible; free some space there and repeat"
NO_LEASE = (
    r"error: the leases in {folder}/\.leases cannot be used: {reason};"
    " free some space or correct the permissions there, and repeat"
)


@dataclass
class Disk:
    """Where the laboratory lives: a small disk of its own, or a limit on the size of files.

    Attributes:
        prefix: What commands begin with.
        full: What they begin with while the disk is full.
        reason: What the system then says.
        told: What a conversion then says of it, with the folder of the warehouse.
    """

    folder: Path
    prefix: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    reason: str = ""
    told: str = ""

    def fill(self) -> None:
        """Write until nothing more fits."""

    def free(self) -> None:
        """Make room again."""

    def convert(self, prefix: list[str]) -> subprocess.CompletedProcess[str]:
        """Convert the new model."""
        return subprocess.run(
            [*prefix, *PROGRAM, "model", "convert", "new.json", "--config", LAB],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=RUNS_IN_S,
            check=False,
        )


class SmallDisk(Disk):
    """A tmpfs over the laboratory's folder, seen by commands that begin with `prefix` alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, reason="No space left on device", told=NO_LEASE)
        script = 'cp -a lab copy && mount -t tmpfs -o size="$0" tmpfs lab && cp -a copy/. lab && echo ready && cat'
        self.holder = subprocess.Popen(
            [*NAMESPACE, "sh", "-c", script, ROOM], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", f"--target={self.holder.pid}", "--mount", *user]
        # the folder is looked up again, because the one that a process comes with has the disk not mounted
        self.prefix = [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(folder)]
        self.full = self.prefix

    @override
    def fill(self) -> None:
        done = subprocess.run(
            [*self.prefix, "dd", "if=/dev/zero", "of=lab/filler", "bs=1k"],
            capture_output=True,
            check=False,
        )
        assert b"No space left" in done.stderr

    @override
    def free(self) -> None:
        subprocess.run([*self.prefix, "rm", "lab/filler"], check=True)

    def close(self) -> None:
        """End what holds the disk; with it goes the disk."""
        self.holder.communicate(timeout=RUNS_IN_S)


@pytest.fixture
def prepared(lab: Workshop) -> Workshop:
    """The laboratory with features, version 1 of a model, and the file of a version 2."""
    (lab.folder / "people.csv").write_text("id,age,income\nu1,40,2\nu2,20,4\n")
    lab.run("features", "load", "people.csv", "--view", "people", "--key", "id", "--config", LAB)
    write_model(lab.folder / "old.json", -0.25)
    lab.run("model", "convert", "old.json", "--config", LAB)
    write_model(lab.folder / "new.json", 1.0)
    return lab


@pytest.fixture(params=["file-size limit", *(["small disk"] if may_mount() else [])])
def disk(request: pytest.FixtureRequest, prepared: Workshop) -> Iterator[Disk]:
    """The laboratory's disk; a really full one where this machine lets us mount one, and on every machine a limit."""
    if request.param == "file-size limit":
        limit = ["prlimit", f"--fsize={LEASE_BYTES}"]
        yield Disk(prepared.folder, full=limit, reason="File too large", told=NO_ROWS)
        return
    small = SmallDisk(prepared.folder)
    yield small
    small.close()


def start(lab: Workshop, disk: Disk) -> Daemon:
    """Serve from the disk."""
    out, log = lab.folder / "lab.out", lab.folder / "lab.log"
    words = [*disk.prefix, *PROGRAM, "participant", "serve", "--config", LAB]
    with out.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen(words, cwd=lab.folder, env=environment(), stdout=stdout, stderr=stderr)
    daemon = Daemon("lab", process, out, log)
    lab.daemons.append(daemon)
    daemon.wait()
    return daemon


def test_a_disk_that_is_full_while_converting_is_named_and_the_old_version_is_served(
    prepared: Workshop, disk: Disk, caller: Callable[[Daemon], Caller]
) -> None:
    daemon = start(prepared, disk)
    bank = caller(daemon)
    daemon.until(lambda: bank.health() == health_pb2.HealthCheckResponse.SERVING, "serves")
    old = bank.describe().params_sha256
    assert bank.score(old, b"u1", b"u2") == [-9.0, -3.0]
    disk.fill()

    done = disk.convert(disk.full)

    assert done.returncode == 7
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(disk.told.format(folder=f"{prepared.folder}/lab/warehouse", reason=disk.reason), line), line
    assert bank.describe().params_sha256 == old
    assert bank.score(old, b"u1", b"u2") == [-9.0, -3.0]

    disk.free()
    done = disk.convert(disk.prefix)

    assert done.returncode == 0, done.stderr
    assert "version 2 of credit" in done.stdout
    daemon.until(lambda: bank.describe().params_sha256 != old, "has the new version")
    assert bank.score(bank.describe().params_sha256, b"u1", b"u2") == [41.0, 22.0]
    assert daemon.stop() == 0
