"""A failed call, told from the client's side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import grpc

from fedpredict.client.connection import Deadline, Target
from fedpredict.errors import DeadlineExceededError, FedPredictError, ModelNotFoundError, ServerUnavailableError
from fedpredict.wire.status import TRAILER, error_from_rpc

RECONNECT_S = 3.0
"""How long a call waits for a server that is not there, for example because it restarts, before it gives up."""

_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""A server that stops cancels the calls that it did not get to."""


def is_lost_connection(error: grpc.RpcError) -> bool:
    """Return whether a call failed because no server of ours was there, so that trying once more is worth it."""
    # the stubs describe one trailer; at run time it is an iterable of (key, value) pairs, or None
    trailers = {key for key, _ in cast(Iterable[tuple[str, bytes]], error.trailing_metadata() or ())}
    return error.code() in _LOST and TRAILER not in trailers


def unavailable(target: Target) -> ServerUnavailableError:
    """Return the error for a server that cannot be reached, with what to look at."""
    hint = "is it running?" if target.credentials is None else "is it running, and do its certificates fit yours?"
    return ServerUnavailableError(
        f"the server at {target.address} cannot be reached; {hint} (`fedpredict doctor` looks into it)"
    )


def translate(error: grpc.RpcError, target: Target, deadline: Deadline, model_id: str = "") -> FedPredictError:
    """Return the error of our tree for a failed call; the message names the server or the model."""
    if is_lost_connection(error):
        return unavailable(target)
    translated = error_from_rpc(error)
    if type(translated) is DeadlineExceededError:
        return DeadlineExceededError(f"{target.address} did not answer within {deadline.timeout_s:g} s")
    if type(translated) is ModelNotFoundError:
        return ModelNotFoundError(f"no model {model_id!r} for this caller at {target.address}")
    return translated
