"""The client for asyncio programs: the surface of `Client`, awaited."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import grpc

from fedpredict.client import core
from fedpredict.client.connection import Deadline, build_target
from fedpredict.client.failures import RECONNECT_S, is_lost_connection, translate, unavailable
from fedpredict.client.predictions import Predictions
from fedpredict.model.prediction import ModelInfo, Prediction, PredictTask
from fedpredict.model.share import Mode
from fedpredict.security.identity import Identity
from fedpredict.security.tls import TlsFiles


class AsyncClient:
    """A connection to an initiator, for one event loop; `await close()` when done, or use it in an `async with`.

    The connection is made at the first call, kept, and made again after the server was away.
    """

    def __init__(
        self,
        address: str,
        *,
        server_party: str | None = None,
        tls: TlsFiles | None = None,
        insecure: bool = False,
        identity: Identity | None = None,
        chunk_size: int = core.CHUNK_SIZE,
    ) -> None:
        """Check the arguments, which are those of `Client`; nothing is connected yet."""
        self._target = build_target(
            address, server_party=server_party, tls=tls, insecure=insecure, identity=identity, chunk_size=chunk_size
        )
        self._channel: grpc.aio.Channel | None = None

    async def predict(
        self,
        model_id: str,
        sample_ids: core.SampleIdsLike,
        *,
        timeout_s: float = core.TIMEOUT_S,
        mode: Mode = Mode.NEARLINE,
        on_progress: core.Advance | None = None,
    ) -> Predictions:
        """Return the predictions for some samples, in their order; arguments and errors are those of `Client`."""
        deadline = Deadline(timeout_s)
        plan = core.plan(model_id, sample_ids, mode, self._target.chunk_size)
        return core.finish(plan, await self._ask_all(plan, deadline, on_progress))

    async def models(self, *, timeout_s: float = core.TIMEOUT_S) -> list[ModelInfo]:
        """Return the models that this caller may ask for, and whether each can be answered now."""
        return core.parse_models(await self._answer(core.models_question(), Deadline(timeout_s)))

    async def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask_all(self, plan: core.Plan, deadline: Deadline, on_progress: core.Advance | None) -> list[Prediction]:
        slots = asyncio.Semaphore(core.CALLS_AT_ONCE)
        answered: list[Prediction] = []

        async def ask(task: PredictTask) -> Prediction:
            async with slots:
                reply = await self._answer(core.question(task), deadline)
            answered.append(core.parse_answer(reply, task))
            core.advance(on_progress, answered, plan)
            return answered[-1]

        calls = [asyncio.ensure_future(ask(task)) for task in plan.tasks]
        try:
            return await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _answer(self, question: core.Question, deadline: Deadline) -> bytes:
        """Return the reply; a call that no server took is made once more when there is a server."""
        channel = self._open_channel()
        try:
            return await self._start(channel, question, deadline)
        except grpc.RpcError as error:
            if not is_lost_connection(error):
                raise translate(error, self._target, deadline, question.model_id) from error
        try:
            await asyncio.wait_for(channel.channel_ready(), min(RECONNECT_S, deadline.remaining_s()))
            return await self._start(channel, question, deadline)
        except TimeoutError as error:
            raise unavailable(self._target) from error
        except grpc.RpcError as error:
            raise translate(error, self._target, deadline, question.model_id) from error

    def _start(
        self, channel: grpc.aio.Channel, question: core.Question, deadline: Deadline
    ) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        method = channel.unary_unary(question.method, None, None)
        return method(question.message, timeout=deadline.remaining_s(), metadata=self._target.metadata)

    def _open_channel(self) -> grpc.aio.Channel:
        # a channel of grpc.aio belongs to the event loop that makes it
        if self._channel is None:
            target = self._target
            self._channel = (
                grpc.aio.insecure_channel(target.address, options=target.options)
                if target.credentials is None
                else grpc.aio.secure_channel(target.address, target.credentials, options=target.options)
            )
        return self._channel
