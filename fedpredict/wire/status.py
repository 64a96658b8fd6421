"""Our errors as gRPC statuses, and back: the only place that knows both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn, cast

import grpc
from google.protobuf.message import DecodeError

from fedpredict import errors
from fedpredict.errors import FedPredictError
from fedpredict.public_status import STATUS, Code, public_status
from fedpredict.wire.v1 import common_pb2

TRAILER = "fedpredict-error-bin"

GRPC_CODES: dict[Code, grpc.StatusCode] = {
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Code.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Code.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}

_WITHOUT_TRAILER: dict[grpc.StatusCode, type[FedPredictError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.ServerUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.UNIMPLEMENTED: errors.ProtocolError,
}
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
TOO_LARGE = common_pb2.Failure(
    code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], text="the answer is larger than a message may be"
)


async def abort(context: grpc.aio.ServicerContext[bytes, bytes], error: BaseException) -> NoReturn:
    """End a call with what the outside may know of `error`: status, public text, and the error's name in a trailer."""
    public = public_status(error)
    if public.code is not Code.INTERNAL:
        context.set_trailing_metadata(((TRAILER, error_to_wire(error).SerializeToString()),))
    await context.abort(GRPC_CODES[public.code], public.text)
    raise AssertionError("unreachable: abort raises")


def error_to_wire(error: BaseException) -> common_pb2.ErrorDetail:
    """Return the name and the public fields of an error whose public status is not internal."""
    fields = error.public_fields if isinstance(error, FedPredictError) else ()
    return common_pb2.ErrorDetail(
        error=type(error).__name__, fields={name: str(getattr(error, name)) for name in fields}
    )


def failure_to_wire(error: BaseException) -> common_pb2.Failure:
    """Return, for a link, what `abort` says of an error on a call of its own."""
    public = public_status(error)
    detail = None if public.code is Code.INTERNAL else error_to_wire(error)
    return common_pb2.Failure(code=GRPC_CODES[public.code].value[0], text=public.text, detail=detail)


def code_of_failure(failure: common_pb2.Failure) -> grpc.StatusCode:
    """Return the status of a failure; UNKNOWN for a number that is none."""
    return _BY_NUMBER.get(failure.code, grpc.StatusCode.UNKNOWN)


def error_from_failure(failure: common_pb2.Failure) -> FedPredictError:
    """Return the error of our tree that a failure on a link stands for; its message is the public text."""
    code = code_of_failure(failure)
    if failure.HasField("detail"):
        return _build(failure.detail, failure.text)
    return _WITHOUT_TRAILER.get(code, FedPredictError)(failure.text)


def error_from_rpc(error: grpc.RpcError) -> FedPredictError:
    """Return the error of our tree that a failed call stands for; its message is the public text.

    Without our trailer the status alone decides: the server was not reached, the deadline passed, or something that is
    not ours answered.
    """
    code = error.code()
    text = str(error.details() or code.name)
    # the stubs describe one trailer; at run time it is an iterable of (key, value) pairs, or None
    for key, value in cast(Iterable[tuple[str, bytes]], error.trailing_metadata() or ()):
        if key == TRAILER:
            return _build(_detail(value), text)
    return _WITHOUT_TRAILER.get(code, FedPredictError)(text)


def _detail(data: bytes) -> common_pb2.ErrorDetail:
    try:
        return common_pb2.ErrorDetail.FromString(data)
    except DecodeError:
        return common_pb2.ErrorDetail()


def _build(detail: common_pb2.ErrorDetail, text: str) -> FedPredictError:
    known = {cls.__name__: cls for cls in STATUS}
    cls = known.get(detail.error, FedPredictError)
    try:
        return cls(text, **{name: detail.fields[name] for name in cls.public_fields})
    except (TypeError, ValueError):
        return FedPredictError(text)
