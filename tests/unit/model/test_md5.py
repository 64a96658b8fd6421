"""The first bytes of MD5, compiled and not: RFC 1321's own vectors, and hashlib as the oracle."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.kernel import loading, md5
from fedpredict.model.kernel.md5 import Starts, md5_starts, starts_in_python
from fedpredict.model.sample_ids import SampleIds

VECTORS = {  # appendix A.5 of RFC 1321
    b"": "d41d8cd98f00b204e9800998ecf8427e",
    b"a": "0cc175b9c0f1b6a831c399e269772661",
    b"abc": "900150983cd24fb0d6963f7d28e17f72",
    b"message digest": "f96b697d7cb7938d525a2f31aaf161d0",
    b"abcdefghijklmnopqrstuvwxyz": "c3fcd3d76192e4007dfb496cca67e13b",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789": "d174ab98d277d9f5a5611c2c9f419d9f",
    b"1234567890" * 8: "57edf4a22be3c955ac49da2e2107b67a",
}


def by_hashlib(texts: list[bytes]) -> bytes:
    return b"".join(hashlib.md5(each, usedforsecurity=False).digest()[:4] for each in texts)


@pytest.fixture(params=[md5_starts, starts_in_python], ids=["compiled", "python"])
def starts(request: pytest.FixtureRequest) -> Callable[[SampleIds], Starts]:
    chosen: Callable[[SampleIds], Starts] = request.param
    return chosen


def test_the_vectors_of_the_standard(starts: Callable[[SampleIds], Starts]) -> None:
    found = starts(SampleIds.of(list(VECTORS)))

    assert found.shape == (len(VECTORS), 4)
    assert [row.tobytes().hex() for row in found] == [each[:8] for each in VECTORS.values()]


def test_every_length_alone_and_beside_others(starts: Callable[[SampleIds], Starts]) -> None:
    rng = np.random.default_rng(1321)
    texts = [rng.bytes(length) for length in range(301)]

    assert starts(SampleIds.of(texts)).tobytes() == by_hashlib(texts)
    for each in texts:
        assert starts(SampleIds.one(each)).tobytes() == by_hashlib([each])


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(0, 2**32))
def test_any_lengths_in_any_order(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = [rng.bytes(length) for length in lengths]

    assert md5_starts(SampleIds.of(texts)).tobytes() == by_hashlib(texts)


def test_a_cut_of_ids_is_hashed_as_its_own(starts: Callable[[SampleIds], Starts]) -> None:
    texts = [b"u%d" % number for number in range(30)]
    ids = SampleIds(b"".join(texts), SampleIds.of(texts).offsets[10:21])  # the offsets need not begin at 0

    assert starts(ids).tobytes() == by_hashlib(texts[10:20])


@pytest.mark.parametrize("offsets", [[0, 4], [-1, 2], [0, 3, 1]], ids=["beyond the bytes", "before them", "falling"])
def test_offsets_that_cut_nothing_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="do not cut"):
        md5_starts(SampleIds(b"abc", np.array(offsets, dtype=np.int64)))


def test_without_the_library_it_is_slower_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "FOLDER", tmp_path)
    ids = SampleIds.of(list(VECTORS))

    with caplog.at_level(logging.WARNING, md5.__name__):
        found = [md5_starts(ids).tobytes(), md5_starts(ids).tobytes()]

    assert found == [by_hashlib(list(VECTORS))] * 2
    (record,) = caplog.records
    assert record.message == "md5.not_compiled"
    assert "hatch_build.py" in record.__dict__["reason"]


def test_this_checkout_has_the_library() -> None:
    loading.load(loading.FOLDER, "md5", ())
