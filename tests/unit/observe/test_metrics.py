"""What is counted, read back with Prometheus' own parser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from fedpredict.errors import (
    ModelNotFoundError,
    ModelNotReadyError,
    PartyRefusedError,
    PartyTimeoutError,
    PartyUnavailableError,
    ProtocolError,
)
from fedpredict.model.scorer import ModelRef, PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, Share
from fedpredict.observe import counting, metrics
from fedpredict.observe.counting import Source
from fedpredict.observe.metrics import METRICS, MetricKind, Outcome, call_outcome_of, outcome_of
from fedpredict.observe.page import Page
from fedpredict.observe.policy import PolicyMetrics
from fedpredict.observe.process import ProcessMetrics
from fedpredict.observe.scoring import (
    NO_PARTICIPANT_METRICS,
    DistinctMetrics,
    DistinctReading,
    ParticipantMetrics,
    ScheduleMetrics,
    StoreMetrics,
    StoreReading,
)
from fedpredict.observe.serving import NO_SERVING_METRICS, InProcess, ServingMetrics
from fedpredict.observe.tasks import TaskMetrics
from fedpredict.observe.watch import ShareWatch
from fedpredict.public_status import Code

NEARLINE = Mode.NEARLINE


@dataclass
class Linked:
    """A link in a state of the test's."""

    carriers: Mapping[str, int]
    reconnects: int
    offline_carriers: Mapping[str, int] = field(default_factory=dict)


def page(*sources: Source, accept: str = "") -> str:
    return asyncio.run(Page(sources).write(accept))[1].decode()


