"""The client for ordinary, blocking programs."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self, TypeAlias

import grpc

from fedpredict.client import core
from fedpredict.client.connection import Deadline, build_target
from fedpredict.client.failures import RECONNECT_S, is_lost_connection, translate, unavailable
from fedpredict.client.predictions import Predictions
from fedpredict.model.prediction import ModelInfo, Prediction, PredictTask
from fedpredict.model.share import Mode
from fedpredict.security.identity import Identity
from fedpredict.security.tls import TlsFiles

Call: TypeAlias = "grpc.CallFuture[bytes]"


class Client:
    """A connection to an initiator. Calls may come from any thread; `close` it when done, or use it in a `with`.

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
        """Check the arguments; nothing is connected yet.

        Args:
            address: host:port of the initiator.
            server_party: The party that runs it; its certificate must name this party, whatever the address.
            tls: The CA, this caller's certificate and its key.
            insecure: Plain text, on loopback only, where the server has `insecure = true`.
            identity: Without TLS: who this caller says it is; default: client "local".
            chunk_size: The most sample ids in one call; a longer list travels in several.

        Raises:
            ConfigError: The arguments do not fit together; it says what to pass.
            CertificateError: A file of `tls` cannot be used.
        """
        self._target = build_target(
            address, server_party=server_party, tls=tls, insecure=insecure, identity=identity, chunk_size=chunk_size
        )
        self._closed = False
        if self._target.credentials is None:
            self._channel = grpc.insecure_channel(address, options=self._target.options)
        else:
            self._channel = grpc.secure_channel(address, self._target.credentials, options=self._target.options)

    def predict(
        self,
        model_id: str,
        sample_ids: core.SampleIdsLike,
        *,
        timeout_s: float = core.TIMEOUT_S,
        mode: Mode = Mode.NEARLINE,
        on_progress: core.Advance | None = None,
    ) -> Predictions:
        """Return the predictions for some samples, in their order.

        Args:
            model_id: The model.
            sample_ids: Text or bytes: list, tuple, numpy array, pandas Series, pyarrow array. Duplicates are each
                answered.
            timeout_s: For everything, however many calls it takes.
            mode: The freshness of the features.
            on_progress: Told (samples answered, samples in all) as chunks come back.

        Raises:
            InputError: An id that is neither text nor bytes, or no ids at all.
            ModelNotFoundError, ModelNotReadyError: As the server says.
            ManifestMismatchError: The model's version changed between two chunks.
            ServerUnavailableError: The server cannot be reached.
            DeadlineExceededError: The time is over.
        """
        deadline = Deadline(timeout_s)
        plan = core.plan(model_id, sample_ids, mode, self._target.chunk_size)
        return core.finish(plan, self._ask_all(plan, deadline, on_progress))

    def models(self, *, timeout_s: float = core.TIMEOUT_S) -> list[ModelInfo]:
        """Return the models that this caller may ask for, and whether each can be answered now.

        Raises:
            ServerUnavailableError, DeadlineExceededError: As for `predict`.
        """
        deadline = Deadline(timeout_s)
        question = core.models_question()
        return core.parse_models(self._answer(question, self._start(question, deadline), deadline))

    def close(self) -> None:
        """Close the connection, and end calls under way in other threads; closing twice is harmless."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask_all(self, plan: core.Plan, deadline: Deadline, on_progress: core.Advance | None) -> list[Prediction]:
        waiting = deque(plan.tasks)
        pending: deque[tuple[PredictTask, core.Question, Call]] = deque()
        answers: list[Prediction] = []
        try:
            while waiting or pending:
                while waiting and len(pending) < core.CALLS_AT_ONCE:
                    question = core.question(waiting[0])
                    pending.append((waiting.popleft(), question, self._start(question, deadline)))
                task, question, call = pending[0]
                answers.append(core.parse_answer(self._answer(question, call, deadline), task))
                pending.popleft()
                core.advance(on_progress, answers, plan)
        finally:
            for _, _, call in pending:
                call.cancel()  # type: ignore[no-untyped-call]
        return answers

    def _start(self, question: core.Question, deadline: Deadline) -> Call:
        method = self._channel.unary_unary(question.method, None, None)
        return method.future(question.message, timeout=deadline.remaining_s(), metadata=self._target.metadata)

    def _answer(self, question: core.Question, call: Call, deadline: Deadline) -> bytes:
        """Return the reply; a call that no server took is made once more when there is a server."""
        try:
            return call.result()
        except grpc.RpcError as error:
            if self._closed or not is_lost_connection(error):
                raise translate(error, self._target, deadline, question.model_id) from error
        self._wait_for_server(deadline)
        try:
            return self._start(question, deadline).result()
        except grpc.RpcError as error:
            raise translate(error, self._target, deadline, question.model_id) from error

    def _wait_for_server(self, deadline: Deadline) -> None:
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(timeout=min(RECONNECT_S, deadline.remaining_s()))
        except grpc.FutureTimeoutError as error:
            ready.cancel()
            raise unavailable(self._target) from error
