"""Requests to the same parties: those that arrive while a round is under way travel together in the next.

They are for any models of one kind, link and width, in one mode: a `Route` says which may travel together (ADR 0018).

No timer decides when a round starts: a request that finds no round under way travels at once and alone. Only where a
round is slow (a party far away, or one that hangs) the next starts before it has ended.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

from fedpredict.initiator.batch import Batch, Slice
from fedpredict.initiator.question import Question, Route
from fedpredict.initiator.round import Round
from fedpredict.initiator.waiting import Waiting

ROUND_ROWS = 8_192
"""Most rows of a round; a participant's default limit per call is 10,000."""
SLICE_ROWS = 2_048
"""Most rows that one request has in a round, so that a large one delays small ones by no more than this."""
ROUND_MODELS = 128
"""Most models in a round."""
PIPELINED = 2
"""Rounds under way at once while there are enough rows to fill one: parties compute while answers are combined."""
ENOUGH = 20
"""So many requests fill a round, however small they are: fewer cost more in messages than is gained side by side."""
PATIENCE_S = 0.01
"""After so long, times the number of rounds under way, the next starts beside them."""
HURRY = 0.25
"""No request waits longer for its round than this part of its time."""
MAX_ROUNDS = 32


class Lane:
    """A queue of requests, and the rounds under way. Used from one thread: the event loop's."""

    def __init__(self, route: Route, *, round_rows: int = ROUND_ROWS) -> None:
        """Prepare.

        Args:
            route: What all requests have in common.
            round_rows: Most rows that a party takes at once.
        """
        self._route = route
        self._round_rows = min(round_rows, ROUND_ROWS)
        self._queue: deque[Waiting] = deque()
        self._rounds: set[Round] = set()
        self._newest = 0.0
        self._hurried = math.inf
        """When the request in the queue that is in the greatest hurry wants its round."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self.loop = asyncio.get_running_loop()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._queue and not self._rounds

    def waiting(self) -> tuple[int, int]:
        """Return how many requests are in the queue, and their rows that are in no round yet."""
        return len(self._queue), sum(each.n_left for each in self._queue)

    def add(self, waiting: Waiting) -> None:
        """Let a request travel with the next round."""
        self._queue.append(waiting)
        if not self._rounds or (len(self._queue) >= ENOUGH and len(self._rounds) < PIPELINED):
            self._start_round()
            if not self._queue:
                return
        hurried = _hurried(waiting)
        self._hurried = min(self._hurried, hurried)
        # most requests are small and not in a hurry: the round's end or the timer that is set finds them
        if self._timer is None or hurried < self._timer_at or waiting.n_rows >= SLICE_ROWS:
            self._go_on()

    def left(self) -> None:
        """Look again after a caller gave up: rounds that nobody waits for end."""
        for each in list(self._rounds):
            each.someone_left()

    def _go_on(self) -> None:
        """Start what may start beside the rounds under way, and come back when the next may."""
        while self._queue and self._is_time():
            self._start_round()
        if self._queue:
            self._set_timer(self._next_start())

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer, self._timer_at = self.loop.call_at(when, self._tick), when

    def _tick(self) -> None:
        self._timer = None
        self._expire()
        self._go_on()

    def _is_time(self) -> bool:
        if not self._rounds:
            return True
        if len(self._rounds) >= MAX_ROUNDS:
            return False
        if len(self._rounds) < PIPELINED and self._rows_waiting() >= SLICE_ROWS:
            return True
        return self.loop.time() >= self._next_start()

    def _rows_waiting(self) -> int:
        # a few large requests are seen at once; many small ones travel soon anyway
        return sum(self._queue[place].n_left for place in range(min(len(self._queue), PIPELINED)))

    def _next_start(self) -> float:
        if len(self._rounds) >= MAX_ROUNDS:
            return self.loop.time() + PATIENCE_S
        return min(self._newest + PATIENCE_S * len(self._rounds), self._hurried)

    def _expire(self) -> None:
        """End requests whose time ran out in the queue; a round asks nobody for them."""
        now = self.loop.time()
        expired = [each for each in self._queue if not each.over and each.asks_until <= now]
        if expired:
            self._queue = deque([each for each in self._queue if not each.over and each.asks_until > now])
            self._run(Batch([Slice(each, each.taken, each.n_left) for each in expired]))

    def _start_round(self) -> None:
        slices = self._cut()
        if slices:
            self._run(Batch(slices))

    def _run(self, batch: Batch) -> None:
        started = Round(self._route, batch, self._ended)
        self._rounds.add(started)
        self._newest = started.started
        started.start()

    def _ended(self, ended: Round) -> None:
        self._rounds.discard(ended)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._go_on()

    def _cut(self) -> list[Slice]:
        """Take the next round's rows from the queue; what is left of large requests goes to its end."""
        slices: list[Slice] = []
        unfinished: list[Waiting] = []
        questions: set[Question] = set()
        rows = 0
        while self._queue and rows < self._round_rows:
            waiting = self._queue.popleft()
            if waiting.over:
                continue
            questions.add(waiting.question)
            if len(questions) > ROUND_MODELS:
                self._queue.appendleft(waiting)
                break
            n_rows = min(waiting.n_left, SLICE_ROWS, self._round_rows - rows)
            slices.append(Slice(waiting, waiting.taken, n_rows))
            waiting.taken += n_rows
            rows += n_rows
            if waiting.n_left:
                unfinished.append(waiting)
        self._queue.extend(unfinished)
        if len(self._queue) == len(unfinished):
            self._hurried = min(map(_hurried, unfinished), default=math.inf)
        return slices


def _hurried(waiting: Waiting) -> float:
    return waiting.arrived + HURRY * (waiting.asks_until - waiting.arrived)
