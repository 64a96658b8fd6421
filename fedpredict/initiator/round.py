"""One asking of all parties: the rows of one or more requests, out to every party and back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from fedpredict.errors import (
    DistinctIdsUsedUpError,
    FedPredictError,
    InputError,
    PartyRefusedError,
    PartyTimeoutError,
    PartyUnavailableError,
)
from fedpredict.initiator import policy
from fedpredict.initiator.batch import Batch, Slice
from fedpredict.initiator.delivery import Delivery, Side, fail_all
from fedpredict.initiator.mask_asking import failed
from fedpredict.initiator.masking import MaskedSum
from fedpredict.initiator.question import Route
from fedpredict.initiator.unmasking import share_without_numbers
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.share import SampleStatus, Share
from fedpredict.observe.metrics import Outcome, call_outcome_of, outcome_of
from fedpredict.public_status import Code, public_status
from fedpredict.wire.codec import new_request_id

logger = logging.getLogger(__name__)

_AWAY = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED})
_NEAR_S = 0.0005
"""Deadlines this near are the same to one timer."""
_NAMED = 10
"""Requests of a round that a log line about it names."""


class Round:
    """Asks every party at once, and gives each request its rows as soon as all parties answered or its time is over.

    A request's deadline is its own: one that cannot wait any longer is answered with what is there, while the others
    wait on. When nobody waits any more, the parties are told so.
    """

    def __init__(self, route: Route, batch: Batch, ended: Callable[[Round], None]) -> None:
        """Prepare; nothing is asked before `start`.

        Args:
            route: What the requests have in common.
            batch: Their rows.
            ended: Called once, when the round is over.
        """
        self._route = route
        self._batch = batch
        self._asked = [part for part in batch.parts if part.n_asked]
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._sides: dict[str, Side] = {}
        self._pending: dict[str, asyncio.Future[PartyReply]] = {}
        self._lost: set[str] = set()
        """The parties that were found to be away since the last asking."""
        self._request_id = ""
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._n_left = 0
        """So many of the first slices have nobody any more who waits; all callers may leave one by one."""
        self._late_sides: dict[str, Side] = {}
        self.started = self._loop.time()
        self._watched = route.watch.round(
            [part.question.manifest.model_id for part in batch.parts],
            route.mode,
            [each.waiting.task.traceparent for each in batch.slices],
            len(batch.asked),
        )
        self._delivery = Delivery(route, batch, self._watched)
        self._began = time.perf_counter()  # uvloop's own clock counts milliseconds

    def start(self) -> None:
        """Ask the parties; where no id is valid there is nothing to ask."""
        if not self._batch.segments:
            self._loop.call_soon(self._finish)
            return
        slices = self._batch.slices
        left_s = max(each.waiting.asks_until for each in slices) - self.started
        if left_s <= 0.0:  # time ran out in the queue: nobody is asked
            self._sides = {party: self._late(party, 0.0) for party in self._route.parties}
            self._loop.call_soon(self._finish)
            return
        self._request_id = slices[0].waiting.task.request_id if len(slices) == 1 else new_request_id()
        if self._route.masked is not None:
            self._ask_masked(self._route.masked.present(self._asked[0].question.manifest), left_s)
        for party in self._route.parties:
            if party not in self._pending:
                self._pending[party] = _begin(self._route.scorers[party], self._query(party), left_s)
        self._listen()
        self._set_timer()

    def someone_left(self) -> None:
        """Look whether anybody still waits; where nobody does, tell the parties so and end."""
        slices = self._batch.slices
        while self._n_left < len(slices) and slices[self._n_left].waiting.over:
            self._n_left += 1
        if self._n_left == len(slices):
            self._end("cancelled")

    def _ask_masked(self, masked: MaskedSum, left_s: float) -> None:
        """Ask for a sum, which is the route's from here on; what it lacks is away, unless that was heard before."""
        if masked is not self._route.masked:
            self._route = replace(self._route, masked=masked)
            self._delivery = Delivery(self._route, self._batch, self._watched)
        manifests = [part.question.manifest for part in self._asked]
        queries = {party: self._query(party) for party in masked.parties}
        self._pending.update(masked.ask(manifests, queries, left_s))
        for party in masked.lacking:
            if party not in self._sides:
                gone = PartyUnavailableError(f"party {party}: no link, and the sum is made without it", party=party)
                self._pending[party] = failed(gone)

    def _asks_again(self) -> bool:
        """Ask for the sum without the parties that were lost on the way, in a new round; return whether that may be."""
        if self._route.masked is None or not self._lost:
            return False
        smaller = self._route.masked.without(self._lost, self._asked[0].question.manifest)
        left_s = max((each.waiting.asks_until for each in self._live()), default=0.0) - self._loop.time()
        if smaller is None or left_s <= 0.0:
            return False
        self._lost.clear()
        self._ask_masked(smaller, left_s)
        self._listen()
        return True

    def _listen(self) -> None:
        for party, future in list(self._pending.items()):
            future.add_done_callback(partial(self._heard, party))

    def _query(self, party: str) -> ScoreQuery:
        batch, first, is_several = self._batch, self._asked[0].question.refs[party], len(self._asked) > 1
        return ScoreQuery(
            request_id=self._request_id,
            model_id=first.model_id,
            manifest_sha256=first.manifest_sha256,
            params_sha256=first.params_sha256,
            mode=self._route.mode,
            sample_ids=batch.asked,
            segments=batch.segments if len(batch.segments) > 1 else (),
            inputs=batch.inputs() if party == self._route.own_party else None,
            traceparent=self._watched.ask(party),
            further=tuple([part.question.refs[party] for part in self._asked[1:]]) if is_several else (),
            model_rows=tuple([part.n_asked for part in self._asked]) if is_several else (),
        )

    def _heard(self, party: str, future: asyncio.Future[PartyReply]) -> None:
        if self._pending.pop(party, None) is None:
            return
        took_s = time.perf_counter() - self._began
        try:
            reply = future.result()
            self._sides[party] = self._answered(party, reply, took_s)
            outcome = call_outcome_of(next(iter(reply.failures.values()))) if reply.failures else "ok"
            self._watched.heard(party, outcome, took_s, reply.elapsed_s)
        except InputError as error:  # of this initiator's own part: the caller's inputs do not fit
            self._fail(error)
            return
        except FedPredictError as error:
            if isinstance(error, PartyUnavailableError):
                self._lost.add(error.party)
            self._watched.heard(party, call_outcome_of(error), took_s)
            self._sides[party] = self._absent(party, error, took_s)
        except asyncio.CancelledError:
            self._watched.heard(party, "unavailable", took_s)
            gone = PartyUnavailableError(f"the call to party {party} was given up", party=party)
            self._sides[party] = self._absent(party, gone, took_s)
        except Exception as error:  # a defect: the callers are told, and the round must not stay open
            logger.exception("round.failed", extra={"party": party})
            self._fail(error)
            return
        if not self._pending:
            self._finish()

    def _answered(self, party: str, reply: PartyReply, took_s: float) -> Side:
        share, expected = reply.share, (len(self._batch.asked), self._route.n_scores)
        if reply.masked is not None:
            share = share_without_numbers(reply.masked, share.status)
        if reply.failures and len(reply.failures) == len(self._asked):
            share = Share(np.full(expected, np.nan), share.status)
        if share.values.shape != expected:
            shape = share.values.shape
            raise PartyRefusedError(f"party {party} sent a share of shape {shape}, not {expected}", party=party)
        side = Side(party, self._batch.spread(share), reply, took_s, reply.elapsed_s, "")
        side.reasons = self._batch.spread_reasons(reply.reasons)
        return self._without(party, side, reply.failures) if reply.failures else side

    def _without(self, party: str, side: Side, failures: Mapping[int, FedPredictError]) -> Side:
        """Return a side with the statuses and problems of models that the party has no share for."""
        status, problems = side.share.status.copy(), {}
        for place, error in failures.items():
            part = self._asked[place]
            code, problems[part.question] = _told(party, error, part.slices)
            of_part = status[part.rows]
            of_part[self._batch.valid[part.rows]] = code
        return replace(side, share=Share(side.share.values, status), problems=problems)

    def _absent(self, party: str, error: FedPredictError, took_s: float) -> Side:
        status, problem = _told(party, error, self._batch.slices)
        return Side(party, self._no_share(status), None, took_s, 0.0, problem)

    def _late(self, party: str, took_s: float) -> Side:
        side = self._late_sides.get(party)
        if side is None:  # logged once, however many deadlines pass
            error = PartyTimeoutError(f"party {party} did not answer in {took_s:.3f} s", party=party)
            side = self._late_sides[party] = self._absent(party, error, took_s)
        return replace(side, round_trip_s=took_s)

    def _no_share(self, status: SampleStatus) -> Share:
        return policy.absent_share(self._batch.valid, self._route.n_scores, status)

    def _set_timer(self) -> None:
        until = [each.waiting.asks_until for each in self._live()]
        if until and not self._over:
            self._timer = self._loop.call_at(min(until), self._time_over)

    def _time_over(self) -> None:
        """Answer the requests that cannot wait any longer with what is there."""
        self._timer = None
        now = self._loop.time()
        expired = [each for each in self._live() if each.waiting.asks_until <= now + _NEAR_S]
        if expired:
            late = {party: self._late(party, now - self.started) for party in self._pending}
            self._delivery.deliver(expired, {**self._sides, **late})
        if all(each.waiting.asks_until <= now + _NEAR_S for each in self._live()):
            for party in self._pending:
                self._watched.heard(party, "timeout", time.perf_counter() - self._began)
            self._end()
        else:
            self._set_timer()

    def _live(self) -> list[Slice]:
        return [each for each in self._batch.slices if not (each.told or each.waiting.over)]

    def _finish(self) -> None:
        if self._over or self._asks_again():  # over: the callers left before it began
            return
        sides = self._sides or {party: self._unasked(party) for party in self._route.parties}
        # the next round is under way, and parties compute, while these answers are handed out
        self._make_way()
        self._delivery.deliver(self._live(), sides)
        self._watched.ended("ok")

    def _unasked(self, party: str) -> Side:
        return Side(party, self._no_share(SampleStatus.ID_INVALID), None, 0.0, 0.0, "")

    def _fail(self, error: BaseException) -> None:
        fail_all(self._batch.slices, error)
        self._end(outcome_of(error))

    def _end(self, outcome: Outcome = "ok") -> None:
        if not self._over:
            self._make_way()
            self._watched.ended(outcome)

    def _make_way(self) -> None:
        """Ask nobody any more, and let the lane go on; exactly once."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            future.cancel()
        self._ended(self)


def _told(party: str, error: FedPredictError, slices: Sequence[Slice]) -> tuple[SampleStatus, str]:
    """Log that a party has no share for some requests; return their status, and what the callers are told."""
    named = [each.waiting.task.request_id for each in slices[:_NAMED]]
    logger.warning("party.failed", extra={"party": party, "reason": str(error), "requests": named})
    public = public_status(error)
    # a limit of a day is no passing trouble, though it has the code of one
    is_away = public.code in _AWAY and not isinstance(error, DistinctIdsUsedUpError)
    return (SampleStatus.PARTY_UNAVAILABLE if is_away else SampleStatus.REFUSED), public.text


def _begin(scorer: PartyScorer, query: ScoreQuery, deadline_s: float) -> asyncio.Future[PartyReply]:
    """Ask a party; what it raises at once is the future's outcome as well."""
    try:
        awaitable: Awaitable[PartyReply] = scorer.score(query, deadline_s=deadline_s)
    except FedPredictError as error:
        failed: asyncio.Future[PartyReply] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed
    if isinstance(awaitable, asyncio.Future):
        return awaitable
    return asyncio.ensure_future(cast("Coroutine[Any, Any, PartyReply]", awaitable))
