from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from fedpredict.errors import (
    FedPredictError,
    InputsRefusedError,
    ManifestMismatchError,
    ModelNotFoundError,
    ModelNotReadyError,
    PartyTimeoutError,
    ProtocolError,
    UnsupportedModeError,
)
from fedpredict.features.base import FeatureRows
from fedpredict.features.memory import MemoryStore
from fedpredict.model.inputs import Inputs
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.linear import LinearPart
from fedpredict.model.manifest import PartDescription
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import NO_EVENT_TIME, ModelRef, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.public_status import Code, public_status
from fedpredict.scoring.local_party import INLINE_SAMPLES, LocalParty
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature
from fedpredict.warehouse.base import ColumnType

DIGEST = "ab" * 32
NAN, INF = float("nan"), float("inf")

ROWS: list[tuple[str, int, float | None, float | None]] = [
    ("ok", 50, 1.0, 2.0),
    ("older", 20, 3.0, 4.0),
    ("null", 10, None, 2.0),
    ("nan", 10, NAN, 2.0),
    ("inf", 10, 1.0, -INF),
    ("nan and inf", 10, INF, NAN),
    ("twice", 10, 1.0, 1.0),
    ("twice", 10, 1.0, 1.0),
    ("large", 10, 1e308, 1e308),
    ("quotes\"'; --", 60, 0.0, 0.0),
]
WEIGHTS = np.array([[10.0, 1.0], [0.5, -1.0]])
OFFSET = np.array([0.25, 100.0])


def loaded_model(weights: np.ndarray = WEIGHTS, digest: str = DIGEST) -> LoadedModel:
    description = PartDescription(
        party="lab",
        model_id="credit",
        params_sha256=digest,
        training_run="run",
        kind=Kind.LINEAR,
        link=own_link(Kind.LINEAR),
        classes=(),
        n_scores=weights.shape[1],
        holds_intercept=True,
        fit_intercept=True,
    )
    part = LinearPart(("B", "A"), weights, OFFSET, np.zeros(2))
    return LoadedModel(description=description, part=part, view="people", view_version=1, columns=("b", "a"))


def filled_store(rows: Sequence[tuple[str, int, float | None, float | None]] = ROWS) -> MemoryStore:
    """Rows of (sample id, event time, b, a)."""
    features = (
        *(ViewFeature(name, name.lower(), ColumnType.DOUBLE) for name in ("A", "B", "C")),
        ViewFeature("city", "city", ColumnType.STRING),
    )
    store = MemoryStore()
    view = FeatureView("people", 1, features, "id", None)
    store.publish(Snapshot(view, "20260101T000000.000000Z", len(rows)), rows_table(rows))
    return store


def rows_table(rows: Sequence[tuple[str, int, float | None, float | None]]) -> pa.Table:
    ids, times, b, a = zip(*rows, strict=True)
    return pa.table(
        {
            "sample_id": pa.array(ids),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "a": pa.array(a, pa.float64()),
            "b": pa.array(b, pa.float64()),
            "c": pa.nulls(len(ids), pa.float64()),
        }
    )


def state_of(*models: LoadedModel) -> PartyState:
    return PartyState(
        current={model.description.model_id: model for model in models[:1]},
        loaded={(model.description.model_id, model.description.params_sha256): model for model in models},
        read_once=True,
    )


def party_with(state: PartyState, store: MemoryStore | None = None) -> LocalParty:
    return LocalParty("lab", lambda: state, store or filled_store())


def query_for(
    *ids: bytes,
    digest: str = DIGEST,
    mode: Mode = Mode.NEARLINE,
    model_id: str = "credit",
    segments: tuple[int, ...] = (),
    inputs: Inputs | None = None,
) -> ScoreQuery:
    return ScoreQuery(
        request_id="r",
        model_id=model_id,
        manifest_sha256="cd" * 32,
        params_sha256=digest,
        mode=mode,
        sample_ids=SampleIds.of(ids),
        segments=segments,
        inputs=inputs,
    )


def own(names: Sequence[str], *rows: Sequence[float]) -> Inputs:
    return Inputs(tuple(names), np.array(rows, dtype=np.float64).reshape(len(rows), len(names)))


