"""The rows of a part of trees that name categories: all texts of each text feature, all codes of each closed number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.model.closed import Closed
from fedpredict.tables.category_sets import codes_of_set, set_text

if TYPE_CHECKING:
    from fedpredict.tables.version import ModelVersion


def known_texts(
    features: Sequence[str], categories: Mapping[str, Sequence[str]], closed: Closed
) -> list[tuple[int, str]]:
    """Return the position of each feature that has such a row, and its set of categories."""
    found = []
    for at, name in enumerate(features):
        codes = closed.get(name)
        if name in categories:
            found.append((at, set_text(categories[name])))
        elif codes is not None:
            found.append((at, set_text([str(code) for code in codes.tolist()])))
    return found


def closed_features(rows: pa.Table, version: ModelVersion, positions: Sequence[int]) -> Closed:
    """Return the closed features of a part from its rows.

    Args:
        rows: Those that name categories, in their order.
        version: Whose.
        positions: Those of the closed features, as the options have them.

    Raises:
        TableCorruptError: They are not what `known_texts` gave.
    """
    columns = (rows.column(name).to_pylist() for name in ("node", "feature", "categories"))
    found = {node: (name, text) for node, name, text in zip(*columns, strict=True)}
    closed: dict[str, np.ndarray[tuple[int], np.dtype[np.int32]] | None] = {}
    for at in positions:
        if at >= len(version.features):
            raise TableCorruptError("the model's row says of a feature that there is not that it is closed")
        name = version.features[at]
        codes = None if name in version.categories else codes_of_set(found.get(at, (name, None))[1] or "", None)
        closed[name] = None if codes is None else np.array(codes, dtype=np.int32)
    expected = {
        at: (version.features[at], text) for at, text in known_texts(version.features, version.categories, closed)
    }
    if found != expected or len(rows) != len(found):
        raise TableCorruptError("the categories of text features, or of closed ones, are not those of the model's row")
    return closed
