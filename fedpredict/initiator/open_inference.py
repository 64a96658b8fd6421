"""The Open Inference Protocol v2 as this initiator speaks it, apart from any transport: tensors in, tensors out.

A model takes `sample_id` (BYTES, [-1]) and, optionally, features of the initiator's own by name; it gives `prediction`
(FP64, [-1, k]) and `status` (BYTES, [-1]). The HTTP and the gRPC edge translate their messages into these values; every
check on a tensor is here, and raises `FieldError` with the tensor's name as the place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedpredict import __version__
from fedpredict.errors import FieldError, ModelNotFoundError, TooManySamplesError, UnscoredError
from fedpredict.initiator.tensors import CELL_TYPES, pack_strings, unpack_strings
from fedpredict.model.inputs import MAX_TEXT_BYTES, Inputs, inputs_of
from fedpredict.model.prediction import ModelInfo, Prediction
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.wire.channel import MAX_SAMPLES_PER_CALL

SERVER_NAME = "fedpredict"
PLATFORM = "fedpredict"
SAMPLE_ID, PREDICTION, STATUS = "sample_id", "prediction", "status"
OUTPUTS = (PREDICTION, STATUS)
BYTES, FP64 = "BYTES", "FP64"
SHORT_VERSION = 12
"""A version can be named by this many of the manifest's digits; metadata lists it so."""
ROWS_NAMED = 100
"""An `UnscoredError` names at most so many rows."""
_LONGEST, _MOST_CELLS = 1e12, 2**31
"""Bounds of times and shapes that are far beyond any that is taken; JSON's whole numbers have none."""

_STATUS_NAMES = {int(status): status.name.encode() for status in SampleStatus}