@pytest.mark.parametrize(
    ("sample_id", "status"),
    [
        (b"ok", SampleStatus.OK),
        (b"quotes\"'; --", SampleStatus.OK),
        (b"nobody", SampleStatus.NOT_FOUND),
        (b"ok ", SampleStatus.NOT_FOUND),
        (b"null", SampleStatus.FEATURE_MISSING),
        (b"nan", SampleStatus.FEATURE_MISSING),
        (b"inf", SampleStatus.FEATURE_INVALID),
        (b"nan and inf", SampleStatus.FEATURE_INVALID),
        (b"twice", SampleStatus.FEATURE_INVALID),
        (b"large", SampleStatus.OUT_OF_RANGE),
        (b"", SampleStatus.ID_INVALID),
        (b"i" * 10_000, SampleStatus.ID_INVALID),
        (b"\xff\xfe", SampleStatus.ID_INVALID),
        (b"o\nk", SampleStatus.ID_INVALID),
        (b"ok\0", SampleStatus.ID_INVALID),
    ],
)
async def test_every_sample_gets_its_status_and_only_an_ok_one_a_number(sample_id: bytes, status: SampleStatus) -> None:
    share = (await party_with(state_of(loaded_model())).score(query_for(b"ok", sample_id), deadline_s=1)).share
    assert share.status.tolist() == [SampleStatus.OK, status]
    np.testing.assert_array_equal(share.values[0], [10.0 * 1.0 + 0.5 * 2.0 + 0.25, 1.0 - 2.0 + 100.0])
    assert np.isfinite(share.values[1]).all() == (status is SampleStatus.OK)
    assert np.isnan(share.values[1]).all() == (status is not SampleStatus.OK)


async def test_a_feature_that_the_model_does_not_use_may_be_missing() -> None:
    reply = await party_with(state_of(loaded_model())).score(query_for(b"ok"), deadline_s=1)
    assert reply.share.status.tolist() == [SampleStatus.OK]


async def test_repeated_ids_are_answered_each_time_in_the_order_asked() -> None:
    reply = await party_with(state_of(loaded_model())).score(query_for(b"older", b"ok", b"older"), deadline_s=1)
    np.testing.assert_array_equal(reply.share.values[:, 0], [32.25, 11.25, 32.25])


async def test_the_oldest_event_time_is_of_the_features_used() -> None:
    party = party_with(state_of(loaded_model()))
    assert (await party.score(query_for(b"ok", b"older", b"null"), deadline_s=1)).oldest_event_time == 20
    assert (await party.score(query_for(b"null", b"nobody", b""), deadline_s=1)).oldest_event_time is None


async def test_a_batch_of_nothing_but_unusable_ids_is_answered() -> None:
    reply = await party_with(state_of(loaded_model())).score(query_for(b""), deadline_s=1)
    assert reply.share.values.shape == (1, 2)
    assert reply.elapsed_s >= 0.0


async def test_a_large_batch_gives_the_numbers_of_small_ones() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(3 * INLINE_SAMPLES, 2))
    store = filled_store([(str(i), i, b, a) for i, (b, a) in enumerate(values.tolist())])
    party = party_with(state_of(loaded_model()), store)
    ids = [str(i).encode() for i in rng.permutation(len(values))]
    large = (await party.score(query_for(*ids), deadline_s=60)).share.values
    expected = values[[int(each) for each in ids]] @ WEIGHTS + OFFSET
    np.testing.assert_allclose(large, expected, rtol=0, atol=1e-12 * 120)
    some = [(await party.score(query_for(each), deadline_s=60)).share.values[0] for each in ids[:20]]
    np.testing.assert_allclose(large[:20], some, rtol=0, atol=1e-12 * 120)


