"""How an initiator meets a participant and reads its answers: the same on calls of gRPC's own and on standing links."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field

import grpc

from fedpredict.errors import (
    DistinctIdsUsedUpError,
    FedPredictError,
    ManifestMismatchError,
    ModelNotFoundError,
    OutOfHoursError,
    PartyBusyError,
    PartyClosedError,
    PartyError,
    PartyLimitedError,
    PartyRefusedError,
    PartyTimeoutError,
    PartyUnavailableError,
    PopulationRefusedError,
    ProtocolError,
    RateLimitedError,
    SecurityError,
)
from fedpredict.model.manifest import PartDescription
from fedpredict.model.populations import BucketAnswer, BucketQuery
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.standing import PopulationNotice, PopulationStanding
from fedpredict.security.audit_calls import AuditedCalls
from fedpredict.security.callers import hold
from fedpredict.security.hello import ATTACH, NONCE_BYTES, hello_words
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.verdicts import Presented, check_same
from fedpredict.wire import codec
from fedpredict.wire.bucket_codec import bucket_answer_from_wire
from fedpredict.wire.checkpoints import checkpoints_from_wire, checkpoints_to_wire
from fedpredict.wire.description import description_from_wire
from fedpredict.wire.link import MASKED_SUMS, OFFLINE_LINK, OFFLINE_TASKS, SEVERAL_MODELS, Instance
from fedpredict.wire.link_caller import LinkCall, LinkCaller, fail_lost
from fedpredict.wire.masked_codec import masked_bucket_from_wire, masked_reply_from_wire
from fedpredict.wire.population_codec import standing_from_wire
from fedpredict.wire.status import code_of_failure, error_from_failure
from fedpredict.wire.v1 import common_pb2, link_pb2, participant_pb2

_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_BROKEN = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
MAX_WORKERS = 256
_INSTANT = len("2026-11-28T00:00:00Z")
_MAX_PORT = 65_535
_MOST_TOLD = 500
"""Characters of a peer's text that are passed on."""


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """What this initiator says of itself, and what a party must prove.

    Attributes:
        party: The party that must answer.
        live: What its hello is held to, and what this initiator proves; None where there is no TLS.
        me: This process.
        audit: What checkpoints are handed out of, and kept in.
    """

    party: str
    live: LiveTls | None
    me: Instance = field(default_factory=Instance)
    audit: AuditedCalls = field(default_factory=lambda: AuditedCalls(None))

    def hello(self) -> participant_pb2.HelloRequest:
        """Return a hello with a fresh nonce."""
        return participant_pb2.HelloRequest(
            protocol_version=codec.PROTOCOL_VERSION,
            nonce=secrets.token_bytes(NONCE_BYTES),
            instance=self.me.name,
            worker=self.me.worker,
            workers=self.me.workers,
        )

    def check(
        self, request: participant_pb2.HelloRequest, reply: participant_pb2.HelloReply, shown: Presented = ()
    ) -> Instance:
        """Return the process that answered.

        Args:
            request: What it was told.
            reply: What it answers.
            shown: What it showed in the handshake, where that can be seen.

        Raises:
            PartyRefusedError: Another party or protocol, no proof for this caller, or one of another certificate.
        """
        try:
            codec.check_protocol_version(reply.protocol_version)
            _check_who(reply, self.party)
            if self.live is not None:
                proof = (reply.certificate_chain, reply.signature)
                words = hello_words(self.live.identity, self.party)
                self.live.check_proof(self.party, *words, nonce=request.nonce, proof=proof)
                check_same(reply.certificate_chain, shown)
        except (ProtocolError, SecurityError) as error:
            raise self.refused(error) from error
        return Instance(
            reply.instance[:64],
            reply.worker,
            max(1, reply.workers),
            takes_several=SEVERAL_MODELS in reply.capabilities,
            takes_buckets=OFFLINE_TASKS in reply.capabilities,
            dials_offline=OFFLINE_LINK in reply.capabilities,
            for_offline=reply.for_offline,
            masks=MASKED_SUMS in reply.capabilities,
        )

    @property
    def shown(self) -> object:
        """What this initiator proves: another object when its certificate is another one."""
        return None if self.live is None else self.live.material

    def believes(self, chain_pem: bytes) -> bool:
        """Return whether a certificate that the party once proved is still good."""
        try:
            if self.live is not None:
                self.live.check(chain_pem)
        except SecurityError:
            return False
        return True

    async def greet(
        self, link: LinkCaller, deadline_s: float, *, shown: Presented = (), asked: bytes = b""
    ) -> Instance:
        """Say hello on a link and return the process that answered.

        Args:
            link: Which; it is closed when the party's certificate is good no more.
            deadline_s: How long to wait.
            shown: What the party showed in the handshake, where that can be seen.
            asked: The nonce by which the party, which dialled a stream, asks for our own proof; empty: it does not.

        Raises:
            ProtocolError: The nonce is none.
            PartyRefusedError: Another party, another protocol, or no proof.
            PartyError: The party is away, slow, or refuses.
        """
        request = self.hello()
        if asked and self.live is not None:
            proof = self.live.prove(ATTACH, self.live.identity.name, self.party, nonce=asked)
            request.certificate_chain, request.signature = proof
        reply = await self._say(request, link, deadline_s)
        instance = self.check(request, reply, shown)
        hold(self.live, link, reply.certificate_chain)
        return instance

    async def call_out(self, link: LinkCaller, deadline_s: float, *, wants_offline_link: bool = False) -> None:
        """Return when somebody answers on a link that was greeted before; nothing is proved again.

        Args:
            link: Which.
            deadline_s: How long to wait.
            wants_offline_link: Whether the party, which dialled the link, is to dial another one for offline tasks.

        Raises:
            PartyError: Nobody does, or the link takes no further call.
        """
        request = self.hello()
        request.ClearField("nonce")
        request.wants_offline_link = wants_offline_link
        await self._say(request, link, deadline_s)

    async def _say(
        self, request: participant_pb2.HelloRequest, link: LinkCaller, deadline_s: float
    ) -> participant_pb2.HelloReply:
        def answered(call: LinkCall[participant_pb2.HelloReply], frame: link_pb2.Frame) -> None:
            if frame.HasField("failure"):
                call.fail(self.failed(frame.failure))
            else:
                call.set_result(frame.hello_reply)

        def lost(call: LinkCall[participant_pb2.HelloReply], reason: str) -> None:
            fail_lost(call, reason, self.party)

        ends = asyncio.get_running_loop().time() + deadline_s
        call = LinkCall(link_pb2.Frame(hello=request), ends, answered, lost)
        link.start(call)
        return await call

    def describe(self, model_id: str) -> participant_pb2.DescribeModelRequest:
        """Return the question what a party's part of a model is."""
        return participant_pb2.DescribeModelRequest(
            protocol_version=codec.PROTOCOL_VERSION,
            request_id=codec.new_request_id(),
            model_id=model_id,
            checkpoints=checkpoints_to_wire(self.audit.handed()),
        )

    def description(
        self, request: participant_pb2.DescribeModelRequest, reply: participant_pb2.DescribeModelReply
    ) -> PartDescription:
        """Return what the party says of its part, once it is known to be about that model and party."""
        try:
            part = description_from_wire(reply)
        except ProtocolError as error:
            raise self.refused(error) from error
        if (reply.request_id, part.party, part.model_id) != (request.request_id, self.party, request.model_id):
            raise self.refused("it describes another model or party, or answers another request")
        self.audit.keep(Identity(IdentityKind.PARTY, self.party), checkpoints_from_wire(reply.checkpoints))
        return part

    def share(self, query: ScoreQuery, reply: participant_pb2.ScoreReply) -> PartyReply:
        """Return the party's share, checked against what was asked."""
        try:
            share = codec.reply_from_wire(reply, query, reply.values.columns)
            if reply.failures:
                failures = codec.failures_from_wire(reply, query)
                share.failures = {place: self.no_share(failure) for place, failure in failures.items()}
        except ProtocolError as error:
            raise self.refused(error) from error
        return share

    def masked_share(self, query: ScoreQuery, reply: participant_pb2.ScoreReply) -> PartyReply:
        """Return the party's masked share, checked against what was asked; the message is used up."""
        try:
            share = masked_reply_from_wire(reply, query)
            failures = codec.failures_from_wire(reply, query) if reply.failures else {}
        except ProtocolError as error:
            raise self.refused(error) from error
        share.failures = {place: self.no_share(failure) for place, failure in failures.items()}
        return share

    def masked_bucket(self, query: BucketQuery, reply: participant_pb2.BucketReply) -> BucketAnswer:
        """Return the party's masked share of a bucket, checked against what was asked; the message is used up."""
        try:
            return masked_bucket_from_wire(reply, query)
        except ProtocolError as error:
            raise self.refused(error) from error

    def bucket(self, query: BucketQuery, reply: participant_pb2.BucketReply) -> BucketAnswer:
        """Return the party's share of a bucket, checked against what was asked."""
        try:
            return bucket_answer_from_wire(reply, query)
        except ProtocolError as error:
            raise self.refused(error) from error

    def standing(self, notice: PopulationNotice, reply: participant_pb2.PopulationReply) -> PopulationStanding:
        """Return what the party says of a version of a population, checked against what it was told."""
        try:
            return standing_from_wire(reply, notice)
        except ProtocolError as error:
            raise self.refused(error) from error

    def no_share(self, failure: common_pb2.Failure) -> FedPredictError:
        """Return why there is no share: a model that the party does not know is a refusal, as it was agreed on."""
        error = self.failed(failure)
        return self.refused(error) if isinstance(error, ModelNotFoundError) else error

    def failed(self, failure: common_pb2.Failure) -> FedPredictError:
        """Return what a failure on a link means here."""
        return self.translate(code_of_failure(failure), failure.text, error_from_failure(failure))

    def translate(self, code: grpc.StatusCode, text: str, error: FedPredictError) -> FedPredictError:
        """Return what the failure of a call to the party means here; a refusal has the party's own error as its cause.

        Args:
            code: The status.
            text: The text beside it.
            error: The error of our tree that it stands for.
        """
        told = f"party {self.party}: {code.name}: {_plain(text)}"
        if code in _AWAY:
            return PartyUnavailableError(told, party=self.party)
        known = self._known(error, told)
        if known is not None:
            return known
        if code in _BROKEN:
            return PartyUnavailableError(told, party=self.party)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return PartyTimeoutError(told, party=self.party)
        refused = PartyRefusedError(told, party=self.party)
        refused.__cause__ = error  # what the party calls it
        return refused

    def _known(self, error: FedPredictError, told: str) -> FedPredictError | None:
        """Return what an error means here that says more than its status."""
        if isinstance(error, ManifestMismatchError | ModelNotFoundError):
            return type(error)(told)
        if isinstance(error, PopulationRefusedError):
            return PopulationRefusedError(told, population=_plain(error.population), problem=_plain(error.problem))
        if isinstance(error, RateLimitedError):
            return PartyLimitedError(told, party=self.party, retry_after_ms=error.retry_after_ms)
        if isinstance(error, DistinctIdsUsedUpError):
            return DistinctIdsUsedUpError(told, until=_plain(error.until)[:_INSTANT])
        return PartyClosedError(told, party=self.party) if isinstance(error, OutOfHoursError) else None

    def refused(self, error: object) -> PartyError:
        """Return the error for an answer that cannot be used."""
        return PartyRefusedError(f"party {self.party}: {error}", party=self.party)

    def no_offline_tasks(self) -> PartyError:
        """Return the error for a call of offline tasks to a party that does not offer them."""
        return self.refused("it does not offer offline tasks (offline_tasks is not in its hello): a newer release does")

    def busy(self, n_calls: int) -> PartyError:
        """Return the error for a call that may not even wait."""
        return PartyBusyError(f"party {self.party}: {n_calls} calls wait for a link", party=self.party)


def _check_who(reply: participant_pb2.HelloReply, party: str) -> None:
    if reply.party != party:
        raise ProtocolError(f"party {reply.party[:63]!r} answers")
    if not reply.worker < max(1, reply.workers) <= MAX_WORKERS:
        raise ProtocolError(f"worker {reply.worker} of {reply.workers} answers")
    if reply.link_port > _MAX_PORT:
        raise ProtocolError(f"links at port {reply.link_port}, which is none")


def _plain(text: str) -> str:
    """Return a peer's text for logs and terminals: not endless, and without what moves a cursor."""
    return "".join(each if each.isprintable() else "?" for each in text[:_MOST_TOLD])
