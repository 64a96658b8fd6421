"""Targets: every RPC of both daemons, frames and bytes of standing links, and what a caller reads of an answer.

The daemons are real, with their warehouses; only gRPC's server is left out: its handlers are called with bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import grpc
import numpy as np
from typing_extensions import override

from fedpredict.client.core import parse_models
from fedpredict.initiator.greeting import Acquaintance
from fedpredict.initiator.mask_consents import KeptConsents
from fedpredict.initiator.mask_session import Place, Terms, open_session
from fedpredict.initiator.offline.open import TaskParts
from fedpredict.initiator.server import InitiatorServer
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.fixed_point import MaskedWords
from fedpredict.model.populations import BucketQuery, digest_of
from fedpredict.model.prediction import PredictTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, Share, build_share
from fedpredict.model.standing import PopulationNotice
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import stated_identity
from fedpredict.state.sql import open_pin_store
from fedpredict.state.tasks import open_task_store
from fedpredict.tables.models import current_versions
from fedpredict.wire import (
    arrow_codec,
    bucket_codec,
    codec,
    handlers,
    masked_codec,
    offline_arrow,
    offline_codec,
    population_codec,
    task_codec,
)
from fedpredict.wire.description import description_from_wire
from fedpredict.wire.socket_carrier import Preface, SocketCarrier
from fedpredict.wire.status import error_from_failure
from fedpredict.wire.v1 import common_pb2, initiator_pb2, link_pb2, masking_pb2, participant_pb2
from tests.fuzz.engine import Target
from tests.integration import test_every_masked_frame as masked_rows
from tests.integration import test_every_rpc as rows
from tests.integration.daemons import World
from tests.integration.federation import Certificates
from tests.integration.spoiling import spoiled

BANK = Identity(IdentityKind.PARTY, "bank")
DESK = Identity(IdentityKind.CLIENT, "desk")
INTERNAL = grpc.StatusCode.INTERNAL.value[0]


class RefusedError(Exception):
    """A call was aborted, with a status that it may have."""


class Server:
    """In place of gRPC's server: keeps the handlers."""

    made: Server

    def __init__(self, **_: object) -> None:
        self.handlers: list[Any] = []
        Server.made = self

    def add_generic_rpc_handlers(self, found: Sequence[Any]) -> None:
        self.handlers += found

    def add_insecure_port(self, _: str) -> int:
        return 1

    def add_secure_port(self, _: str, __: object) -> int:
        return 1

    async def start(self) -> None:
        pass

    async def stop(self, _: float | None) -> None:
        pass


class Context:
    """In place of a call's context."""

    def __init__(self, caller: Identity, messages: Sequence[bytes] = ()) -> None:
        self._caller = caller
        self._messages = list(messages)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(stated_identity(self._caller))

    def time_remaining(self) -> float:
        return 5.0

    def set_trailing_metadata(self, _: object) -> None:
        pass

    def set_compression(self, _: object) -> None:
        pass

    def peer(self) -> str:
        return "nowhere"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def done(self) -> bool:
        return False

    async def send_initial_metadata(self, _: object) -> None:
        pass

    async def read(self) -> object:
        return self._messages.pop(0) if self._messages else grpc.aio.EOF  # type: ignore[attr-defined]

    async def write(self, data: bytes) -> None:
        pass

    async def abort(self, code: grpc.StatusCode, text: str) -> NoReturn:
        if code is grpc.StatusCode.INTERNAL:
            raise AssertionError(f"an internal error: {text}")
        raise RefusedError(text)


