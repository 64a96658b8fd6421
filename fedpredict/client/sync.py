"""The client for ordinary, blocking programs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from fedpredict.client import core
from fedpredict.client.background import background
from fedpredict.client.circuit import Circuit
from fedpredict.client.connection import Deadline, build_target
from fedpredict.client.ids import SampleIdsLike
from fedpredict.client.own_inputs import InputsLike
from fedpredict.client.predictions import Predictions
from fedpredict.client.session import Session
from fedpredict.client.tasks_sync import TaskMethods
from fedpredict.model.prediction import ModelInfo
from fedpredict.model.share import Mode
from fedpredict.security.identity import Identity
from fedpredict.security.tls import TlsFiles


class Client(TaskMethods):
    """A connection to an initiator. Calls may come from any thread; `close` it when done, or use it in a `with`.

    The connection is made at the first call, kept, shared with other clients of the same server and certificate in
    this process, and made again after the server was away.
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
        """Check the arguments; nothing is connected yet.

        Args:
            address: host:port of the initiator.
            server_party: The party that runs it; its certificate must name this party, whatever the address.
            tls: The CA, this caller's certificate and its key, which are followed while they change.
            insecure: Plain text, on loopback only, where the server has `insecure = true`.
            identity: Without TLS: who this caller says it is; default: client "local".
            token: A bearer token of the initiator's (`fedpredict token`), read from a file or the environment; it
                travels over TLS only, or to loopback.
            ca: With a token, without a certificate of one's own and so without `tls`: the CA that the server is held
                to; `address` is then the initiator's `token_listen`.
            chunk_size: The most sample ids in one call; a longer list travels in several.
            hedge_after_s: A call without an answer after so many seconds is made once more, and the first answer wins;
                None: never.

        Raises:
            ConfigError: The arguments do not fit together; it says what to pass.
            CertificateError: A file of `tls` cannot be used.
        """
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
        self._background = background()

    @property
    def circuit(self) -> Circuit:
        """Whether calls reach the server: closed (yes), open (they fail at once) or half open (one tries it)."""
        return self._session.circuit

    def predict(
        self,
        model_id: str,
        sample_ids: SampleIdsLike,
        *,
        inputs: InputsLike | None = None,
        timeout_s: float = core.TIMEOUT_S,
        mode: Mode = Mode.NEARLINE,
        on_progress: core.Advance | None = None,
    ) -> Predictions:
        """Return the predictions for some samples, in their order.

        Args:
            model_id: The model.
            sample_ids: Text or bytes: list, tuple, numpy array, pandas or Polars Series, pyarrow array. Duplicates are
                each answered.
            inputs: The initiator's own features of these samples, where they are not in its store: a table, or columns
                by name. They make the initiator's own share only.
            timeout_s: For everything, however many calls it takes.
            mode: The freshness of the features.
            on_progress: Told (samples answered, samples in all) as chunks come back.

        Raises:
            InputError: An id that is neither text nor bytes, or no ids at all; inputs that are no numbers.
            ModelNotFoundError, ModelNotReadyError: As the server says.
            ManifestMismatchError: The model's version changed between two chunks.
            OverloadedError: The server has no room, also after waiting as it said.
            ServerUnavailableError: The server cannot be reached.
            DeadlineExceededError: The time is over.
        """
        deadline = Deadline(timeout_s)
        plan = core.plan(model_id, sample_ids, mode, self._chunk_size, inputs)
        ask = partial(self._session.predict, plan, deadline)
        if on_progress is None:
            return core.finish(plan, self._background.run(ask(None)))
        return core.finish(plan, self._background.run_telling(ask, on_progress))

    def models(self, *, timeout_s: float = core.TIMEOUT_S) -> list[ModelInfo]:
        """Return the models that this caller may ask for, and whether each can be answered now.

        Raises:
            ServerUnavailableError, DeadlineExceededError: As for `predict`.
        """
        return self._background.run(self._session.models(Deadline(timeout_s)))

    def close(self) -> None:
        """End calls under way in other threads, and let the connection go; closing twice is harmless."""
        self._background.run(self._session.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
