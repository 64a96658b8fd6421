"""The rows of one or more requests, put together as parties are asked for them. Pure: nothing is sent here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.initiator import policy
from fedpredict.initiator.waiting import Waiting
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.inputs import Inputs
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import NO_EVENT_TIME, PartyReply
from fedpredict.model.share import Share

_FEW_ROWS = 256
"""So many ids are packed one by one faster than run by run."""


@dataclass(slots=True, eq=False)
class Slice:
    """Rows of a request that travel in a round.

    Attributes:
        waiting: The request.
        start: The first row of the request that travels.
        rows: The rows' place in the round.
        segment: The place among the round's segments; None where none of the rows has a valid id.
    """

    waiting: Waiting
    start: int
    rows: slice
    segment: int | None = None

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return int(self.rows.stop - self.rows.start)


class Batch:
    """What travels: the valid ids of all slices.

    Attributes:
        slices: The requests' rows, in order.
        ids: Every row's id.
        valid: Shape (n_rows,): which ids are ids; the others are not sent.
        asked: The valid ids.
        segments: The number of valid ids of each request that has any.
    """

    def __init__(self, slices: Sequence[Slice]) -> None:
        self.slices = slices
        self.ids = _packed(slices)
        self.valid = valid_sample_ids(self.ids)
        self._all_valid = bool(self.valid.all())
        self.asked = self.ids if self._all_valid else self.ids.select(self.valid)
        self.segments = self._cut_segments()

    def inputs(self) -> Inputs | None:
        """Return the inputs of the valid rows; None where the requests have none."""
        given = [(each, each.waiting.task.inputs) for each in self.slices]
        first = given[0][1]
        if first is None:
            return None
        rows = [inputs.values[each.start : each.start + each.n_rows] for each, inputs in given if inputs is not None]
        values = rows[0] if len(rows) == 1 else np.concatenate(rows)
        return Inputs(first.names, values if self._all_valid else values[self.valid])

    def spread(self, share: Share) -> Share:
        """Return a share of the valid rows as one of all rows."""
        return share if self._all_valid else policy.spread_share(share, self.valid)

    def oldest_event_time(self, reply: PartyReply | None, of: Slice) -> int | None:
        """Return the oldest event time that a party used for a request; None where it used none."""
        if reply is None or of.segment is None:
            return None
        if reply.segment_event_times is None:
            return reply.oldest_event_time if len(self.segments) == 1 else None
        oldest = int(reply.segment_event_times[of.segment])
        return None if oldest == NO_EVENT_TIME else oldest

    def _cut_segments(self) -> tuple[int, ...]:
        segments: list[int] = []
        for each in self.slices:
            n_valid = each.n_rows if self._all_valid else int(self.valid[each.rows].sum())
            if n_valid:
                each.segment = len(segments)
                segments.append(n_valid)
        return tuple(segments)


def _packed(slices: Sequence[Slice]) -> SampleIds:
    if len(slices) == 1 or slices[-1].rows.stop > _FEW_ROWS:
        return SampleIds.concat([_cut(each) for each in slices])
    ids = (each.waiting.task.sample_ids[each.start : each.start + each.n_rows] for each in slices)
    return SampleIds.of(list(itertools.chain.from_iterable(ids)))


def _cut(of: Slice) -> SampleIds:
    return SampleIds.of(of.waiting.task.sample_ids).cut(of.start, of.start + of.n_rows)
