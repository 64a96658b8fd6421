"""XGBoost's own model format, as JSON or UBJSON, as a document of dicts, lists and arrays; and careful access to it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.options import Limits
from fedpredict.convert.ubjson import is_ubjson, parse_ubjson
from fedpredict.errors import ModelFileError, UnsupportedModelError

OLDEST = (1, 5)
"""The first version whose files are read. 1.2 adds another base score to `binary:logitraw`, and stops elsewhere."""
NEWEST_MAJOR = 3

AS_JSON = "load it with the XGBoost that wrote it and write it with save_model('model.json')"

_JSON_START = re.compile(rb'\s*\{\s*"(?:learner|version|Config|Model)"\s*:')
_BINARY_STARTS = (b"binf", b"bs64", b"CONFIG-offset:")
_TREE_ARRAYS = frozenset(
    {
        "left_children", "right_children", "split_indices", "split_conditions", "default_left", "split_type",
        "categories", "categories_nodes", "categories_segments", "categories_sizes", "base_weights", "leaf_weights",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """An object of the document, with the name of its place for messages."""

    content: dict[str, object]
    place: str

    def has(self, key: str) -> bool:
        """Return whether there is such a key."""
        return key in self.content

    def section(self, key: str) -> Section:
        """Return the object under a key; raise `ModelFileError` where there is none."""
        found = self.content.get(key)
        if not isinstance(found, dict):
            raise ModelFileError(f"the XGBoost model has no {self.place}.{key}")
        return Section(found, f"{self.place}.{key}")

    def sections(self, key: str) -> list[Section]:
        """Return the list of objects under a key; raise `ModelFileError` where there is none."""
        found = self.content.get(key)
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise ModelFileError(f"the XGBoost model has no list {self.place}.{key}")
        return [Section(item, f"{self.place}.{key}[{number}]") for number, item in enumerate(found)]

    def text(self, key: str) -> str:
        """Return the text under a key; raise `ModelFileError` where there is none."""
        found = self.content.get(key)
        if not isinstance(found, str):
            raise ModelFileError(f"the XGBoost model has no text {self.place}.{key}")
        return found

    def texts(self, key: str) -> list[str]:
        """Return the list of texts under a key, empty where there is none; raise `ModelFileError` for anything else."""
        found = self.content.get(key, [])
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise ModelFileError(f"{self.place}.{key} of the XGBoost model is not a list of texts")
        return [str(item) for item in found]

    def count(self, key: str, default: int | None = None) -> int:
        """Return a number that XGBoost writes as text; raise `ModelFileError` where there is none."""
        found = self.content.get(key)
        if found is None and default is not None:
            return default
        if not isinstance(found, str) or re.fullmatch(r"\d{1,10}", found) is None:
            raise ModelFileError(f"the XGBoost model has no number {self.place}.{key}")
        return int(found)

    def integers(self, key: str) -> NDArray[np.int64]:
        """Return whole numbers, shape (n,), as the array under a key holds them; of truth values 0 and 1."""
        found = self._array(key)
        if found.size and found.dtype.kind not in "biu":
            raise ModelFileError(f"{self.place}.{key} of the XGBoost model is not an array of whole numbers")
        return found.astype(np.int64)

    def float32s(self, key: str) -> NDArray[np.float64]:
        """Return numbers, shape (n,), rounded to float32, which they are in XGBoost; NaN and infinities as they are."""
        found = self._array(key)
        if found.size and found.dtype.kind not in "iuf":
            raise ModelFileError(f"{self.place}.{key} of the XGBoost model is not an array of numbers")
        with np.errstate(over="ignore", invalid="ignore"):  # a NaN may be one that signals
            return found.astype(np.float32).astype(np.float64)

    def _array(self, key: str) -> NDArray[Any]:
        found = self.content.get(key)
        if not isinstance(found, list | np.ndarray):
            raise ModelFileError(f"the XGBoost model has no array {self.place}.{key}")
        array = _as_array(found)
        if array.ndim != 1:
            raise ModelFileError(f"{self.place}.{key} of the XGBoost model is not a flat array")
        return array


def is_xgboost(content: bytes) -> bool:
    """Return whether the content of a file is a model (or a serialised Booster) of XGBoost, of any of its formats."""
    return is_ubjson(content) or content.startswith(_BINARY_STARTS) or _JSON_START.match(content) is not None


def parse_xgboost(content: bytes, limits: Limits) -> Section:
    """Return the document of a model: what `save_model` wrote, or the state of a pickled Booster.

    Raises:
        UnsupportedModelError: It is of the old binary format, or of a version that is not read.
        ModelFileError: It is damaged.
    """
    if content.startswith(_BINARY_STARTS):
        raise UnsupportedModelError(f"the file is of XGBoost's old binary format, which is not read: {AS_JSON}")
    found = parse_ubjson(content, limits.operations) if is_ubjson(content) else _parse_json(content)
    root = Section(found, "model")
    return root.section("Model") if root.has("Model") else root


def checked_version(root: Section) -> tuple[int, int, int]:
    """Return the version of XGBoost that wrote a document.

    Raises:
        UnsupportedModelError: It is missing, or not read.
    """
    found = root.content.get("version")
    numbers = [item for item in found if isinstance(item, int)] if isinstance(found, list) else []
    if len(numbers) != 3:
        raise UnsupportedModelError("the XGBoost model does not say which version wrote it")
    major, minor, patch = numbers
    if not OLDEST <= (major, minor) < (NEWEST_MAJOR + 1, 0):
        raise UnsupportedModelError(
            f"the model was written by XGBoost {major}.{minor}.{patch}; versions from {OLDEST[0]}.{OLDEST[1]} and "
            f"before {NEWEST_MAJOR + 1}.0 are read: write it again with one of them"
        )
    return major, minor, patch


def _parse_json(content: bytes) -> dict[str, object]:
    """The document of a JSON text. NaN may stand in it: some versions write it as the threshold of a category."""
    try:
        found = json.loads(str(content, "utf-8"), object_pairs_hook=_compact)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"the file looks like an XGBoost model, but is no JSON: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise ModelFileError("the JSON text is not an object")
    return found


def _compact(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of the text; of a tree, only the arrays that scoring needs, as arrays, so that memory stays small."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ModelFileError("the JSON text has a key twice in one object")
    if "split_conditions" not in found:
        return found
    return {
        key: _as_array(value) if key in _TREE_ARRAYS and isinstance(value, list) else value
        for key, value in found.items()
        if key in _TREE_ARRAYS or not isinstance(value, list)
    }


def _as_array(value: list[object] | NDArray[Any]) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise ModelFileError("an array of the XGBoost model has rows of different lengths") from error
