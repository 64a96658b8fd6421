from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from fedpredict.errors import ModelNotFoundError
from fedpredict.model.ids import traceparent_of
from fedpredict.model.share import Mode
from fedpredict.observe.settings import TracesSettings
from fedpredict.observe.traces import NO_TRACES, Traces, combine_span, party_span, provider_of
from fedpredict.observe.watch import PredictionWatch

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exported: InMemorySpanExporter) -> TracerProvider:
    return provider_of(SimpleSpanProcessor(exported), "initiator", "bank")


def traces(provider: TracerProvider, **settings: float) -> Traces:
    return Traces(provider.get_tracer("test"), TracesSettings.model_validate({"sample_ratio": 0.0, **settings}))


def by_name(exported: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exported.get_finished_spans()}


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def test_a_callers_sampled_span_is_the_parent(provider: TracerProvider, exported: InMemorySpanExporter) -> None:
    span = traces(provider).request("http", "credit", SAMPLED)
    assert span is not None
    assert span.traceparent.split("-")[1] == TRACE
    assert traceparent_of(span.traceparent) == span.traceparent
    span.end("ok")
    (request,) = exported.get_finished_spans()
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == CALLER
    assert request.kind is SpanKind.SERVER
    assert dict(request.attributes or {}) == {
        "fedpredict.edge": "http",
        "fedpredict.model": "credit",
        "fedpredict.outcome": "ok",
    }
    assert request.resource.attributes["service.name"] == "fedpredict-initiator"


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_caller_that_does_not_sample_is_followed_too(provider: TracerProvider, ratio: float) -> None:
    assert traces(provider, sample_ratio=ratio).request("http", "credit", NOT_SAMPLED) is None


@pytest.mark.parametrize("sent", ["", "rubbish", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_without_a_callers_span_the_ratio_decides(provider: TracerProvider, sent: str) -> None:
    assert traces(provider, sample_ratio=0.0).request("http", "credit", sent) is None
    root = traces(provider, sample_ratio=1.0).request("http", "credit", sent)
    assert root is not None
    assert TRACE not in root.traceparent


def test_callers_cannot_have_more_traced_than_the_limit(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("fedpredict.observe.traces.time.monotonic", lambda: now[0])
    limited = traces(provider, max_per_s=3)
    assert [limited.request("http", "m", SAMPLED) is not None for _ in range(5)] == [True] * 3 + [False] * 2
    now[0] += 1 / 3
    assert [limited.score(SAMPLED, "bank", "m") is not None for _ in range(2)] == [True, False]
    now[0] += 100.0
    assert sum(limited.request("http", "m", SAMPLED) is not None for _ in range(9)) == 3


def test_a_round_hangs_below_its_first_traced_request_and_names_the_others(
    provider: TracerProvider, exported: InMemorySpanExporter
) -> None:
    other = f"00-{'1' * 32}-{'2' * 16}-01"
    span = traces(provider).round("credit", "nearline", ["", SAMPLED, "", other], rows=12)
    assert span is not None
    asked = party_span(span, "lab", 12)
    combined = combine_span(span)
    assert asked is not None
    assert combined is not None
    asked.end("timeout")
    combined.end("ok")
    span.end("partial")
    spans = by_name(exported)
    assert spans["round"].parent is not None
    assert f"{spans['round'].parent.span_id:016x}" == CALLER
    assert [f"{link.context.span_id:016x}" for link in spans["round"].links] == ["2" * 16]
    assert dict(spans["round"].attributes or {}) == {
        "fedpredict.model": "credit",
        "fedpredict.mode": "nearline",
        "fedpredict.requests": 4,
        "fedpredict.rows": 12,
        "fedpredict.outcome": "partial",
    }
    for name in ("party", "combine"):
        parent = spans[name].parent
        assert parent is not None
        assert parent.span_id == id_of(spans["round"])
    assert spans["party"].kind is SpanKind.CLIENT
    assert [spans[name].status.status_code for name in ("party", "combine", "round")] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
        StatusCode.UNSET,
    ]


def test_a_round_without_a_traced_request_is_not_traced(provider: TracerProvider) -> None:
    span = traces(provider, sample_ratio=1.0).round("credit", "nearline", ["", ""], rows=2)
    assert span is None
    assert party_span(span, "lab", 2) is None
    assert combine_span(span) is None


def test_a_participant_traces_only_what_its_caller_does(provider: TracerProvider) -> None:
    eager = traces(provider, sample_ratio=1.0)
    assert eager.score("", "bank", "credit") is None
    assert eager.score(NOT_SAMPLED, "bank", "credit") is None
    assert eager.score(SAMPLED, "bank", "credit") is not None


def test_parties_that_were_not_heard_end_with_their_round(
    provider: TracerProvider, exported: InMemorySpanExporter
) -> None:
    watch = PredictionWatch(traces=traces(provider))
    request = watch.request("grpc", "credit", Mode.NEARLINE, 1, SAMPLED)
    round_ = watch.round("credit", Mode.NEARLINE, [request.traceparent], 1)
    asked = {party: round_.ask(party) for party in ("lab", "shop")}
    round_.heard("lab", "ok", 0.001, 0.0005)
    round_.ended("cancelled")
    request.answered(ModelNotFoundError("credit"))
    spans = {f"{id_of(span):016x}": span for span in exported.get_finished_spans()}
    outcomes = {
        party: (spans[parent.split("-")[2]].attributes or {})["fedpredict.outcome"] for party, parent in asked.items()
    }
    assert outcomes == {"lab": "ok", "shop": "cancelled"}
    assert len(spans) == 4


def test_nothing_is_traced_by_default() -> None:
    assert not NO_TRACES.on
    assert NO_TRACES.request("http", "credit", SAMPLED) is None
    assert NO_TRACES.round("credit", "nearline", [SAMPLED], rows=1) is None
    assert NO_TRACES.score(SAMPLED, "bank", "credit") is None
