from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.ids import MAX_SAMPLE_ID_BYTES, valid_sample_ids
from fedpredict.model.sample_ids import SampleIds

ODD = [
    b"",
    b" ",
    b"~",
    b"\x7f",
    b"\x1f",
    b"a\0",
    b"\n",
    b"\xff",
    b"\xc3",
    "é".encode(),
    "\x85".encode(),
    "\u00a0".encode(),
    "\u200b\ue000".encode(),
    "年龄".encode(),
    b"\xed\xa0\x80",
    b"x" * MAX_SAMPLE_ID_BYTES,
    b"x" * (MAX_SAMPLE_ID_BYTES + 1),
    "é".encode() * 128,
    "é".encode() * 129,
]


def by_the_rule(sample_id: bytes) -> bool:
    """The rule, one id at a time and without shortcuts."""
    try:
        text = sample_id.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return 1 <= len(sample_id) <= 256 and all(unicodedata.category(character) != "Cc" for character in text)


any_id = st.one_of(st.binary(max_size=12), st.text(max_size=6).map(lambda text: text.encode()), st.sampled_from(ODD))


@given(st.lists(any_id, max_size=60))
def test_many_ids_are_judged_as_each_of_them(ids: list[bytes]) -> None:
    expected = [by_the_rule(each) for each in ids]
    assert valid_sample_ids(ids).tolist() == expected
    assert valid_sample_ids(SampleIds.of(ids)).tolist() == expected


@pytest.mark.parametrize("n_others", [0, 100])
@pytest.mark.parametrize("sample_id", ODD)
def test_an_odd_id_is_judged_alone_and_among_others(sample_id: bytes, n_others: int) -> None:
    ids = [*[b"u1"] * n_others, sample_id, b"", *[b"u2"] * n_others]
    assert valid_sample_ids(SampleIds.of(ids)).tolist() == [
        *[True] * n_others,
        by_the_rule(sample_id),
        False,
        *[True] * n_others,
    ]


def test_every_byte_is_judged_as_the_rule_says() -> None:
    ids = [bytes([byte]) for byte in range(256)]
    np.testing.assert_array_equal(valid_sample_ids(SampleIds.of(ids)), [by_the_rule(each) for each in ids])
