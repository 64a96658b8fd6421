from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.errors import FieldError
from fedpredict.wire.members import RepeatedMemberError, check_body, check_members, count, has_more, repeats

NAMES = st.text(st.sampled_from('ab:"\\ é'), max_size=3)
CELLS = st.none() | st.booleans() | st.integers() | NAMES


@st.composite
def texts(draw: st.DrawFn) -> tuple[bytes, bool]:
    """An object of plain values, as members one after the other, and whether a name is there twice."""
    pairs = draw(st.lists(st.tuples(NAMES, CELLS), max_size=4))
    space = draw(st.sampled_from(["", " "]))
    ascii_only = draw(st.booleans())

    def said(value: object) -> str:
        return json.dumps(value, ensure_ascii=ascii_only)

    text = ",".join(f"{space}{said(name)}{space}:{space}{said(value)}{space}" for name, value in pairs)
    names = [name for name, _ in pairs]
    return f"{{{text}}}".encode(), any(name in names[:at] for at, name in enumerate(names))


@given(texts())
def test_a_member_that_is_there_twice_is_never_missed_by_the_cheap_look(drawn: tuple[bytes, bool]) -> None:
    text, is_twice = drawn
    row = msgspec.json.decode(text, type=dict[str, object])

    assert repeats(row, text) or not is_twice
    if is_twice:
        with pytest.raises(RepeatedMemberError):
            check_members(text)
    else:
        check_members(text)


def test_the_cheap_look_suffices_for_an_ordinary_row() -> None:
    row = {"id": 7, "at": "2026-11-26T23:00:00+01:00", "who": "", "amount": 12.5, "flag": True, "none": None}

    assert not repeats(row, json.dumps(row).encode())


@given(st.lists(st.sampled_from([b":", b"x" * 700, b"y"]), max_size=8), st.integers(0, 9))
def test_a_byte_is_counted_in_few_bytes_and_in_many(pieces: list[bytes], number: int) -> None:
    data = b"".join(pieces)

    assert count(memoryview(data), b":") == pieces.count(b":")
    assert has_more(data, b":", number) is (pieces.count(b":") > number)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"a":1,"b":{"x":[{"c":1,"c":2}]}}', "'c' is there twice in one object"),
        (b'{"a":1,"\\u0061":2}', "'a' is there twice in one object"),
        (b'{"%b":1,"%b":2}' % (b"n" * 5000, b"n" * 5000), f"{'n' * 100!r} is there twice in one object"),
        (b"[" * 500_000 + b"]" * 500_000, "nested too deeply"),
    ],
)
def test_a_body_is_refused_by_the_name_of_what_is_there_twice(text: bytes, problem: str) -> None:
    with pytest.raises(FieldError) as raised:
        check_body(text)
    assert (raised.value.place, raised.value.problem) == ("$", problem)


@pytest.mark.parametrize(
    "text", [b'{"a":{"a":1},"b":{"a":2}}', b'{"a":%b}' % (b"9" * 9000), b'{"a":"{\\"b\\":1,\\"b\\":2}"}']
)
def test_one_name_in_several_objects_is_no_repetition_nor_is_a_long_number(text: bytes) -> None:
    check_body(text)
