"""The models that a caller may ask for, and the health of this process."""

from __future__ import annotations

from collections.abc import Callable

from fedpredict.errors import ServerUnavailableError
from fedpredict.http.application import Answer, Request, Route
from fedpredict.initiator.admission import Access
from fedpredict.initiator.http.bodies import HealthAnswer, ModelsAnswer
from fedpredict.initiator.http.encode import encode, model_body
from fedpredict.initiator.http.predict import Identify, caller_of
from fedpredict.initiator.methods import ROUTES
from fedpredict.initiator.service import Models
from fedpredict.model.prediction import ModelInfo
from fedpredict.security.identity import Identity


class Catalogued:
    """What a caller may know of the models."""

    def __init__(self, models: Models, access: Access, identify: Identify) -> None:
        self._models = models
        self._access = access
        self._identify = identify

    def infos(self, request: Request) -> list[ModelInfo]:
        """Return the models that the caller may ask for, sorted."""
        caller = caller_of(request, self._identify)
        self._access.admit(caller, ROUTES["GET /v1/models"])
        known = (model_id for model_id in self._models.model_ids if self._access.may_ask(caller, model_id))
        return [self._models.info(model_id) for model_id in known]

    def info(self, request: Request) -> ModelInfo:
        """Return the model that the path names; raise `ModelNotFoundError` where it is not the caller's."""
        return self.info_for(caller_of(request, self._identify), request.path_params["model"])

    def info_for(self, caller: Identity, model_id: str) -> ModelInfo:
        """Return a model; raise `ModelNotFoundError` where it is not the caller's."""
        self._access.check(caller, model_id)
        return self._models.info(model_id)


def model_routes(catalogued: Catalogued) -> list[Route]:
    """Return `GET /v1/models` and `GET /v1/models/{model}`."""

    async def list_models(request: Request) -> Answer:
        return Answer(encode(ModelsAnswer([model_body(info) for info in catalogued.infos(request)])))

    async def show_model(request: Request) -> Answer:
        return Answer(encode(model_body(catalogued.info(request))))

    return [Route("GET", "/v1/models", list_models), Route("GET", "/v1/models/{model}", show_model)]


def health_routes(prefix: str, draining: Callable[[], bool]) -> list[Route]:
    """Return `GET {prefix}/health/live` and `/ready`; neither depends on other parties, nor on who asks.

    Args:
        prefix: Such as "/v1".
        draining: Whether the process takes no new calls.
    """

    async def live(_request: Request) -> Answer:
        return Answer(encode(HealthAnswer("live")))

    async def ready(_request: Request) -> Answer:
        if draining():
            raise ServerUnavailableError("the process stops")
        return Answer(encode(HealthAnswer("ready")))

    return [Route("GET", f"{prefix}/health/live", live), Route("GET", f"{prefix}/health/ready", ready)]
