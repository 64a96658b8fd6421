"""What a client is, apart from who waits for it: `AsyncClient` awaits it, `Client` waits in a thread."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from fedpredict.client import core
from fedpredict.client.circuit import Breaker, Circuit
from fedpredict.client.connection import Deadline, Target
from fedpredict.client.pooled import POOL, PooledConnection
from fedpredict.errors import ConfigError, ServerUnavailableError
from fedpredict.model.prediction import ModelInfo, Prediction, PredictTask


class Session:
    """One client's use of a shared connection, taken at its first call and given back when it closes."""

    def __init__(self, target: Target, *, hedge_after_s: float | None) -> None:
        """Prepare.

        Raises:
            ConfigError: `hedge_after_s` is no number of seconds above 0; or as `Pool.check_process`.
        """
        POOL.check_process()
        if hedge_after_s is not None and not (math.isfinite(hedge_after_s) and hedge_after_s > 0.0):
            raise ConfigError(f"hedge_after_s is {hedge_after_s}; a number of seconds above 0, or None for no hedging")
        self._target = target
        self._hedge_after_s = hedge_after_s
        self._connection: PooledConnection | None = None
        self._dropped: weakref.finalize[[PooledConnection], Session] | None = None
        self._calls: set[asyncio.Task[object]] = set()
        self._closed = False

    @property
    def circuit(self) -> Circuit:
        """The state of the connection; closed before the first call."""
        return (self._connection.breaker if self._connection else Breaker()).circuit

    async def predict(self, plan: core.Plan, deadline: Deadline, on_progress: core.Advance | None) -> list[Prediction]:
        """Return the answers to the tasks of a plan, in order.

        Raises:
            FedPredictError: One of them has none; then none is left under way.
        """
        with self.open() as connection:
            if len(plan.tasks) == 1:
                answers = [await connection.predict(plan.tasks[0], deadline, self._hedge_after_s)]
                core.advance(on_progress, answers, plan)
                return answers
            return await self._ask_all(connection, plan, deadline, on_progress)

    async def models(self, deadline: Deadline) -> list[ModelInfo]:
        """Return the models that this caller may ask for."""
        with self.open() as connection:
            return await connection.models(deadline)

    async def close(self) -> None:
        """End the calls under way and give the connection back; closing twice is harmless."""
        self._closed = True
        for call in self._calls:
            call.cancel()
        connection, self._connection = self._connection, None
        if connection is not None and self._dropped is not None:
            self._dropped.detach()
            await POOL.release(connection)

    def connection(self) -> PooledConnection:
        """Return the connection, for a stream that may outlive the task that began it; it ends with the connection.

        Raises:
            ServerUnavailableError: The client is closed.
        """
        if self._closed:
            raise self._closed_error()
        POOL.check_process()
        if self._connection is None or self._connection.loop.is_closed():
            self._connection = POOL.acquire(self._target)
            self._dropped = weakref.finalize(self, POOL.abandon, self._connection)
        return self._connection

    @contextmanager
    def open(self) -> Iterator[PooledConnection]:
        """Give the connection to a call, which ends with an error of ours when the client is closed meanwhile."""
        connection = self.connection()
        call = asyncio.current_task()
        if call is None:
            raise RuntimeError("a client is used outside of a task")
        self._calls.add(call)
        try:
            yield connection
        except asyncio.CancelledError:
            if self._closed:
                call.uncancel()
                raise self._closed_error() from None
            raise
        finally:
            self._calls.discard(call)

    def _closed_error(self) -> ServerUnavailableError:
        return ServerUnavailableError(f"the client of the server at {self._target.address} is closed")

    async def _ask_all(
        self, connection: PooledConnection, plan: core.Plan, deadline: Deadline, on_progress: core.Advance | None
    ) -> list[Prediction]:
        slots = asyncio.Semaphore(core.CALLS_AT_ONCE)
        answered: list[Prediction] = []

        async def ask(task: PredictTask) -> Prediction:
            async with slots:
                answer = await connection.predict(task, deadline, self._hedge_after_s)
            answered.append(answer)
            core.advance(on_progress, answered, plan)
            return answer

        calls = [asyncio.ensure_future(ask(task)) for task in plan.tasks]
        try:
            return await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
