"""What the pickle machine makes of a file: names, dicts and calls as inert values; and the count of what it may do."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedpredict.errors import ModelFileError

_RECONSTRUCTORS = frozenset({"copy_reg._reconstructor", "copyreg._reconstructor"})


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A class or function that the file names; never imported."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Module and name with a dot between."""
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Pairs:
    """A dict of the file, in the file's order; keys may repeat and may be anything."""

    items: list[tuple[object, object]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Node:
    """A call or an object of the file, with what the file would have done to it; inert.

    Attributes:
        callee: What the file would have called.
        args: The arguments.
        kwargs: The keyword arguments.
        state: What BUILD would have handed over.
        built: Whether there was a BUILD.
        elements: What would have been appended.
        pairs: What would have been set by key.
        payload: What followed outside the pickle's own format (joblib's array bytes).
    """

    callee: Name | Node
    args: tuple[object, ...]
    kwargs: Pairs | None = None
    state: object = None
    built: bool = False
    elements: list[object] = field(default_factory=list)
    pairs: Pairs = field(default_factory=Pairs)
    payload: object = None

    @property
    def path(self) -> str:
        """The dotted name of what was called, of the class where protocol 0 or 1 made an object; "" if unnamed."""
        if not isinstance(self.callee, Name):
            return ""
        path = self.callee.path
        if path in _RECONSTRUCTORS and self.args and isinstance(self.args[0], Name):
            return self.args[0].path
        return path


class Budget:
    """Counts the opcodes of a file and of the pickles nested in it."""

    def __init__(self, operations: int) -> None:
        self._limit = operations
        self._left = operations

    def spend(self) -> None:
        """Count one opcode.

        Raises:
            ModelFileError: There are more than the limit.
        """
        self._left -= 1
        if self._left < 0:
            raise ModelFileError(f"the file has more than {self._limit} operations; no model needs as many")
