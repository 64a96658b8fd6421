"""Errors as HTTP tells them: problem+json (RFC 9457), and the one table from our codes to HTTP's numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import msgspec

from fedpredict.errors import FedPredictError, TokenRefusedError
from fedpredict.public_status import Code, public_status

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:fedpredict:error:"
RETRY_AFTER_MS = 1000
"""What a refusal for want of resources says where the error has no `retry_after_ms` of its own."""

HTTP_STATUS: dict[Code, HTTPStatus] = {
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that is not what was asked for.

    Attributes:
        name: The last part of its type, such as "too_many_samples".
        status: HTTP's number.
        detail: What the caller may read.
        fields: The error's public fields.
        headers: Headers that go with it.
    """

    name: str
    status: HTTPStatus
    detail: str
    fields: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_json(self, request_id: str, path: str) -> bytes:
        """Return the problem as JSON.

        Args:
            request_id: Of the request that it answers.
            path: Which path was asked; clients of the Open Inference Protocol (/v2) read the text in `error`.
        """
        content: dict[str, object] = {
            "type": TYPE_PREFIX + self.name,
            "title": self.name.replace("_", " ").capitalize(),
            "status": int(self.status),
            "detail": self.detail,
            "request_id": request_id,
            **self.fields,
        }
        if path.startswith("/v2"):
            content["error"] = self.detail
        return msgspec.json.encode(content)


class RefusedError(Exception):
    """Ends the parsing of a request that is refused; carries the answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.name)
        self.problem = problem


def problem_of(error: BaseException) -> Problem:
    """Return what a caller is told of an error: its public text and fields, and nothing else.

    >>> problem_of(KeyError("secret")).detail
    'internal error'
    """
    public = public_status(error)
    if not isinstance(error, FedPredictError) or public.code is Code.INTERNAL:
        return Problem("internal", HTTP_STATUS[Code.INTERNAL], public.text)
    name = _WORD.sub("_", type(error).__name__.removesuffix("Error")).lower()
    fields = {key: getattr(error, key) for key in error.public_fields}
    return Problem(name, HTTP_STATUS[public.code], public.text, fields, _headers(error, public.code))


def _headers(error: FedPredictError, code: Code) -> dict[str, str]:
    if isinstance(error, TokenRefusedError):
        return {"www-authenticate": 'Bearer error="invalid_token"'}
    if code is not Code.RESOURCE_EXHAUSTED:
        return {}
    wait_ms = int(getattr(error, "retry_after_ms", RETRY_AFTER_MS))
    return {"retry-after": str(max(1, math.ceil(wait_ms / 1000)))}


def _refusal(name: str, status: HTTPStatus, detail: str) -> Problem:
    return Problem(name, status, detail)


MALFORMED = _refusal("malformed_http", HTTPStatus.BAD_REQUEST, "the request is not HTTP/1.1")
NO_HOST = _refusal("malformed_http", HTTPStatus.BAD_REQUEST, "HTTP/1.1 needs a host header")
REPEATED_HEADER = _refusal("malformed_http", HTTPStatus.BAD_REQUEST, "a header that may be there once is repeated")
OLD_CHUNKS = _refusal("malformed_http", HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no transfer-encoding")
UPGRADE = _refusal("upgrade_refused", HTTPStatus.BAD_REQUEST, "HTTP/1.1 is spoken here, without upgrade or tunnel")
EXPECTATION = _refusal("expectation_failed", HTTPStatus.EXPECTATION_FAILED, "only 100-continue can be expected")
HEAD_TOO_LARGE = _refusal(
    "head_too_large",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "the request line and headers are longer than 16 kB",
)
TOO_SLOW = _refusal("request_timeout", HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")
TOO_MANY_CONNECTIONS = _refusal(
    "too_many_connections", HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open; try again later"
)
NO_ROOM_FOR_BODY = Problem(
    "no_room_for_body",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "the bodies of other requests take all the room there is; try again later",
    headers={"retry-after": str(RETRY_AFTER_MS // 1000)},
)
WASTEFUL_CHUNKS = _refusal("malformed_http", HTTPStatus.BAD_REQUEST, "more chunk framing or trailers than body")
NO_SUCH_PATH = _refusal("no_such_path", HTTPStatus.NOT_FOUND, "nothing is served at this path; see /docs")


def body_too_large(limit: int) -> Problem:
    """Return the answer to a body above `limit` bytes."""
    return Problem(
        "body_too_large",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is longer than {limit} bytes",
        {"limit": limit},
    )


def method_refused(allowed: str) -> Problem:
    """Return the answer to a method that a path has not.

    Args:
        allowed: Those that it has, as the header `allow` lists them.
    """
    return Problem(
        "method_not_allowed",
        HTTPStatus.METHOD_NOT_ALLOWED,
        f"this path takes {allowed}",
        headers={"allow": allowed},
    )


def media_refused(expected: str) -> Problem:
    """Return the answer to a body of another media type than `expected`, or to one that is compressed."""
    return Problem(
        "unsupported_media_type",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"send content-type: {expected}, without content-encoding",
    )
