"""The kernel of the audit log's lines: ids as the standard's HMACs, times as datetime's, seals as hashlib's."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.kernel.lines import Bodies, CallTexts, LineKernel, seal_lines
from fedpredict.model.sample_ids import SampleIds
from fedpredict.security.audit_chain import GENESIS, seal
from fedpredict.security.audit_file import text_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_IDS = np.array([-1], dtype=np.int64)
ways = pytest.mark.parametrize("plainly", [False, True], ids=["by the processor", "plainly"])


def ids_in_a_line(key: bytes, sample_ids: SampleIds, *, plainly: bool) -> list[str]:
    n_ids = np.array([len(sample_ids)], dtype=np.int64)
    calls = CallTexts(np.zeros(1, dtype=np.int64), ['"rows":1'], [""], n_ids, sample_ids)
    found: list[str] = json.loads(LineKernel(key, plainly=plainly).bodies(calls).data)["ids"]
    return found


@ways
@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [  # RFC 4231, test cases 1, 2, 3 and 5
        (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b"),
        (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c7"),
        (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a7"),
        (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
    ],
)
def test_the_vectors_of_the_standard(key: bytes, text: bytes, expected: str, plainly: bool) -> None:
    assert ids_in_a_line(key, SampleIds.of([text]), plainly=plainly) == [expected]


@ways
def test_ids_of_every_length(plainly: bool) -> None:
    key, ids = bytes(range(32)), [bytes([n % 251]) * n for n in range(300)]
    expected = [hmac.digest(key, each, "sha256")[:16].hex() for each in ids]
    assert ids_in_a_line(key, SampleIds.of(ids), plainly=plainly) == expected


@given(st.binary(max_size=64), st.lists(st.binary(max_size=140), max_size=20), st.booleans())
def test_they_are_those_of_the_standard_library(key: bytes, ids: list[bytes], plainly: bool) -> None:
    expected = [hmac.digest(key, each, "sha256")[:16].hex() for each in ids]
    assert ids_in_a_line(key, SampleIds.of(ids), plainly=plainly) == expected


def test_ids_that_are_cut_out_of_others() -> None:
    cut = SampleIds.of([b"u1", b"", b"u22", b"u333"])[1:3]
    assert ids_in_a_line(b"k", cut, plainly=False) == ids_in_a_line(b"k", SampleIds.of([b"", b"u22"]), plainly=False)


def test_a_key_that_is_too_long_and_ids_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="65 bytes"):
        LineKernel(b"k" * 65)
    calls = CallTexts(
        np.zeros(1, dtype=np.int64), ['"rows":1'], [""], np.array([2], dtype=np.int64), SampleIds.of([b"u1"])
    )
    with pytest.raises(ValueError, match="more or fewer ids"):
        LineKernel(b"k").bodies(calls)


@given(st.datetimes(EPOCH.replace(tzinfo=None), timezones=st.just(UTC)))
def test_times_are_those_of_the_calendar(at: datetime) -> None:
    micros = np.array([(at - EPOCH) // timedelta(microseconds=1)], dtype=np.int64)
    bodies = LineKernel(b"k").bodies(CallTexts(micros, ['"rows":1'], ['""'], NO_IDS, SampleIds.of([])))
    assert json.loads(bodies.data) == {"kind": "call", "t": text_of(at), "rows": 1}


@given(
    st.lists(st.text('abc"\\ü', min_size=1, max_size=200), max_size=8),
    st.integers(1, 10**17),
    st.binary(min_size=32, max_size=32),
    st.booleans(),
)
def test_lines_are_sealed_as_one_by_one(fields: list[str], n: int, before: bytes, plainly: bool) -> None:
    bodies = [json.dumps({"kind": "call", "what": each}).encode() for each in fields]
    expected, sha256 = b"", before.hex()
    for number, body in enumerate(bodies, n):
        line, sha256 = seal(body, number, sha256)
        expected += line

    assert seal_lines(Bodies.of(bodies), n, before.hex(), plainly=plainly) == (expected, sha256)


def test_no_lines_are_no_bytes() -> None:
    assert seal_lines(Bodies.of([]), 1, GENESIS) == (b"", GENESIS)
    nothing = np.zeros(0, dtype=np.int64)
    assert LineKernel(b"k").bodies(CallTexts(nothing, [], [], nothing, SampleIds.of([]))).data == b""
