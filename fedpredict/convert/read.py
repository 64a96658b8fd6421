"""A model file becomes a partial model: the one way in for commands."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedpredict.convert.head_form import head_from_portable
from fedpredict.convert.options import SMALLER, Limits, ReadOptions
from fedpredict.convert.portable import from_portable
from fedpredict.convert.sandbox import run_child
from fedpredict.errors import (
    FeatureNamesError,
    FedPredictError,
    ModelConflictError,
    ModelFileError,
    VerificationError,
)
from fedpredict.model.arrays import Floats
from fedpredict.model.head import HeadModel
from fedpredict.model.partial import PartialModel, largest_difference

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 2**20
_DEFAULTS = Limits()


@dataclass(frozen=True, slots=True, eq=False)
class ReadResult:
    """A model file, read.

    Attributes:
        partial: The partial model; its verification rows, if any, were replayed.
        source_sha256: Of the file as it stands, in hex.
        source: What wrote it, for people: "scikit-learn 1.9.1 LogisticRegression".
        feature_constants: Shape (n_features, n_scores): what each feature brings to `partial.part.constant`, so that
            a joint model can be cut; None where the file gives only the sum.
        network_isolated: Whether the reading process had no network.
    """

    partial: PartialModel
    source_sha256: str
    source: str
    feature_constants: Floats | None
    network_isolated: bool


@dataclass(frozen=True, slots=True, eq=False)
class HeadResult:
    """A file of a head, read.

    Attributes:
        head: The head.
        source_sha256: Of the file as it stands, in hex.
        source: What it is, for people.
        network_isolated: Whether the reading process had no network.
    """

    head: HeadModel
    source_sha256: str
    source: str
    network_isolated: bool


def read_model_file(path: Path, options: ReadOptions | None = None, limits: Limits = _DEFAULTS) -> ReadResult:
    """Return the partial model in a file, as `read_file` does; raise `ModelConflictError` where it holds a head."""
    result = read_file(path, options, limits)
    if isinstance(result, HeadResult):
        raise ModelConflictError(f"{path}: this is a head, for the initiator alone, and no party's part")
    return result


def read_file(path: Path, options: ReadOptions | None = None, limits: Limits = _DEFAULTS) -> ReadResult | HeadResult:
    """Return what is in a file, read by a confined process that runs nothing of it.

    Args:
        path: A pickle or joblib file (also compressed with gzip, zlib, bz2, xz or zstd) of a scikit-learn linear
            model or trees, of a booster of XGBoost or LightGBM, or of a portable partial model or head; the latter also
            as JSON, a booster also as its library's own file. The content decides, not the file's name.
        options: What the operator adds to the file, or says as well.
        limits: What reading may cost.

    Raises:
        ModelFileError: The file is missing, no regular file, empty, too large, damaged, hostile, or does not fit
            together.
        UnsupportedModelError: It holds no model that can be served with the trainer's own numbers; says what does.
        ModelConflictError: The file and the operator say different things.
        FeatureNamesError: Feature names are missing or repeat; `.names` lists them.
        VerificationError: The file's own verification rows give other scores.
        NameRefusedError: A model id or party id breaks the naming rules.
    """
    options = options or ReadOptions()
    try:
        with _opened(path, limits.file_bytes) as descriptor:
            digest = _digest(descriptor)
            answer = run_child(descriptor, options, limits)
        result = _result(answer, digest)
    except FeatureNamesError as error:
        raise FeatureNamesError(f"{path}: {error}", names=error.names) from error
    except FedPredictError as error:
        raise type(error)(f"{path}: {error}") from error
    logger.info("model_file.read", extra={"source": result.source, "network_isolated": result.network_isolated})
    return result


@contextmanager
def _opened(path: Path, limit_bytes: int) -> Iterator[int]:
    """A descriptor of a regular file of allowed size; a pipe or device is not even opened."""
    try:
        _check_regular(path.stat(), limit_bytes)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ModelFileError("there is no such file") from error
    except OSError as error:
        raise ModelFileError(f"the file cannot be opened: {error.strerror}") from error
    except ValueError as error:
        raise ModelFileError("the path holds a NUL character") from error
    try:
        _check_regular(os.fstat(descriptor), limit_bytes)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_regular(found: os.stat_result, limit_bytes: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise ModelFileError("this is a directory, not a model file")
    if not stat.S_ISREG(found.st_mode):
        raise ModelFileError("this is a device, pipe or socket, not a model file")
    if found.st_size == 0:
        raise ModelFileError("the file is empty")
    if found.st_size > limit_bytes:
        raise ModelFileError(f"the file has {found.st_size} bytes; the limit is {limit_bytes}: {SMALLER}")


def _digest(descriptor: int) -> str:
    """SHA-256 of the file; the descriptor's position stays at the first byte."""
    digest, offset = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()


def _result(answer: dict[str, object], digest: str) -> ReadResult | HeadResult:
    """The child's answer, checked once more here: its arithmetic and its word are not taken on trust."""
    if answer.get("source_sha256") != digest:
        raise ModelFileError("the file changed while it was read: try again")
    source, isolated = str(answer.get("source")), answer.get("network_isolated") is True
    head = answer.get("head")
    if isinstance(head, dict):
        return HeadResult(head_from_portable(head), digest, source, isolated)
    content = answer.get("partial")
    if not isinstance(content, dict):
        raise ModelFileError("the reading process gave no model")
    partial = from_portable(content)
    check_verification(partial)
    return ReadResult(
        partial=partial,
        source_sha256=digest,
        source=source,
        feature_constants=_constants(answer.get("feature_constants"), partial),
        network_isolated=isolated,
    )


def _constants(value: object, partial: PartialModel) -> Floats | None:
    if value is None:
        return None
    constants = np.array(value, dtype=np.float64)
    if constants.shape != (len(partial.part.features), partial.part.n_scores) or not np.isfinite(constants).all():
        raise ModelFileError("the reading process gave constants that do not fit the weights")
    return constants


def check_verification(partial: PartialModel) -> None:
    """Replay a partial model's verification rows, if it has some.

    Raises:
        VerificationError: The largest difference, relative to the sum of the absolute terms, is above its tolerance.
    """
    check_parity("numpy", *largest_difference(partial), partial.tolerance)


def check_parity(engine: str, absolute: float, relative: float, tolerance: float) -> None:
    """Check what an engine's scores of verification rows came to.

    Raises:
        VerificationError: `relative`, or NaN, is above the tolerance.
    """
    if not relative <= tolerance:
        off = f"off by {absolute:.3g}, {relative:.3g} of the sum of the absolute terms (allowed: {tolerance:g})"
        if absolute == np.inf:
            off = "a row has a score where none is expected, or none where one is"
        raise VerificationError(
            f"{engine} gives other partial scores for the verification rows: {off}; the file's weights, names or "
            "order are wrong, or the rows are"
        )
