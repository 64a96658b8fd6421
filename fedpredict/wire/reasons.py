"""Reason codes as messages. Raises `ProtocolError` on what breaks the protocol."""

from __future__ import annotations

import numpy as np

from fedpredict.errors import ProtocolError
from fedpredict.model.reasons import NO_MORE, Reasons
from fedpredict.model.scorecard import MAX_REASON, MAX_REASONS
from fedpredict.wire.v1 import common_pb2


def reasons_to_wire(message: common_pb2.ReasonCodes, reasons: Reasons) -> None:
    """Write reasons into an empty message."""
    message.codes.extend(reasons.codes)
    message.width = reasons.which.shape[1]
    message.which = reasons.which.astype("<u2").tobytes()


def reasons_from_wire(message: common_pb2.ReasonCodes, n_samples: int) -> Reasons | None:
    """Return the reasons of a message for so many samples; None where it has none."""
    if not message.width:
        if message.codes or message.which:
            raise ProtocolError("reason codes without a width")
        return None
    if message.width > MAX_REASONS or len(message.which) != 2 * n_samples * message.width:
        raise ProtocolError(f"reason codes of {len(message.which)} bytes for {n_samples} samples of {message.width}")
    if any(not 1 <= len(code) <= MAX_REASON or not code.isprintable() for code in message.codes):
        raise ProtocolError(f"a reason code that is not 1 to {MAX_REASON} printable characters")
    which = np.frombuffer(message.which, dtype="<u2").reshape(n_samples, message.width).astype(np.uint16)
    if len(message.codes) > NO_MORE or ((which >= len(message.codes)) & (which != NO_MORE)).any():
        raise ProtocolError("a reason code that is not told")
    return Reasons(tuple(message.codes), which)
