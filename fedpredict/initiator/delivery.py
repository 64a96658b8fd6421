"""What becomes of the parties' shares: added up, completed by each model's policy, and handed to those who wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from fedpredict.initiator import policy
from fedpredict.initiator.batch import Batch, Slice
from fedpredict.initiator.fallback import fall_back
from fedpredict.initiator.policy import Answer
from fedpredict.initiator.question import Question, Route
from fedpredict.initiator.settings import PolicyName
from fedpredict.initiator.unmasking import open_defaults, unmasked
from fedpredict.model.arrays import any_true
from fedpredict.model.prediction import Origin, PartyReport
from fedpredict.model.reasons import Reasons
from fedpredict.model.scorer import PartyReply
from fedpredict.model.share import SampleStatus, Share, all_ok
from fedpredict.observe.watch import RoundWatch

logger = logging.getLogger(__name__)

_OK = np.uint8(SampleStatus.OK)
MISFIT = "the parties' masks do not belong together"


@dataclass(slots=True, eq=False)
class Side:
    """What a party said in a round: a share of all rows, with the reply behind it or the problem instead.

    Where it has no share for some of the models, `problems` says why; `reasons` are of all rows, too.
    """

    party: str
    share: Share
    reply: PartyReply | None
    round_trip_s: float
    elapsed_s: float
    problem: str
    problems: Mapping[Question, str] = field(default_factory=dict)
    reasons: Reasons | None = None


class Delivery:
    """Gives the requests of a round their answers."""

    def __init__(self, route: Route, batch: Batch, watched: RoundWatch) -> None:
        """Prepare.

        Args:
            route: What the requests have in common.
            batch: Their rows.
            watched: Told of the combining.
        """
        self._route = route
        self._batch = batch
        self._watched = watched

    def deliver(self, slices: Sequence[Slice], sides: Mapping[str, Side]) -> None:
        """Answer requests, now or when the fallback model has; never raises, so that a round always ends.

        Args:
            slices: Their rows, in the order of the batch; none of them was delivered before.
            sides: What every party said.
        """
        if not slices:
            return
        for each in slices:
            each.told = True
        try:
            sides = self._unmasked(sides)
            answer = self._combine(sides)
            if answer.all_ok:
                self._hand_out(slices, sides, answer)
                return
        except Exception as error:  # noqa: BLE001  a defect: the callers are told
            _tell_defect(slices, error)
            return
        rows = {part.question: part.rows for part in self._batch.parts}
        for question, of_question in groupby(slices, key=lambda each: each.waiting.question):
            group = list(of_question)
            try:
                self._deliver_by_policy(question, rows[question], group, sides, answer.cut(rows[question]))
            except Exception as error:  # noqa: BLE001  a defect: these callers are told, the others get their answers
                _tell_defect(group, error)

    def _unmasked(self, sides: Mapping[str, Side]) -> Mapping[str, Side]:
        """Return the sides with the sum of masked shares in the place of one of them, where all of them are there."""
        if self._route.masked is None:
            return sides
        asked = [part for part in self._batch.parts if part.n_asked]
        n_rows, replies = [part.n_asked for part in asked], {party: side.reply for party, side in sides.items()}
        found = unmasked(self._route.masked, n_rows, self._route.n_scores, replies)
        if found is None:
            by_all = np.logical_and.reduce([sides[party].share.status == _OK for party in self._route.masked.parties])
            if any_true(by_all):  # a defect: what follows would take the others' shares for the sum
                raise ValueError("masked shares without the sum that they are for")
            return sides
        side = sides[found.party]
        problems = dict(side.problems)
        for part in [asked[place] for place in found.misfits]:
            self._watched.misfit(part.n_asked)
            extra = {"model": part.question.manifest.model_id, "n_samples": part.n_asked}
            logger.error("masks.contradict", extra=extra)
            problems[part.question] = MISFIT
        return {**sides, found.party: replace(side, share=self._batch.spread(found.share), problems=problems)}

    def _combine(self, sides: Mapping[str, Side]) -> Answer:
        combining = self._watched.combining()
        answer = policy.fail(self._route.link, {party: side.share for party, side in sides.items()}, self._route.head)
        if combining is not None:
            combining.end("ok")
        if answer.n_misfits:
            self._watched.misfit(answer.n_misfits)
            model = self._batch.parts[0].question.manifest.model_id
            extra = {"model": model, "reason": answer.problem, "n_samples": answer.n_misfits}
            logger.error("shares.contradict", extra=extra)
        return answer

    def _deliver_by_policy(
        self, question: Question, rows: slice, slices: Sequence[Slice], sides: Mapping[str, Side], answer: Answer
    ) -> None:
        """Answer requests for one model, of whose rows some may have no number.

        Args:
            question: What the requests have in common.
            rows: The model's.
            slices: The requests.
            sides: By party.
            answer: Of `rows`, without numbers where a party has none.
        """
        settings, is_whole = question.settings, all_ok(answer.status)
        if settings.policy is PolicyName.DEFAULT_PARTIAL and not is_whole:
            shares = {party: side.share.cut(rows) for party, side in sides.items()}
            defaults = open_defaults(self._route.masked, settings.defaults)
            answer = policy.default_partial(self._route.link, shares, defaults)
        if settings.fallback_model is None or is_whole:
            self._hand_out(slices, sides, answer, rows.start)
        else:
            _in_background(self._fall_back(question, rows, slices, sides, answer))

    async def _fall_back(
        self, question: Question, rows: slice, slices: Sequence[Slice], sides: Mapping[str, Side], answer: Answer
    ) -> None:
        """Hand out the answer with the fallback model's numbers where it has none."""
        try:
            whole = await fall_back(question, self._route, self._batch, slices, rows=rows, answer=answer)
            self._hand_out(slices, sides, whole, rows.start)
        except Exception as error:  # noqa: BLE001  a defect: the callers are told
            _tell_defect(slices, error)

    def _hand_out(self, slices: Sequence[Slice], sides: Mapping[str, Side], answer: Answer, first: int = 0) -> None:
        """Give each request its rows of an answer, which begins at row `first` of the round."""
        by_party = [self._reports(sides[party], slices) for party in self._route.parties]
        _add_reasons(by_party, [sides[party] for party in self._route.parties], slices, answer, first)
        if len(self._batch.slices) == 1:
            slices[0].waiting.take(slices[0].start, answer, tuple([reports[0] for reports in by_party]))
            return
        for each, *reports in zip(slices, *by_party, strict=True):
            own = answer.cut(slice(each.rows.start - first, each.rows.stop - first) if first else each.rows)
            each.waiting.take(each.start, own, tuple(reports))

    def _reports(self, side: Side, slices: Sequence[Slice]) -> list[PartyReport]:
        """Return a party's report to each request."""
        share, took_s, elapsed_s, problem = side.share, side.round_trip_s, side.elapsed_s, side.problem
        times = self._batch.event_times(side.reply, slices)
        if share.all_ok:
            return [PartyReport(side.party, None, oldest, took_s, elapsed_s, problem) for oldest in times]
        statuses = [share.status[each.rows] for each in slices]
        problems = [side.problems.get(each.waiting.question, problem) for each in slices]
        return [
            PartyReport(side.party, None if all_ok(status) else status, oldest, took_s, elapsed_s, told)
            for status, oldest, told in zip(statuses, times, problems, strict=True)
        ]


def _add_reasons(
    by_party: Sequence[Sequence[PartyReport]],
    sides: Sequence[Side],
    slices: Sequence[Slice],
    answer: Answer,
    first: int,
) -> None:
    """Add to each report why points were lost, for the rows whose number is the model's own."""
    for reports, side in zip(by_party, sides, strict=True):
        if side.reasons is None:
            continue
        for report, each in zip(reports, slices, strict=True):
            own = answer.origin[each.rows.start - first : each.rows.stop - first]
            kept = (own == Origin.MODEL) | (own == Origin.DEFAULT_PARTIAL)
            reasons = side.reasons.cut(each.rows).only(kept)
            report.reasons = reasons if reasons.codes else None


def fail_all(slices: Sequence[Slice], error: BaseException) -> None:
    """End requests without an answer."""
    for each in slices:
        each.waiting.fail(error)


def _tell_defect(slices: Sequence[Slice], error: Exception) -> None:
    logger.error("round.failed", exc_info=error)
    fail_all(slices, error)


_background: set[asyncio.Task[None]] = set()
"""The loop itself keeps weak references to tasks only."""


def _in_background(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
