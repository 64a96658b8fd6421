"""A pickle machine that never imports, calls or hashes what the file names.

A name becomes a `Name`, a call a `Node`; nothing in a file can run. Dicts are lists of pairs until a reader wants a
mapping. Nothing here or in the readers recurses over values of the file, compares them or hashes anything but text,
numbers and bytes, so that depth and shape of a hostile file cost no more than its size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import cast

from fedpredict.convert.nodes import Budget, Name, Node, Pairs
from fedpredict.convert.opcodes import Cursor, next_operation
from fedpredict.errors import ModelFileError

MAX_OPEN_MARKS = 1000


BuildHook = Callable[[Node, Cursor, Budget], None]
"""Called after each BUILD, with the cursor behind it."""


PersistentHook = Callable[[object], object]
"""Gives what a persistent id stands for."""


def unpickle(
    cursor: Cursor,
    budget: Budget,
    on_build: BuildHook | None = None,
    on_persistent: PersistentHook | None = None,
) -> object:
    """Return what the pickle at the cursor describes, as inert values; the cursor stands behind it afterwards.

    Args:
        cursor: At the first byte of the pickle.
        budget: How many opcodes are left.
        on_build: Reads what joblib writes behind an array's wrapper.
        on_persistent: Gives the value of a persistent id; without it such ids are refused.

    Returns:
        None, bool, int, float, str, bytes, tuple, list (also for sets), `Pairs`, `Name`, `Node`, or what
        `on_persistent` gives.

    Raises:
        ModelFileError: The bytes are not a pickle, damaged, or use what no model file needs.
    """
    try:
        return _Machine(cursor, budget, on_build, on_persistent).run()
    except (ValueError, OverflowError, struct.error) as error:
        raise ModelFileError(f"the file is damaged: {type(error).__name__} at byte {cursor.position}") from error


class _Machine:
    """The stack, the memo and one method per group of opcodes."""

    def __init__(
        self, cursor: Cursor, budget: Budget, on_build: BuildHook | None, on_persistent: PersistentHook | None
    ) -> None:
        self._cursor = cursor
        self._budget = budget
        self._on_build = on_build
        self._on_persistent = on_persistent
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Return the value on the stack at STOP."""
        while True:
            self._budget.spend()
            name, argument = next_operation(self._cursor)
            if name in _PUSHES:
                self._stack.append(argument)
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name == "STOP":
                break
            elif name == "BINPERSID" and self._on_persistent is not None:
                self._stack.append(self._on_persistent(self._pop()))
            else:
                raise ModelFileError(f"the pickle uses {name}, which no model file needs: refused")
        result = self._pop()
        if self._stack:
            raise ModelFileError("the file is damaged: values are left over at the end of the pickle")
        return result

    def _pop(self) -> object:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ModelFileError(f"the file is damaged: nothing on the stack at byte {self._cursor.position}")
        return self._stack.pop()

    def _top(self) -> object:
        value = self._pop()
        self._stack.append(value)
        return value

    def _pop_mark(self) -> list[object]:
        if not self._marks:
            raise ModelFileError(f"the file is damaged: no mark at byte {self._cursor.position}")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def mark(self, _: object) -> None:
        """MARK: what follows belongs together."""
        if len(self._marks) >= MAX_OPEN_MARKS:
            raise ModelFileError(f"the file nests more than {MAX_OPEN_MARKS} collections")
        self._marks.append(len(self._stack))

    def pop(self, _: object) -> None:
        """POP: drop the top of the stack, or an empty mark."""
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def pop_mark(self, _: object) -> None:
        """POP_MARK: drop everything since the mark."""
        self._pop_mark()

    def duplicate(self, _: object) -> None:
        """DUP: push the top once more."""
        self._stack.append(self._top())

    def header(self, _: object) -> None:
        """PROTO: nothing to do, the opcodes say what they are."""

    def frame(self, length: object) -> None:
        """FRAME: a hint for buffering; checked all the same."""
        if not isinstance(length, int) or length > self._cursor.remaining:
            raise ModelFileError("the file is damaged: a frame is longer than the file")

    def none(self, _: object) -> None:
        """NONE."""
        self._stack.append(None)

    def true(self, _: object) -> None:
        """NEWTRUE."""
        self._stack.append(True)

    def false(self, _: object) -> None:
        """NEWFALSE."""
        self._stack.append(False)

    def empty_list(self, _: object) -> None:
        """EMPTY_LIST and EMPTY_SET: no reader needs a set, so it is a list as well."""
        self._stack.append([])

    def empty_dict(self, _: object) -> None:
        """EMPTY_DICT."""
        self._stack.append(Pairs())

    def empty_tuple(self, _: object) -> None:
        """EMPTY_TUPLE."""
        self._stack.append(())

    def tuple_of(self, count: int) -> None:
        """TUPLE1 to TUPLE3."""
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def tuple_since_mark(self, _: object) -> None:
        """TUPLE."""
        self._stack.append(tuple(self._pop_mark()))

    def list_since_mark(self, _: object) -> None:
        """LIST and FROZENSET."""
        self._stack.append(self._pop_mark())

    def dict_since_mark(self, _: object) -> None:
        """DICT."""
        self._stack.append(Pairs(_pairs(self._pop_mark())))

    def append(self, _: object) -> None:
        """APPEND."""
        value = self._pop()
        _elements(self._top()).append(value)

    def append_since_mark(self, _: object) -> None:
        """APPENDS and ADDITEMS."""
        values = self._pop_mark()
        _elements(self._top()).extend(values)

    def set_item(self, _: object) -> None:
        """SETITEM."""
        value, key = self._pop(), self._pop()
        _items(self._top()).append((key, value))

    def set_since_mark(self, _: object) -> None:
        """SETITEMS."""
        values = self._pop_mark()
        _items(self._top()).extend(_pairs(values))

    def get(self, index: object) -> None:
        """GET, BINGET, LONG_BINGET: push what the memo holds."""
        key = cast("int", index)  # pickletools' table gives these opcodes a number
        if key not in self._memo:
            raise ModelFileError(f"the file is damaged: memo entry {key} is missing")
        self._stack.append(self._memo[key])

    def put(self, index: object) -> None:
        """PUT, BINPUT, LONG_BINPUT: remember the top of the stack."""
        self._memo[cast("int", index)] = self._top()

    def memoize(self, _: object) -> None:
        """MEMOIZE: remember the top of the stack under the next number."""
        self._memo[len(self._memo)] = self._top()

    def name(self, pair: object) -> None:
        """GLOBAL: a name, never imported."""
        module, name = _two_texts(pair)
        self._stack.append(Name(module, name))

    def name_from_stack(self, _: object) -> None:
        """STACK_GLOBAL: a name from two texts, never imported."""
        name, module = self._pop(), self._pop()
        self._stack.append(Name(*_two_texts((module, name))))

    def call(self, _: object) -> None:
        """REDUCE and NEWOBJ: a node instead of a call."""
        args, callee = self._pop(), self._pop()
        self._push_node(callee, args)

    def call_with_keywords(self, _: object) -> None:
        """NEWOBJ_EX: a node instead of a call."""
        kwargs, args, callee = self._pop(), self._pop(), self._pop()
        if not isinstance(kwargs, Pairs):
            raise ModelFileError("the file is damaged: keyword arguments that are no dict")
        self._push_node(callee, args, kwargs)

    def old_instance(self, pair: object) -> None:
        """INST: a node instead of a call."""
        args = tuple(self._pop_mark())
        self._push_node(Name(*_two_texts(pair)), args)

    def old_object(self, _: object) -> None:
        """OBJ: a node instead of a call."""
        values = self._pop_mark()
        if not values:
            raise ModelFileError("the file is damaged: an object without a class")
        self._push_node(values[0], tuple(values[1:]))

    def _push_node(self, callee: object, args: object, kwargs: Pairs | None = None) -> None:
        if not isinstance(callee, Name | Node):
            raise ModelFileError(f"the file is damaged: a call of a {type(callee).__name__}")
        if not isinstance(args, tuple):
            raise ModelFileError("the file is damaged: arguments that are no tuple")
        self._stack.append(Node(callee, args, kwargs))

    def build(self, _: object) -> None:
        """BUILD: the state of a node, once."""
        state = self._pop()
        node = self._top()
        if not isinstance(node, Node):
            raise ModelFileError(
                f"the pickle changes the state of a {type(node).__name__}, which is no object of its own"
            )
        if node.built:
            raise ModelFileError("the pickle sets the state of an object twice")
        node.state, node.built = state, True
        if self._on_build is not None:
            self._on_build(node, self._cursor, self._budget)


