"""The description of the API as a document and as a page that fetches nothing from elsewhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec

from fedpredict.http.application import JSON, Answer, Request, Route
from fedpredict.initiator.http.openapi import describe

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
FILES = {
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/docs/docs.css": ("docs.css", "text/css; charset=utf-8"),
}


def page_routes(max_samples: int) -> list[Route]:
    """Return `/openapi.json`, `/docs` and what the page consists of."""
    document = Answer(msgspec.json.encode(describe(max_samples)), JSON, headers=HEADERS)
    answers = {"/openapi.json": document} | {
        path: Answer((STATIC / name).read_bytes(), content_type, headers=HEADERS)
        for path, (name, content_type) in FILES.items()
    }
    return [Route("GET", path, partial(_give, answer)) for path, answer in answers.items()]


async def _give(answer: Answer, _request: Request) -> Answer:
    return answer