class Errors(logging.Handler):
    """Keeps what was logged as an internal error: an answer with that status is a finding, and this is its cause."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.last: BaseException | None = None

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.exc_info[1] if record.exc_info else AssertionError(record.getMessage())

    def check(self) -> None:
        """Raise what was logged since the last time."""
        last, self.last = self.last, None
        if last is not None:
            raise AssertionError("an internal error was logged") from last


class Daemons:
    """Both daemons, in an event loop of their own that runs while an input is at work."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.errors = Errors()
        logging.getLogger("fedpredict").addHandler(self.errors)
        logging.getLogger("fedpredict").propagate = False
        grpc.aio.server = Server  # type: ignore[assignment]
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.tables = World(folder, Certificates(folder / "certificates"))
        self.loop.run_until_complete(self._start(folder))

    async def _start(self, folder: Path) -> None:
        plain: dict[str, object] = {"listen": "127.0.0.1:0", "insecure": True, "poll_s": 600.0, "max_samples": 100}
        callers = {"bank": {"models": ["*"]}}
        content = plain | {"party": "lab", "warehouse": {"path": "elsewhere"}, "callers": callers}
        warehouse = self.tables.warehouse("lab")
        self.version = current_versions(warehouse)["m"]
        self.lab = ParticipantServer(ParticipantSettings.model_validate(content), warehouse, None)
        await self.lab.__aenter__()
        await self.lab.wait_read()
        self.methods = {rows.PARTICIPANT: Server.made.handlers}
        settings = plain | {
            "party": "lab",
            "models": {"m": {"parties": ["lab"]}},
            "warehouse": {"path": "elsewhere"},
            "clients": {"desk": {"models": ["*"]}},
        }
        tasks = TaskParts(open_task_store("sqlite:///state.db", folder), warehouse)
        pins = open_pin_store("sqlite:///state.db", folder)
        self.bank = InitiatorServer(
            InitiatorSettings.model_validate(settings), pins, None, warehouse=warehouse, tasks=tasks
        )
        await self.bank.__aenter__()
        self.methods[rows.INITIATOR] = self.methods[rows.INFERENCE] = self.methods[rows.HEALTH] = Server.made.handlers
        self.upload_id = self.task_id = "unknown"

    async def masked_lab(self) -> ParticipantServer:
        """Start the laboratory once more, with certificates, as one that masks its shares."""
        tls = self.tables.certificates.of("lab")
        content: dict[str, object] = {
            "party": "lab", "listen": "127.0.0.1:0", "poll_s": 600.0, "max_samples": 100,
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key}, "warehouse": {"path": "elsewhere"},
            "callers": {"bank": {"models": ["*"]}}, "masked": masked_rows.SETTINGS,
        }  # fmt: skip
        lab = ParticipantServer(ParticipantSettings.model_validate(content), self.tables.warehouse("lab"), tls)
        await lab.__aenter__()
        await lab.wait_read()
        return lab

    def call(self, service: str, method: str, data: bytes) -> None:
        """Call a method with a message, as somebody who may."""
        caller = BANK if service == rows.PARTICIPANT else DESK
        context = Context(caller, [data])
        details = type("Details", (), {"method": f"/{service}/{method}", "invocation_metadata": ()})()
        found = [handler for each in self.methods[service] if (handler := each.service(details)) is not None]
        if not found:
            return
        call = found[0].unary_unary(data, context) if found[0].unary_unary else found[0].stream_stream(None, context)
        with contextlib.suppress(RefusedError):
            self.loop.run_until_complete(asyncio.wait_for(call, 30))
        self.errors.check()


def rpcs() -> Target:
    """Messages of every method; the first byte says which."""
    world = Daemons()
    methods = sorted(rows.ROWS)
    seeds = []
    for number, each in enumerate(methods):
        *_, good = rows.ROWS[each].good(world)  # type: ignore[arg-type]
        seeds += [bytes([number]) + data for _, data in [("", good.SerializeToString()), *spoiled(good)]]

    def run(data: bytes) -> None:
        if data:
            world.call(*methods[data[0] % len(methods)], data[1:])

    return Target([each for each in seeds if len(each) < 10_000], run, [b"\x08\x01", b"m", b"r-1", b"\x0a\x03r-1"])


def _sessions(world: Daemons, preface: bytes) -> list[bytes]:
    """Return what an initiator sends of mask sessions: one step, both, and questions after them; see `feed`."""
    post, shop = (LiveTls(world.tables.certificates.of(party)) for party in ("post", "shop"))
    session = masked_rows.Session(world, post, shop, bytes(range(32)))  # type: ignore[arg-type]
    frames = [
        link_pb2.Frame(id=number, remaining_ms=5000, **{name: getattr(session, name)()}).SerializeToString()
        for number, name in enumerate(masked_rows.MASKED, 1)
    ]
    keys, others, *asked = (len(each).to_bytes(4, "big") + each for each in frames)
    sessions = [preface + keys, *(preface + keys + others + each for each in (b"", *asked, b"".join(asked)))]
    return [each + bytes(len(each) % 2) for each in sessions]


def _in_order(data: bytes) -> list[bytes]:
    """Cut bytes behind the preface, and behind every frame that is whole."""
    at = len(Preface(BANK.uri).to_bytes())
    pieces = [data[:at]]
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        pieces.append(data[at:end])
        at = end
    return pieces


