from __future__ import annotations

import hmac
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.kernel.hmacs import hmac_halves
from fedpredict.model.kernel.loading import FOLDER
from fedpredict.model.sample_ids import SampleIds

MISSING = Path("no-such-folder")


@pytest.fixture(params=[FOLDER, MISSING], ids=["compiled", "python"])
def folder(request: pytest.FixtureRequest) -> Path:
    where: Path = request.param
    return where


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [  # RFC 4231, test cases 1, 2, 3 and 5
        (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b"),
        (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c7"),
        (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a7"),
        (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
    ],
)
def test_the_vectors_of_the_standard(folder: Path, key: bytes, text: bytes, expected: str) -> None:
    assert hmac_halves(key, folder)(SampleIds.of([text])).hex() == expected


def test_ids_of_every_length_side_by_side(folder: Path) -> None:
    key, ids = bytes(range(32)), [bytes([n % 251]) * n for n in range(300)]
    expected = b"".join(hmac.digest(key, each, "sha256")[:16] for each in ids)
    assert hmac_halves(key, folder)(SampleIds.of(ids)) == expected


@given(st.binary(max_size=64), st.lists(st.binary(max_size=140), max_size=20))
def test_they_are_those_of_the_standard_library(key: bytes, ids: list[bytes]) -> None:
    expected = b"".join(hmac.digest(key, each, "sha256")[:16] for each in ids)
    assert hmac_halves(key)(SampleIds.of(ids)) == expected


def test_ids_that_are_cut_out_of_others(folder: Path) -> None:
    ids = SampleIds.of([b"u1", b"", b"u22", b"u333"])
    assert hmac_halves(b"k", folder)(ids[1:3]) == hmac_halves(b"k", folder)(SampleIds.of([b"", b"u22"]))


def test_no_library_is_a_warning_and_a_key_that_is_too_long_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        hmac_halves(b"k", MISSING)
    assert [each.message for each in caplog.records] == ["hmac.not_compiled"]
    with pytest.raises(ValueError, match="65 bytes"):
        hmac_halves(b"k" * 65)
