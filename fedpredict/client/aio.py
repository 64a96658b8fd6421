"""The client for asyncio programs: the surface of `Client`, awaited."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from fedpredict.client import core
from fedpredict.client.circuit import Circuit
from fedpredict.client.connection import Deadline, build_target
from fedpredict.client.ids import SampleIdsLike
from fedpredict.client.own_inputs import InputsLike
from fedpredict.client.predictions import Predictions
from fedpredict.client.session import Session
from fedpredict.client.tasks_aio import AsyncTaskMethods
from fedpredict.model.prediction import ModelInfo
from fedpredict.model.share import Mode
from fedpredict.security.identity import Identity
from fedpredict.security.tls import TlsFiles


class AsyncClient(AsyncTaskMethods):
    """A connection to an initiator, for one event loop; `await close()` when done, or use it in an `async with`.

    The connection is made at the first call, kept, shared with other clients of the same server and certificate in
    this event loop, and made again after the server was away.
    """

    def __init__(
        self,
        address: str,
        *,
        server_party: str | None = None,
        tls: TlsFiles | None = None,
        insecure: bool = False,
        identity: Identity | None = None,
        token: str | None = None,
        ca: Path | None = None,
        chunk_size: int = core.CHUNK_SIZE,
        hedge_after_s: float | None = None,
    ) -> None:
        """Check the arguments, which are those of `Client`; nothing is connected yet."""
        target = build_target(
            address,
            server_party=server_party,
            tls=tls,
            insecure=insecure,
            identity=identity,
            chunk_size=chunk_size,
            token=token,
            ca=ca,
        )
        self._chunk_size = chunk_size
        self._session = Session(target, hedge_after_s=hedge_after_s)

    @property
    def circuit(self) -> Circuit:
        """Whether calls reach the server: closed (yes), open (they fail at once) or half open (one tries it)."""
        return self._session.circuit

    async def predict(
        self,
        model_id: str,
        sample_ids: SampleIdsLike,
        *,
        inputs: InputsLike | None = None,
        timeout_s: float = core.TIMEOUT_S,
        mode: Mode = Mode.NEARLINE,
        on_progress: core.Advance | None = None,
    ) -> Predictions:
        """Return the predictions for some samples, in their order; arguments and errors are those of `Client`."""
        deadline = Deadline(timeout_s)
        plan = core.plan(model_id, sample_ids, mode, self._chunk_size, inputs)
        return core.finish(plan, await self._session.predict(plan, deadline, on_progress))

    async def models(self, *, timeout_s: float = core.TIMEOUT_S) -> list[ModelInfo]:
        """Return the models that this caller may ask for, and whether each can be answered now."""
        return await self._session.models(Deadline(timeout_s))

    async def close(self) -> None:
        """End the calls under way and let the connection go; closing twice is harmless."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
