"""The pickle machine: what Python writes comes back inert, what attacks is refused."""

from __future__ import annotations

import collections
import datetime as dt
import pickle
import pickletools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.convert.nodes import Budget, Name, Node, Pairs
from fedpredict.convert.opcodes import Cursor
from fedpredict.convert.unpickle import unpickle
from fedpredict.errors import ModelFileError


def load(data: bytes, operations: int = 5_000_000) -> object:
    return unpickle(Cursor(data), Budget(operations))


def plain(value: object) -> object:
    """Pairs as dicts, for comparing."""
    if isinstance(value, Pairs):
        return {plain(key): plain(item) for key, item in value.items}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return tuple(plain(item) for item in value) if isinstance(value, tuple) else value


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(value=VALUES, protocol=st.integers(3, 5))
def test_plain_values_come_back_unchanged(value: object, protocol: int) -> None:
    assert plain(load(pickle.dumps(value, protocol=protocol))) == value


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner, max_size=5),
        max_leaves=20,
    ),
    protocol=st.integers(0, 2),
)
def test_plain_values_of_old_protocols_come_back_unchanged(value: object, protocol: int) -> None:
    assert plain(load(pickle.dumps(value, protocol=protocol))) == value


def test_minus_zero_keeps_its_sign_in_every_protocol() -> None:
    for protocol in range(6):
        assert str(load(pickle.dumps(-0.0, protocol=protocol))) == "-0.0"


def test_sets_are_lists_because_nothing_is_hashed() -> None:
    assert load(pickle.dumps({7}, protocol=4)) == [7]
    assert load(pickle.dumps(frozenset({7}), protocol=4)) == [7]


@pytest.mark.parametrize("protocol", range(6))
def test_an_object_is_a_node_with_class_and_state(protocol: int) -> None:
    node = load(pickle.dumps(Example(1), protocol=protocol))

    assert isinstance(node, Node)
    assert node.path.endswith(".Example")
    assert plain(node.state) == {"number": 1}


class Example:
    """A class that the machine must never touch."""

    def __init__(self, number: int) -> None:
        self.number = number


class WithKeywords(Example):
    """An object made with keyword arguments (NEWOBJ_EX)."""

    def __new__(cls, *args: object, **kwargs: object) -> WithKeywords:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[int, ...], dict[str, int]]:
        return (self.number,), {"number": self.number}


def test_keyword_arguments_are_kept_inert() -> None:
    node = load(pickle.dumps(WithKeywords(3), protocol=4))

    assert isinstance(node, Node)
    assert node.args == (3,)
    assert plain(node.kwargs) == {"number": 3}


def test_items_and_elements_of_an_object_are_kept() -> None:
    node = load(pickle.dumps(collections.OrderedDict(a=1), protocol=4))
    other = load(pickle.dumps(collections.deque([1, 2]), protocol=4))

    assert isinstance(node, Node)
    assert plain(node.pairs) == {"a": 1}
    assert isinstance(other, Node)
    assert other.elements == [1, 2]


def test_a_call_of_a_call_has_no_name() -> None:
    inner = b"cfunctools\npartial\n(cos\nsystem\ntR"

    node = load(inner + b"(tR.")

    assert isinstance(node, Node)
    assert node.path == ""


def test_any_object_of_the_standard_library_is_inert() -> None:
    node = load(pickle.dumps(dt.datetime(2026, 1, 1, tzinfo=dt.UTC)))

    assert isinstance(node, Node)
    assert node.path == "datetime.datetime"


def test_an_object_that_holds_itself_is_read() -> None:
    itself: list[object] = []
    itself.append(itself)

    value = load(pickle.dumps(itself))

    assert isinstance(value, list)
    assert value[0] is value


def test_a_name_is_a_name() -> None:
    name = load(b"cposix\nsystem\n.")

    assert isinstance(name, Name)
    assert name.path == "posix.system"


def attacks(marker: Path) -> dict[str, bytes]:
    command = f"touch {marker}".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command
    system = b"\x8c\x05posix\x8c\x06system\x93"
    return {
        "global": b"cposix\nsystem\n(V" + command + b"\ntR.",
        "stack_global": b"\x80\x04" + system + text + b"\x85R.",
        "inst": b"(V" + command + b"\niposix\nsystem\n.",
        "obj": b"(cposix\nsystem\n" + text + b"o.",
        "newobj": b"\x80\x02cposix\nsystem\n" + text + b"\x85\x81.",
        "newobj_ex": b"\x80\x04" + system + text + b"\x85}\x92.",
        "build": b"\x80\x04" + system + b")R}" + text + b"Nsb.",
        "chain": b"\x80\x04" + system + text + b"\x85R0" + system + text + b"\x85R.",
        "builtins": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93" + text + b"\x85R.",
        "dotted": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.sys\x93" + text + b"\x85R.",
    }


