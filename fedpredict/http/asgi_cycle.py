"""A request that an ASGI application answers: uvicorn's cycle, begun when the request is whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from fedpredict.http.exchange import Exchange

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, HTTPScope
    from uvicorn.protocols.http.flow_control import FlowControl

logger = logging.getLogger(__name__)

PEER_URIS, BODY = "fedpredict.peer_uris", "fedpredict.body"
"""Where the scope's state holds the URIs of the caller's certificate, and the whole body.

An application that asks for the body as ASGI has it gets none: on that way it is copied three times.
"""


def build_scope(
    exchange: Exchange, server: tuple[str, int | None] | None, client: tuple[str, int] | None, scheme: str | None
) -> HTTPScope:
    """Return the scope of a request; raise `HttpParserInvalidURLError` for a target that is no URL."""
    head = exchange.head
    url = httptools.parse_url(head.url)
    raw_path = url.path or b"/"
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "method": head.method.decode("ascii"),
        "scheme": scheme or "http",
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": url.query or b"",
        "root_path": "",
        "headers": head.headers,
        "server": server,
        "client": client,
        "state": {PEER_URIS: exchange.peer_uris, BODY: exchange.body},
    }


class AsgiCycle(RequestResponseCycle):
    """One call of the application."""

    def __init__(
        self,
        scope: HTTPScope,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: list[tuple[bytes, bytes]],
        *,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        super().__init__(
            scope=scope,
            transport=transport,
            flow=flow,
            logger=logger,
            access_logger=logger,
            access_log=False,
            default_headers=default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=on_response,
        )
        self.more_body = False
        self.message_event.set()

    @override
    async def run_asgi(self, app: ASGI3Application) -> None:
        """Run the application, which answers its own errors; a caller who left, or a stop, ends it."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.disconnected:
                self.transport.close()
        except Exception as error:
            logger.exception("http.failed", extra={"error": type(error).__name__})
            self.transport.close()

    def leave(self, task: asyncio.Task[Any]) -> None:
        """End the call: the caller has left."""
        self.disconnected = True
        self.message_event.set()
        task.cancel()