Parameter: TypeAlias = bool | int | float | str
"""What a parameter can be; the transports refuse anything else."""


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One input or output of a model, as metadata tell it; -1 stands for any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model, as metadata tell it."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """This server, as metadata tell it; each transport names its own extensions."""

    name: str
    version: str


# not frozen, though nobody changes one: a request has hundreds, and a frozen one takes three times as long to make
@dataclass(slots=True, eq=False)
class Tensor:
    """One tensor of a request or an answer.

    Attributes:
        name: As the request writes it.
        datatype: The protocol's name: BYTES, FP64 ...
        shape: As the request writes it; its product is the number of cells.
        cells: The cells, row by row: packed strings where the datatype is BYTES, else one array, shape (n_cells,).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    cells: SampleIds | NDArray[Any]

    def to_raw(self) -> bytes:
        """Return the cells as the binary tensor extension writes them: little-endian, strings after their lengths."""
        return pack_strings(self.cells) if isinstance(self.cells, SampleIds) else self.cells.tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What the input tensors of a request hold.

    Attributes:
        sample_ids: Tensor `sample_id`.
        inputs: Every other tensor, as features; None where there is none.
    """

    sample_ids: SampleIds
    inputs: Inputs | None


@dataclass(frozen=True, slots=True)
class Options:
    """What the parameters of a request say; those that are not ours are ignored, as the protocol asks.

    Attributes:
        mode: Parameter `mode`.
        deadline_s: Parameter `timeout_ms`, or Triton's `timeout` in microseconds; None without either.
        allow_partial: Whether rows without a score may be null in JSON.
    """

    mode: Mode = Mode.NEARLINE
    deadline_s: float | None = None
    allow_partial: bool = False


def server_metadata() -> ServerMetadata:
    """Return what this server says of itself."""
    return ServerMetadata(SERVER_NAME, __version__)


def model_metadata(info: ModelInfo) -> ModelMetadata:
    """Return what users of the protocol see of a model; without a pinned manifest it has no version.

    Features of the initiator's own are optional, so they are no inputs here: clients would have to send all of them.
    """
    width = info.n_outputs or -1
    return ModelMetadata(
        name=info.model_id,
        versions=(info.manifest_sha256[:SHORT_VERSION],) if info.manifest_sha256 else (),
        platform=PLATFORM,
        inputs=(TensorMetadata(SAMPLE_ID, BYTES, (-1,)),),
        outputs=(TensorMetadata(PREDICTION, FP64, (-1, width)), TensorMetadata(STATUS, BYTES, (-1,))),
    )


def check_version(info: ModelInfo, version: str) -> None:
    """Raise `ModelNotFoundError` unless `version` is empty or names the pinned manifest, by 12 or all of its digits."""
    pinned = info.manifest_sha256
    if version and (not pinned or version not in (pinned, pinned[:SHORT_VERSION])):
        raise ModelNotFoundError(f"model {info.model_id} has no version of that name; pinned is {pinned or 'nothing'}")


def parse_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """Return a tensor of the binary extension; raise `FieldError` where its bytes do not fit its shape and type."""
    n_cells = _n_cells(name, shape)
    cell = CELL_TYPES.get(datatype)
    if cell is None:
        _check_datatype(name, datatype)
        return Tensor(name, datatype, tuple(shape), _strings(name, n_cells, raw))
    if len(raw) != n_cells * cell.itemsize:
        raise _wrong(name, f"{len(raw)} bytes for {n_cells} cells of {datatype}")
    return Tensor(name, datatype, tuple(shape), np.frombuffer(raw, dtype=cell))


def parse_cells(name: str, datatype: str, shape: Sequence[int], cells: Sequence[Any]) -> Tensor:
    """Return a tensor of typed cells (JSON's, or protobuf's contents); raise `FieldError` where they do not fit.

    Args:
        name: The tensor's name.
        datatype: Its type.
        shape: Its shape.
        cells: Row by row: bytes or str where the datatype is BYTES, else numbers, or booleans for BOOL. None is a
            missing value, for FP32 and FP64 only.
    """
    n_cells = _n_cells(name, shape)
    _check_datatype(name, datatype)
    if len(cells) != n_cells:
        raise _wrong(name, f"{len(cells)} cells for a shape of {n_cells}")
    if datatype == BYTES:
        return Tensor(name, datatype, tuple(shape), _texts(name, cells))
    try:
        with np.errstate(over="raise"):  # what FP32 has no number for would be an infinity
            array = np.array(cells, dtype=CELL_TYPES[datatype])
    except (TypeError, ValueError, OverflowError, FloatingPointError) as error:
        raise _wrong(name, f"a cell is no {datatype}") from error
    return Tensor(name, datatype, tuple(shape), array.reshape(n_cells))


def features_of(tensors: Sequence[Tensor]) -> Features:
    """Return the sample ids and features that input tensors hold, checked against each other.

    Raises:
        FieldError: No `sample_id`, a tensor twice, or one that is not one column of as many rows.
        TooManySamplesError: More rows than any process takes.
    """
    named = {tensor.name: tensor for tensor in tensors}
    if len(named) != len(tensors):
        raise FieldError("input tensors of the same name", place="inputs", problem="a tensor is there twice")
    ids = named.pop(SAMPLE_ID, None)
    if ids is None or not isinstance(ids.cells, SampleIds):
        raise _wrong(SAMPLE_ID, "needed, as BYTES of shape [-1]")
    n_samples = _n_rows(ids)
    if n_samples > MAX_SAMPLES_PER_CALL:
        raise TooManySamplesError(f"{n_samples} sample ids in one message", limit=MAX_SAMPLES_PER_CALL)
    if not named:
        return Features(ids.cells, None)
    columns = {name: _column(tensor, n_samples) for name, tensor in named.items()}
    numbers = {name: column for name, column in columns.items() if isinstance(column, np.ndarray)}
    texts = {name: column for name, column in columns.items() if not isinstance(column, np.ndarray)}
    return Features(ids.cells, inputs_of(numbers, texts, n_samples))


def check_outputs(names: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs to send: those asked for, in that order, or all; raise `FieldError` for an unknown one."""
    if any(name not in OUTPUTS for name in names) or len(set(names)) != len(names):
        told = f"outputs are {', '.join(OUTPUTS)}, each at most once"
        raise FieldError(told, place="outputs", problem=told)
    return tuple(names) or OUTPUTS


def parse_options(parameters: Mapping[str, Parameter]) -> Options:
    """Return what a request's parameters say; raise `FieldError` for one of ours that is of another type."""
    mode, allow_partial = parameters.get("mode", Mode.NEARLINE.value), parameters.get("allow_partial", False)
    if mode not in set(Mode):
        raise _bad_parameter("mode", f"one of {', '.join(Mode)}")
    if not isinstance(allow_partial, bool):
        raise _bad_parameter("allow_partial", "true or false")
    return Options(Mode(mode), _deadline_s(parameters), allow_partial)


