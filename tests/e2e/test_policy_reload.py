"""SIGHUP to a daemon of several processes: the new policy is in force in all of them, or the old one still is."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.security.tls import TlsFiles, channel_credentials, server_name
from fedpredict.wire import codec
from fedpredict.wire.channel import channel_options
from fedpredict.wire.v1 import link_pb2, participant_pb2

if TYPE_CHECKING:
    from tests.e2e.conftest import Daemon, Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

STREAM = "/fedpredict.wire.v1.ParticipantService/ScoreStream"
WITHIN_S = 30.0
EVERYTHING = '[callers.bank]\nmodels = ["*"]\n'
NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 5, 7, 8
"""gRPC's numbers: of a model that is not there, of a mode that is not the caller's, of too many calls."""


class Link:
    """A standing stream of the party bank to one worker; its calls are made one after the other."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._numbers = itertools.count(1)
        self._frames: queue.Queue[bytes | None] = queue.Queue()
        answers: Any = channel.stream_stream(STREAM, None, None)(iter(self._frames.get, None))
        self._answers: Iterator[bytes] = answers

    def ask(self, frame: link_pb2.Frame) -> link_pb2.Frame:
        frame.id = next(self._numbers)
        self._frames.put(frame.SerializeToString())
        return link_pb2.Frame.FromString(next(self._answers))

    def worker(self) -> int:
        hello = participant_pb2.HelloRequest(protocol_version=1, nonce=b"n" * 32)
        return int(self.ask(link_pb2.Frame(hello=hello)).hello_reply.worker)

    def status(self) -> int:
        """Ask, in mode nearline, for a share of a model that is not there, and return the status."""
        query = ScoreQuery(
            request_id="r-1",
            model_id="m",
            manifest_sha256="5c" * 32,
            params_sha256="5d" * 32,
            mode=Mode.NEARLINE,
            sample_ids=[b"u1"],
        )
        return int(self.ask(link_pb2.Frame(score=codec.query_to_wire(query, 0))).failure.code)

    def end(self) -> None:
        self._frames.put(None)


