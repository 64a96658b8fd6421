"""A participant's standing links: accepted on sockets and streams, or dialled; answered, and drained together."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from fedpredict.errors import ConfigError, FedPredictError, ProtocolError
from fedpredict.observe.logs import log_context
from fedpredict.participant.answers import Answers
from fedpredict.participant.methods import FRAMES, METHODS, SERVICE
from fedpredict.participant.offline import MAX_BUCKET_DEADLINE_S, OfflineAnswers
from fedpredict.scoring.local_party import INLINE_SAMPLES
from fedpredict.security.callers import hold, socket_caller
from fedpredict.security.identity import Identity
from fedpredict.security.live import LiveTls
from fedpredict.security.verdicts import Presented
from fedpredict.wire.handlers import Context
from fedpredict.wire.link import OFFLINE_LINK, SILENT_S, Carrier, LinkEnd, Silences, check_links
from fedpredict.wire.link_answerer import LinkAnswerer
from fedpredict.wire.socket_carrier import SocketCarrier, listen_sockets
from fedpredict.wire.stream_carrier import StreamCarrier
from fedpredict.wire.v1 import link_pb2, participant_pb2

logger = logging.getLogger(__name__)

_OF_LINKS = METHODS[f"{SERVICE}/ScoreStream"]
"""What a link asks of who opens it, and a hello on it of who sends it."""
_SMALL_BYTES = 4 * (INLINE_SAMPLES + 1)
"""What the offsets of `INLINE_SAMPLES` sample ids take."""
MAX_DEADLINE_S = 60.0
"""For callers who state no deadline."""

Greeted = Callable[[participant_pb2.HelloRequest], None]
Closed = Callable[[LinkAnswerer, str], None]
Settled = Callable[[], Awaitable[None]]


class LinkServer:
    """The links of one participant."""

    def __init__(self, answers: Answers, settled: Settled | None = None, live: LiveTls | None = None) -> None:
        """Prepare; nothing listens.

        Args:
            answers: What calls are answered with.
            settled: Waited for before a hello is answered, where other workers can answer until then: a link brings
                calls, and one that has read nothing yet would refuse them.
            live: What callers' certificates are held to; None where there is no TLS, and they state who they are.
        """
        self._answers = answers
        self._buckets_at_once = 2 * answers.offline.buckets_at_once if answers.offline else 1
        self._settled = settled
        self._live = live
        self._links: set[LinkAnswerer] = set()
        self._n_of: Counter[Identity] = Counter()
        self._silences = Silences(SILENT_S, lambda: self._links, self._end_silent)
        self._listener: asyncio.Server | None = None
        self._draining = False

    @property
    def n_links(self) -> int:
        """The number of open links."""
        return len(self._links)

    @property
    def offers_offline(self) -> bool:
        """Whether calls of offline tasks are answered."""
        return self._answers.offline is not None

    def check_room(self, caller: Identity) -> None:
        """Raise `OverloadedError` where a caller has as many links as one may have, whoever dialled them."""
        check_links(self._n_of[caller], caller)

    async def listen(self, listen: str, context: ssl.SSLContext | None, *, reuse_port: bool = False) -> str:
        """Take links over sockets; return host:port with the real number.

        Args:
            listen: host:port.
            context: The TLS context; None for plain text, where callers state who they are.
            reuse_port: Whether several workers listen at one port.

        Raises:
            ConfigError: The port is taken, or the address is not of this machine.
        """

        def opened(carrier: SocketCarrier) -> LinkEnd:
            with self._answers.audit.strangers("link"):
                caller, shown = socket_caller(carrier.tls, carrier.stated, self._live)
            self.check_room(caller)
            link = self.answerer(carrier, caller, carrier.peer)
            hold(self._live, link, shown)
            return link

        try:
            self._listener, address = await listen_sockets(listen, context, opened, reuse_port=reuse_port)
        except OSError as error:
            raise ConfigError(f"link_listen: {listen} cannot be bound: {error.strerror or error}") from error
        return address

    async def serve_stream(self, context: Context, caller: Identity, shown: Presented) -> None:
        """Serve a link over a gRPC stream that `caller` opened, which showed a certificate, until it ends."""
        self.check_room(caller)
        carrier = StreamCarrier(context, str(context.peer()))
        link = self.answerer(carrier, caller, carrier.peer)
        hold(self._live, link, shown)
        await carrier.run(link)

    def answerer(
        self,
        carrier: Carrier,
        caller: Identity,
        peer: str,
        *,
        greeted: Greeted | None = None,
        closed: Closed | None = None,
        for_offline: bool = False,
    ) -> LinkAnswerer:
        """Return the answering end of a new link.

        Args:
            carrier: Carries the frames.
            caller: Who asks on it.
            peer: Its address, for the log.
            greeted: Called with each hello, before it is answered, where this side dialled; until it has taken one,
                nothing else is answered, as over gRPC the certificate of who was dialled is only seen there.
            closed: Called when the link is gone.
            for_offline: Whether this side dialled it for calls of offline tasks alone.
        """

        async def answer(frame: link_pb2.Frame) -> link_pb2.Frame:
            if frame.HasField("score"):
                scored = link_pb2.Frame()
                await self._answers.fill_score(frame.score, caller, _remaining_s(frame), scored.scored)
                return scored
            if frame.HasField("masked_score"):
                scored = link_pb2.Frame()
                await self._answers.fill_masked_score(frame.masked_score, caller, _remaining_s(frame), scored.scored)
                return scored
            if frame.HasField("hello"):
                with self._answers.entrance.refusals("Hello", caller, _OF_LINKS):
                    return await self._answer_hello(frame, caller, link, greeted, for_offline=for_offline)
            return await self._answer_other(frame, caller, link)

        def forget(link: LinkAnswerer, reason: str) -> None:
            self._links.discard(link)
            self._n_of[caller] -= 1
            self._answers.masking.end(link)
            self._note_broken(carrier, caller)
            with log_context(caller=caller.name):
                logger.info("link.closed", extra={"carrier": carrier.name, "peer": peer, "reason": reason})
            if closed is not None:
                closed(link, reason)

        with log_context(caller=caller.name):
            link = LinkAnswerer(
                carrier,
                answer,
                is_small=_is_small,
                closed=forget,
                buckets_at_once=self._buckets_at_once,
                expects_hello=greeted is not None,
            )
            logger.info("link.opened", extra={"carrier": carrier.name, "peer": peer})
        self._n_of[caller] += 1
        self._keep(link)
        return link

    def _note_broken(self, carrier: Carrier, caller: Identity) -> None:
        if carrier.broken:
            with suppress(FedPredictError):  # nobody is there to be told
                self._answers.entrance.misunderstood("Frame", caller, ProtocolError(carrier.broken), _OF_LINKS)

    async def _answer_hello(
        self,
        frame: link_pb2.Frame,
        caller: Identity,
        link: LinkAnswerer,
        greeted: Greeted | None,
        *,
        for_offline: bool,
    ) -> link_pb2.Frame:
        if greeted is not None:
            greeted(frame.hello)
            link.expects_hello = False
        if self._settled is not None:
            await self._settled()
        reply = await self._answers.hello(frame.hello, caller)
        if greeted is not None and self.offers_offline:
            reply.capabilities.append(OFFLINE_LINK)
        reply.for_offline = for_offline
        return link_pb2.Frame(hello_reply=reply)

    async def _answer_other(self, frame: link_pb2.Frame, caller: Identity, link: LinkAnswerer) -> link_pb2.Frame:
        if frame.WhichOneof("body") not in FRAMES:
            raise ProtocolError("a call of a kind that is in no table of methods")
        if frame.HasField("describe"):
            described = await self._answers.describe_model(frame.describe, caller, _remaining_s(frame))
            return link_pb2.Frame(described=described)
        if frame.HasField("masked_bucket"):
            return await self._masked_bucket(frame, caller)
        if frame.HasField("mask_key") or frame.HasField("mask_keys"):
            return await self._answers.masking.answer(frame, caller, link)
        return await self._offline.answer(frame, caller, _remaining_s(frame, MAX_BUCKET_DEADLINE_S))

    async def _masked_bucket(self, frame: link_pb2.Frame, caller: Identity) -> link_pb2.Frame:
        answer, offline = link_pb2.Frame(), self._offline
        left_s = _remaining_s(frame, MAX_BUCKET_DEADLINE_S)
        await offline.masked_bucket(frame.masked_bucket, caller, left_s, answer.scored_bucket)
        return answer

    @property
    def _offline(self) -> OfflineAnswers:
        if self._answers.offline is None:
            raise ProtocolError("a call of offline tasks, which this party does not offer")
        return self._answers.offline

    async def drain(self, drain_s: float) -> None:
        """Take no new links or calls, answer those under way, and return when all links are closed."""
        if self._listener is not None:
            self._listener.close()
        self._silences.stop()
        self._draining = True
        await asyncio.gather(*(link.drain(drain_s) for link in tuple(self._links)))

    def _keep(self, link: LinkAnswerer) -> None:
        self._links.add(link)
        self._silences.watch()
        if self._draining:  # it was under way when the others were told, and would hold up the stop
            asyncio.get_running_loop().call_soon(link.close, "this participant stops")

    @staticmethod
    def _end_silent(link: LinkAnswerer) -> None:
        # a call ends by its deadline; whoever waits for it may have nothing to say
        if not link.calls:
            link.close(f"the caller said nothing for {SILENT_S:g} s")


def _remaining_s(frame: link_pb2.Frame, most_s: float = MAX_DEADLINE_S) -> float:
    remaining_ms = frame.remaining_ms
    return min(most_s, remaining_ms / 1000.0) if remaining_ms else most_s


def _is_small(frame: link_pb2.Frame, n_bytes: int) -> bool:
    # the bytes alone tell it of most: looking into the message takes longer. What is masked is begun in the order in
    # which it came, as the numbers of rounds only rise
    if frame.HasField("masked_score"):
        return True
    return frame.HasField("score") and (n_bytes <= _SMALL_BYTES or len(frame.score.sample_ids.offsets) <= _SMALL_BYTES)
