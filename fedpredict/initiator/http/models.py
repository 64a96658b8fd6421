"""The models that a caller may ask for, and the health of this process."""

from __future__ import annotations

from collections.abc import Callable

from fedpredict.errors import ServerUnavailableError
from fedpredict.http.application import Answer, Request, Route
from fedpredict.initiator.admission import Access
from fedpredict.initiator.http.bodies import HealthAnswer, ModelsAnswer
from fedpredict.initiator.http.encode import encode, model_body
from fedpredict.initiator.http.predict import Identify, caller_of
from fedpredict.initiator.open_inference import check_version
from fedpredict.initiator.service import Models
from fedpredict.model.prediction import ModelInfo
from fedpredict.security.entrance import Entrance
from fedpredict.security.identity import Identity

_LIST, _SHOW = "/v1/models", "/v1/models/{model}"


class Catalogued:
    """What a caller may know of the models."""

    def __init__(self, models: Models, access: Access, identify: Identify, entrance: Entrance) -> None:
        self._models = models
        self._access = access
        self._identify = identify
        self._entrance = entrance

    def infos(self, request: Request) -> list[ModelInfo]:
        """Return the models that the caller may ask for, sorted."""
        caller = caller_of(request, self._identify)
        with self._entrance.look_up(f"GET {_LIST}", caller):
            known = (model_id for model_id in self._models.model_ids if self._access.may_ask(caller, model_id))
            return [self._models.info(model_id) for model_id in known]

    def info(self, route: str, request: Request) -> ModelInfo:
        """Return the model, and version, that the path of a route names.

        Raises:
            ModelNotFoundError: It is not there, or not the caller's.
            RateLimitedError: The caller looks up too often.
        """
        model_id = request.path_params["model"]
        with self._entrance.look_up(route, caller_of(request, self._identify), model_id):
            info = self._models.info(model_id)
            check_version(info, request.path_params.get("version", ""))
            return info

    def info_for(self, caller: Identity, model_id: str) -> ModelInfo:
        """Return a model, for a call that is counted elsewhere; raise `ModelNotFoundError`, as `info` does."""
        self._access.check(caller, model_id)
        return self._models.info(model_id)


def model_routes(catalogued: Catalogued) -> list[Route]:
    """Return `GET /v1/models` and `GET /v1/models/{model}`."""

    async def list_models(request: Request) -> Answer:
        return Answer(encode(ModelsAnswer([model_body(info) for info in catalogued.infos(request)])))

    async def show_model(request: Request) -> Answer:
        return Answer(encode(model_body(catalogued.info(f"GET {_SHOW}", request))))

    return [Route("GET", _LIST, list_models), Route("GET", _SHOW, show_model)]


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
