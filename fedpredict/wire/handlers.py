"""Method handlers that parse inside the handler, so that a broken message gets a status and a log line of ours.

With gRPC's own deserialisers a message that does not parse never reaches Python's handlers: the caller sees INTERNAL
and nobody sees why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from typing_extensions import override

from fedpredict.errors import ProtocolError
from fedpredict.model.few import FewStrangers
from fedpredict.public_status import Code, public_status
from fedpredict.wire.channel import COMPRESSION_METADATA, Compression
from fedpredict.wire.status import abort

logger = logging.getLogger(__name__)

_strangers = FewStrangers()
Request = TypeVar("Request", bound=Message)
Context = grpc.aio.ServicerContext[bytes, bytes]
Unread: TypeAlias = Callable[[Context, ProtocolError], None]
"""Told of a message that does not parse; may raise what the caller is to learn instead."""


def always(_error: BaseException) -> bool:
    """Return that every error gets a line in the log."""
    return True


def unary(
    request_type: type[Request],
    method: Callable[[Request, Context], Awaitable[Message]],
    wants: Callable[[BaseException], bool] = always,
    unread: Unread | None = None,
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Return a handler for a unary call.

    Whatever `method` raises becomes a public status: an error of ours as its table says, anything unexpected
    "internal error" with the traceback in our log alone.

    Args:
        request_type: The message class to parse.
        method: Gets the parsed request and the call's context; returns the reply.
        wants: Whether an error gets a line in the log.
        unread: Told of a message that does not parse, which `method` never sees; default: nobody is.
    """

    async def handle(data: bytes, context: Context) -> bytes:
        try:
            try:
                request = parse(request_type, data)
            except ProtocolError as error:
                if unread is not None:
                    unread(context, error)
                raise
            return (await method(request, context)).SerializeToString()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  an edge: nothing but a public status may leave
            if wants(error):
                log_failure(error)
            await abort(context, error)

    return grpc.unary_unary_rpc_method_handler(handle)


def stream(method: Callable[[Context], Awaitable[None]]) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Return a handler for a stream both ways, of messages as bytes; what `method` raises becomes a public status.

    Args:
        method: Reads from and writes to the call's context, and returns when the stream is to end.
    """

    async def handle(_: object, context: Context) -> None:
        try:
            await method(context)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  an edge: nothing but a public status may leave
            log_failure(error)
            await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(handle)


def compress_like_caller(context: Context) -> None:
    """Compress the answers to a call as its caller asked for in the metadata."""
    for key, value in context.invocation_metadata() or ():
        if key == COMPRESSION_METADATA and value in set(Compression):
            context.set_compression(Compression(str(value)).of_grpc)


def service(
    full_name: str, methods: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]
) -> grpc.GenericRpcHandler[bytes, bytes]:
    """Return the handlers of a service, by method name, for `server.add_generic_rpc_handlers`.

    Args:
        full_name: Such as "fedpredict.wire.v1.ParticipantService".
        methods: Method name -> handler.
    """
    return grpc.method_handlers_generic_handler(full_name, dict(methods))


class Guarded(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # the stubs alone have arguments
    """Services of which no method is there that a table does not name, however it came to be registered."""

    def __init__(self, services: Sequence[grpc.GenericRpcHandler[bytes, bytes]], table: Container[str]) -> None:
        """Put services behind a table.

        Args:
            services: Their handlers.
            table: The methods that somebody thought about, such as "fedpredict.wire.v1.ParticipantService/Score".
        """
        self._services = tuple(services)
        self._table = table

    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Return a method's handler; None, which callers see as UNIMPLEMENTED, where there is none in the table."""
        found = next(filter(None, (each.service(handler_call_details) for each in self._services)), None)
        if found is not None and handler_call_details.method.removeprefix("/") not in self._table:
            logger.error("call.in_no_table", extra={"method": handler_call_details.method})
            return None
        return found


def parse(request_type: type[Request], data: bytes) -> Request:
    """Return the message in `data`; raise `ProtocolError` where it does not parse."""
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise ProtocolError(f"a {request_type.DESCRIPTOR.name} of {len(data)} bytes does not parse") from error


def log_failure(error: BaseException, **fields: object) -> None:
    """Log a call that failed: what is ours as refused, anything unexpected with its traceback.

    Of callers who did not prove who they are, a few in each second; a later line says how many were `left_out`.

    Args:
        error: What it failed with.
        fields: Of the call, where no log context holds them.
    """
    more = _strangers.fields(error)
    if more is None:
        return
    public = public_status(error)
    if public.code is Code.INTERNAL:
        logger.error("call.failed", extra={"error": type(error).__name__, **fields}, exc_info=error)
    else:
        logger.info("call.refused", extra={"error": type(error).__name__, "reason": str(error), **more, **fields})
