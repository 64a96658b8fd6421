"""Bytes on the wire between an initiator and a participant, per row: by carrier, compression and rows a round.

Both ends are real, with mutual TLS on loopback; a relay between them counts what passes, both ways and with everything
that TLS and HTTP/2 add. Prints one JSON object a line. Usage: scripts/bench_wire.py [--rounds N] [--rows 1,100,10000]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import uvloop
from typing_extensions import override

from fedpredict.initiator.fanout import Dialler, RemoteParty
from fedpredict.model.manifest import PartDescription
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.participant.answers import Answers
from fedpredict.participant.links import LinkServer
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.service import ParticipantService
from fedpredict.participant.settings import CallerSettings
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import TlsFiles
from fedpredict.wire.channel import Compression, server_options
from fedpredict.wire.link import Instance

CASES = [
    (carrier, compression)
    for carrier in ("socket", "grpc", "unary")
    for compression in Compression
    if (carrier, compression) != ("socket", Compression.DEFLATE)  # a socket knows zstd, or nothing
]
_rng = np.random.default_rng(7)


class RandomScorer(PartyScorer):
    """Answers with normally distributed scores: what compresses least."""

    @property
    @override
    def party(self) -> str:
        return "lab"

    @override
    async def describe(self, model_id: str, *, deadline_s: float) -> PartDescription:
        raise NotImplementedError

    @override
    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        n_samples = len(query.sample_ids)
        status = np.full(n_samples, SampleStatus.OK, dtype=np.uint8)
        share = build_share(_rng.normal(size=(n_samples, 1)), status)
        return PartyReply(share=share, oldest_event_time=1_769_848_200_000_000, elapsed_s=0.000123)


class Relay:
    """Leads connections to one target, and counts what passes."""

    def __init__(self) -> None:
        self.target = 0
        self.port = 0
        self.out = 0
        self.back = 0

    async def start(self) -> asyncio.Server:
        """Listen at any port."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        return server

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, far_writer, "out"), self._pump(far_reader, writer, "back"))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        while data := await reader.read(65536):
            setattr(self, direction, getattr(self, direction) + len(data))
            writer.write(data)
        writer.close()


@asynccontextmanager
async def linked(
    carrier: str, compression: Compression, tls: dict[str, TlsFiles]
) -> AsyncIterator[tuple[RemoteParty, Relay]]:
    """Give an initiator's view of a participant over one carrier, and the relay between them."""
    policy = CallerPolicy({"bank": CallerSettings(models=("*",))})
    answers = Answers(RandomScorer(), policy, tls["lab"], Instance())
    links, relay, link_relay = LinkServer(answers), Relay(), Relay()
    relays = [await relay.start(), await link_relay.start()]
    if carrier == "socket":
        address = await links.listen("127.0.0.1:0", LiveTls(tls["lab"]).listening_context())
        link_relay.target, answers.link_port = int(address.rpartition(":")[2]), link_relay.port
    server = grpc.aio.server(options=server_options())
    server.add_generic_rpc_handlers((ParticipantService(answers, links, insecure=False).handlers(),))
    relay.target = server.add_secure_port("127.0.0.1:0", LiveTls(tls["lab"], serves=True).server_credentials())
    await server.start()
    remote = Dialler("bank", tls["bank"]).dial("lab", f"127.0.0.1:{relay.port}", compression)
    try:
        if carrier == "unary":
            yield remote, relay  # not entered, so that it never dials a link
        else:
            async with remote:
                while remote.pool.carriers != {carrier: 1}:
                    await asyncio.sleep(0.01)
                yield remote, link_relay if carrier == "socket" else relay
    finally:
        await remote.close()
        await links.drain(1.0)
        await server.stop(None)
        for each in relays:
            each.close()


async def measure(remote: RemoteParty, relay: Relay, n_rows: int, rounds: int) -> tuple[float, float]:
    """Return the bytes that go out and come back, per round."""
    for _ in range(3):
        await remote.score(query_of(n_rows), deadline_s=60.0)
    out, back = relay.out, relay.back
    for _ in range(rounds):
        await remote.score(query_of(n_rows), deadline_s=60.0)
    return (relay.out - out) / rounds, (relay.back - back) / rounds


def query_of(n_rows: int) -> ScoreQuery:
    """Return a query for customers with ids such as "c0048151623"."""
    return ScoreQuery(
        request_id=secrets.token_hex(16),
        model_id="credit",
        manifest_sha256=secrets.token_hex(32),
        params_sha256=secrets.token_hex(32),
        mode=Mode.NEARLINE,
        sample_ids=[b"c%010d" % number for number in _rng.integers(0, 10**8, n_rows)],
    )


async def run(rows: Sequence[int], rounds: int) -> None:
    """Measure every case and print it."""
    with tempfile.TemporaryDirectory() as name:
        ca = certs.create_ca(Path(name) / "ca", "bench")
        tls = {each: certs.issue(ca, Identity(IdentityKind.PARTY, each), Path(name) / each) for each in ("lab", "bank")}
        for carrier, compression in CASES:
            async with linked(carrier, compression, tls) as (remote, relay):
                for n_rows in rows:
                    out, back = await measure(remote, relay, n_rows, rounds)
                    kept = "zstd" if carrier == "socket" and compression is not Compression.NONE else compression.value
                    line = {
                        "work": "wire",
                        "carrier": carrier,
                        "compression": kept,
                        "rows": n_rows,
                        "bytes_out_per_row": round(out / n_rows, 1),
                        "bytes_back_per_row": round(back / n_rows, 1),
                        "bytes_per_row": round((out + back) / n_rows, 1),
                    }
                    print(json.dumps(line), flush=True)


def main(argv: Sequence[str]) -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds per case")
    parser.add_argument("--rows", default="1,100,10000", help="rows a round, a comma list")
    options = parser.parse_args(argv)
    uvloop.run(run([int(each) for each in options.rows.split(",")], options.rounds))


if __name__ == "__main__":
    main(sys.argv[1:])
