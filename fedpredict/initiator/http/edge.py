"""The HTTP edge of an initiator, put together."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass

from fedpredict.http.application import build_application
from fedpredict.http.edge import Admits
from fedpredict.http.exchange import FastRoute
from fedpredict.http.server import HttpServer
from fedpredict.http.settings import HttpSettings
from fedpredict.initiator.admission import Access
from fedpredict.initiator.http.decode import name_request
from fedpredict.initiator.http.infer import InferEndpoint, open_inference_routes
from fedpredict.initiator.http.models import Catalogued, health_routes, model_routes
from fedpredict.initiator.http.page import page_routes
from fedpredict.initiator.http.predict import PredictEndpoint, predict_route
from fedpredict.initiator.http.refusals import Refusals
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.service import Models
from fedpredict.initiator.watched import watched
from fedpredict.observe.watch import PredictionWatch
from fedpredict.security.https import http_identity

PREDICT_PATH = b"/v1/predict"
INFER_PATH = re.compile(rb"/v2/models/[\w.-]+(/versions/[\w.-]+)?/infer")
"""As clients spell it; what is spelled in another way, such as with a query, goes through ASGI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """Where and how HTTP is spoken.

    Attributes:
        listen: host:port.
        http: The limits.
        tls: The server's side of mutual TLS; None for plain text, on loopback.
        max_samples: Most sample ids in one call, for the description.
        drain_s: How long requests under way may take at exit.
        shares_port: Whether other workers listen at the same port.
        admits: Asked with every connection that has TLS; None: all are admitted.
    """

    listen: str
    http: HttpSettings
    tls: ssl.SSLContext | None
    max_samples: int
    drain_s: float
    shares_port: bool = False
    admits: Admits | None = None


def build_edge(
    settings: EdgeSettings,
    predictor: Predicts,
    models: Models,
    access: Access,
    watch: PredictionWatch | None = None,
) -> HttpServer:
    """Return the server, to be entered.

    Args:
        settings: Where and how.
        predictor: The use case.
        models: What can be asked for.
        access: Who may.
        watch: Told of every task; default: nobody is.
    """
    server: HttpServer | None = None

    def draining() -> bool:
        return server is None or server.draining

    watch = watch or PredictionWatch()
    refusals = Refusals(watch.log)
    catalogued = Catalogued(models, access, http_identity)
    predict = PredictEndpoint(
        watched(predictor, "http", watch), http_identity, refusals, max_samples=settings.max_samples
    )
    infer = InferEndpoint(watched(predictor, "oip_http", watch), catalogued, http_identity, refusals)
    routes = [
        predict_route(predict),
        *model_routes(catalogued),
        *health_routes("/v1", draining),
        *health_routes("/v2", draining),
        *open_inference_routes(catalogued, infer.answer),
        *page_routes(settings.max_samples),
    ]

    def fast_route(target: bytes) -> FastRoute | None:
        if target == PREDICT_PATH:
            return predict.begin
        return infer.begin if INFER_PATH.fullmatch(target) else None

    server = HttpServer(
        settings.listen,
        build_application(routes, name_request, refusals.tell),
        fast_route=fast_route,
        name_request=name_request,
        settings=settings.http,
        tls=settings.tls,
        drain_s=settings.drain_s,
        shares_port=settings.shares_port,
        admits=settings.admits,
    )
    watch.serving.connections("http", lambda: server.n_connections)
    return server
