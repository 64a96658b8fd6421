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
from fedpredict.initiator.audited import RequestAudit
from fedpredict.initiator.callers import Callers
from fedpredict.initiator.http.decode import name_request
from fedpredict.initiator.http.infer import InferEndpoint, open_inference_routes
from fedpredict.initiator.http.models import Catalogued, health_routes, model_routes
from fedpredict.initiator.http.page import page_routes
from fedpredict.initiator.http.predict import PredictEndpoint, predict_route
from fedpredict.initiator.http.refusals import Refusals
from fedpredict.initiator.methods import INFER_ROUTES, PREDICT_ROUTE, ROUTES
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.service import Models
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.initiator.watched import watched
from fedpredict.observe.watch import PredictionWatch
from fedpredict.security.callers import admitting
from fedpredict.security.entrance import Entrance
from fedpredict.security.live import LiveTls

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


def edge_settings_of(
    settings: InitiatorSettings, live: LiveTls | None, *, audit: RequestAudit, shares_port: bool
) -> EdgeSettings:
    """Return what an initiator's settings say of its HTTP edge, which it has.

    Args:
        settings: The initiator's.
        live: What it proves and whom it believes; None for plain text.
        audit: Writes down who is not believed.
        shares_port: Whether other workers listen at the same port.
    """
    takes_tokens = settings.http_client_certificates == "optional"
    return EdgeSettings(
        listen=settings.http_listen or "",
        http=settings.http,
        tls=None if live is None or settings.http_insecure else live.https_context(takes_tokens=takes_tokens),
        admits=admitting(live, audit),
        max_samples=settings.max_samples,
        drain_s=settings.drain_s,
        shares_port=shares_port,
    )


def build_edge(
    settings: EdgeSettings,
    predictor: Predicts,
    models: Models,
    access: Access,
    watch: PredictionWatch | None = None,
    *,
    callers: Callers | None = None,
) -> HttpServer:
    """Return the server, to be entered.

    Args:
        settings: Where and how.
        predictor: The use case.
        models: What can be asked for.
        access: Who may.
        watch: Told of every task; default: nobody is.
        callers: Knows who asks; default: certificates, and what callers without TLS state.
    """
    server: HttpServer | None = None

    def draining() -> bool:
        return server is None or server.draining

    watch, callers = watch or PredictionWatch(), callers or Callers()
    identify, audit = callers.of_request, callers.audit
    refusals, entrance = Refusals(watch.log), Entrance(access, audit)
    catalogued = Catalogued(models, access, identify, entrance)
    seen = watched(predictor, "http", watch, audit)
    predict = PredictEndpoint(seen, identify, refusals, max_samples=settings.max_samples, entrance=entrance)
    infer = InferEndpoint(watched(predictor, "oip_http", watch, audit), catalogued, identify, refusals, entrance)
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
            return predict.begin if PREDICT_ROUTE in ROUTES else None
        is_infer = INFER_PATH.fullmatch(target) and all(each in ROUTES for each in INFER_ROUTES)
        return infer.begin if is_infer else None

    server = HttpServer(
        settings.listen,
        build_application(routes, name_request, ROUTES, refusals.tell),
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
