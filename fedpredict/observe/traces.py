"""Spans of predictions across parties: edge, round, each party, the party's share, combining.

What is not traced has no span: every call here then returns None after looking at one field, and callers hand `""` on.
A span crosses processes and parties as a W3C traceparent. Attributes are names and counts; never a sample id, a feature
or a score.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

from fedpredict.errors import ConfigError
from fedpredict.model.ids import traceparent_of
from fedpredict.observe.settings import TracesSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

Attributes = Mapping[str, str | int | float | bool]

EXPORT_S = 2.0
"""How long a collector may take; a process that stops waits for it no longer than that, and drops what is left."""
_FAILED = Status(StatusCode.ERROR)
_OK_OUTCOMES = frozenset({"ok", "partial"})


class Span:
    """A span under way."""

    __slots__ = ("_span", "_tracer", "traceparent")

    def __init__(self, tracer: Tracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span
        self.traceparent = _written(span.get_span_context())
        """What the next process, message or thread is told."""

    def child(self, name: str, attributes: Attributes, *, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        """Begin a span below this one."""
        parent = set_span_in_context(self._span)
        return Span(self._tracer, self._tracer.start_span(name, parent, kind, attributes=dict(attributes)))

    def end(self, outcome: str, **attributes: str | int | float | bool) -> None:
        """End it.

        Args:
            outcome: As the metrics name it; anything but "ok" and "partial" makes the span a failed one.
            attributes: What is known only now.
        """
        self._span.set_attributes({"fedpredict.outcome": outcome, **attributes})
        if outcome not in _OK_OUTCOMES:
            self._span.set_status(_FAILED)
        self._span.end()


class Traces:
    """What a process traces: nothing without a tracer."""

    def __init__(self, tracer: Tracer | None = None, settings: TracesSettings | None = None) -> None:
        """Prepare.

        Args:
            tracer: Makes the spans; None traces nothing.
            settings: Which requests.
        """
        self.on = tracer is not None
        """Whether anything is traced at all; edges need not look for a caller's span otherwise."""
        self._tracer = tracer
        self._settings = settings or TracesSettings()
        self._left = self._settings.max_per_s
        self._filled_at = time.monotonic()

    def request(self, edge: str, model: str, traceparent: str = "") -> Span | None:
        """Begin the span of a request at an edge, if it is one that is traced.

        Args:
            edge: As the metrics name it.
            model: The model id.
            traceparent: What the caller sent in that header or metadata; what is no such text counts as nothing.
        """
        if self._tracer is None:
            return None
        parent = traceparent_of(traceparent) if traceparent else ""
        # a caller that has decided is followed
        if not (_is_sampled(parent) if parent else random.random() < self._settings.sample_ratio):  # noqa: S311
            return None
        return self._begin("predict", parent, SpanKind.SERVER, {"fedpredict.edge": edge, "fedpredict.model": model})

    def round(self, model: str, mode: str, carried: Sequence[str], *, rows: int) -> Span | None:
        """Begin the span of a round, if any request in it is traced: below the first of them, linked to the others.

        Args:
            model: The model id.
            mode: The mode.
            carried: The traceparents of the requests that it carries; "" for those that are not traced.
            rows: Rows of all of them.
        """
        if self._tracer is None:
            return None
        traced = [each for each in carried if each]
        if not traced:
            return None
        attributes: Attributes = {
            "fedpredict.model": model,
            "fedpredict.mode": mode,
            "fedpredict.requests": len(carried),
            "fedpredict.rows": rows,
        }
        links = [Link(_read(each)) for each in traced[1:]]
        span = self._tracer.start_span("round", _context(traced[0]), attributes=dict(attributes), links=links)
        return Span(self._tracer, span)

    def score(self, traceparent: str, caller: str, model: str) -> Span | None:
        """Begin the span of a share that another party asks for, if it traces the prediction.

        Args:
            traceparent: As the sub-task has it.
            caller: The asking party.
            model: The model id.
        """
        if self._tracer is None or not traceparent or not _is_sampled(traceparent):
            return None
        attributes = {"fedpredict.caller": caller, "fedpredict.model": model}
        return self._begin("score", traceparent, SpanKind.SERVER, attributes)

    def _begin(self, name: str, parent: str, kind: SpanKind, attributes: Attributes) -> Span | None:
        if self._tracer is None or not self._may():
            return None
        context = _context(parent) if parent else None
        return Span(self._tracer, self._tracer.start_span(name, context, kind, attributes=dict(attributes)))

    def _may(self) -> bool:
        """Return whether this second has room for one more: callers choose what is traced, and must not choose all."""
        now = time.monotonic()
        most = max(1.0, self._settings.max_per_s)
        self._left = min(most, self._left + (now - self._filled_at) * self._settings.max_per_s)
        self._filled_at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


NO_TRACES = Traces()
"""Traces nothing."""


def current_traceparent() -> str:
    """Return the span that the running program has open in OpenTelemetry's context, in W3C's form; empty without one.

    >>> current_traceparent()
    ''
    """
    context = get_current_span().get_span_context()
    return _written(context) if context.is_valid else ""


def party_span(round_span: Span | None, party: str, rows: int) -> Span | None:
    """Begin the span of asking a party, below the round's; its traceparent goes into the sub-task."""
    if round_span is None:
        return None
    attributes: Attributes = {"fedpredict.party": party, "fedpredict.rows": rows}
    return round_span.child("party", attributes, kind=SpanKind.CLIENT)


def combine_span(round_span: Span | None) -> Span | None:
    """Begin the span of adding up the shares of a round."""
    return None if round_span is None else round_span.child("combine", {})


@asynccontextmanager
async def tracing(settings: TracesSettings, role: str, party: str) -> AsyncIterator[Traces]:
    """Trace inside an `async with` block, as the settings say; spans that wait at its end are sent, if that is quick.

    Args:
        settings: The `[traces]` table.
        role: "initiator" or "participant".
        party: Whose process this is.

    Raises:
        ConfigError: The extra `traces` is not installed.
    """
    if settings.endpoint is None:
        yield NO_TRACES
        return
    provider = provider_of(_exporting_to(settings.endpoint), role, party)
    try:
        yield Traces(provider.get_tracer("fedpredict"), settings)
    finally:
        await asyncio.to_thread(provider.shutdown)


def provider_of(processor: SpanProcessor, role: str, party: str) -> TracerProvider:
    """Return the SDK's provider; its `shutdown` sends what waits.

    Args:
        processor: Where ended spans go.
        role: "initiator" or "participant".
        party: Whose process this is.
    """
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  an extra
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased  # noqa: PLC0415

    resource = Resource.create({"service.name": f"fedpredict-{role}", "fedpredict.party": party})
    # `Traces` has decided before a span begins
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


def _exporting_to(endpoint: str) -> SpanProcessor:
    """Return what sends ended spans to a collector, from a thread; what does not fit is dropped."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  an extra
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("traces.endpoint: needs the extra: pip install 'fedpredict[traces]'") from error
    has_path = "/" in endpoint.partition("://")[2]
    url = endpoint if has_path else f"{endpoint}/v1/traces"
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=EXPORT_S))


def _written(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _read(traceparent: str) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def _is_sampled(traceparent: str) -> bool:
    return bool(traceparent) and bool(int(traceparent[-2:], 16) & TraceFlags.SAMPLED)


def _context(traceparent: str) -> Context:
    return set_span_in_context(NonRecordingSpan(_read(traceparent)))
