"""Inert values of a file as mappings and plain values, checked on the way."""

from __future__ import annotations

from fedpredict.convert.arrays import ArrayReader
from fedpredict.convert.nodes import Name, Node, Pairs
from fedpredict.errors import ModelFileError, UnsupportedModelError

_MAX_DEPTH = 8
_DICTS = frozenset({"collections.OrderedDict", "builtins.dict", "__builtin__.dict"})


def clipped(text: str, length: int = 80) -> str:
    """Return a text of the file as it may stand in a message: printable, and not long."""
    return ascii(text if len(text) <= length else text[:length] + "...")[1:-1]


def described(value: object) -> str:
    """Return what a value is, for a message: its class if it has one; never its content."""
    if isinstance(value, Node):
        return clipped(value.path) or "an object without a name"
    if isinstance(value, Name):
        return f"the name {clipped(value.path)}"
    if isinstance(value, Pairs):
        return "a dict"
    return "nothing" if value is None else f"a {type(value).__name__}"


def mapping(value: object, what: str) -> dict[str, object]:
    """Return a dict of the file as a dict with text keys.

    Args:
        value: `Pairs`, or a node that stands for a dict.
        what: Names the dict in the message.

    Raises:
        ModelFileError: It is no dict, a key is no text, or a key repeats.
    """
    pairs = value.pairs if isinstance(value, Node) and value.path in _DICTS and not value.args else value
    if not isinstance(pairs, Pairs):
        raise ModelFileError(f"{what} is {described(value)}, not a dict")
    result: dict[str, object] = {}
    for key, item in pairs.items:
        if not isinstance(key, str):
            raise ModelFileError(f"{what} has a key that is {described(key)}, not a text")
        if key in result:
            raise ModelFileError(f"{what} has the key '{clipped(key)}' twice")
        result[key] = item
    return result


class PlainReader:
    """Turns inert values into plain ones: dict, list, str, int, float, bool, None; arrays become lists."""

    def __init__(self, arrays: ArrayReader, values: int) -> None:
        self._arrays = arrays
        self._left = values

    def read(self, value: object, what: str, depth: int = 0) -> object:
        """Return `value` as plain Python.

        Raises:
            ModelFileError: It is nested too deeply, or refers to itself so often that it grows beyond the limit.
            UnsupportedModelError: It holds an object that is no number, text, list, dict or array.
        """
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise ModelFileError(f"{what} is nested too deeply or too large for a portable partial model")
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self.read(item, what, depth + 1) for item in value]
        if isinstance(value, Pairs) or (isinstance(value, Node) and value.path in _DICTS):
            found = mapping(value, what)
            return {key: self.read(item, f"{what}.{clipped(key)}", depth + 1) for key, item in found.items()}
        if isinstance(value, Node) and self._arrays.is_array(value):
            return self._arrays.plain(value, what)
        raise UnsupportedModelError(
            f"{what} is {described(value)}; a portable partial model holds numbers, texts, lists, dicts and arrays"
        )
