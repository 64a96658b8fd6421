"""`POST /v1/events?view=VIEW`: raw events over HTTP, all of a message or none, for senders that the settings list."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import msgspec

from fedpredict.errors import ProtocolError
from fedpredict.features.event_feed import Feed
from fedpredict.features.event_intake import Intake, json_lines, sent_table, table_rows, take_events
from fedpredict.http.application import Answer, ProblemError, Request, Route, build_application
from fedpredict.http.edge import Admits
from fedpredict.http.problem import media_refused
from fedpredict.http.server import HttpServer
from fedpredict.http.settings import HttpSettings
from fedpredict.participant.audited import EVENTS, CallAudit
from fedpredict.participant.methods import ROUTES
from fedpredict.participant.policy import SenderPolicy
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.callers import admitting
from fedpredict.security.https import http_identity
from fedpredict.security.live import LiveTls
from fedpredict.state.event_base import EventStore
from fedpredict.wire.codec import check_request_id, new_request_id

JSON_LINES = ("application/x-ndjson", "application/jsonl")
ARROW_STREAM = "application/vnd.apache.arrow.stream"
CALLER_HEADER = b"x-fedpredict-client"
THREADS = 4
"""So many messages are read and stored at the same time; the database takes one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventEdgeSettings:
    """Where and how events are taken.

    Attributes:
        listen: host:port.
        http: The limits.
        tls: The server's side of mutual TLS; None for plain text, on loopback.
        senders: Who may send.
        audit: Writes messages down.
        drain_s: How long requests under way may take at exit.
        shares_port: Whether other workers listen at the same port.
        admits: Asked with every connection that has TLS; None: all are admitted.
    """

    listen: str
    http: HttpSettings
    tls: ssl.SSLContext | None
    senders: SenderPolicy
    audit: CallAudit
    drain_s: float
    shares_port: bool = False
    admits: Admits | None = None


def event_edge_settings(
    settings: ParticipantSettings,
    live: LiveTls | None,
    senders: SenderPolicy,
    audit: CallAudit,
    *,
    shares_port: bool,
) -> EventEdgeSettings:
    """Return what a participant's settings say of the edge that takes its events, which it has.

    Args:
        settings: The participant's.
        live: What it proves and whom it believes; None for plain text.
        senders: Who may send.
        audit: Writes messages down.
        shares_port: Whether other workers listen at the same port.
    """
    return EventEdgeSettings(
        listen=settings.http_listen or "",
        http=settings.http,
        tls=live.https_context() if live else None,
        admits=admitting(live, audit),
        senders=senders,
        audit=audit,
        drain_s=settings.drain_s,
        shares_port=shares_port,
    )


class EventsEndpoint:
    """Takes events into the store."""

    def __init__(
        self, store: EventStore, feed_of: Callable[[str], Feed], senders: SenderPolicy, audit: CallAudit
    ) -> None:
        """Take nothing yet.

        Args:
            store: Where events go.
            feed_of: View -> its feed; raises `FeedNotFoundError`.
            senders: Who may send.
            audit: Writes messages down.
        """
        self._audit = audit
        self._store = store
        self._feed_of = feed_of
        self._senders = senders
        self._pool = ThreadPoolExecutor(THREADS, "fedpredict-events")

    async def answer(self, request: Request) -> Answer:
        """Answer a request: what became of its events.

        Raises:
            UnauthenticatedError: The caller has no identity.
            FeedNotFoundError: No such view takes events, or not from this caller.
            OutOfHoursError, RateLimitedError: Not now, as the policy says.
            ProblemError: The body is neither JSON lines nor an Arrow stream by its headers.
            EventsRefusedError: Some event cannot be taken; none was stored.
            StateError: The database cannot be used.
            AuditUnavailableError: Nothing is taken while it cannot be written down.
        """
        with self._audit.strangers("HTTP"):
            sender = http_identity(request.peer_uris, request.header(CALLER_HEADER))
        with self._audit.unanswered(EVENTS, sender, request_id=request.request_id):
            self._audit.check()
            self._senders.admit(sender)
            view = request.query.get("view", "")
            intake = await self._taken(request, self._feed_of(view))
        self._audit.events(sender, request.request_id, view, intake.accepted + intake.duplicate)
        await self._audit.safe()
        return Answer(msgspec.json.encode(intake))

    async def _taken(self, request: Request, feed: Feed) -> Intake:
        media = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        plain = request.header(b"content-encoding") in (None, "identity")
        if not plain or media not in (*JSON_LINES, ARROW_STREAM):
            raise ProblemError(media_refused(f"{JSON_LINES[0]} or {ARROW_STREAM}"))
        work = partial(self._take, feed, request.body, is_arrow=media == ARROW_STREAM)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _take(self, feed: Feed, body: bytes, *, is_arrow: bool) -> Intake:
        return take_events(
            self._store, feed, table_rows(sent_table(body, feed), feed) if is_arrow else json_lines(body)
        )


def build_event_edge(settings: EventEdgeSettings, store: EventStore, feed_of: Callable[[str], Feed]) -> HttpServer:
    """Return the server, to be entered.

    Args:
        settings: Where and how.
        store: Where events go.
        feed_of: View -> its feed; raises `FeedNotFoundError`.
    """
    endpoint = EventsEndpoint(store, feed_of, settings.senders, settings.audit)
    return HttpServer(
        settings.listen,
        build_application([Route("POST", "/v1/events", endpoint.answer)], name_request, ROUTES),
        fast_route=lambda _target: None,
        name_request=name_request,
        settings=settings.http,
        tls=settings.tls,
        drain_s=settings.drain_s,
        shares_port=settings.shares_port,
        admits=settings.admits,
    )


def name_request(header: str | None) -> str:
    """Return the id of a request: what `x-request-id` says, or a new one where it is missing or breaks the rule."""
    try:
        return new_request_id() if header is None else check_request_id(header)
    except ProtocolError:
        return new_request_id()