def _pairs(values: list[object]) -> list[tuple[object, object]]:
    if len(values) % 2:
        raise ModelFileError("the file is damaged: a key without a value")
    return list(zip(values[::2], values[1::2], strict=True))


def _elements(value: object) -> list[object]:
    if isinstance(value, Node):
        return value.elements
    if isinstance(value, list):
        return value
    raise ModelFileError(f"the file is damaged: an element for a {type(value).__name__}")


def _items(value: object) -> list[tuple[object, object]]:
    if isinstance(value, Node):
        return value.pairs.items
    if isinstance(value, Pairs):
        return value.items
    raise ModelFileError(f"the file is damaged: a key for a {type(value).__name__}")


def _two_texts(pair: object) -> tuple[str, str]:
    match pair:
        case (str(module), str(name)):
            return module, name
    raise ModelFileError("the file is damaged: a name that is no text")


_PUSHES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
"""Opcodes whose argument is the value. What is neither here nor in `_ACTIONS` is refused: EXT1, EXT2 and EXT4 would
reach a registry of functions, PERSID and BINPERSID an application (the latter is taken where a caller gives it a
meaning), NEXT_BUFFER and READONLY_BUFFER another file."""

_ACTIONS: dict[str, Callable[[_Machine, object], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    "PROTO": _Machine.header,
    "FRAME": _Machine.frame,
    "NONE": _Machine.none,
    "NEWTRUE": _Machine.true,
    "NEWFALSE": _Machine.false,
    "EMPTY_LIST": _Machine.empty_list,
    "EMPTY_SET": _Machine.empty_list,
    "EMPTY_DICT": _Machine.empty_dict,
    "EMPTY_TUPLE": _Machine.empty_tuple,
    "TUPLE": _Machine.tuple_since_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_since_mark,
    "FROZENSET": _Machine.list_since_mark,
    "DICT": _Machine.dict_since_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_since_mark,
    "ADDITEMS": _Machine.append_since_mark,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_since_mark,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "INST": _Machine.old_instance,
    "OBJ": _Machine.old_object,
    "BUILD": _Machine.build,
}