class Lab:
    """A participant of two workers, with a policy in a file of its own."""

    def __init__(self, workshop: Workshop) -> None:
        workshop.run("certs", "ca", "ca")
        workshop.run("init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
        workshop.run("init", "participant", "lab", "--initiator", "bank", "--listen", "127.0.0.1:0")
        self.folder = workshop.folder
        settings = workshop.folder / "lab" / "participant.toml"
        kept = [line for line in settings.read_text().splitlines() if not line.startswith(("[callers", "models ="))]
        settings.write_text("\n".join(['workers = 2\npolicy = "policy.toml"', *kept]) + "\n")
        self.write(EVERYTHING)
        self.daemon: Daemon = workshop.start("lab", "participant", "serve", "--config", "lab/participant.toml")

    def write(self, policy: str) -> None:
        (self.folder / "lab" / "policy.toml").write_text(policy)

    def reload(self, policy: str) -> None:
        self.write(policy)
        self.daemon.process.send_signal(signal.SIGHUP)

    def said(self, event: str) -> list[str]:
        return [line for line in self.daemon.log.read_text().splitlines() if event in line]

    @contextmanager
    def links(self) -> Iterator[list[Link]]:
        """Give a standing link to each of the two workers."""
        certs = self.folder / "bank" / "certs"
        credentials = channel_credentials(TlsFiles(certs / "ca.pem", certs / "bank.pem", certs / "bank.key"))
        found: dict[int, Link] = {}
        with ExitStack() as stack:
            end = time.monotonic() + WITHIN_S
            while len(found) < 2:
                assert time.monotonic() < end, found
                options = channel_options(server_name("lab"))
                channel = stack.enter_context(grpc.secure_channel(self.daemon.address, credentials, options=options))
                link = Link(channel)
                stack.callback(link.end)
                found.setdefault(link.worker(), link)
            yield [found[0], found[1]]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def daemon(shared_workshop: Workshop) -> Iterator[Lab]:
    made = Lab(shared_workshop)
    yield made
    assert made.daemon.stop() == 0


@pytest.fixture
def lab(daemon: Lab) -> Lab:
    """The daemon, both of its workers with a policy under which bank may ask for everything."""
    with daemon.links() as links:
        daemon.reload(EVERYTHING)
        until(lambda: [link.status() for link in links] == [NOT_FOUND, NOT_FOUND])
    return daemon


def test_a_new_policy_is_in_force_on_standing_links_of_all_workers(lab: Lab) -> None:
    with lab.links() as links:
        assert [link.status() for link in links] == [NOT_FOUND, NOT_FOUND]
        before = len(lab.said("policy.reloaded"))

        lab.reload('[callers.bank]\nmodels = ["*"]\nmodes = ["offline"]\n')

        until(lambda: [link.status() for link in links] == [PERMISSION_DENIED, PERMISSION_DENIED])
        until(lambda: len(lab.said("policy.reloaded")) == before + 2)
        assert all("bank.modes" in line for line in lab.said("policy.reloaded")[before:])


def test_a_model_that_is_not_there_is_told_by_every_worker_and_the_policy_is_in_force(lab: Lab) -> None:
    with lab.links() as links:
        before = len(lab.said("policy.unknown_models"))

        lab.reload('[callers.bank]\nmodels = ["m", "credti"]\nmodes = ["offline"]\n')

        until(lambda: len(lab.said("policy.unknown_models")) == before + 2)
        assert all("bank may ask for credti, which is not here" in line
                   for line in lab.said("policy.unknown_models")[before:])  # fmt: skip
        assert [link.status() for link in links] == [PERMISSION_DENIED, PERMISSION_DENIED]


def test_a_policy_with_a_mistake_changes_nothing_and_the_key_is_named(lab: Lab) -> None:
    with lab.links() as links:
        lab.reload('[callers.bank]\nmodels = ["*"]\nmodes = ["offline"]\n')
        until(lambda: [link.status() for link in links] == [PERMISSION_DENIED, PERMISSION_DENIED])
        before = len(lab.said("policy.refused"))

        lab.reload('[callers.bank]\nmodels = ["*"]\ncalls_per_second = 1\n')

        until(lambda: len(lab.said("policy.refused")) == before + 2)
        assert all("calls_per_second" in line and "policy.toml" in line for line in lab.said("policy.refused")[before:])
        assert [link.status() for link in links] == [PERMISSION_DENIED, PERMISSION_DENIED]


def test_calls_per_second_count_for_all_workers_together(lab: Lab) -> None:
    with lab.links() as links:
        before = len(lab.said("policy.reloaded"))
        lab.reload('[callers.bank]\nmodels = ["*"]\ncalls_per_s = 0.01\nburst = 6\n')
        until(lambda: len(lab.said("policy.reloaded")) == before + 2)
        began = time.monotonic()

        statuses = [link.status() for _ in range(10) for link in links]

        taken = statuses.count(NOT_FOUND)
        assert 6 <= taken <= 6 + (time.monotonic() - began) / 100
        assert statuses.count(RESOURCE_EXHAUSTED) == 20 - taken


def test_a_worker_that_starts_while_the_policy_changes_has_the_new_one(lab: Lab) -> None:
    children = Path(f"/proc/{lab.daemon.process.pid}/task/{lab.daemon.process.pid}/children")
    workers = [
        int(pid) for pid in children.read_text().split() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(workers) == 2
    died = len(lab.said("worker.died"))
    os.kill(workers[0], signal.SIGKILL)

    end = time.monotonic() + 3.0  # signals come all the while that the new one starts
    while time.monotonic() < end:
        lab.daemon.process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    lab.reload('[callers.bank]\nmodels = ["*"]\nmodes = ["offline"]\n')

    with lab.links() as links:
        until(lambda: [link.status() for link in links] == [PERMISSION_DENIED, PERMISSION_DENIED])
    assert len(lab.said("worker.died")) == died + 1  # the one that was killed here


def test_an_initiator_of_one_process_reloads_its_clients(workshop: Workshop) -> None:
    workshop.run("certs", "ca", "ca")
    workshop.run("init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    daemon = workshop.start("bank", "initiator", "serve", "--simulate", "--config", "bank/initiator.toml")
    asking = ("models", "--config", "bank/client.toml", "--server", daemon.address)
    assert workshop.attempt(*asking).returncode == 0
    settings = workshop.folder / "bank" / "initiator.toml"
    settings.write_text(settings.read_text().replace("[clients.risk-system]", "[clients.somebody-else]"))

    daemon.process.send_signal(signal.SIGHUP)

    daemon.until(lambda: "policy.reloaded" in daemon.log.read_text(), "has its policy read again")
    refused = workshop.attempt(*asking)
    assert (refused.returncode, "no model" in refused.stderr) == (5, True)
    assert daemon.stop() == 0
