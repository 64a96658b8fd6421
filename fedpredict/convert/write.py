"""Writes partial models: the only module that imports pickle, and only to write plain Python values."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path

from fedpredict.convert.head_form import head_to_json
from fedpredict.convert.portable import to_json, to_portable
from fedpredict.errors import ModelFileError
from fedpredict.model.head import HeadModel
from fedpredict.model.partial import PartialModel

_PROTOCOL = 4
"""Readable by every Python since 3.4, and by the readers of other languages."""


def write_partial(path: Path, partial: PartialModel) -> None:
    """Write a partial model in its portable form: JSON where the path ends in `.json`, else a pickled dict.

    The file appears whole or not at all; one that was there is replaced.

    Raises:
        ModelFileError: The file cannot be written; the message says why.
    """
    is_json = path.suffix.lower() == ".json"
    content = to_json(partial).encode() if is_json else pickle.dumps(to_portable(partial), protocol=_PROTOCOL)
    try:
        _replace(path, content)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written: {error.strerror}") from error


def write_head(path: Path, head: HeadModel) -> None:
    """Write a head in its portable form, as JSON; whole or not at all.

    Raises:
        ModelFileError: The file cannot be written; the message says why.
    """
    try:
        _replace(path, head_to_json(head).encode())
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
