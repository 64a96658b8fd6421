"""Many sample ids as one value: their bytes end to end and where each ends, so that nothing walks them one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from fedpredict.model.arrays import Bools, all_true

_OFFSETS_OF_ONE = [np.array((0, n_bytes), dtype=np.int64) for n_bytes in range(257)]
"""The offsets of a single id, by its length: mostly there is one id, and they take longest of it to make."""
for _offsets_of_one in _OFFSETS_OF_ONE:
    _offsets_of_one.flags.writeable = False


# not frozen, though nobody changes one: a frozen dataclass takes three times as long to make
@dataclass(slots=True, eq=False)
class SampleIds(Sequence[bytes]):
    """Sample ids, packed; any bytes, so that an invalid one keeps its place.

    Attributes:
        data: The ids' bytes, one after the other.
        offsets: Shape (n + 1,), int64, from 0 and never falling: id i is `data[offsets[i]:offsets[i + 1]]`.
    """

    data: bytes
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, sample_ids: Iterable[bytes]) -> SampleIds:
        """Return `sample_ids` packed; what is packed already is returned as it is.

        >>> list(SampleIds.of([b"u1", b"", b"u22"]))
        [b'u1', b'', b'u22']
        """
        if isinstance(sample_ids, SampleIds):
            return sample_ids
        ids = sample_ids if isinstance(sample_ids, list | tuple) else list(sample_ids)
        if len(ids) == 1:
            return cls.one(bytes(ids[0]))
        return cls(b"".join(ids), _offsets(np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))))

    @classmethod
    def one(cls, sample_id: bytes) -> SampleIds:
        """Return a single id, packed.

        >>> list(SampleIds.one(b"u1"))
        [b'u1']
        """
        length = len(sample_id)
        if length < len(_OFFSETS_OF_ONE):
            return cls(sample_id, _OFFSETS_OF_ONE[length])
        return cls(sample_id, np.array((0, length), dtype=np.int64))

    @classmethod
    def concat(cls, parts: Sequence[SampleIds]) -> SampleIds:
        """Return the ids of all parts, in order; at least one part."""
        if len(parts) == 1:
            return parts[0]
        data = [part.data for part in parts]
        ends = [part.offsets[1:] for part in parts]
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), *ends])
        starts = list(itertools.accumulate(map(len, data[:-1]), initial=0))
        offsets[1:] += np.repeat(np.array(starts, dtype=np.int64), list(map(len, ends)))
        return cls(b"".join(data), offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of bytes of each id; shape (n,)."""
        return self.offsets[1:] - self.offsets[:-1]

    def cut(self, start: int, stop: int) -> SampleIds:
        """Return ids `start` to `stop`, the latter not included."""
        if start == 0 and stop == len(self):
            return self
        offsets = self.offsets[start : stop + 1]
        return SampleIds(self.data[offsets[0] : offsets[-1]], offsets - offsets[0])

    def select(self, chosen: Bools) -> SampleIds:
        """Return the ids where `chosen`, shape (n,), is true; in order."""
        if len(chosen) != len(self):
            raise ValueError(f"{len(chosen)} choices for {len(self)} sample ids")
        if all_true(chosen):
            return self
        lengths = self.lengths
        data = np.frombuffer(self.data, dtype=np.uint8)[np.repeat(chosen, lengths)].tobytes()
        return SampleIds(data, _offsets(lengths[chosen]))

    def take(self, rows: NDArray[np.intp]) -> SampleIds:
        """Return the ids of those rows, each from 0, in their order; a row may come several times.

        >>> list(SampleIds.of([b"u1", b"", b"u22"]).take(np.array([2, 0])))
        [b'u22', b'u1']
        """
        lengths = self.lengths
        width = int(lengths[0]) if len(lengths) else 0
        if width and all_true(lengths == width):  # as mostly: whole ids are copied
            whole = np.frombuffer(self.data, dtype=f"V{width}", count=len(lengths), offset=int(self.offsets[0]))
            return SampleIds(whole.take(rows).tobytes(), np.arange(len(rows) + 1, dtype=np.int64) * width)
        taken = _offsets(lengths[rows])
        at = np.arange(taken[-1]) + np.repeat(self.offsets[rows] - taken[:-1], lengths[rows])
        return SampleIds(np.frombuffer(self.data, dtype=np.uint8)[at].tobytes(), taken)

    @override
    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> SampleIds: ...
    @override
    def __getitem__(self, index: int | slice) -> bytes | SampleIds:
        """Return one id, or a range of them."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self.cut(start, max(start, stop)) if step == 1 else SampleIds.of(list(self)[index])
        position = range(len(self))[index]
        return self.data[self.offsets[position] : self.offsets[position + 1]]

    @override
    def __eq__(self, other: object) -> bool:
        """Return whether `other` holds the same ids in the same order, packed or not."""
        return list(self) == list(other) if isinstance(other, SampleIds | list | tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    @override
    def __iter__(self) -> Iterator[bytes]:
        data = self.data
        return (data[start:end] for start, end in itertools.pairwise(self.offsets.tolist()))


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
