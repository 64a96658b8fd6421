"""A failed call, told from the client's side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import grpc

from fedpredict.client.connection import Deadline, Target
from fedpredict.errors import (
    DeadlineExceededError,
    FedPredictError,
    ModelNotFoundError,
    ProtocolError,
    ServerUnavailableError,
)
from fedpredict.wire.ending import NOT_TOLD
from fedpredict.wire.status import TRAILER, error_from_failure, error_from_rpc
from fedpredict.wire.v1 import common_pb2

RECONNECT_S = 3.0
"""How long a call waits for a server that is not there, for example because it restarts, before it gives up."""

_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""A server that stops cancels the calls that it did not get to."""


class LostConnectionError(Exception):
    """No server of ours took the call, or it went away before its answer: asking again may help."""


class NoStreamError(Exception):
    """The server does not offer `PredictStream`."""


class TooLargeError(Exception):
    """The message is larger than any server takes; it was not sent, and says nothing of the server."""


def is_lost_connection(error: grpc.RpcError) -> bool:
    """Return whether a call failed because no server of ours was there, so that trying once more is worth it."""
    # the stubs describe one trailer; at run time it is an iterable of (key, value) pairs, or None
    trailers = {key for key, _ in cast(Iterable[tuple[str, bytes]], error.trailing_metadata() or ())}
    return (error.code() in _LOST or error.details() == NOT_TOLD) and TRAILER not in trailers


def unavailable(target: Target) -> ServerUnavailableError:
    """Return the error for a server that cannot be reached, with what to look at."""
    hint = "is it running?" if target.credentials is None else "is it running, and do its certificates fit yours?"
    return ServerUnavailableError(
        f"the server at {target.address} cannot be reached; {hint} (`fedpredict doctor` looks into it)"
    )


def circuit_open(target: Target, failures: int, wait_s: float) -> ServerUnavailableError:
    """Return the error for a call that is not made, because those before it found no server."""
    return ServerUnavailableError(
        f"the server at {target.address} did not answer the last {failures} calls; it is tried again in {wait_s:.1f} s"
    )


def from_rpc(error: grpc.RpcError) -> Exception:
    """Return what a failed call means: `LostConnectionError`, or an error of our tree."""
    return LostConnectionError(str(error.code())) if is_lost_connection(error) else error_from_rpc(error)


def from_stream(error: grpc.RpcError) -> Exception:
    """Return what the end of a stream means: as `from_rpc`, or `NoStreamError`."""
    meaning = from_rpc(error)
    return NoStreamError(str(error.details())) if _is_unknown(error, meaning) else meaning


def _is_unknown(error: grpc.RpcError, meaning: Exception) -> bool:
    return error.code() is grpc.StatusCode.UNIMPLEMENTED and type(meaning) is ProtocolError


def from_failure(message: common_pb2.Failure) -> Exception:
    """Return what the failure of a call on a stream means; a stream that drains did not take it."""
    error = error_from_failure(message)
    return LostConnectionError(str(error)) if type(error) is ServerUnavailableError else error


def told(error: FedPredictError, target: Target, deadline: Deadline, model_id: str = "") -> FedPredictError:
    """Return `error` with a message that names the server or the model, where its public text does not."""
    if type(error) is DeadlineExceededError:
        return DeadlineExceededError(f"{target.address} did not answer within {deadline.timeout_s:g} s")
    if type(error) is ModelNotFoundError:
        what = f"no model {model_id!r}" if model_id else "no model"
        return ModelNotFoundError(f"{what} for this caller at {target.address}")
    return error


def translate(error: grpc.RpcError, target: Target, deadline: Deadline, model_id: str = "") -> FedPredictError:
    """Return the error of our tree for a call that is not made again; the message names the server or the model."""
    meaning = from_rpc(error)
    if _is_unknown(error, meaning):
        what = "it is no initiator (a participant, perhaps), or another release"
        return ProtocolError(f"{target.address} does not know the call: {what}")
    return told(meaning, target, deadline, model_id) if isinstance(meaning, FedPredictError) else unavailable(target)
