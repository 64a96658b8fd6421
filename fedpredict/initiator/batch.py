"""The rows of one or more requests, put together as parties are asked for them. Pure: nothing is sent here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedpredict.initiator import policy
from fedpredict.initiator.question import Question
from fedpredict.initiator.waiting import Waiting
from fedpredict.model.arrays import all_true
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.inputs import Inputs, joined_inputs
from fedpredict.model.reasons import Reasons
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import NO_EVENT_TIME, PartyReply
from fedpredict.model.share import Share


@dataclass(slots=True, eq=False)
class Slice:
    """Rows of a request that travel in a round.

    Attributes:
        waiting: The request.
        start: The first row of the request that travels.
        n_rows: How many do.
        rows: The rows' place in the round.
        segment: The place among the round's segments; None where none of the rows has a valid id.
        told: Whether the request has, or is about to get, the answer for these rows; it may wait for others still.
    """

    waiting: Waiting
    start: int
    n_rows: int
    rows: slice = field(init=False)
    segment: int | None = None
    told: bool = False


@dataclass(slots=True, eq=False)
class ModelRows:
    """Rows of a round for one version of a model; they stand together.

    Attributes:
        question: What their requests have in common.
        slices: The requests' rows, in order.
        rows: The rows' place in the round.
        n_asked: How many of them have a valid id.
    """

    question: Question
    slices: list[Slice]
    rows: slice = field(init=False)
    n_asked: int = 0


class Batch:
    """What travels: the valid ids of all slices.

    Attributes:
        parts: The rows by version of a model, in order.
        slices: The requests' rows, in order.
        ids: Every row's id.
        valid: Shape (n_rows,): which ids are ids; the others are not sent.
        asked: The valid ids.
        segments: The number of valid ids of each request that has any.
    """

    def __init__(self, slices: Sequence[Slice]) -> None:
        """Give the rows of a round their places; those for one version of a model stand together.

        Args:
            slices: What travels, in any order; at least one.
        """
        self.parts = _parts(slices)
        self.slices = slices if len(self.parts) == 1 else [each for part in self.parts for each in part.slices]
        self.ids = _packed(self.slices)
        self.valid = valid_sample_ids(self.ids)
        self._all_valid = all_true(self.valid)
        self.asked = self.ids if self._all_valid else self.ids.select(self.valid)
        self.segments = self._cut_segments()
        self._count_asked()

    def inputs(self) -> Inputs | None:
        """Return the inputs of the valid rows; None where the requests have none."""
        given = [(each, each.waiting.task.inputs) for each in self.slices]
        first = given[0][1]
        if first is None:
            return None
        rows = [inputs.of(slice(each.start, each.start + each.n_rows)) for each, inputs in given if inputs is not None]
        inputs = joined_inputs(rows)
        return inputs if self._all_valid else inputs.of(self.valid)

    def spread(self, share: Share) -> Share:
        """Return a share of the valid rows as one of all rows."""
        return share if self._all_valid else policy.spread_share(share, self.valid)

    def spread_reasons(self, reasons: Reasons | None) -> Reasons | None:
        """Return the reasons of the valid rows as those of all rows."""
        return reasons if reasons is None or self._all_valid else reasons.spread(self.valid)

    def event_times(self, reply: PartyReply | None, slices: Sequence[Slice]) -> list[int | None]:
        """Return for each request the oldest event time that a party used for it; None where it used none."""
        if reply is None:
            return [None] * len(slices)
        if reply.segment_event_times is None:
            lone = reply.oldest_event_time if len(self.segments) == 1 else None
            return [None if each.segment is None else lone for each in slices]
        times = reply.segment_event_times.tolist()
        return [
            None if each.segment is None or times[each.segment] == NO_EVENT_TIME else times[each.segment]
            for each in slices
        ]

    def _cut_segments(self) -> tuple[int, ...]:
        if self._all_valid:
            for place, each in enumerate(self.slices):
                each.segment = place
            return tuple([each.n_rows for each in self.slices])
        segments: list[int] = []
        for each in self.slices:
            n_valid = int(self.valid[each.rows].sum())
            if n_valid:
                each.segment = len(segments)
                segments.append(n_valid)
        return tuple(segments)

    def _count_asked(self) -> None:
        for part in self.parts:
            n_rows = part.rows.stop - part.rows.start
            part.n_asked = n_rows if self._all_valid else int(self.valid[part.rows].sum())


def _parts(slices: Sequence[Slice]) -> list[ModelRows]:
    """Return the slices by question, in the order in which the questions first appear, and give each its place."""
    by_question: dict[Question, ModelRows] = {}
    for each in slices:
        question = each.waiting.question
        part = by_question.get(question)
        if part is None:
            by_question[question] = ModelRows(question, [each])
        else:
            part.slices.append(each)
    stop = 0
    for part in by_question.values():
        first = stop
        for each in part.slices:
            start, stop = stop, stop + each.n_rows
            each.rows = slice(start, stop)
        part.rows = slice(first, stop)
    return list(by_question.values())


def _packed(slices: Sequence[Slice]) -> SampleIds:
    if len(slices) == slices[-1].rows.stop:  # one row each, as applicants come
        return SampleIds.of([each.waiting.task.sample_ids[each.start] for each in slices])
    return SampleIds.concat([_cut(each) for each in slices])


def _cut(of: Slice) -> SampleIds:
    return SampleIds.of(of.waiting.task.sample_ids).cut(of.start, of.start + of.n_rows)
