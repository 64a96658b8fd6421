"""Between the message of an initiator's own features and model values."""

from __future__ import annotations

import numpy as np

from fedpredict.errors import InputsRefusedError, ProtocolError
from fedpredict.model.arrays import Floats
from fedpredict.model.inputs import MAX_TEXT_BYTES, Inputs, is_too_long
from fedpredict.wire.codec import matrix_view_from_wire
from fedpredict.wire.v1 import initiator_pb2

_POSITION = np.dtype("<u4")
_MISSING = 2**32 - 1
_NAME_SHOWN = 80


def inputs_to_wire(inputs: Inputs, message: initiator_pb2.Inputs) -> None:
    """Write inputs into a message."""
    numbers = [place for place, name in enumerate(inputs.names) if name not in inputs.texts]
    values = inputs.values if not inputs.texts else inputs.values[:, numbers]
    message.names.extend(inputs.names[place] for place in numbers)
    message.values.rows, message.values.columns = values.shape
    message.values.values = values.astype("<f8", copy=False).tobytes()
    for name, texts in inputs.texts.items():
        codes = inputs.values[:, inputs.names.index(name)]
        positions = np.where(np.isnan(codes), _MISSING, codes).astype(_POSITION)
        message.texts.add(name=name, texts=texts, positions=positions.tobytes())


def inputs_from_wire(message: initiator_pb2.Inputs, n_samples: int) -> Inputs:
    """Return the inputs of a message.

    Raises:
        ProtocolError: It breaks the protocol.
        InputsRefusedError: A text is too long.
    """
    names = tuple(message.names)
    try:
        values = matrix_view_from_wire(message.values, n_samples, len(names))
        if not message.texts:
            return Inputs(names, values)
        columns = [_codes(each, n_samples) for each in message.texts]
        texts = {each.name: tuple(each.texts) for each in message.texts}
        return Inputs((*names, *(each.name for each in message.texts)), np.column_stack([values, *columns]), texts)
    except ValueError as error:
        raise ProtocolError(str(error)) from error


def refused_text(name: str) -> InputsRefusedError:
    """Return the error for a feature with a text of more than `MAX_TEXT_BYTES`."""
    shown, problem = ascii(name[:_NAME_SHOWN]), f"has a text of more than {MAX_TEXT_BYTES} bytes"
    return InputsRefusedError(f"inputs: feature {shown} {problem}", feature=shown, problem=problem)


def _codes(message: initiator_pb2.InputTexts, n_samples: int) -> Floats:
    if any(map(is_too_long, message.texts)):
        raise refused_text(message.name)
    if len(message.positions) != n_samples * _POSITION.itemsize:
        raise ProtocolError(f"{len(message.positions)} bytes of positions of texts for {n_samples} samples")
    positions = np.frombuffer(message.positions, dtype=_POSITION)
    missing = positions == _MISSING
    if not (missing | (positions < len(message.texts))).all():
        raise ProtocolError("a position of a text that there is not")
    return np.where(missing, np.nan, positions)