@pytest.mark.parametrize("kind", sorted(attacks(Path("m"))))
def test_no_way_of_calling_calls(kind: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    value = load(attacks(marker)[kind])

    assert isinstance(value, Node)
    assert not marker.exists()


def test_the_attacks_are_attacks(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    pickle.loads(attacks(marker)["stack_global"])

    assert marker.exists()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        pytest.param(b"\x82\x01.", "EXT1", id="ext1"),
        pytest.param(b"\x83\x01\x00.", "EXT2", id="ext2"),
        pytest.param(b"\x84\x01\x00\x00\x00.", "EXT4", id="ext4"),
        pytest.param(b"Pname\n.", "PERSID", id="persid"),
        pytest.param(b"K\x01Q.", "BINPERSID", id="binpersid"),
        pytest.param(b"\x97.", "NEXT_BUFFER", id="next_buffer"),
        pytest.param(b"]\x98.", "READONLY_BUFFER", id="readonly_buffer"),
    ],
)
def test_what_reaches_outside_the_file_is_refused_by_name(data: bytes, named: str) -> None:
    with pytest.raises(ModelFileError, match=named):
        load(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(b"", "in the middle", id="nothing"),
        pytest.param(b"\xff", "unknown opcode 0xff", id="unknown"),
        pytest.param(b".", "nothing on the stack", id="empty_stack"),
        pytest.param(b"NN.", "left over", id="left_over"),
        pytest.param(b"t.", "no mark", id="no_mark"),
        pytest.param(b"h\x05.", "memo entry 5", id="memo"),
        pytest.param(b"B\xff\xff\xff\x7fab.", "announced", id="bytes4_length"),
        pytest.param(b"\x8e" + b"\xff" * 8 + b"a.", "announced", id="bytes8_length"),
        pytest.param(b"\x96" + b"\xff" * 8 + b"a.", "announced", id="bytearray8_length"),
        pytest.param(b"T\xff\xff\xff\xffa.", "announced", id="negative_length"),
        pytest.param(b"\x8b\xff\xff\xff\x7f1.", "whole number", id="long4_length"),
        pytest.param(b"\x8b\xff\xff\xff\xff1.", "announced", id="long4_negative"),
        pytest.param(b"\x95" + b"\xff" * 8 + b"N.", "frame", id="frame"),
        pytest.param(b"cos", "line without an end", id="line"),
        pytest.param(b"I" + b"9" * 5000 + b"\n.", "line without an end", id="long_number"),
        pytest.param(b"I12x\n.", "no whole number", id="number"),
        pytest.param(b"Fnothing\n.", "damaged", id="float"),
        pytest.param(b"S'a\\x00'\n.", "Python 2", id="python_2"),
        pytest.param(b"X\x01\x00\x00\x00\xff.", "damaged", id="text"),
        pytest.param(b"NNR.", "call of a NoneType", id="call_of_none"),
        pytest.param(b"cos\nsystem\nNR.", "no tuple", id="arguments"),
        pytest.param(b"cos\nsystem\n)N\x92.", "no dict", id="keywords"),
        pytest.param(b"(o.", "without a class", id="obj_empty"),
        pytest.param(b"cos\nsystem\n}b.", "no object of its own", id="build_on_name"),
        pytest.param(b"cos\nsystem\n)R}b}b.", "twice", id="build_twice"),
        pytest.param(b"NNa.", "an element for", id="append_to_none"),
        pytest.param(b"NNNs.", "a key for", id="set_on_none"),
        pytest.param(b"(Nd.", "key without a value", id="odd_dict"),
        pytest.param(b"NN\x93.", "no text", id="stack_global_of_none"),
        pytest.param(b"(" * 2000 + b".", "nests more", id="marks"),
    ],
)
def test_damage_is_refused_with_its_reason(data: bytes, told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        load(data)


def test_stack_opcodes_do_as_python() -> None:
    assert load(b"N2\x86.") == (None, None)
    assert load(b"K\x01(K\x021.") == 1
    assert load(b"K\x01K\x020.") == 1
    assert load(b"K\x01(0.") == 1
    assert load(b"I01\n.") is True
    assert load(b"L12L\n.") == 12
    assert load(b"S'abc'\n.") == "abc"
    assert load(b"U\x03abc.") == "abc"
    assert load(b"T\x03\x00\x00\x00abc.") == "abc"
    assert load(b"(K\x01K\x02l.") == [1, 2]
    assert plain(load(b"(K\x01K\x02d.")) == {1: 2}
    assert load(b"Np0\ng0\n\x86.") == (None, None)
    assert load(b"Nr\x00\x00\x00\x00j\x00\x00\x00\x00\x86.") == (None, None)


def test_more_operations_than_the_limit_are_refused() -> None:
    with pytest.raises(ModelFileError, match="more than 100 operations"):
        load(b"N0" * 1000 + b"N.", operations=100)


def test_a_deep_nest_costs_no_more_than_its_size() -> None:
    depth = 100_000

    value = load(b")" + b"\x85" * depth + b".")

    assert isinstance(value, tuple)


def test_a_deep_nest_as_a_key_is_never_hashed() -> None:
    value = load(b"})" + b"\x85" * 100_000 + b"Ns.")

    assert isinstance(value, Pairs)


def test_billion_laughs_share_instead_of_growing() -> None:
    levels = b"".join(b"(" + bytes([ord("h"), n]) * 10 + b"lq" + bytes([n + 1]) + b"0" for n in range(100))

    value = load(b"]q\x000" + levels + b"h\x64.")

    assert isinstance(value, list)
    assert all(item is value[0] for item in value)


def test_every_opcode_of_python_is_known_or_refused() -> None:
    for opcode in pickletools.opcodes:
        with pytest.raises(ModelFileError):
            load(opcode.code.encode("latin-1") + b"\x01" if opcode.name != "STOP" else b".")


@given(data=st.binary(max_size=200))
def test_random_bytes_give_a_value_or_a_model_file_error(data: bytes) -> None:
    try:
        load(data)
    except ModelFileError:
        return
    assert b"." in data
