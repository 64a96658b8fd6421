"""Connections that clients of one process share: equal target, same event loop, one connection.

What belongs to a server and not to a client is here: its channel, its streams, its circuit, and the budget of calls
that are made again.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from functools import partial
from typing import TypeAlias, TypeVar

import grpc

from fedpredict.client import core
from fedpredict.client.circuit import Breaker
from fedpredict.client.connection import Deadline, Target
from fedpredict.client.failures import (
    RECONNECT_S,
    LostConnectionError,
    NoStreamError,
    TooLargeError,
    circuit_open,
    from_rpc,
    told,
    unavailable,
)
from fedpredict.client.lines import Line, Lines
from fedpredict.client.retry import MAX_ATTEMPTS, RetryBudget, backoff_s, is_worth_retrying
from fedpredict.errors import (
    CertificateRefusedError,
    ConfigError,
    DeadlineExceededError,
    FedPredictError,
    InputError,
    ServerUnavailableError,
)
from fedpredict.model.prediction import ModelInfo, Prediction, PredictTask
from fedpredict.security.trouble import Trouble
from fedpredict.wire.ending import Ending

T = TypeVar("T")
Attempt: TypeAlias = Callable[[Line], Awaitable[T]]
"""Makes a call once, on a line."""

TABLE_ROWS = 500
"""Larger requests travel as tables on a stream; smaller ones cost less as a call of their own."""
CALLS_FOR_STREAM = 4
"""From so many calls under way a small one joins a stream: there a call costs a third of one of its own."""


class PooledConnection:
    """A connection to one server, for one event loop."""

    def __init__(self, target: Target) -> None:
        """Prepare; gRPC connects at the first call, in the event loop that runs now."""
        self.breaker = Breaker()
        self.users = 0
        self.loop = asyncio.get_running_loop()
        self._target = target
        self._budget = RetryBudget()
        self._lines = Lines(target)
        self._has_streams = True
        self._under_way = 0
        self._trouble = Trouble("server.unreachable", {}, target.address, target.name, target.tls, first_s=0.0)

    async def predict(self, task: PredictTask, deadline: Deadline, hedge_after_s: float | None) -> Prediction:
        """Return the answer to one task.

        Args:
            task: What is asked for.
            deadline: Of the user's whole call.
            hedge_after_s: After so long without an answer it is asked once more; None: never.

        Raises:
            FedPredictError: There is no answer.
        """
        ask = partial(self._ask, task, deadline)
        attempt = ask if hedge_after_s is None else partial(self._hedge, ask, hedge_after_s)
        return await self._guard(attempt, deadline, task.model_id)

    async def models(self, deadline: Deadline) -> list[ModelInfo]:
        """Return the models that this caller may ask for."""

        async def ask(line: Line) -> list[ModelInfo]:
            return core.parse_models(await self._unary(core.models_question(), deadline, line))

        return await self._guard(ask, deadline)

    async def call(self, question: core.Question, deadline: Deadline) -> bytes:
        """Return the reply to a call that may be made again."""
        return await self._guard(partial(self._unary, question, deadline), deadline, question.model_id)

    async def upload(self, method: str, messages: Callable[[], Iterator[bytes]], deadline: Deadline) -> bytes:
        """Return the reply to a stream of messages, which are made anew where it has to be sent again."""

        async def attempt(line: Line) -> bytes:
            metadata, left_s = self._target.metadata, deadline.remaining_s()
            call = line.channel.stream_unary(method, None, None)(None, timeout=left_s, metadata=metadata)
            ending, left = Ending(call), messages()
            try:
                # in a thread: they may be read from a file
                while (message := await asyncio.to_thread(next, left, None)) is not None:
                    await call.write(message)
                await call.done_writing()
                reply: bytes = await call
            except (grpc.RpcError, asyncio.InvalidStateError) as error:  # the latter: it had ended before a write
                raise from_rpc(await ending.error()) from error
            finally:
                call.cancel()
            return reply

        return await self._guard(attempt, deadline)

    async def fetch(self, question: core.Question) -> AsyncGenerator[bytes]:
        """Give the messages of a stream as they come.

        Raises:
            ServerUnavailableError: The server is away, or was lost.
            FedPredictError: What the call failed with.
        """
        self.follow()
        with self._lines.take() as line:
            method = line.channel.unary_stream(question.method, None, None)
            call = method(question.message, metadata=self._target.metadata)
            try:
                async for message in call:
                    yield message
            except grpc.RpcError as error:
                meaning = from_rpc(error)
                is_lost = self._is_outdated(meaning, line) or isinstance(meaning, LostConnectionError)
                raise unavailable(self._target) if is_lost else meaning from error
            finally:
                call.cancel()

    def follow(self, *, at_once: bool = False) -> None:
        """Go on with the certificate that the files hold now, with `at_once` although they may not have settled."""
        if self._lines.look(at_once=at_once):
            self.breaker = Breaker()  # what is known of the server was learnt with another certificate

    async def close(self) -> None:
        """Close the connection; calls under way are lost."""
        await self._lines.close()

    async def _guard(self, attempt: Attempt[T], deadline: Deadline, model_id: str = "") -> T:
        """Make a call through the circuit, which hears what became of it."""
        self.follow()
        wait_s = self.breaker.wait_s()
        if wait_s:
            raise circuit_open(self._target, self.breaker.failures, wait_s)
        self._under_way += 1
        try:
            answer = await self._retry(attempt, deadline)
        except (ServerUnavailableError, DeadlineExceededError) as error:
            self.breaker.failed()
            if isinstance(error, ServerUnavailableError):
                self._trouble.failed(error)
            raise told(error, self._target, deadline, model_id) from error
        except FedPredictError as error:
            self.breaker.succeeded()
            raise told(error, self._target, deadline, model_id) from error
        except TooLargeError as error:
            self.breaker.left()
            raise InputError(str(error)) from error
        except BaseException:
            self.breaker.left()
            raise
        finally:
            self._under_way -= 1
        self.breaker.succeeded()
        self._trouble.over()
        return answer

    async def _retry(self, attempt: Attempt[T], deadline: Deadline) -> T:
        """Make a call, and make it again while that is worth it, allowed and in time."""
        self._budget.count_call()
        for number in range(1, MAX_ATTEMPTS):
            with self._lines.take() as line:
                try:
                    return await attempt(line)
                except Exception as error:
                    if not self._is_outdated(error, line) and not is_worth_retrying(error):
                        raise
                    await self._wait(error, number, deadline)
        try:
            with self._lines.take() as line:
                return await attempt(line)
        except LostConnectionError as error:
            raise unavailable(self._target) from error

    def _is_outdated(self, error: Exception, line: Line) -> bool:
        """Return whether a call failed with a certificate that has been renewed."""
        return isinstance(error, LostConnectionError | CertificateRefusedError) and self._lines.is_outdated(line)

    async def _wait(self, error: Exception, number: int, deadline: Deadline) -> None:
        """Return when a call may be made again; raise what the last one failed with where it may not."""
        delay_s = backoff_s(error, number, random.random)
        is_lost = isinstance(error, LostConnectionError)
        if delay_s >= deadline.remaining_s() or not self._budget.take():
            raise unavailable(self._target) if is_lost else error
        await asyncio.sleep(delay_s)
        if is_lost:
            try:
                async with asyncio.timeout(min(RECONNECT_S, deadline.remaining_s())):
                    with self._lines.take() as line:
                        await line.channel.channel_ready()
            except TimeoutError:
                raise unavailable(self._target) from error

    async def _hedge(self, ask: Attempt[Prediction], after_s: float, line: Line) -> Prediction:
        """Ask, and after a while ask once more: the first answer wins, and the other call is cancelled."""
        calls = {asyncio.ensure_future(ask(line))}
        try:
            done, _ = await asyncio.wait(calls, timeout=after_s)
            if not done and self._budget.take():
                calls.add(asyncio.ensure_future(ask(line)))
            return await first_answer(calls)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _ask(self, task: PredictTask, deadline: Deadline, line: Line) -> Prediction:
        """Make one call for a task, on the way that costs least."""
        is_large = len(task.sample_ids) > TABLE_ROWS
        if self._has_streams and (is_large or self._under_way >= CALLS_FOR_STREAM):
            try:
                return await (line.tables if is_large else line.rows).predict(task, deadline)
            except NoStreamError:
                self._has_streams = False
        return core.parse_answer(await self._unary(core.question(task), deadline, line), task)

    async def _unary(self, question: core.Question, deadline: Deadline, line: Line) -> bytes:
        method = line.channel.unary_unary(question.method, None, None)
        try:
            reply: bytes = await method(
                question.message, timeout=deadline.remaining_s(), metadata=(*self._target.metadata, *question.metadata)
            )
        except grpc.RpcError as error:
            raise from_rpc(error) from error
        return reply


async def first_answer(calls: set[asyncio.Task[T]]) -> T:
    """Return the first answer, be it an error that came alone.

    A call that may be worth making again is no answer while another runs.
    """
    pending = calls
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for call in sorted(done, key=lambda each: each.cancelled() or each.exception() is not None):
            error = call.exception()
            if error is None or not is_worth_retrying(error) or not pending:
                return call.result()


class Pool:
    """The connections of a process, each closed with its last user."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: int | None = None
        self._connections: dict[tuple[object, asyncio.AbstractEventLoop], PooledConnection] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def check_process(self) -> None:
        """Check that gRPC works in this process: a fork of one that has connected has gRPC's state without its threads.

        Raises:
            ConfigError: It does not, and a call would never end.
        """
        if self._process not in (None, os.getpid()):
            raise ConfigError(
                "this process was forked from one that had already asked a server, and gRPC does not survive that: "
                "start processes by spawn or forkserver, or fork before the first call"
            )

    def acquire(self, target: Target) -> PooledConnection:
        """Return the connection to `target` in the running event loop; to be released once.

        Raises:
            ConfigError: As `check_process`.
        """
        self.check_process()
        key = (target.key, asyncio.get_running_loop())
        with self._lock:
            self._process = os.getpid()
            # what an event loop left behind cannot be closed any more
            for dead in [each for each in self._connections if each[1].is_closed()]:
                del self._connections[dead]
            connection = self._connections.get(key)
            if connection is None:
                connection = self._connections[key] = PooledConnection(target)
            else:
                connection.follow(at_once=True)
            connection.users += 1
        return connection

    async def release(self, connection: PooledConnection) -> None:
        """Give a connection back, in its event loop."""
        if self._is_last(connection):
            await connection.close()

    def abandon(self, connection: PooledConnection) -> None:
        """Give back the connection of a client that was dropped unclosed; for finalizers, which may run anywhere."""
        if not connection.loop.is_closed():
            connection.loop.call_soon_threadsafe(self._release_soon, connection)

    def _release_soon(self, connection: PooledConnection) -> None:
        closing = asyncio.ensure_future(self.release(connection))
        # an event loop keeps no task alive
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _is_last(self, connection: PooledConnection) -> bool:
        with self._lock:
            connection.users -= 1
            if connection.users:
                return False
            for key in [key for key, each in self._connections.items() if each is connection]:
                del self._connections[key]
            return True


POOL = Pool()
"""The connections of this process."""