class _SlowStore(MemoryStore):
    """A store whose lookups wait until they may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    @override
    def lookup(self, view: str, view_version: int, columns: Sequence[str], sample_ids: Sequence[bytes]) -> FeatureRows:
        self.go_on.wait(30)
        return super().lookup(view, view_version, columns, sample_ids)


async def test_a_large_batch_leaves_the_event_loop_to_others_and_ends_at_the_deadline() -> None:
    store = _SlowStore()
    party = party_with(state_of(loaded_model()), store)
    asked = asyncio.create_task(party.score(query_for(*[b"ok"] * (INLINE_SAMPLES + 1)), deadline_s=0.05))
    # nothing lets the lookup go on before the deadline: only a free event loop can end the wait
    with pytest.raises(PartyTimeoutError) as raised:
        await asked
    assert raised.value.party == "lab"
    store.go_on.set()


class _RemoteStore(_SlowStore):
    """A store at another server."""

    @property
    @override
    def is_remote(self) -> bool:
        return True


async def test_a_remote_store_never_holds_up_the_event_loop() -> None:
    store = _RemoteStore()
    party = party_with(state_of(loaded_model()), store)
    asked = asyncio.create_task(party.score(query_for(b"ok"), deadline_s=30))
    with pytest.raises(PartyTimeoutError):
        await party.score(query_for(b"ok"), deadline_s=0.05)
    store.publish(filled_store().snapshot_of("people", 1) or pytest.fail("nothing"), rows_table(ROWS))
    store.go_on.set()
    assert (await asked).share.status.tolist() == [SampleStatus.OK]


async def test_an_older_version_that_is_loaded_answers_beside_the_newest() -> None:
    party = party_with(state_of(loaded_model(WEIGHTS * 2, "cd" * 32), loaded_model()))
    assert (await party.describe("credit", deadline_s=1)).params_sha256 == "cd" * 32
    values = [
        (await party.score(query_for(b"ok", digest=digest), deadline_s=1)).share.values[0, 0]
        for digest in (DIGEST, "cd" * 32)
    ]
    assert values == [11.25, 22.25]


async def test_other_modes_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModeError) as raised:
        await party_with(state_of(loaded_model())).score(query_for(b"ok", mode=Mode.REALTIME), deadline_s=1)
    assert raised.value.mode == "realtime"


async def test_another_digest_is_not_answered() -> None:
    with pytest.raises(ManifestMismatchError):
        await party_with(state_of(loaded_model())).score(query_for(b"ok", digest="00" * 32), deadline_s=1)


async def test_an_unknown_model_is_not_found() -> None:
    party = party_with(state_of(loaded_model()))
    with pytest.raises(ModelNotFoundError):
        await party.describe("other", deadline_s=1)
    with pytest.raises(ModelNotFoundError):
        await party.score(query_for(b"ok", model_id="other"), deadline_s=1)


@pytest.mark.parametrize(
    "state",
    [PartyState(), PartyState(problems={"credit": "damaged"}, read_once=True), PartyState(warehouse_problem="away")],
    ids=["the warehouse was not read yet", "no version could be loaded", "the warehouse is away"],
)
async def test_what_is_not_loaded_yet_is_not_ready(state: PartyState) -> None:
    with pytest.raises(ModelNotReadyError):
        await party_with(state).describe("credit", deadline_s=1)


async def test_a_model_without_a_snapshot_is_not_ready_but_can_be_described() -> None:
    party = party_with(state_of(loaded_model()), MemoryStore())
    assert (await party.describe("credit", deadline_s=1)).n_scores == 2
    with pytest.raises(ModelNotReadyError):
        await party.score(query_for(b"ok"), deadline_s=1)


CASES = [
    ((b"ok",), (1,), [50]),
    ((b"ok", b"older"), (1, 1), [50, 20]),
    ((b"ok", b"older", b"quotes\"'; --"), (2, 1), [20, 60]),
    ((b"null", b"ok", b"nobody", b"", b"older", b"ok"), (1, 2, 1, 2), [NO_EVENT_TIME, 50, NO_EVENT_TIME, 20]),
    ((b"nobody", b""), (2,), [NO_EVENT_TIME]),
]


@pytest.mark.parametrize(("ids", "segments", "expected"), CASES)
async def test_every_segment_gets_the_oldest_event_time_of_its_own_features(
    ids: tuple[bytes, ...], segments: tuple[int, ...], expected: list[int]
) -> None:
    reply = await party_with(state_of(loaded_model())).score(query_for(*ids, segments=segments), deadline_s=1)
    assert reply.segment_event_times is not None
    assert reply.segment_event_times.tolist() == expected
    used = [each for each in expected if each != NO_EVENT_TIME]
    assert reply.oldest_event_time == (min(used) if used else None)


@given(st.lists(st.lists(st.sampled_from([row[0].encode() for row in ROWS]), min_size=1), min_size=1, max_size=20))
async def test_a_round_of_requests_gives_what_each_of_them_gives(requests: list[list[bytes]]) -> None:
    party = party_with(state_of(loaded_model()))
    ids = [each for request in requests for each in request]
    reply = await party.score(query_for(*ids, segments=tuple(map(len, requests))), deadline_s=60)
    alone = [await party.score(query_for(*request), deadline_s=60) for request in requests]
    assert reply.segment_event_times is not None
    times = [None if each == NO_EVENT_TIME else each for each in reply.segment_event_times.tolist()]
    assert times == [each.oldest_event_time for each in alone]
    assert reply.share.status.tolist() == [each for one in alone for each in one.share.status.tolist()]
    np.testing.assert_allclose(
        reply.share.values, np.concatenate([one.share.values for one in alone]), rtol=0, atol=1e-12 * 120
    )


def named(model: LoadedModel, model_id: str) -> LoadedModel:
    return replace(model, description=replace(model.description, model_id=model_id))


MODELS = (
    loaded_model(),
    named(loaded_model(np.array([[1.0, 2.0], [3.0, 4.0]])), "same-columns"),
    named(replace(loaded_model(np.array([[-1.0, 0.5], [2.5, 7.0]])), columns=("a", "c")), "other-columns"),
    named(replace(loaded_model(), view="nowhere"), "no-snapshot"),
)
UNKNOWN = "unknown"
IDS = st.sampled_from([*(row[0].encode() for row in ROWS), b"nobody", b""])
REQUESTS = st.lists(st.lists(IDS, min_size=1), min_size=1, max_size=4)


def query_for_several(asked: Sequence[tuple[str, list[list[bytes]]]]) -> ScoreQuery:
    """A query for models and the requests for each, all of one round."""
    requests = [each for _, of_model in asked for each in of_model]
    whole = query_for(*[each for request in requests for each in request], segments=tuple(map(len, requests)))
    first, *further = [ModelRef(model_id, "cd" * 32, DIGEST) for model_id, _ in asked]
    rows = tuple(sum(map(len, of_model)) for _, of_model in asked)
    return replace(whole, model_id=first.model_id, further=tuple(further), model_rows=rows)


@given(
    st.lists(
        st.tuples(st.sampled_from([*(model.description.model_id for model in MODELS), UNKNOWN]), REQUESTS),
        min_size=2,
        max_size=8,
    )
)
async def test_a_round_for_several_models_gives_what_each_of_them_gives(
    asked: list[tuple[str, list[list[bytes]]]],
) -> None:
    party = party_with(state_of(*MODELS))

    reply = await party.score(query_for_several(asked), deadline_s=60)

    expected_values, expected_status, expected_times, failures = [], [], [], {}
    for place, (model_id, requests) in enumerate(asked):
        for request in requests:
            try:
                alone = await party.score(query_for(*request, model_id=model_id), deadline_s=60)
            except FedPredictError as error:
                failures[place] = type(error)
                expected_values += [[np.nan] * 2] * len(request)
                expected_status += [SampleStatus.REFUSED] * len(request)
                expected_times.append(NO_EVENT_TIME)
            else:
                expected_values += alone.share.values.tolist()
                expected_status += alone.share.status.tolist()
                expected_times.append(NO_EVENT_TIME if alone.oldest_event_time is None else alone.oldest_event_time)
    assert {place: type(error) for place, error in reply.failures.items()} == failures
    assert reply.share.status.tolist() == expected_status
    assert reply.segment_event_times is not None
    assert reply.segment_event_times.tolist() == expected_times
    if len(failures) < len(asked):
        np.testing.assert_allclose(reply.share.values, expected_values, rtol=0, atol=1e-12 * 120)


async def test_models_of_different_widths_are_no_round() -> None:
    narrow = replace(loaded_model(), part=LinearPart(("B", "A"), np.ones((2, 1)), None, np.zeros(1)))
    party = party_with(state_of(loaded_model(), named(narrow, "narrow")))
    with pytest.raises(ProtocolError, match="widths"):
        await party.score(query_for_several([("credit", [[b"ok"]]), ("narrow", [[b"ok"]])]), deadline_s=1)


async def test_a_large_round_for_several_models_leaves_the_event_loop_to_others() -> None:
    store = _SlowStore()
    party = party_with(state_of(*MODELS), store)
    many = [[b"ok"] * (INLINE_SAMPLES // 2 + 1)]
    # as above: only a free event loop can end the wait
    with pytest.raises(PartyTimeoutError):
        await party.score(query_for_several([("credit", many), ("same-columns", many)]), deadline_s=0.05)
    store.go_on.set()


async def test_a_query_without_segments_gets_no_times_of_segments() -> None:
    reply = await party_with(state_of(loaded_model())).score(query_for(b"ok"), deadline_s=1)
    assert reply.segment_event_times is None


@pytest.mark.parametrize("names", [("B", "A"), ("A", "B"), ("C", "A", "B")])
async def test_features_sent_along_are_scored_by_name_without_the_store(names: tuple[str, ...]) -> None:
    values = {"A": [2.0, -1.0, 0.5], "B": [1.0, 3.0, 0.0], "C": [NAN, INF, 7.0]}
    inputs = own(names, *zip(*(values[name] for name in names), strict=True))
    party = party_with(state_of(loaded_model()))
    reply = await party.score(query_for(b"new", b"older", b"new", inputs=inputs, segments=(2, 1)), deadline_s=1)
    expected = np.array([[1.0, 2.0], [3.0, -1.0], [0.0, 0.5]]) @ WEIGHTS + OFFSET
    np.testing.assert_allclose(reply.share.values, expected, rtol=1e-15)
    assert reply.share.status.tolist() == [SampleStatus.OK] * 3
    assert reply.oldest_event_time is None
    assert reply.segment_event_times is not None
    assert reply.segment_event_times.tolist() == [NO_EVENT_TIME] * 2


async def test_features_sent_along_get_the_statuses_that_stored_ones_get() -> None:
    ids = (b"a", b"b", b"c", b"d", b"", b"e\n", b"f")
    inputs = own(("B", "A"), (1, 1), (NAN, 1), (1, INF), (INF, NAN), (1, 1), (NAN, 1), (1e308, 1e308))
    share = (await party_with(state_of(loaded_model())).score(query_for(*ids, inputs=inputs), deadline_s=1)).share
    assert share.status.tolist() == [
        SampleStatus.OK,
        SampleStatus.FEATURE_MISSING,
        SampleStatus.FEATURE_INVALID,
        SampleStatus.FEATURE_INVALID,
        SampleStatus.ID_INVALID,
        SampleStatus.ID_INVALID,
        SampleStatus.OUT_OF_RANGE,
    ]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("B", "A", "Aa"), "inputs: feature 'Aa' is not one of the view; the nearest is 'A'"),
        (("B", "A", "cty"), "inputs: feature 'cty' is not one of the view; the nearest is 'city'"),
        (("b", "A"), "inputs: feature 'b' is not one of the view"),
        (("B",), "inputs: feature 'A' is needed by the model and was not sent"),
        ((), "inputs: feature 'A' is needed by the model and was not sent"),
        (("B", "A", "x" * 500), f"inputs: feature '{'x' * 80}\\u2026' is not one of the view"),
        (("B", "A", "\n\u202e"), "inputs: feature '\\n\\u202e' is not one of the view"),
    ],
)
async def test_features_that_are_not_the_views_are_refused_by_name(names: tuple[str, ...], told: str) -> None:
    inputs = own(names, [1.0] * len(names))
    with pytest.raises(InputsRefusedError) as raised:
        await party_with(state_of(loaded_model())).score(query_for(b"ok", inputs=inputs), deadline_s=1)
    public = public_status(raised.value)
    assert public.code is Code.INVALID_ARGUMENT
    assert public.text.startswith(told)
    assert len(public.text) < 250


async def test_features_sent_along_need_the_view_to_be_loaded() -> None:
    party = party_with(state_of(loaded_model()), MemoryStore())
    with pytest.raises(ModelNotReadyError):
        await party.score(query_for(b"new", inputs=own(("B", "A"), (1, 1))), deadline_s=1)


async def test_rows_of_inputs_for_another_number_of_ids_are_no_answer() -> None:
    with pytest.raises(ValueError, match="1 rows of inputs for 2"):
        await party_with(state_of(loaded_model())).score(
            query_for(b"a", b"b", inputs=own(("B", "A"), (1, 1))), deadline_s=1
        )
