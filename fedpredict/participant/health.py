"""Standard health (`grpc.health.v1`): whether this process is ready, and models for callers who may know them."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2

from fedpredict.errors import ModelNotFoundError
from fedpredict.model.ids import check_model_id
from fedpredict.participant.policy import CallerPolicy
from fedpredict.scoring.loader import ModelLoader
from fedpredict.security.identity import Identity
from fedpredict.wire.handlers import Context, service, unary

SERVICE = "grpc.health.v1.Health"
MODEL_PREFIX = "model/"


class Health:
    """Answers `Check`. `Watch` is unimplemented, which the protocol allows: its streams would outlive a drain.

    - The empty name: the warehouse was read once and the process is not about to stop. It does not depend on peers,
      nor on a warehouse that went away later, because what was loaded is served on.
    - `model/<id>`: the model and its features are loaded. NOT_FOUND alike for no such model and for other callers.
    """

    def __init__(self, loader: ModelLoader, policy: CallerPolicy, caller: Callable[[Context], Identity]) -> None:
        """Serve the health of what `loader` holds.

        Args:
            loader: What is loaded.
            policy: Who may know of a model.
            caller: A call -> who is calling.
        """
        self.draining = False
        self._loader = loader
        self._policy = policy
        self._caller = caller

    def handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """Return the service for `server.add_generic_rpc_handlers`."""
        return service(SERVICE, {"Check": unary(health_pb2.HealthCheckRequest, self.check)})

    async def check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """Answer for the process or for one model."""
        ready = self._model_ready(request.service, context) if request.service else self._loader.state.read_once
        serving = ready and not self.draining
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status)

    def _model_ready(self, service: str, context: Context) -> bool:
        if not service.startswith(MODEL_PREFIX):
            raise ModelNotFoundError("health is asked for a name that is neither empty nor model/<id>")
        model_id = check_model_id(service.removeprefix(MODEL_PREFIX))
        self._policy.check(self._caller(context), model_id)
        state = self._loader.state
        if model_id not in state.current and model_id not in state.problems:
            raise ModelNotFoundError(f"no model {model_id} in the warehouse")
        return self._loader.is_ready(model_id)
