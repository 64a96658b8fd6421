"""The paths that are answered through ASGI: a table of routes, and what every answer has in common."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as AsgiRequest
from starlette.responses import Response
from starlette.routing import Route as AsgiRoute
from starlette.types import ASGIApp

from fedpredict.http import problem as problems
from fedpredict.http.asgi_cycle import BODY, PEER_URIS
from fedpredict.http.problem import CONTENT_TYPE, Problem, problem_of
from fedpredict.model.few import FewStrangers
from fedpredict.public_status import Code, public_status

logger = logging.getLogger(__name__)

_strangers = FewStrangers()

JSON = "application/json"
REQUEST_ID = "x-request-id"


class ProblemError(Exception):
    """Ends a request with a problem that is HTTP's own, such as a media type that is not read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.name)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request.

    Attributes:
        path_params: What stands in the braces of the route's path.
        headers: Names in lower case.
        body: The whole body.
        peer_uris: The URIs among the names of the caller's certificate; None without TLS.
        request_id: Its id: of header `x-request-id`, or a new one.
        query: What stands behind the path's question mark.
    """

    path_params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer_uris: tuple[str, ...] | None
    request_id: str
    query: Mapping[str, str] = field(default_factory=dict)

    def header(self, name: bytes) -> str | None:
        """Return a header by its name in lower case; None where it is missing."""
        return self.headers.get(name.decode())


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `headers` come on top of content type, content length and request id."""

    body: bytes
    content_type: str = JSON
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Endpoint = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation: `path` as Starlette writes it, such as "/v1/models/{model}"."""

    method: str
    path: str
    endpoint: Endpoint

    @property
    def name(self) -> str:
        """Method and path, such as "GET /v1/models"."""
        return f"{self.method} {self.path}"


def build_application(
    routes: Sequence[Route],
    name_request: Callable[[str | None], str],
    table: Container[str],
    log: Callable[[BaseException, str], None] = lambda error, _: log_refusal(error),
) -> ASGIApp:
    """Return the application.

    Args:
        routes: What is served; anything else is a problem.
        name_request: Header `x-request-id` (None without it) -> the request's id.
        table: The routes that somebody thought about, by their names; others are not there.
        log: Gets why a request was refused, and its id.
    """

    async def refused(request: AsgiRequest, error: Exception) -> Response:
        headers = (error.headers or {}) if isinstance(error, HTTPException) else {}
        allowed = {key.lower(): value for key, value in headers.items()}.get("allow")
        problem = problems.method_refused(_sorted(allowed)) if allowed else problems.NO_SUCH_PATH
        return _refusal(request, problem, name_request(request.headers.get(REQUEST_ID)))

    by_path: dict[str, dict[str, Endpoint]] = {}
    for route in routes:
        if route.name not in table:
            logger.error("http.in_no_table", extra={"route": route.name})
            continue
        by_path.setdefault(route.path, {})[route.method] = route.endpoint
    served = [
        AsgiRoute(path, _asgi_endpoint(endpoints, name_request, log), methods=list(endpoints))
        for path, endpoints in by_path.items()
    ]
    application = Starlette(routes=served, exception_handlers={HTTPException: refused})
    application.router.redirect_slashes = False
    return application


def log_refusal(error: BaseException) -> None:
    """Log why a request was refused; the traceback of what nobody expected, and the reason of anything else.

    Of callers who did not prove who they are, a few in each second; a later line says how many were `left_out`.
    """
    more = _strangers.fields(error)
    if more is None:
        return
    if isinstance(error, ProblemError):
        logger.info("http.refused", extra={"error": error.problem.name})
    elif public_status(error).code is Code.INTERNAL:
        logger.error("http.failed", extra={"error": type(error).__name__}, exc_info=error)
    else:
        logger.info("http.refused", extra={"error": type(error).__name__, "reason": str(error), **more})


def problem_for(error: BaseException) -> Problem:
    """Return what a caller is told of an error."""
    return error.problem if isinstance(error, ProblemError) else problem_of(error)


def _asgi_endpoint(
    endpoints: Mapping[str, Endpoint],
    name_request: Callable[[str | None], str],
    log: Callable[[BaseException, str], None],
) -> Callable[[AsgiRequest], Awaitable[Response]]:
    async def answer(request: AsgiRequest) -> Response:
        request_id = name_request(request.headers.get(REQUEST_ID))
        endpoint = endpoints["GET" if request.method == "HEAD" else request.method]
        try:
            answer = await endpoint(
                Request(
                    request.path_params,
                    request.headers,
                    getattr(request.state, BODY),
                    getattr(request.state, PEER_URIS),
                    request_id,
                    request.query_params,
                )
            )
        except Exception as error:  # noqa: BLE001  an edge: nothing but a public text may leave
            log(error, request_id)
            return _refusal(request, problem_for(error), request_id)
        headers = {REQUEST_ID: request_id, "content-type": answer.content_type, **answer.headers}
        return Response(answer.body, status_code=answer.status, headers=headers)

    return answer


def _refusal(request: AsgiRequest, problem: Problem, request_id: str) -> Response:
    headers = {REQUEST_ID: request_id, "content-type": CONTENT_TYPE, **problem.headers}
    return Response(problem.to_json(request_id, request.url.path), status_code=problem.status, headers=headers)


def _sorted(allowed: str) -> str:
    return ", ".join(sorted(method.strip() for method in allowed.split(",")))