def samples(text: str) -> dict[str, float]:
    """Return every sample of a page: `name{label="value",...}` with sorted labels -> value."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def of(text: str, name: str) -> dict[str, float]:
    return {key.removeprefix(name): value for key, value in samples(text).items() if key.startswith(f"{name}{{")}


def test_requests_are_counted_by_edge_model_mode_and_outcome() -> None:
    serving = ServingMetrics({"credit"})
    requests = serving.request("http", "credit", NEARLINE)
    requests.done("ok", 0.0012, 1)
    requests.done("ok", 0.3, 1000)
    requests.done("deadline", 2.0, 7)
    serving.request("stream", "credit", Mode.OFFLINE).done("overloaded", 0.0, 5)
    text = page(serving)
    assert of(text, "fedpredict_request_seconds_count") == {
        '{edge="http",mode="nearline",model="credit",outcome="ok"}': 2.0,
        '{edge="http",mode="nearline",model="credit",outcome="deadline"}': 1.0,
        '{edge="stream",mode="offline",model="credit",outcome="overloaded"}': 1.0,
    }
    assert of(text, "fedpredict_request_rows_total") == {
        '{edge="http",mode="nearline",model="credit",outcome="ok"}': 1001.0,
        '{edge="http",mode="nearline",model="credit",outcome="deadline"}': 7.0,
        '{edge="stream",mode="offline",model="credit",outcome="overloaded"}': 5.0,
    }


@given(st.lists(st.floats(min_value=0.0, max_value=30.0), max_size=30))
def test_buckets_and_sum_are_those_of_the_library(seconds: list[float]) -> None:
    registry = CollectorRegistry()
    theirs = Histogram("fedpredict_request_seconds", "-", buckets=metrics.SECONDS, registry=registry)
    serving = ServingMetrics({"m"})
    for each in (0.0, *metrics.SECONDS, *seconds):  # every bound itself too: it belongs to its bucket
        theirs.observe(each)
        serving.request("grpc", "m", NEARLINE).done("ok", each, 1)
    expected = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    found = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in text_string_to_metric_families(page(serving))
        for sample in family.samples
        if family.name == "fedpredict_request_seconds"
    }
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key], rel=1e-12) for key in found)


def test_any_other_model_counts_as_unknown_and_leaves_nothing_behind() -> None:
    serving = ServingMetrics({"credit"})
    for number in range(100):
        serving.request("http", f"guess-{number}", NEARLINE).done("not_found", 0.001, 1)
    assert of(page(serving), "fedpredict_request_seconds_count") == {
        '{edge="http",mode="nearline",model="unknown",outcome="not_found"}': 100.0
    }
    assert "guess" not in page(serving)
    assert len(serving._requests) == 1


def test_a_family_that_grows_too_large_counts_the_rest_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_CHILDREN", 2)
    family = counting.tallies(metrics.SCORE_ROWS)
    for caller in ("a", "b", "c", "d"):
        family.child(caller, "m", "ok").value += 1
    values = {labels: child.value for labels, child in family}
    assert values == {("a", "m", "ok"): 1, ("b", "m", "ok"): 1, ("unknown", "unknown", "unknown"): 2}


def test_rounds_and_the_queue_are_read_as_they_stand() -> None:
    serving = ServingMetrics({"credit"})
    rounds = serving.round("credit", NEARLINE)
    rounds.began(requests=3, rows=30)
    rounds.began(requests=1, rows=1000)
    rounds.done(0.004)
    serving.queue(lambda: (17, 170))
    text = page(serving)
    labels = '{mode="nearline",model="credit"}'
    assert of(text, "fedpredict_rounds_in_flight") == {labels: 1.0}
    assert of(text, "fedpredict_round_rows_sum") == {labels: 1030.0}
    assert of(text, "fedpredict_round_requests_sum") == {labels: 4.0}
    assert of(text, "fedpredict_round_seconds_count") == {labels: 1.0}
    assert of(text, "fedpredict_queue_requests") == {"{}": 17.0}
    assert of(text, "fedpredict_queue_rows") == {"{}": 170.0}


def test_a_party_shows_its_calls_and_its_link() -> None:
    serving = ServingMetrics(set())
    lab = serving.party("lab")
    lab.done("ok", 0.002, 0.0005)
    lab.done("timeout", 1.0)
    lab.link = Linked({"socket": 2, "grpc": 1}, 3, {"socket": 2})
    serving.party("shop").link = Linked({}, 0)
    serving.party("bank").link = InProcess()
    text = page(serving)
    assert of(text, "fedpredict_party_seconds_count") == {
        '{outcome="ok",party="lab"}': 1.0,
        '{outcome="timeout",party="lab"}': 1.0,
    }
    assert of(text, "fedpredict_party_elapsed_seconds_sum")['{party="lab"}'] == 0.0005
    assert of(text, "fedpredict_party_connected") == {
        '{party="lab"}': 1.0,
        '{party="shop"}': 0.0,
        '{party="bank"}': 1.0,
    }
    assert of(text, "fedpredict_party_links") == {
        '{carrier="socket",party="lab"}': 2.0,
        '{carrier="grpc",party="lab"}': 1.0,
        '{carrier="local",party="bank"}': 1.0,
    }
    assert of(text, "fedpredict_party_offline_links") == {'{carrier="socket",party="lab"}': 2.0}
    assert of(text, "fedpredict_party_reconnects_total")['{party="lab"}'] == 3.0


def test_the_share_of_several_models_is_counted_by_model() -> None:
    participant = ParticipantMetrics({"hospital"}, lambda model: True)
    ok, refused = int(SampleStatus.OK), int(SampleStatus.REFUSED)
    query = ScoreQuery(
        request_id="r", model_id="a", manifest_sha256="0" * 64, params_sha256="0" * 64, mode=Mode.NEARLINE,
        sample_ids=[b"u"] * 4, segments=(1, 1, 1, 1), model_rows=(2, 1, 1),
        further=tuple(ModelRef(name, "0" * 64, "0" * 64) for name in ("b", "c")),
    )  # fmt: skip

    def reply(*status: int, **more: Any) -> PartyReply:
        values = np.where(np.array(status) == ok, 1.0, np.nan)[:, None]
        share = Share(values, np.array(status, np.uint8))
        return PartyReply(share=share, oldest_event_time=None, elapsed_s=0.0, **more)

    watch = ShareWatch(participant)
    watch.share("hospital", query).scored(reply(ok, ok, ok, ok))
    failures = {2: ModelNotReadyError("no snapshot")}
    watch.share("hospital", query).scored(reply(ok, int(SampleStatus.STALE), ok, refused, failures=failures))
    watch.share("hospital", query).failed(ProtocolError("x"))
    text = page(participant)
    assert of(text, "fedpredict_score_seconds_count") == {
        '{caller="hospital",model="a",outcome="ok"}': 1.0,
        '{caller="hospital",model="a",outcome="partial"}': 1.0,
        '{caller="hospital",model="a",outcome="invalid_argument"}': 1.0,
        '{caller="hospital",model="b",outcome="ok"}': 2.0,
        '{caller="hospital",model="b",outcome="invalid_argument"}': 1.0,
        '{caller="hospital",model="c",outcome="ok"}': 1.0,
        '{caller="hospital",model="c",outcome="unavailable"}': 1.0,
        '{caller="hospital",model="c",outcome="invalid_argument"}': 1.0,
    }
    rows = {key: value for key, value in of(text, "fedpredict_score_rows_total").items() if value}
    assert rows == {
        '{caller="hospital",model="a",status="ok"}': 3.0,
        '{caller="hospital",model="a",status="stale"}': 1.0,
        '{caller="hospital",model="b",status="ok"}': 2.0,
        '{caller="hospital",model="c",status="ok"}': 1.0,
    }


def test_buckets_of_offline_tasks_are_counted_apart_from_shares() -> None:
    participant = ParticipantMetrics({"hospital"}, lambda model: model == "credit")
    status = np.full(300, SampleStatus.OK, np.uint8)
    status[:7] = SampleStatus.NOT_FOUND

    participant.bucket("hospital", "credit").done(12.0, status)
    participant.bucket("hospital", "credit").failed("failed_precondition", 0.01)

    text = page(participant)
    assert {key: value for key, value in of(text, "fedpredict_bucket_seconds_count").items() if value} == {
        '{caller="hospital",model="credit",outcome="partial"}': 1.0,
        '{caller="hospital",model="credit",outcome="failed_precondition"}': 1.0,
    }
    assert {key: value for key, value in of(text, "fedpredict_bucket_rows_total").items() if value} == {
        '{caller="hospital",model="credit",status="ok"}': 293.0,
        '{caller="hospital",model="credit",status="not_found"}': 7.0,
    }
    assert not of(text, "fedpredict_score_seconds_count")


def test_edges_and_models_are_asked_when_the_page_is_read() -> None:
    serving = ServingMetrics({"credit"})
    serving.connections("http", lambda: 64)
    serving.ready(lambda: {"credit": True, "fraud": False})
    text = page(serving)
    assert of(text, "fedpredict_open_connections") == {'{edge="http"}': 64.0}
    assert of(text, "fedpredict_model_ready") == {'{model="credit"}': 1.0, '{model="fraud"}': 0.0}


@pytest.mark.parametrize("n_rows", [1, 300])
def test_shares_are_counted_by_caller_and_model_and_their_rows_by_status(n_rows: int) -> None:
    participant = ParticipantMetrics({"hospital"}, lambda model: model == "credit")
    ok, stale = SampleStatus.OK, SampleStatus.STALE
    scores = participant.score("hospital", "credit")
    scores.done(0.001, np.full(n_rows, ok, np.uint8))
    scores.done(0.002, np.array([ok, stale, SampleStatus.NOT_FOUND, stale], np.uint8))
    participant.score("thief", "credit").failed("not_found", 0.0001)
    participant.score("hospital", "made-up").failed("not_found", 0.0001)
    text = page(participant)
    assert of(text, "fedpredict_score_seconds_count") == {
        '{caller="hospital",model="credit",outcome="ok"}': 1.0,
        '{caller="hospital",model="credit",outcome="partial"}': 1.0,
        '{caller="unknown",model="credit",outcome="not_found"}': 1.0,
        '{caller="hospital",model="unknown",outcome="not_found"}': 1.0,
    }
    rows = of(text, "fedpredict_score_rows_total")
    mine = {key: value for key, value in rows.items() if 'caller="hospital",model="credit"' in key}
    assert mine == {
        '{caller="hospital",model="credit",status="ok"}': n_rows + 1.0,
        '{caller="hospital",model="credit",status="stale"}': 2.0,
        '{caller="hospital",model="credit",status="not_found"}': 1.0,
    }


def test_a_store_shows_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpredict.observe.scoring.time.time", lambda: 1_000.0)
    readings = [
        StoreReading(view="people", view_version=2, instant=400.0, rows=10, n_bytes=640, loaded_at=900.0),
        StoreReading(view="shops", view_version=1, instant=1_400.0),
    ]
    text = page(StoreMetrics(lambda: readings))
    people, shops = '{view="people",view_version="2"}', '{view="shops",view_version="1"}'
    assert of(text, "fedpredict_store_age_seconds") == {people: 600.0, shops: 0.0}
    assert of(text, "fedpredict_store_rows") == {people: 10.0}
    assert of(text, "fedpredict_store_bytes") == {people: 640.0}
    assert of(text, "fedpredict_store_loaded_timestamp_seconds") == {people: 900.0}


def test_limits_of_distinct_ids_are_shown_with_what_is_used() -> None:
    text = page(DistinctMetrics(lambda: [DistinctReading("bank", 7, 10), DistinctReading("shop", 0, 5)]))
    bank, shop = '{caller="bank"}', '{caller="shop"}'
    assert of(text, "fedpredict_distinct_ids") == {bank: 7.0, shop: 0.0}
    assert of(text, "fedpredict_distinct_ids_limit") == {bank: 10.0, shop: 5.0}


def test_null_recorders_count_nothing() -> None:
    NO_SERVING_METRICS.request("http", "m", NEARLINE).done("ok", 1.0, 1)
    NO_SERVING_METRICS.round("m", NEARLINE).began(1, 1)
    NO_SERVING_METRICS.round("m", NEARLINE).done(1.0)
    NO_SERVING_METRICS.party("lab").done("ok", 1.0, 1.0)
    NO_SERVING_METRICS.connections("http", lambda: 1)
    NO_SERVING_METRICS.queue(lambda: (1, 1))
    NO_SERVING_METRICS.ready(lambda: {"m": True})
    NO_PARTICIPANT_METRICS.score("a", "m").done(1.0, np.ones(1, np.uint8))
    NO_PARTICIPANT_METRICS.score("a", "m").failed("internal", 1.0)
    text = page(NO_SERVING_METRICS, NO_PARTICIPANT_METRICS)
    ours = {name: value for name, value in samples(text).items() if name.startswith("fedpredict_")}
    assert set(ours.values()) == {0.0}
    assert {name.split("{")[0] for name in ours} == {"fedpredict_queue_requests", "fedpredict_queue_rows"}


def everything() -> Iterable[Source]:
    return (
        ServingMetrics(set()),
        TaskMetrics(lambda problem, party: problem),
        ParticipantMetrics(set(), lambda _: False),
        StoreMetrics(list),
        DistinctMetrics(list),
        ScheduleMetrics(),
        PolicyMetrics(),
        ProcessMetrics("initiator", "bank", 0),
    )


def test_the_page_has_exactly_what_is_declared_and_the_process_figures_that_every_client_has() -> None:
    text = page(*everything())
    declared = {metric.name.removesuffix("_total"): (metric.kind.value, metric.text) for metric in METRICS}
    found = {family.name: (family.type, family.documentation) for family in text_string_to_metric_families(text)}
    ours = {name: each for name, each in found.items() if name.startswith("fedpredict_")}
    assert ours == declared
    assert "process_resident_memory_bytes" in found
    assert {name for name in found if not name.startswith(("fedpredict_", "process_"))} == set()


@pytest.mark.parametrize("version", ["x", "", "1.0.0.0.0", "1e9", ";"])
def test_who_asks_for_a_version_that_is_none_gets_the_page(version: str) -> None:
    kind, data = asyncio.run(
        Page([ServingMetrics({"credit"})]).write(f"application/openmetrics-text; version={version}")
    )
    assert kind.startswith(("text/plain", "application/openmetrics-text"))
    assert b"fedpredict_queue_requests" in data


def test_openmetrics_is_given_to_who_asks_and_holds_the_same() -> None:
    serving = ServingMetrics({f"m{number}" for number in range(40)})
    for number in range(40):
        serving.request("http", f"m{number}", NEARLINE).done("ok", 0.001 * number, number)
    kind, data = asyncio.run(Page([serving]).write("application/openmetrics-text; version=1.0.0"))
    assert kind.startswith("application/openmetrics-text")
    open_ = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_openmetrics(data.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.name.startswith("fedpredict_")
    }
    plain = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page(serving))
        for sample in family.samples
        if sample.name.startswith("fedpredict_")
    }
    assert open_ == plain
    assert len(plain) > 1_000  # written in many slices, each family once
    assert data.decode().count("# TYPE fedpredict_request_seconds ") == 1


def test_declarations_follow_the_conventions_of_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"fedpredict_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
        assert bool(metric.bounds) == (metric.kind is MetricKind.HISTOGRAM)
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert metric.text.endswith(".")
    assert (metrics.SECONDS[0], metrics.SECONDS[-1]) == (0.0001, 10.0)


def test_every_error_has_an_outcome() -> None:
    assert set(metrics._OUTCOMES) == set(Code)
    assert set(metrics._OUTCOMES.values()) | {"ok", "partial", "cancelled"} == set(get_args(Outcome))
    assert outcome_of(ModelNotFoundError("m")) == "not_found"
    assert outcome_of(asyncio.CancelledError()) == "cancelled"
    assert [
        call_outcome_of(error)
        for error in (
            PartyTimeoutError("", party="lab"),
            TimeoutError(),
            PartyUnavailableError("", party="lab"),
            PartyRefusedError("", party="lab"),
            ModelNotFoundError(""),
        )
    ] == ["timeout", "timeout", "unavailable", "refused", "refused"]


async def test_a_loop_that_is_held_up_and_a_collection_are_seen() -> None:
    import gc
    import time

    process = ProcessMetrics("participant", "lab", 3)
    async with process:
        gc.collect()
        time.sleep(0.15)  # holds the event loop up on purpose
        while not sum(process._lag.counts):
            await asyncio.sleep(0)
    text = (await Page([process]).write(""))[1].decode()
    assert of(text, "fedpredict_loop_lag_seconds_sum")["{}"] > 0.04
    assert of(text, "fedpredict_gc_pause_seconds_count")['{generation="2"}'] >= 1
    (info,) = of(text, "fedpredict_build_info")
    assert 'party="lab"' in info
    assert 'worker="3"' in info
