"""Damaged and hostile files, by the thousand: each is read or refused, in this very process, and nothing runs."""

from __future__ import annotations

import gzip
import pickle
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.convert.portable import from_portable, to_portable
from fedpredict.convert.sklearn_file import Reading
from fedpredict.errors import FedPredictError, ModelFileError
from tests.unit.convert.support import joblib_bytes, options_for
from tests.unit.convert.test_portable import content

LIMITS = Limits(array_bytes=2**20, unpacked_bytes=2**22, operations=100_000)


def read(data: bytes) -> Reading:
    return read_content(data, options_for(2), LIMITS)


def files(small_pickle: bytes) -> dict[str, bytes]:
    model: Any = pickle.loads(small_pickle)
    return {
        "pickle_0": pickle.dumps(model, protocol=0),
        "pickle_2": pickle.dumps(model, protocol=2),
        "pickle_4": small_pickle,
        "pickle_5": pickle.dumps(model, protocol=5),
        "joblib": joblib_bytes(model),
        "joblib_zlib": joblib_bytes(model, 3),
        "gzip": gzip.compress(small_pickle),
        "portable": pickle.dumps(to_portable(from_portable(content()))),
    }


NAMES = ("pickle_0", "pickle_2", "pickle_4", "pickle_5", "joblib", "joblib_zlib", "gzip", "portable")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_at_any_byte_is_refused(name: str, small_pickle: bytes) -> None:
    data = files(small_pickle)[name]

    for length in range(len(data)):
        with pytest.raises(ModelFileError):
            read(data[:length])


@pytest.mark.parametrize("name", NAMES)
def test_bytes_behind_the_end_are_refused(name: str, small_pickle: bytes) -> None:
    with pytest.raises(ModelFileError, match="follow"):
        read(files(small_pickle)[name] + b"N.")


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_random_damage_is_read_or_refused(name: str, small_pickle: bytes, data: st.DataObject) -> None:
    damaged = bytearray(files(small_pickle)[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    try:
        reading = read(bytes(damaged))
    except FedPredictError:
        return
    assert reading.partial.part.n_scores >= 1


@pytest.mark.parametrize("name", ["pickle_0", "pickle_4", "joblib"])
def test_every_byte_replaced_by_an_opcode_is_read_or_refused(name: str, small_pickle: bytes) -> None:
    original = files(small_pickle)[name]

    for position in range(0, len(original), 11):
        for opcode in b"R\x81\x93b.\x82Pt":
            damaged = bytearray(original)
            damaged[position] = opcode
            try:
                read(bytes(damaged))
            except FedPredictError:
                continue
