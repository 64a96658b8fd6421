"""LightGBM's model text as sections of keys and values; and careful access to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpredict.convert.values import clipped
from fedpredict.errors import ModelFileError, UnsupportedModelError

VERSIONS = ("v3", "v4")
_START = b"tree\n"
_END = "end of trees"
_CATEGORIES = "pandas_categorical:"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Lines `key=value`: those in front, or those of one tree."""

    lines: dict[str, str]
    place: str

    def text(self, key: str, default: str | None = None) -> str:
        """Return a value; raise `ModelFileError` where there is none and no default."""
        found = self.lines.get(key, default)
        if found is None:
            raise ModelFileError(f"{self.place} of the LightGBM model has no {key}")
        return found

    def count(self, key: str, default: int | None = None) -> int:
        """Return a whole number from 0 up; raise `ModelFileError` where there is none."""
        found = self.text(key, None if default is None else str(default))
        if not (found.isascii() and found.isdigit() and len(found) <= 10):
            raise ModelFileError(f"{key} of {self.place} of the LightGBM model is not a number")
        return int(found)

    def numbers(self, key: str, count: int) -> NDArray[np.float64]:
        """Return numbers with spaces between, shape (count,), infinite or NaN ones too; raise `ModelFileError`."""
        return self._array(key, count, np.float64)

    def integers(self, key: str, count: int) -> NDArray[np.int64]:
        """Return whole numbers with spaces between, shape (count,); raise `ModelFileError` where there are no such."""
        return self._array(key, count, np.int64)

    def _array(self, key: str, count: int, kind: type) -> NDArray[Any]:
        words = self.text(key).split()
        try:
            found: NDArray[Any] = np.array(words, dtype=kind)
        except (ValueError, OverflowError) as error:
            raise ModelFileError(f"{key} of {self.place} of the LightGBM model holds more than numbers") from error
        if len(found) != count:
            raise ModelFileError(f"{key} of {self.place} of the LightGBM model has {len(found)} numbers, not {count}")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class ModelText:
    """A model's text, taken apart.

    Attributes:
        head: The lines in front; one without = has an empty value.
        trees: The lines of each tree.
        categories: pandas' labels for each column of the data frame that was of type category.
    """

    head: Block
    trees: list[Block]
    categories: list[list[object]]


def is_lightgbm(content: bytes) -> bool:
    """Return whether the content of a file is LightGBM's model text."""
    return content.startswith((_START, b"tree\r\n"))


def parse_lightgbm(content: bytes | str) -> ModelText:
    """Return the sections of a model's text.

    Raises:
        UnsupportedModelError: It is of a version that is not read.
        ModelFileError: It is damaged or cut off.
    """
    try:
        text = content if isinstance(content, str) else str(content, "utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError("the file looks like a LightGBM model, but is not UTF-8") from error
    lines = text.replace("\r\n", "\n").split("\n")  # not splitlines: a name may hold other signs that end lines
    if lines[:1] != ["tree"]:
        raise ModelFileError("the LightGBM model is damaged: it does not begin with a line 'tree'")
    if _END not in lines:
        raise ModelFileError(f"the LightGBM model is cut off: it has no line '{_END}'")
    end = lines.index(_END)
    starts = [number for number, line in enumerate(lines[:end]) if line.startswith("Tree=")]
    head = _block(lines[1 : starts[0] if starts else end], "the head")
    version = head.text("version", "none")
    if version not in VERSIONS:
        raise UnsupportedModelError(
            f"the LightGBM model is of format '{clipped(version)}'; read are {', '.join(VERSIONS)} (LightGBM 2.3 to 4)"
        )
    trees = [
        _block(lines[start + 1 : stop], lines[start]) for start, stop in zip(starts, [*starts, end][1:], strict=True)
    ]
    if [lines[start] for start in starts] != [f"Tree={number}" for number in range(len(starts))]:
        raise ModelFileError("the trees of the LightGBM model are not numbered one after the other")
    if len(head.text("tree_sizes", "").split()) not in {0, len(trees)}:
        raise ModelFileError("the LightGBM model does not have as many trees as it says")
    return ModelText(head, trees, _labels(lines[end:]))


def _block(lines: list[str], place: str) -> Block:
    found: dict[str, str] = {}
    for line in filter(None, lines):
        key, _, value = line.partition("=")
        if key in found:
            raise ModelFileError(f"{place} of the LightGBM model says '{clipped(key)}' twice")
        found[key] = value
    return Block(found, clipped(place))


def _labels(lines: list[str]) -> list[list[object]]:
    """The labels in the last line, as JSON; none where the training data was no data frame with categories."""
    said = next((line for line in reversed(lines) if line.startswith(_CATEGORIES)), None)
    try:
        found = None if said is None else json.loads(said.removeprefix(_CATEGORIES))
    except (ValueError, RecursionError) as error:
        raise ModelFileError("pandas_categorical of the LightGBM model is no JSON") from error
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(labels, list) for labels in found):
        raise ModelFileError("pandas_categorical of the LightGBM model is not a list of lists")
    return found
