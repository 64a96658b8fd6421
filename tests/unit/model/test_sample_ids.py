from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.sample_ids import SampleIds

id_lists = st.lists(st.binary(max_size=20), max_size=40)


def check_offsets(packed: SampleIds) -> None:
    assert packed.offsets.dtype == np.int64
    assert packed.offsets[0] == 0
    assert packed.offsets[-1] == len(packed.data)


@given(id_lists)
def test_packed_ids_are_the_ids(ids: list[bytes]) -> None:
    packed = SampleIds.of(ids)
    check_offsets(packed)
    assert list(packed) == ids
    assert len(packed) == len(ids)
    assert packed.lengths.tolist() == [len(each) for each in ids]
    assert [packed[index] for index in range(len(ids))] == ids
    assert packed == ids
    assert SampleIds.of(packed) is packed


@given(id_lists, st.data())
def test_chosen_ids_keep_their_order(ids: list[bytes], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    some = SampleIds.of(ids).select(np.array(chosen, dtype=bool))
    check_offsets(some)
    assert list(some) == [each for each, wanted in zip(ids, chosen, strict=True) if wanted]


@given(st.lists(id_lists, min_size=1, max_size=6))
def test_parts_are_joined_in_order(parts: list[list[bytes]]) -> None:
    joined = SampleIds.concat([SampleIds.of(part) for part in parts])
    check_offsets(joined)
    assert list(joined) == [each for part in parts for each in part]


@given(id_lists, st.integers(0, 40), st.integers(0, 40))
def test_a_cut_is_a_slice(ids: list[bytes], start: int, length: int) -> None:
    start, stop = min(start, len(ids)), min(start + length, len(ids))
    some = SampleIds.of(ids).cut(start, stop)
    check_offsets(some)
    assert list(some) == ids[start:stop]


@given(id_lists, st.slices(40))
def test_slices_are_those_of_a_list(ids: list[bytes], where: slice) -> None:
    assert list(SampleIds.of(ids)[where]) == ids[where]


def test_a_choice_for_another_number_of_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="2 choices for 3"):
        SampleIds.of([b"a", b"b", b"c"]).select(np.array([True, True]))


def test_an_index_beyond_the_end_is_an_error_as_in_a_list() -> None:
    with pytest.raises(IndexError):
        SampleIds.of([b"a"])[1]
