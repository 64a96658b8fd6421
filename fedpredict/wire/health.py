"""Standard health (`grpc.health.v1`): whether this process is ready, and models for callers who may know them."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2

from fedpredict.errors import ModelNotFoundError, NameRefusedError
from fedpredict.model.ids import check_model_id
from fedpredict.wire.handlers import Context, service, unary

MODEL_PREFIX = "model/"
CHECK = "Check"
"""The method, as lines of the audit log name it."""


class Health:
    """Answers `Check`. `Watch` is unimplemented, which the protocol allows: its streams would outlive a drain.

    The empty name is this process alone: it does not depend on peers. `model/<id>` is for callers who may know the
    model; NOT_FOUND alike for no such model, for other callers and for any other name.
    """

    def __init__(self, *, process: Callable[[], bool], model: Callable[[str, Context], bool]) -> None:
        """Serve what two questions answer.

        Args:
            process: Whether this process is ready.
            model: Model id and call -> whether the model can be asked; raises `ModelNotFoundError`.
        """
        self.draining = False
        """Set when the process begins to stop: nothing is SERVING any more."""
        self._process = process
        self._model = model

    def handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """Return the service for `server.add_generic_rpc_handlers`."""
        return service("grpc.health.v1.Health", {CHECK: unary(health_pb2.HealthCheckRequest, self.check)})

    async def check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """Answer for the process or for one model."""
        ready = self._model_ready(request.service, context) if request.service else self._process()
        serving = ready and not self.draining
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status)

    def _model_ready(self, name: str, context: Context) -> bool:
        if not name.startswith(MODEL_PREFIX):
            raise ModelNotFoundError("health is asked for a name that is neither empty nor model/<id>")
        try:
            model_id = check_model_id(name.removeprefix(MODEL_PREFIX))
        except NameRefusedError as error:
            raise ModelNotFoundError(f"health of a model is asked for: {error}") from error
        return self._model(model_id, context)
