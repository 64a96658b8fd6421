"""What a request that is not answered with a prediction gets: a problem, and perhaps a line in the log."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from fedpredict.errors import RetryLaterError
from fedpredict.http.application import log_refusal, problem_for
from fedpredict.http.exchange import Exchange
from fedpredict.observe.logs import log_context
from fedpredict.observe.request_log import RequestLog

PER_TURN = 32
"""Refusals for overload in one turn of the event loop: some milliseconds of work, with what their callers send next."""


class Refusals:
    """Refuses requests of the fast path.

    Who is refused for overload, or for too many calls, comes again, and thousands who do so at once would fill every
    turn of the event loop: those who were taken need several turns, to their parties and back, and would hardly get on.
    So such refusals are given a few in each turn. No other request on their connections is begun meanwhile.
    """

    def __init__(self, log: RequestLog) -> None:
        """Prepare.

        Args:
            log: Says which refusals get a line.
        """
        self._log = log
        self._waiting: deque[Callable[[], None]] = deque()

    def refuse(self, exchange: Exchange, request_id: str, error: BaseException) -> None:
        """Answer with a problem, now or in one of the next turns, and log why."""
        self.tell(error, request_id)
        answer = partial(exchange.refuse, problem_for(error), request_id)
        if not isinstance(error, RetryLaterError):
            answer()
            return
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._give_some)

    def tell(self, error: BaseException, request_id: str) -> None:
        """Log why a request was refused, if such a request gets a line."""
        if self._log.wants_error(error):
            with log_context(request_id=request_id):
                log_refusal(error)

    def _give_some(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(min(PER_TURN, len(self._waiting))):
            loop.call_soon(self._waiting.popleft())
        if self._waiting:
            loop.call_soon(self._give_some)
