"""Arrow columns of texts as codes, and back, without a loop over rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedpredict.errors import ProtocolError
from fedpredict.model.arrays import Floats
from fedpredict.model.inputs import MAX_TEXT_BYTES
from fedpredict.wire.inputs import refused_text


def holds_texts(kind: pa.DataType) -> bool:
    """Return whether a column of that type holds texts: also large, view and dictionary."""
    if pa.types.is_dictionary(kind):
        return holds_texts(kind.value_type) and not pa.types.is_dictionary(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def texts_to_array(codes: Floats, texts: Sequence[str]) -> pa.Array:
    """Return codes, NaN for a missing text, and their texts as a column that holds each text once."""
    missing = np.isnan(codes)
    positions = pa.array(np.where(missing, 0, codes).astype(np.int32), mask=missing)
    return pa.DictionaryArray.from_arrays(positions, pa.array(texts, pa.string()))


def texts_from_array(name: str, column: pa.Array) -> tuple[Floats, tuple[str, ...]]:
    """Return codes, NaN for a missing text, and the texts that occur, each once.

    Args:
        name: The feature's.
        column: Of a type that `holds_texts` takes; its buffers are not trusted.

    Raises:
        ProtocolError: An index of a dictionary is beyond it.
        InputsRefusedError: A text is longer than `MAX_TEXT_BYTES`.
        pa.ArrowInvalid: The buffers are not those of a column.
    """
    if not pa.types.is_dictionary(column.type):
        column.validate(full=True)
        column = column.cast(pa.large_string()).dictionary_encode()
    indices, dictionary = column.indices, column.dictionary
    dictionary.validate(full=True)
    indices.validate(full=True)
    chosen = pc.drop_null(pc.unique(indices))
    if len(chosen) and not 0 <= pc.min(chosen).as_py() <= pc.max(chosen).as_py() < len(dictionary):
        raise ProtocolError("a dictionary of texts is shorter than its indices say")
    # no more of it than is used is looked at: it may be longer than the column
    used = dictionary.take(chosen).cast(pa.large_string())
    if (pc.max(pc.binary_length(used)).as_py() or 0) > MAX_TEXT_BYTES:
        raise refused_text(name)
    known: dict[str, int] = {}
    codes = [np.nan if each is None else known.setdefault(each, len(known)) for each in used.to_pylist()]
    places = pc.fill_null(pc.index_in(indices, value_set=chosen), len(codes)).to_numpy(zero_copy_only=False)
    return np.array([*codes, np.nan])[places], tuple(known)