async def _answered(carrier: SocketCarrier) -> None:
    """Return when no call of a link is under way."""
    async with asyncio.timeout(30):
        while (end := carrier._end) is not None and getattr(end, "calls", False):
            await asyncio.sleep(0)


def frames() -> Target:
    """Bytes of a participant's port for links: the preface, lengths, frames, also masked; and frames of its streams."""
    world = Daemons()
    masked = world.loop.run_until_complete(world.masked_lab())
    calls = [
        link_pb2.Frame(id=number, remaining_ms=5000, **{field: rows.ROWS[rows.PARTICIPANT, method].good(world)[-1]})  # type: ignore[arg-type]
        for number, (method, field) in enumerate(rows.FRAMES.items(), 1)
    ]
    more = [link_pb2.Frame(id=1, cancel=link_pb2.Cancel()), link_pb2.Frame(drain=link_pb2.Drain())]
    whole = [each.SerializeToString() for each in (*calls, *more)]
    preface = Preface(BANK.uri).to_bytes()
    packed = [len(each).to_bytes(4, "big") + each for each in whole]
    compressed = Preface(BANK.uri, compress=True).to_bytes()
    import zstandard

    small = zstandard.compress(whole[2])
    seeds = [preface + each for each in packed] + [preface + b"".join(packed), preface[:5], compressed + packed[0]]
    seeds += [compressed + (len(small) | 1 << 31).to_bytes(4, "big") + small]
    seeds += _sessions(world, preface)

    def opened(carrier: SocketCarrier) -> Any:
        from fedpredict.security.callers import socket_caller

        caller, _ = socket_caller(carrier.tls, carrier.stated, None)
        return masked._links.answerer(carrier, caller, "nowhere")

    async def feed(data: bytes) -> list[bytes]:
        transport = Transport()
        carrier = SocketCarrier(opened)
        carrier.connection_made(transport)
        # of an even length one call after the other, as a session needs it; else whatever comes at once
        middle = len(data) // 2
        for piece in (data[:middle], data[middle:]) if len(data) % 2 else _in_order(data):
            if piece and not transport.closed:
                carrier._take(piece)
            if not len(data) % 2:
                await _answered(carrier)
        await _answered(carrier)
        carrier.close("over")
        carrier.connection_lost(None)
        return transport.written

    def run(data: bytes) -> None:
        written = b"".join(world.loop.run_until_complete(feed(data)))
        world.errors.check()
        assert b"internal error" not in written

    return Target(seeds, run, [b"FPL1", b"\x08\x01", *whole])


