"""Ids as sets, against Python's own sets and sorting, with and without several ids of one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model import id_sets
from fedpredict.model.buckets import Hashes, places_of
from fedpredict.model.id_sets import are_among, by_place
from fedpredict.model.sample_ids import SampleIds

IDS = st.lists(st.binary(max_size=3) | st.sampled_from([b"u1", b"u2", b"long" * 80]), max_size=40)
EVEN = st.lists(st.binary(min_size=2, max_size=2), max_size=40)


@contextmanager
def places(hashed: Callable[[SampleIds], Hashes]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_sets, "places_of", hashed)
        yield


def crowded(ids: SampleIds) -> Hashes:
    """Three places for all ids: no short ids are known that share one."""
    return places_of(ids) % np.uint32(3)


@pytest.mark.parametrize("hashed", [places_of, crowded])
@given(ids=IDS | EVEN, others=IDS | EVEN)
def test_ids_are_found_among_others(
    hashed: Callable[[SampleIds], Hashes], ids: list[bytes], others: list[bytes]
) -> None:
    with places(hashed):
        found = are_among(SampleIds.of(ids), SampleIds.of(others))

    assert found.tolist() == [each in set(others) for each in ids]


@pytest.mark.parametrize("hashed", [places_of, crowded])
@given(ids=IDS | EVEN)
def test_ids_stand_by_place_then_by_their_bytes_and_none_is_left_out(
    hashed: Callable[[SampleIds], Hashes], ids: list[bytes]
) -> None:
    with places(hashed):
        found = by_place(SampleIds.of(ids))

    assert list(found) == sorted(ids, key=lambda each: (int(hashed(SampleIds.of([each]))[0]), each))


@given(ids=IDS | EVEN, data=st.data())
def test_rows_of_ids_are_taken_in_any_order(ids: list[bytes], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(ids)))
    packed = SampleIds.of(ids)
    part = SampleIds(packed.data, packed.offsets[start:])  # the offsets need not begin at 0
    rows = data.draw(st.lists(st.integers(0, len(part) - 1), max_size=50)) if len(part) else []

    assert list(part.take(np.array(rows, dtype=np.intp))) == [ids[start:][row] for row in rows]
