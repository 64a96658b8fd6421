"""A party at another organisation, behind the same interface as one in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc
from typing_extensions import override

from fedpredict.errors import FedPredictError, PartyUnavailableError, ProtocolError
from fedpredict.initiator.greeting import Acquaintance
from fedpredict.initiator.linking import Linker
from fedpredict.initiator.links import LinkPool
from fedpredict.initiator.offline_links import AGAIN_S, Inviter, OfflineLine
from fedpredict.initiator.pacing import Pacing
from fedpredict.initiator.unary import UnaryParty
from fedpredict.model.manifest import PartDescription
from fedpredict.model.populations import BucketAnswer, BucketQuery, BucketScorer
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.several import join_replies, split_by_model
from fedpredict.model.standing import BucketIds, PopulationNotice, PopulationStanding
from fedpredict.security.audit_calls import AuditedCalls
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls, as_live
from fedpredict.security.tls import TlsFiles, server_name, stated_identity
from fedpredict.security.trouble import Trouble
from fedpredict.wire import codec
from fedpredict.wire.bucket_codec import fill_bucket_query
from fedpredict.wire.channel import Compression, channel_options
from fedpredict.wire.link import Instance
from fedpredict.wire.link_caller import LinkCall
from fedpredict.wire.population_codec import fill_bucket_ids, fill_notice
from fedpredict.wire.socket_carrier import Preface
from fedpredict.wire.v1 import link_pb2, participant_pb2


@dataclass(frozen=True, slots=True)
class Dialler:
    """How this initiator reaches other parties.

    Attributes:
        party: This initiator's own party.
        tls: What it proves and believes; None for plain text, on loopback.
        me: This process.
        audit: What checkpoints are handed out of, and kept in; default: neither.
    """

    party: str
    tls: TlsFiles | LiveTls | None
    me: Instance = field(default_factory=Instance)
    audit: AuditedCalls = field(default_factory=lambda: AuditedCalls(None))

    def dial(self, party: str, address: str, compression: Compression = Compression.NONE) -> RemoteParty:
        """Return another party that listens; nothing is sent yet.

        Raises:
            CertificateError: This initiator's own TLS files cannot be used.
        """
        live = as_live(self.tls)
        who = Acquaintance(party, live, self.me, self.audit)
        metadata = (*self._stated(), *compression.metadata)

        def channel(pins: Sequence[bytes] = ()) -> grpc.aio.Channel:
            if live is None:
                return grpc.aio.insecure_channel(address, channel_options(), compression.of_grpc)
            options = channel_options(server_name(party))
            return grpc.aio.secure_channel(address, live.channel_credentials(pins), options, compression.of_grpc)

        stated = "" if self.tls else Identity(IdentityKind.PARTY, self.party).uri
        preface = Preface(stated, compress=compression is not Compression.NONE)
        trouble = Trouble(
            "party.unreachable", {"party": party}, address, server_name(party), live.files if live else None
        )

        def way(calls: str) -> tuple[LinkPool, UnaryParty, Linker]:
            pool, unary = LinkPool(who, calls), UnaryParty(who, channel, metadata=metadata)
            linker = Linker(
                who,
                pool,
                unary,
                address=address,
                live=live,
                preface=preface,
                dial_channel=channel,
                metadata=metadata,
                trouble=trouble,
            )
            return pool, unary, linker

        pool, unary, linker = way("offline")
        offline = OfflineLine(who, pool, unary=unary, opener=linker)
        pool, unary, linker = way("online")
        return RemoteParty(who, pool, offline, unary, linker)

    def expect(self, party: str) -> RemoteParty:
        """Return another party that will dial us.

        Raises:
            CertificateError: This initiator's own TLS files cannot be used.
        """
        who = Acquaintance(party, as_live(self.tls), self.me, self.audit)
        online, pool = LinkPool(who), LinkPool(who, "offline")
        offline = OfflineLine(who, pool, unary=None, opener=Inviter(who, pool, online), online=online)
        return RemoteParty(who, online, offline, None, None)

    def _stated(self) -> tuple[tuple[str, str], ...]:
        return () if self.tls else stated_identity(Identity(IdentityKind.PARTY, self.party))


class RemoteParty(PartyScorer, BucketScorer):
    """A participant across standing links, or, where it offers none, across calls of gRPC's own."""

    def __init__(
        self,
        who: Acquaintance,
        pool: LinkPool,
        offline: OfflineLine,
        unary: UnaryParty | None,
        linker: Linker | None,
    ) -> None:
        """Put a party together; entering it begins to dial.

        Args:
            who: The party that answers.
            pool: Its links for online questions; this object closes them.
            offline: Takes the calls of offline tasks; closed by this object.
            unary: The other way to it, closed by this object; None for a party that dials us.
            linker: Fills the pool; None for a party that dials us.
        """
        self.who = who
        self.pool = pool
        self.offline = offline
        self._unary = unary
        self._linker = linker
        self._linking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.pacing = Pacing(who.party, self._loop.time)
        """When it takes calls again: of every kind."""

    @property
    @override
    def party(self) -> str:
        """The party's id."""
        return self.who.party

    @property
    def carriers(self) -> dict[str, int]:
        """How many connections take calls now, by what carries them; empty while the party is away."""
        if self.pool.carriers or self._unary is None or not self._unary.is_met:
            return self.pool.carriers
        return {"unary": 1}

    @property
    def offline_carriers(self) -> dict[str, int]:
        """As `carriers`, of the connections that calls of offline tasks have for themselves."""
        return self.offline.carriers

    @property
    def reconnects(self) -> int:
        """How many links took the place of one that was lost."""
        return self.pool.reconnects

    async def __aenter__(self) -> Self:
        if self._linker is not None:
            self._linking = asyncio.create_task(self._linker.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; calls under way end."""
        if self._linking is not None:
            self._linking.cancel()
            await asyncio.wait({self._linking})
        await self.offline.close()
        await self.pool.close()
        if self._linker is not None:
            await self._linker.close()
        if self._unary is not None:
            await self._unary.close()

    async def hello(self, *, deadline_s: float) -> None:
        """Ask who answers, and prove it.

        Raises:
            PartyRefusedError: Another party, another protocol, or no proof.
            PartyError: The party is away, slow, or refuses.
        """
        if self._unary is None:
            raise PartyUnavailableError(f"party {self.party} dials us: nothing can be asked first", party=self.party)
        await self._unary.hello(deadline_s=deadline_s)

    @override
    async def describe(self, model_id: str, *, deadline_s: float) -> PartDescription:
        """Return what the party says of its part, once it is known to be about that model and party."""
        if self._unary is not None and not self.pool.takes_calls:
            return await self._unary.describe(model_id, deadline_s)
        request = self.who.describe(model_id)
        frame = link_pb2.Frame(describe=request)
        call = LinkCall(frame, self._loop.time() + deadline_s, self._described, self.pool.lost)
        self.pool.start(call)
        return self.who.description(request, await call)

    @override
    def score(self, query: ScoreQuery, *, deadline_s: float) -> Awaitable[PartyReply]:
        """Return the party's share, as a future where there is a link; the deadline travels with the call.

        Raises:
            PartyLimitedError: The party said to come back later, and that is not yet.
        """
        self.pacing.check()
        if query.further and not (self.pool.takes_several and self.pool.takes_calls):
            return self._score_each(query, deadline_s)
        if self._unary is not None and not self.pool.takes_calls:
            return self.pacing.noted(self._unary.score(query, deadline_s))
        frame = link_pb2.Frame()
        codec.fill_query(frame.score, query)
        call = LinkCall(frame, self._loop.time() + deadline_s, partial(self._scored, query), self.pool.lost)
        self.pool.start(call)
        return call

    @override
    async def score_bucket(self, query: BucketQuery, *, deadline_s: float) -> BucketAnswer:
        """Return the party's share of a bucket, asked for once more where the link is lost."""
        frame = link_pb2.Frame()
        fill_bucket_query(frame.score_bucket, query)
        ask = partial(self.offline.ask, frame, participant_pb2.BucketReply)
        return self.who.bucket(query, await self.pacing.paced(ask, deadline_s))

    async def notice_population(self, notice: PopulationNotice, *, deadline_s: float) -> PopulationStanding:
        """Tell the party of a version of a population, or ask after one.

        Raises:
            PopulationRefusedError: It does not take it.
            PartyError: The party is away, slow, or refuses.
        """
        frame = link_pb2.Frame()
        fill_notice(frame.population, notice)
        ask = partial(self.offline.ask, frame, participant_pb2.PopulationReply)
        return self.who.standing(notice, await self.pacing.paced(ask, deadline_s))

    async def put_bucket(self, bucket: BucketIds, *, deadline_s: float) -> None:
        """Send the party the ids of a bucket; errors are those of `notice_population`."""
        frame = link_pb2.Frame()
        fill_bucket_ids(frame.population_bucket, bucket)
        await self.pacing.paced(partial(self.offline.ask, frame, participant_pb2.PopulationBucketReply), deadline_s)

    def _described(self, call: LinkCall[participant_pb2.DescribeModelReply], frame: link_pb2.Frame) -> None:
        if frame.HasField("failure"):
            self._failed(call, self.who.failed(frame.failure))
        else:
            call.set_result(frame.described)

    def _scored(self, query: ScoreQuery, call: LinkCall[PartyReply], frame: link_pb2.Frame) -> None:
        if frame.HasField("failure"):
            if query.further and not self.pool.takes_several:
                self._split(query, call)
            else:
                self._failed(call, self.who.no_share(frame.failure))
            return
        try:
            reply = self.who.share(query, frame.scored)
        except FedPredictError as error:
            call.fail(error)
            return
        away = [each for each in reply.failures.values() if isinstance(each, PartyUnavailableError)]
        if away and len(away) == len(query.models):  # none is ready: as if the call itself had failed
            self._failed(call, away[0])
        else:
            call.set_result(reply)

    async def _score_each(self, query: ScoreQuery, deadline_s: float) -> PartyReply:
        """Ask for one model at a time: no call for several can be taken now."""
        queries = split_by_model(query)
        calls = [asyncio.ensure_future(self.score(each, deadline_s=deadline_s)) for each in queries]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        try:
            return join_replies(queries, [_expected(each) for each in outcomes])
        except ProtocolError as error:
            raise self.who.refused(error) from error

    def _split(self, query: ScoreQuery, call: LinkCall[PartyReply]) -> None:
        """Ask for one model at a time after all: an older party took the place of the one that was asked."""
        again = asyncio.ensure_future(self._score_each(query, call.ends - self._loop.time()))
        again.add_done_callback(partial(_pass_on, call))
        call.add_done_callback(lambda _: again.cancel())

    def _failed(self, call: LinkCall[Any], error: FedPredictError) -> None:
        self.pacing.note(error)
        comes_back = isinstance(error, PartyUnavailableError) and self.pool.unsettled
        if comes_back and call.ends - self._loop.time() > AGAIN_S:
            self.pool.start_later(call, AGAIN_S)
        else:
            call.fail(error)


def _expected(outcome: PartyReply | BaseException) -> PartyReply | FedPredictError:
    """Return an outcome; raise what is a defect, and not a party's failure."""
    if isinstance(outcome, PartyReply | FedPredictError):
        return outcome
    raise outcome


def _pass_on(call: LinkCall[PartyReply], again: asyncio.Future[PartyReply]) -> None:
    if call.done() or again.cancelled():
        return
    error = again.exception()
    if error is None:
        call.set_result(again.result())
    else:
        call.fail(error)