class Transport(asyncio.Transport):
    """In place of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    @override
    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    @override
    def close(self) -> None:
        self.closed = True

    @override
    def abort(self) -> None:
        self.closed = True

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    @override
    def pause_reading(self) -> None:
        pass

    @override
    def resume_reading(self) -> None:
        pass


QUERY = ScoreQuery(
    request_id="r-1", model_id="m", manifest_sha256="5c" * 32, params_sha256="ab" * 32, mode=Mode.NEARLINE,
    sample_ids=(b"u1", b"u2"), segments=(1, 1),
)  # fmt: skip
IDS = SampleIds.of([b"u1", b"u2"])
BUCKET = BucketQuery(
    request_id="r-1", task_id="t", model_id="m", manifest_sha256="5c" * 32, params_sha256="ab" * 32,
    mode=Mode.NEARLINE, bucket=0, n_buckets=1, rows=IDS,
)  # fmt: skip
NOTICE = PopulationNotice(request_id="r-1", population="people", version=1, n_ids=2, digests=(digest_of(IDS),))


def answers() -> Target:
    """What an initiator reads of a participant's answers, and a client of an initiator's; the first byte says which."""
    loop = asyncio.new_event_loop()
    readers: list[tuple[type[Any], Callable[[Any], object]]] = [
        (participant_pb2.ScoreReply, lambda message: codec.reply_from_wire(message, QUERY, 1)),
        (participant_pb2.ScoreReply, lambda message: codec.failures_from_wire(message, QUERY)),
        (participant_pb2.DescribeModelReply, description_from_wire),
        (participant_pb2.BucketReply, lambda message: bucket_codec.bucket_answer_from_wire(message, BUCKET)),
        (participant_pb2.PopulationReply, lambda message: population_codec.standing_from_wire(message, NOTICE)),
        (common_pb2.Failure, error_from_failure),
        (initiator_pb2.PredictReply, lambda message: task_codec.prediction_from_wire(message, 2)),
        (initiator_pb2.ArrowReply, lambda message: arrow_codec.prediction_from_arrow(message, 2)),
        (initiator_pb2.ArrowRequest, arrow_codec.task_from_arrow),
        (initiator_pb2.UploadChunk, offline_arrow.chunk_from_wire),
        (initiator_pb2.ResultBatch, offline_arrow.results_from_wire),
        (initiator_pb2.Task, offline_codec.task_from_wire),
        (initiator_pb2.TaskHistory, offline_codec.history_from_wire),
        (participant_pb2.ScoreReply, lambda message: masked_codec.masked_reply_from_wire(message, QUERY)),
        (participant_pb2.BucketReply, lambda message: masked_codec.masked_bucket_from_wire(message, BUCKET)),
        (link_pb2.Frame, lambda message: _open_session(message, loop)),
    ]
    reply = codec.reply_to_wire(QUERY, _reply(np.array([1, 1], dtype=np.int64)))
    bucket = participant_pb2.BucketReply()
    bucket_codec.fill_bucket_reply(bucket, BUCKET, digest_of(IDS), _reply(None))
    arrow = arrow_codec.task_to_arrow(PredictTask(request_id="r-1", model_id="m", mode=Mode.NEARLINE, sample_ids=IDS))
    good = {0: reply, 1: reply, 3: bucket, 8: arrow, 9: offline_arrow.chunk_to_wire(IDS, "r-1")}
    masked, masked_bucket = participant_pb2.ScoreReply(), participant_pb2.BucketReply()
    masked_codec.fill_masked_reply(masked, QUERY, _masked_reply(np.array([1, 1], dtype=np.int64)))
    masked_codec.fill_masked_bucket_reply(masked_bucket, BUCKET, digest_of(IDS), _masked_reply(None))
    shown = masking_pb2.MaskKeyReply(
        key=masking_pb2.MaskKey(party="lab", public_key=b"k" * 32, certificate_chain=b"c", signature=b"s"),
        consent=masking_pb2.MaskConsent(party="lab", valid_until=2**40, certificate_chain=b"c", signature=b"s"),
    )
    good |= {13: masked, 14: masked_bucket, 15: link_pb2.Frame(mask_key_told=shown)}
    seeds = [bytes([number]) + each.SerializeToString() for number, each in good.items()]
    for number, (kind, _) in enumerate(readers):
        made = good.get(number, kind())
        seeds += [bytes([number]) + data for _, data in spoiled(made)]

    def run(data: bytes) -> None:
        if not data:
            return
        if data[0] % (len(readers) + 1) == len(readers):
            parse_models(data[1:])
            return
        kind, read = readers[data[0] % (len(readers) + 1)]
        read(handlers.parse(kind, data[1:]))

    return Target([each for each in seeds if len(each) < 10_000], run, [b"\xff\xff\xff\xff", b"sample_id", b"linear"])


class _Answering:
    """In place of a link, whose party gives one answer to whatever it is asked."""

    def __init__(self, answer: link_pb2.Frame) -> None:
        self._answer = answer

    def start(self, call: Any) -> None:
        call.answered(call, self._answer)


def _open_session(answer: link_pb2.Frame, loop: asyncio.AbstractEventLoop) -> None:
    """Have an initiator open a mask session with a party that answers so, and keep what it consents to."""
    who = Acquaintance("lab", None)
    places = {"lab": Place(who, _Answering(answer))}  # type: ignore[arg-type]
    terms = Terms(bytes(32), "{}", ("lab", "shop"), 32)
    opened = loop.run_until_complete(open_session(places, terms))
    kept = KeptConsents()
    kept.keep("5c" * 32, terms.parties, opened.consents)
    kept.of("5c" * 32, ["lab"])


def _masked_reply(times: Any) -> PartyReply:
    words = MaskedWords(np.arange(2, dtype=np.uint64)[:, None], np.zeros(1, dtype=np.uint64))
    status = np.array([SampleStatus.OK, SampleStatus.OK], dtype=np.uint8)
    share = Share(np.empty((2, 0)), status)
    return PartyReply(share=share, oldest_event_time=1, elapsed_s=0.1, segment_event_times=times, masked=words)


def _reply(times: Any) -> PartyReply:
    status = np.array([SampleStatus.OK, SampleStatus.OK], dtype=np.uint8)
    share = build_share(np.ones((2, 1)), status)
    return PartyReply(share=share, oldest_event_time=1, elapsed_s=0.1, segment_event_times=times)
