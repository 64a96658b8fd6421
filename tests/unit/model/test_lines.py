"""The kernel of the audit log's lines: ids as the standard's HMACs, times as datetime's, seals as hashlib's."""

from __future__ import annotations

import hmac
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.kernel.lines import Bodies, LineKernel, Sealer, pack_call
from fedpredict.model.populations import digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.security.audit_chain import GENESIS, seal
from fedpredict.security.audit_file import text_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ways = pytest.mark.parametrize("plainly", [False, True], ids=["by the processor", "plainly"])


def ids_in_a_line(key: bytes, sample_ids: SampleIds, *, plainly: bool) -> list[str]:
    (line,) = lines_of(LineKernel(key, 1_000, plainly=plainly), pack_call(0, b'"rows":1', "", sample_ids))
    found: list[str] = line["ids"]
    return found


def lines_of(kernel: LineKernel, *calls: bytes) -> list[dict[str, Any]]:
    bodies = kernel.bodies(calls)
    starts = [0, *bodies.ends.tolist()]
    return [json.loads(bodies.data[start:end].tobytes()) for start, end in itertools.pairwise(starts)]


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


@ways
@given(key=st.binary(max_size=64), ids=st.lists(st.binary(max_size=140), min_size=3, max_size=20))
def test_many_ids_are_bound_by_the_digest_of_all(key: bytes, ids: list[bytes], plainly: bool) -> None:
    few, many = pack_call(0, b'"rows":1', "r", SampleIds.of(ids[:2])), pack_call(0, b'"rows":1', "", SampleIds.of(ids))
    of_few, of_many = lines_of(LineKernel(key, 2, plainly=plainly), few, many)
    digest = bytes.fromhex(digest_of(SampleIds.of(ids)))
    assert of_many["root"] == hmac.new(key, digest, "sha256").hexdigest()
    assert (len(of_few["ids"]), of_few["request"], "root" in of_few, "ids" in of_many) == (2, "r", False, False)


def test_a_key_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="65 bytes"):
        LineKernel(b"k" * 65, 1)


GOOD = pack_call(7, b'"rows":1', "r", SampleIds.of([b"u1", b"u22", b"u333"]))
# behind the head of 20 bytes, 8 of text and 3 of request: the number of ids, and where each begins
N_IDS, OFFSETS = 31, 39


@pytest.mark.parametrize("ids_per_line", [1, 10])
@pytest.mark.parametrize(
    "damaged",
    {
        "cut": GOOD[:-1],
        "cut in its head": GOOD[:12],
        "longer": GOOD + b"x",
        "text too long": GOOD[:8] + b"\xff\xff\xff\xff" + GOOD[12:],
        "request too long": GOOD[:12] + b"\xff\xff\xff\xff" + GOOD[16:],
        "ids too short": GOOD[:16] + b"\x01\x00\x00\x00" + GOOD[20:],
        "more ids than bytes": GOOD[:N_IDS] + b"\xff" * 7 + b"\x7f" + GOOD[OFFSETS:],
        "fewer than no ids": GOOD[:N_IDS] + b"\xff" * 8 + GOOD[OFFSETS:],
        "first not at 0": GOOD[:OFFSETS] + b"\x01" + GOOD[OFFSETS + 1 :],
        "last not at the end": GOOD[: OFFSETS + 12] + b"\x08" + GOOD[OFFSETS + 13 :],
    }.values(),
)
def test_what_is_not_packed_as_calls_are_is_refused(damaged: bytes, ids_per_line: int) -> None:
    assert len(LineKernel(b"k", ids_per_line).bodies([GOOD, GOOD])) == 2
    with pytest.raises(ValueError, match="not packed as calls are"):
        LineKernel(b"k", ids_per_line).bodies([GOOD, damaged])


@pytest.mark.parametrize("end", [1, 10])
def test_offsets_that_fall_or_go_too_far_are_refused(end: int) -> None:
    falling = GOOD[: OFFSETS + 8] + bytes([end]) + GOOD[OFFSETS + 9 :]
    with pytest.raises(ValueError, match="offsets do not cut"):
        LineKernel(b"k", 10).bodies([falling])


def test_lines_that_are_kept_outlast_the_next_ones() -> None:
    kernel = LineKernel(b"k", 10)
    kept = kernel.bodies([GOOD]).copy()
    other = kernel.bodies([pack_call(7, b'"rows":2', "s", None)] * 5)
    assert json.loads(kept.data.tobytes())["rows"] == 1
    assert json.loads(other.data[: other.ends[0]].tobytes())["rows"] == 2


@given(st.integers(0, 2**63 - 1))
def test_times_are_those_of_the_calendar(nanos: int) -> None:
    at = EPOCH + timedelta(microseconds=nanos // 1_000)
    call = pack_call(nanos, b'"rows":1', "", None)
    assert lines_of(LineKernel(b"k", 1), call) == [{"kind": "call", "t": text_of(at), "rows": 1}]


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

    sealed, found = Sealer(plainly=plainly).seal(Bodies.of(bodies), n, before.hex())
    assert (sealed.tobytes(), found) == (expected, sha256)


def test_no_lines_are_no_bytes() -> None:
    sealed, sha256 = Sealer().seal(Bodies.of([]), 1, GENESIS)
    assert (sealed.tobytes(), sha256) == (b"", GENESIS)
    assert len(LineKernel(b"k", 1).bodies([]).data) == 0
