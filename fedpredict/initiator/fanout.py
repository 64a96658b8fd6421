"""A party at another organisation, behind the same interface as one in this process."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from typing_extensions import override

from fedpredict.errors import (
    CertificateError,
    FedPredictError,
    ManifestMismatchError,
    ModelNotFoundError,
    PartyError,
    PartyRefusedError,
    PartyTimeoutError,
    PartyUnavailableError,
    ProtocolError,
)
from fedpredict.model.manifest import PartDescription
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.security.hello import NONCE_BYTES, verify_hello
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import TlsFiles, channel_credentials, read_tls, server_name, stated_identity
from fedpredict.wire import codec
from fedpredict.wire.channel import channel_options
from fedpredict.wire.status import error_from_rpc
from fedpredict.wire.v1 import participant_pb2

logger = logging.getLogger(__name__)

_SERVICE = "/fedpredict.wire.v1.ParticipantService/"
_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_BROKEN = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})

_Reply = TypeVar("_Reply", bound=Message)


@dataclass(frozen=True, slots=True)
class Dialler:
    """How this initiator reaches other parties.

    Attributes:
        party: This initiator's own party.
        tls: Its certificate and the CA; None for plain text, on loopback.
    """

    party: str
    tls: TlsFiles | None

    def dial(self, party: str, address: str) -> RemoteParty:
        """Return another party, with a channel of its own; nothing is sent yet.

        Raises:
            CertificateError: This initiator's own TLS files cannot be used.
        """
        if self.tls is None:
            channel = grpc.aio.insecure_channel(address, options=channel_options())
            stated = stated_identity(Identity(IdentityKind.PARTY, self.party))
            return RemoteParty(party, channel, ca_pem=None, metadata=stated)
        options = channel_options(server_name(party))
        channel = grpc.aio.secure_channel(address, channel_credentials(self.tls), options=options)
        return RemoteParty(party, channel, ca_pem=read_tls(self.tls).ca_pem, metadata=())


class RemoteParty(PartyScorer):
    """A participant across a channel.

    The first call on a connection is preceded by a hello: the party must speak this protocol, be the party meant, and
    sign a nonce with its certificate's key. The channel connects again by itself; a hello follows then too.
    """

    def __init__(
        self,
        party: str,
        channel: grpc.aio.Channel,
        *,
        ca_pem: bytes | None,
        metadata: tuple[tuple[str, str], ...],
    ) -> None:
        """Wrap a channel, which this object closes.

        Args:
            party: The party that must answer.
            channel: Where it is.
            ca_pem: The authorities that its hello is held to; None where there is no TLS.
            metadata: Sent with every call.
        """
        self._party = party
        self._channel = channel
        self._ca_pem = ca_pem
        self._metadata = metadata
        self._greeted = False
        self._instance = ""

    @property
    @override
    def party(self) -> str:
        """The party's id."""
        return self._party

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; calls under way end."""
        await self._channel.close(None)

    async def hello(self, *, deadline_s: float) -> None:
        """Ask who answers, and prove it.

        Raises:
            PartyRefusedError: Another party, another protocol, or no proof.
            PartyError: The party is away, slow, or refuses.
        """
        nonce = secrets.token_bytes(NONCE_BYTES)
        request = participant_pb2.HelloRequest(protocol_version=codec.PROTOCOL_VERSION, nonce=nonce)
        reply = await self._call("Hello", request, participant_pb2.HelloReply, deadline_s)
        try:
            self._check_hello(reply, nonce)
        except (ProtocolError, CertificateError) as error:
            raise self._refused(error) from error
        self._greeted = True
        if reply.instance != self._instance:
            logger.info("party.met", extra={"party": self._party, "restarted": bool(self._instance)})
            self._instance = reply.instance

    @override
    async def describe(self, model_id: str, *, deadline_s: float) -> PartDescription:
        """Return what the party says of its part, once it is known to be about that model and party."""
        await self._greet(deadline_s)
        request = participant_pb2.DescribeModelRequest(
            protocol_version=codec.PROTOCOL_VERSION, request_id=codec.new_request_id(), model_id=model_id
        )
        reply = await self._call("DescribeModel", request, participant_pb2.DescribeModelReply, deadline_s)
        try:
            part = codec.description_from_wire(reply)
        except ProtocolError as error:
            raise self._refused(error) from error
        if (reply.request_id, part.party, part.model_id) != (request.request_id, self._party, model_id):
            raise self._refused("it describes another model or party, or answers another request")
        return part

    @override
    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        """Return the party's share; the deadline travels with the call."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + deadline_s
        await self._greet(deadline_s)
        remaining_s = ends - loop.time()
        request = codec.query_to_wire(query, int(remaining_s * 1000))
        try:
            reply = await self._call("Score", request, participant_pb2.ScoreReply, remaining_s)
            return codec.reply_from_wire(reply, query, reply.values.columns)
        except (ModelNotFoundError, ProtocolError) as error:
            raise self._refused(error) from error

    def _check_hello(self, reply: participant_pb2.HelloReply, nonce: bytes) -> None:
        codec.check_protocol_version(reply.protocol_version)
        if reply.party != self._party:
            raise ProtocolError(f"party {reply.party[:63]!r} answers")
        if self._ca_pem is not None:
            verify_hello(self._ca_pem, self._party, nonce, reply.certificate_chain, reply.signature)

    async def _greet(self, deadline_s: float) -> None:
        if self._channel.get_state() is not grpc.ChannelConnectivity.READY:
            self._greeted = False
        if not self._greeted:
            await self.hello(deadline_s=deadline_s)

    async def _call(self, method: str, request: Message, reply_type: type[_Reply], deadline_s: float) -> _Reply:
        if deadline_s <= 0.0:
            raise PartyTimeoutError(f"party {self._party}: no time left to ask", party=self._party)
        # The reply is parsed here: gRPC's own deserialiser turns one that does not parse into None.
        call = self._channel.unary_unary(_SERVICE + method, None, None)
        try:
            data = await call(request.SerializeToString(), timeout=deadline_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error
        try:
            return reply_type.FromString(data)
        except DecodeError as error:
            raise self._refused(error) from error

    def _translate(self, failed: grpc.aio.AioRpcError) -> FedPredictError:
        error = error_from_rpc(failed)
        told = f"party {self._party}: {failed.code().name}: {str(failed.details())[:500]}"
        if failed.code() in _AWAY:
            self._greeted = False
            return PartyUnavailableError(told, party=self._party)
        if isinstance(error, ManifestMismatchError | ModelNotFoundError):
            return type(error)(told)
        if failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return PartyTimeoutError(told, party=self._party)
        if failed.code() in _BROKEN:
            return PartyUnavailableError(told, party=self._party)
        return PartyRefusedError(told, party=self._party)

    def _refused(self, error: object) -> PartyError:
        return PartyRefusedError(f"party {self._party}: {error}", party=self._party)