def output_tensors(prediction: Prediction, names: Sequence[str]) -> tuple[Tensor, ...]:
    """Return the answer's tensors, in the order of `names`; rows without a score are NaN."""
    n_samples, n_outputs = prediction.predictions.shape
    made = {
        PREDICTION: lambda: Tensor(
            PREDICTION, FP64, (n_samples, n_outputs), prediction.predictions.astype("<f8").reshape(-1)
        ),
        STATUS: lambda: Tensor(
            STATUS, BYTES, (n_samples,), SampleIds.of([_STATUS_NAMES[code] for code in prediction.status.tolist()])
        ),
    }
    return tuple(made[name]() for name in names)


def check_all_scored(prediction: Prediction) -> None:
    """Raise `UnscoredError`, naming the rows, unless every row has a score: for answers that cannot hold NaN."""
    if prediction.scored.all():
        return
    unscored = np.flatnonzero(~prediction.scored)
    named = [f"{row} ({SampleStatus(prediction.status[row]).name})" for row in unscored[:ROWS_NAMED].tolist()]
    more = [f"and {len(unscored) - ROWS_NAMED} more"] if len(unscored) > ROWS_NAMED else []
    rows = ", ".join([*named, *more])
    raise UnscoredError(f"{len(unscored)} of {len(prediction.status)} rows have no score", rows=rows)


def _deadline_s(parameters: Mapping[str, Parameter]) -> float | None:
    given = [
        _span_s(parameters[name], name, unit_s)
        for name, unit_s in (("timeout_ms", 1e-3), ("timeout", 1e-6))
        if name in parameters
    ]
    return min(given, default=None)


def _span_s(value: Parameter, name: str, unit_s: float) -> float:
    if isinstance(value, bool | str) or not 0 < value <= _LONGEST:  # false for NaN as well
        raise _bad_parameter(name, f"a number above 0, and at most {_LONGEST:g}")
    return value * unit_s


def _n_cells(name: str, shape: Sequence[int]) -> int:
    if not 1 <= len(shape) <= 2 or min(shape) < 0:
        raise _wrong(name, "the shape is not [n] or [n, 1]")
    if max(shape) > _MOST_CELLS:
        raise _wrong(name, f"a shape of more than {_MOST_CELLS} rows")
    return math.prod(shape)


def _n_rows(tensor: Tensor) -> int:
    if len(tensor.shape) == 2 and tensor.shape[1] != 1:
        raise _wrong(tensor.name, "the shape is not [n] or [n, 1]")
    return tensor.shape[0]


def _column(tensor: Tensor, n_samples: int) -> NDArray[Any] | list[str]:
    """Return numbers of whatever type, or texts."""
    if _n_rows(tensor) != n_samples:
        raise _wrong(tensor.name, f"{_n_rows(tensor)} rows, but {n_samples} sample ids")
    if isinstance(tensor.cells, np.ndarray):
        return tensor.cells
    if int(tensor.cells.lengths.max(initial=0)) > MAX_TEXT_BYTES:
        raise _wrong(tensor.name, f"a text of more than {MAX_TEXT_BYTES} bytes")
    try:
        return [cell.decode() for cell in tensor.cells]
    except UnicodeDecodeError as error:
        raise _wrong(tensor.name, "a text is not UTF-8") from error


def _check_datatype(name: str, datatype: str) -> None:
    if datatype != BYTES and datatype not in CELL_TYPES:
        raise _wrong(name, f"the datatype is none of {', '.join((BYTES, *CELL_TYPES))}")


def _strings(name: str, n_cells: int, raw: bytes | memoryview) -> SampleIds:
    try:
        return unpack_strings(raw, n_cells)
    except ValueError as error:
        raise _wrong(name, str(error)) from error


def _texts(name: str, cells: Sequence[Any]) -> SampleIds:
    try:
        return SampleIds.of([cell if isinstance(cell, bytes) else cell.encode() for cell in cells])
    except (AttributeError, UnicodeEncodeError) as error:
        raise _wrong(name, "a cell is no text") from error


def _wrong(name: str, problem: str) -> FieldError:
    place = f"tensor {name[:100]!r}"
    # the name is the caller's: it is told, and not logged
    return FieldError("a tensor that does not fit", place=place, problem=problem)


def _bad_parameter(name: str, expected: str) -> FieldError:
    return FieldError(f"parameter {name}: not {expected}", place=f"parameter {name}", problem=f"expected {expected}")
