"""Rounds of requests: who travels with whom, whose deadline is whose, and that company changes no answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from fedpredict.errors import FedPredictError, ModelNotReadyError, PartyRefusedError
from fedpredict.initiator import lane as lanes
from fedpredict.initiator import policy as policies
from fedpredict.initiator.lane import Lane
from fedpredict.initiator.question import Question, Route
from fedpredict.initiator.settings import ModelSettings, PolicyName
from fedpredict.initiator.waiting import Waiting
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.inputs import Inputs, inputs_of
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest, PartDescription
from fedpredict.model.prediction import Origin, Prediction, PredictTask
from fedpredict.model.scorer import NO_EVENT_TIME, PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.several import join_replies, split_by_model
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.observe.serving import ServingMetrics
from fedpredict.observe.watch import PredictionWatch

TABLE: dict[str, dict[bytes, float]] = {
    "bank": {b"u%d" % i: float(i) for i in range(20)},
    "shop": {b"u%d" % i: i / 8.0 for i in range(0, 20, 2)},
}
LONG_S = 30.0
CONSTANT: Mapping[str, object] = {"policy": PolicyName.DEFAULT_PARTIAL, "defaults": {"shop": [0.5]}}
FALLBACK: Mapping[str, object] = {"policy": PolicyName.FALLBACK_MODEL, "fallback_model": "own"}


@dataclass
class TableParty(PartyScorer):
    """A party that adds nothing to its table, and answers when it is let.

    Model "twice" is twice the table, and the shop refuses "bad".
    """

    name: str
    open: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[ScoreQuery] = field(default_factory=list)
    given_up: int = 0

    @property
    @override
    def party(self) -> str:
        """The party's id."""
        return self.name

    @override
    async def describe(self, model_id: str, *, deadline_s: float) -> PartDescription:
        """Say nothing: rounds do not ask."""
        raise ModelNotReadyError(model_id)

    @override
    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        """Answer from the table, once open."""
        self.asked.append(query)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if query.further:
            queries = split_by_model(query)
            return join_replies(queries, [self._share_or_error(each) for each in queries])
        return self._share(query)

    def _share_or_error(self, query: ScoreQuery) -> PartyReply | FedPredictError:
        try:
            return self._share(query)
        except FedPredictError as error:
            return error

    def _share(self, query: ScoreQuery) -> PartyReply:
        if query.model_id == "bad" and self.name == "shop":
            raise PartyRefusedError("not listed", party="shop")
        table = TABLE[self.name]
        found = [sample_id in table for sample_id in query.sample_ids]
        values = np.array([[table.get(sample_id, np.nan)] for sample_id in query.sample_ids])
        status = np.where(found, np.uint8(SampleStatus.OK), np.uint8(SampleStatus.NOT_FOUND))
        times = [int(value) if known else NO_EVENT_TIME for value, known in zip(values[:, 0], found, strict=True)]
        return PartyReply(
            share=build_share(2.0 * values if query.model_id == "twice" else values, status),
            oldest_event_time=_oldest(times),
            elapsed_s=0.0,
            segment_event_times=_by_segment(times, query.segments) if query.segments else None,
        )


def _oldest(times: Sequence[int]) -> int | None:
    return min((each for each in times if each != NO_EVENT_TIME), default=None)


def _by_segment(times: list[int], segments: tuple[int, ...]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    oldest, start = [], 0
    for size in segments:
        of_segment = _oldest(times[start : start + size])
        oldest.append(NO_EVENT_TIME if of_segment is None else of_segment)
        start += size
    assert start == len(times)
    return np.array(oldest, dtype=np.int64)


def _question(model_id: str, policy: Mapping[str, object]) -> Question:
    return Question(
        manifest=Manifest(
            model_id=model_id,
            training_run="run-1",
            kind=Kind.LINEAR,
            link=own_link(Kind.LINEAR),
            classes=(),
            n_scores=1,
            fit_intercept=False,
            intercept_party=None,
            digests=(("bank", "a" * 64), ("shop", "b" * 64)),
        ),
        settings=ModelSettings.model_validate({"parties": ["bank", "shop"], **policy}),
        fallback=lambda: pytest.fail("no fallback here"),
    )


class Desk:
    """A lane over two parties, and what its callers got."""

    def __init__(self, *, is_open: bool = False, round_rows: int = 100_000, watch: PredictionWatch | None = None):
        self.bank, self.shop = TableParty("bank"), TableParty("shop")
        if is_open:
            self.bank.open.set()
            self.shop.open.set()
        route = Route(
            parties=("bank", "shop"),
            link=own_link(Kind.LINEAR),
            n_scores=1,
            mode=Mode.NEARLINE,
            scorers={"bank": self.bank, "shop": self.shop},
            own_party="bank",
            watch=watch or PredictionWatch(),
        )
        self.questions = {"m": _question("m", {}), "constant": _question("constant", CONSTANT)}
        self.lane = Lane(route, round_rows=round_rows)
        self.answers: dict[str, Prediction | BaseException] = {}
        self.told: list[str] = []
        """Whose caller was told something, each time that it was."""

    def ask(
        self, name: str, *ids: bytes, wait_s: float = LONG_S, inputs: Inputs | None = None, model: str = "m"
    ) -> Waiting:
        now = asyncio.get_running_loop().time()

        def done(outcome: Prediction | BaseException) -> None:
            self.answers[name] = outcome
            self.told.append(name)

        task = PredictTask(request_id=name, model_id=model, mode=Mode.NEARLINE, sample_ids=ids, inputs=inputs)
        question = self.questions.setdefault(model, _question(model, {}))
        waiting = Waiting(task, question, now, now + wait_s, now + wait_s, done)
        self.lane.add(waiting)
        return waiting

    async def busy(self) -> Waiting:
        """Return a request whose round is under way: where rounds follow each other, the next begins when it leaves."""
        waiting = self.ask("first", b"u0")
        await self.asked(1)
        return waiting

    def leave(self, waiting: Waiting) -> None:
        waiting.over = True
        self.lane.left()

    async def answer(self, name: str) -> Prediction:
        async with asyncio.timeout(20):
            while name not in self.answers:
                await asyncio.sleep(0.001)
        found = self.answers[name]
        assert isinstance(found, Prediction), found
        return found

    async def idle(self) -> None:
        async with asyncio.timeout(20):
            while not self.lane.is_idle:
                await asyncio.sleep(0.001)

    async def asked(self, n_rounds: int) -> None:
        async with asyncio.timeout(20):
            while min(len(self.bank.asked), len(self.shop.asked)) < n_rounds:
                await asyncio.sleep(0.001)


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no round begin beside another."""
    monkeypatch.setattr(lanes, "MAX_ROUNDS", 1)


async def test_requests_that_arrive_during_a_round_travel_together_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", LONG_S)
    desk = Desk()
    desk.ask("first", b"u0")
    for number in range(5):
        desk.ask(f"r{number}", b"u%d" % number)
    await desk.asked(1)

    desk.bank.open.set()
    desk.shop.open.set()
    await desk.idle()

    assert [list(query.sample_ids) for query in desk.shop.asked] == [[b"u0"], [b"u0", b"u1", b"u2", b"u3", b"u4"]]
    assert desk.shop.asked[0].request_id == "first"
    assert desk.shop.asked[1].segments == (1, 1, 1, 1, 1)
    assert (await desk.answer("r4")).predictions.tolist() == [[4.5]]
    assert np.isnan((await desk.answer("r3")).predictions).all()


async def test_every_caller_gets_the_event_time_of_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", LONG_S)
    desk = Desk()
    desk.ask("first", b"u0")
    desk.ask("a", b"u9", b"u7")
    desk.ask("invalid", b"")
    desk.ask("unknown", b"nobody")
    desk.ask("b", b"u12", b"", b"u14")
    desk.bank.open.set()
    desk.shop.open.set()
    await desk.idle()

    oldest = {name: (await desk.answer(name)).parties[0].oldest_event_time for name in desk.answers}

    assert oldest == {"first": 0, "a": 7, "invalid": None, "unknown": None, "b": 12}


async def test_a_large_request_is_cut_and_does_not_hold_up_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", LONG_S)
    monkeypatch.setattr(lanes, "PIPELINED", 1)
    desk = Desk()
    desk.ask("first", b"u0")
    desk.ask("large", *[b"u2"] * 5000)
    desk.ask("small", b"u4")
    desk.bank.open.set()
    desk.shop.open.set()
    large, small = await desk.answer("large"), await desk.answer("small")

    assert [len(query.sample_ids) for query in desk.shop.asked] == [1, 2049, 2048, 904]
    assert large.predictions.tolist() == [[2.25]] * 5000
    assert small.predictions.tolist() == [[4.5]]


async def test_a_round_holds_no_more_rows_than_a_party_takes() -> None:
    desk = Desk(is_open=True, round_rows=7)
    desk.ask("first", b"u0")
    for number in range(10):
        desk.ask(f"r{number}", b"u2", b"u4")
    await desk.idle()

    assert max(len(query.sample_ids) for query in desk.shop.asked) <= 7
    answers = [await desk.answer(f"r{number}") for number in range(10)]
    assert [answer.predictions.tolist() for answer in answers] == [[[2.25], [4.5]]] * 10


async def test_a_caller_in_a_hurry_is_answered_without_the_slow_party_while_the_others_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", LONG_S)
    desk = Desk()
    desk.bank.open.set()
    desk.ask("first", b"u0")
    desk.ask("patient", b"u2")
    desk.ask("hurried", b"u4", wait_s=0.2)

    hurried = await desk.answer("hurried")

    assert "patient" not in desk.answers
    assert hurried.status.tolist() == [SampleStatus.PARTY_UNAVAILABLE]
    assert [report.problem for report in hurried.parties] == ["", "party shop did not answer in time"]
    desk.shop.open.set()
    assert (await desk.answer("patient")).predictions.tolist() == [[2.25]]


async def test_a_round_ends_only_when_all_its_callers_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", 0.1)  # both ask before it is over, also on a machine that stalls
    desk = Desk()
    desk.ask("first", b"u0")
    one, other = desk.ask("one", b"u2"), desk.ask("other", b"u4")
    await desk.asked(2)

    desk.leave(one)
    await asyncio.sleep(0)
    assert desk.shop.given_up == 0
    desk.leave(other)
    await asyncio.sleep(0.01)

    assert (desk.bank.given_up, desk.shop.given_up) == (1, 1)
    assert desk.answers == {}


@pytest.mark.parametrize("order", ["as they came", "the last one first", "anyhow"])
@pytest.mark.usefixtures("one_at_a_time")
async def test_a_round_of_thousands_ends_with_the_last_that_leaves(order: str) -> None:
    desk = Desk()
    first = await desk.busy()
    leaving = [desk.ask(f"r{number}", b"u2") for number in range(3_000)]
    desk.leave(first)
    await desk.asked(2)
    if order == "the last one first":
        leaving.reverse()
    elif order == "anyhow":
        random.Random(7).shuffle(leaving)

    for each in leaving[:-1]:
        desk.leave(each)
    assert not desk.lane.is_idle
    desk.leave(leaving[-1])

    assert desk.lane.is_idle
    await asyncio.sleep(0)
    assert (desk.bank.given_up, desk.shop.given_up) == (2, 2)
    assert desk.told == []


async def test_a_round_without_a_valid_id_whose_caller_leaves_at_once_is_over_once() -> None:
    serving = ServingMetrics({"m"})
    desk = Desk(watch=PredictionWatch(serving))

    desk.leave(desk.ask("invalid", b"", b"\x00"))
    await asyncio.sleep(0)

    assert desk.lane.is_idle
    assert serving.round("m", Mode.NEARLINE).in_flight == 0
    assert desk.told == []


async def test_rounds_start_beside_one_that_hangs() -> None:
    desk = Desk()
    desk.ask("first", b"u0")
    desk.ask("second", b"u2")
    await desk.asked(2)
    desk.ask("third", b"u4")
    await desk.asked(3)

    desk.bank.open.set()
    desk.shop.open.set()

    assert [(await desk.answer(name)).predictions.tolist() for name in ("first", "second", "third")] == [
        [[0.0]],
        [[2.25]],
        [[4.5]],
    ]


async def test_the_rest_of_a_large_request_that_finds_the_lane_idle_starts_beside_a_round_that_hangs() -> None:
    desk = Desk()

    desk.ask("large", *[b"u2"] * 5000)
    await desk.asked(3)

    assert [len(query.sample_ids) for query in desk.shop.asked] == [2048, 2048, 904]
    desk.bank.open.set()
    desk.shop.open.set()
    assert (await desk.answer("large")).predictions.tolist() == [[2.25]] * 5000


async def test_the_rest_of_a_large_request_is_in_the_hurry_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", LONG_S)
    monkeypatch.setattr(lanes, "PIPELINED", 1)
    monkeypatch.setattr(lanes, "HURRY", 0.05 / LONG_S)
    desk = Desk()
    first = await desk.busy()
    desk.ask("large", *[b"u2"] * 3000)
    desk.leave(first)

    await desk.asked(3)

    assert [len(query.sample_ids) for query in desk.shop.asked] == [1, 2048, 952]
    desk.bank.open.set()
    desk.shop.open.set()
    assert (await desk.answer("large")).predictions.tolist() == [[2.25]] * 3000


@pytest.mark.parametrize("n_rows", [3000, 4096])
@pytest.mark.usefixtures("one_at_a_time")
async def test_a_large_request_whose_time_runs_out_gets_one_answer_of_its_own_rows(
    n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", 0.5)  # its rows in the queue are looked at well after those in the round
    desk = Desk()
    desk.bank.open.set()
    first = await desk.busy()
    desk.ask("patient", *[b"u2"] * 300)
    desk.ask("large", *[b"u1"] * 2048, *[b"u7"] * (n_rows - 2048), wait_s=0.4, model="constant")
    desk.leave(first)

    large = await desk.answer("large")

    assert desk.told == ["large"]
    assert large.predictions[:2048].tolist() == [[1.5]] * 2048
    assert large.status[2048:].tolist() == [SampleStatus.PARTY_UNAVAILABLE] * (n_rows - 2048)
    assert np.isnan(large.predictions[2048:]).all()
    desk.shop.open.set()
    assert (await desk.answer("patient")).predictions.tolist() == [[2.25]] * 300
    await desk.idle()
    assert desk.told == ["large", "patient"]


@pytest.mark.usefixtures("one_at_a_time")
async def test_the_fallback_model_is_asked_once_for_a_request_whose_time_ran_out() -> None:
    own = replace(_question("own", {}).manifest, digests=(("bank", "c" * 64),))
    desk = Desk()
    desk.questions["m"] = replace(_question("m", FALLBACK), fallback=lambda: own)
    first = await desk.busy()
    desk.ask("hurried", b"u7", wait_s=0.05)
    desk.ask("patient", b"u2")
    desk.leave(first)

    def asked() -> list[list[bytes]]:
        return [list(query.sample_ids) for query in desk.bank.asked if query.model_id == "own"]

    async with asyncio.timeout(20):
        while not asked():
            await asyncio.sleep(0.001)
    for _ in range(10):  # time in which a round whose request is not answered yet could look again
        await asyncio.sleep(0.001)

    assert asked() == [[b"u7"]]
    desk.bank.open.set()
    hurried = await desk.answer("hurried")
    assert (hurried.predictions.item(), hurried.origin.item()) == (7.0, Origin.FALLBACK_MODEL)
    assert desk.told == ["hurried"]
    desk.shop.open.set()
    assert (await desk.answer("patient")).predictions.tolist() == [[2.25]]


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_party_that_is_late_is_logged_once_a_round_however_many_deadlines_pass(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    desk.bank.open.set()
    first = await desk.busy()
    for number in range(1, 6):
        desk.ask(f"r{number}", b"u2", wait_s=0.25 + 0.03 * number)
    desk.ask("patient", b"u2")
    desk.leave(first)

    answers = [await desk.answer(f"r{number}") for number in range(1, 6)]

    assert [answer.parties[1].problem for answer in answers] == ["party shop did not answer in time"] * 5
    assert [getattr(each, "party", "") for each in caplog.records if each.message == "party.failed"] == ["shop"]
    desk.shop.open.set()
    assert (await desk.answer("patient")).predictions.tolist() == [[2.25]]


@pytest.mark.usefixtures("one_at_a_time")
async def test_requests_whose_time_runs_out_in_the_queue_are_answered_together_and_nobody_is_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lanes, "ENOUGH", 1000)
    desk = Desk()
    await desk.busy()
    for number in range(50):
        desk.ask(f"r{number}", b"u%d" % number, b"", wait_s=0.0)

    answers = [await desk.answer(f"r{number}") for number in range(50)]

    expected = [SampleStatus.PARTY_UNAVAILABLE, SampleStatus.ID_INVALID]
    assert [answer.status.tolist() for answer in answers] == [expected] * 50
    assert [each.problem for each in answers[0].parties] == [f"party {name} did not answer in time" for name in TABLE]
    # a party that has no share is logged once a round
    assert [getattr(each, "party", "") for each in caplog.records if each.message == "party.failed"] == ["bank", "shop"]
    assert (len(desk.bank.asked), len(desk.shop.asked)) == (1, 1)
    desk.bank.open.set()
    desk.shop.open.set()
    await desk.idle()
    assert len(desk.told) == 51


async def test_a_second_round_starts_beside_the_first_as_soon_as_enough_requests_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", LONG_S)
    desk = Desk()
    desk.ask("first", b"u0")
    for number in range(3 * lanes.ENOUGH):
        desk.ask(f"r{number}", b"u2")
        await desk.asked(2 if number + 1 >= lanes.ENOUGH else 1)

    assert [len(query.sample_ids) for query in desk.shop.asked] == [1, lanes.ENOUGH]
    desk.bank.open.set()
    desk.shop.open.set()
    await desk.idle()
    assert [len(query.sample_ids) for query in desk.shop.asked] == [1, lanes.ENOUGH, 2 * lanes.ENOUGH]


async def test_a_request_whose_time_runs_out_in_the_queue_is_answered_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_ROUNDS", 1)
    desk = Desk()
    desk.ask("first", b"u0")
    desk.ask("late", b"u2", wait_s=0.05)

    late = await desk.answer("late")

    assert late.status.tolist() == [SampleStatus.PARTY_UNAVAILABLE]
    assert "first" not in desk.answers
    desk.bank.open.set()
    desk.shop.open.set()
    await desk.idle()


async def test_a_defect_while_time_runs_out_is_told_and_the_lane_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(*_: object) -> None:
        raise RuntimeError("a defect")

    desk = Desk()
    with monkeypatch.context() as patch:
        patch.setattr(policies, "fail", defect)
        desk.ask("unlucky", b"u0", wait_s=0.05)
        await desk.idle()

    assert str(desk.answers["unlucky"]) == "a defect"
    assert "round.failed" in caplog.text
    desk.bank.open.set()
    desk.shop.open.set()
    desk.ask("after", b"u4")
    assert (await desk.answer("after")).predictions.tolist() == [[4.5]]


async def test_a_caller_that_breaks_takes_nobody_elses_answer(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.ask("first", b"u0")
    now = asyncio.get_running_loop().time()

    def broken(_outcome: object) -> None:
        raise RuntimeError("an edge that breaks")

    task = PredictTask(request_id="broken", model_id="m", mode=Mode.NEARLINE, sample_ids=[b"u2"])
    desk.lane.add(Waiting(task, desk.questions["m"], now, now + LONG_S, now + LONG_S, broken))
    desk.ask("after", b"u4")
    desk.bank.open.set()
    desk.shop.open.set()

    assert (await desk.answer("after")).predictions.tolist() == [[4.5]]
    assert "predict.undelivered" in caplog.text


async def test_inputs_reach_the_own_part_alone() -> None:
    desk = Desk(is_open=True)
    desk.ask("first", b"u0", inputs=Inputs(("age",), np.array([[1.0]])))
    desk.ask("second", b"", b"u2", inputs=Inputs(("age",), np.array([[2.0], [3.0]])))
    desk.ask("third", b"u4", inputs=Inputs(("age",), np.array([[4.0]])))
    await desk.idle()

    assert [query.inputs for query in desk.shop.asked] == [None] * len(desk.shop.asked)
    given = [query.inputs for query in desk.bank.asked]
    assert [each and each.values.ravel().tolist() for each in given] == [[1.0], [3.0, 4.0]]


async def test_texts_of_requests_that_travel_together_keep_their_meaning() -> None:
    desk = Desk(is_open=True)
    desk.ask("first", b"u0", inputs=inputs_of({}, {"job": ["clerk"]}, 1))
    desk.ask("second", b"", b"u2", b"u6", inputs=inputs_of({}, {"job": ["x", "smith", None]}, 3))
    desk.ask("third", b"u4", inputs=inputs_of({}, {"job": ["baker"]}, 1))
    await desk.idle()

    given = [query.inputs for query in desk.bank.asked]
    told = [
        [None if np.isnan(code) else each.texts["job"][int(code)] for code in each.values[:, 0]]
        for each in given
        if each
    ]
    assert told == [["clerk"], ["smith", None, "baker"]]


async def test_a_party_that_refuses_a_round_is_named_to_every_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        raise PartyRefusedError("not listed", party="shop")

    desk = Desk(is_open=True)
    monkeypatch.setattr(desk.shop, "score", refuse)
    desk.ask("first", b"u0")
    desk.ask("second", b"u2")
    await desk.idle()

    for name in ("first", "second"):
        answer = await desk.answer(name)
        assert answer.status.tolist() == [SampleStatus.REFUSED]
        assert answer.parties[1].problem == "party shop refused"


async def test_requests_for_several_models_travel_together_each_models_rows_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", LONG_S)
    desk = Desk()
    desk.ask("first", b"u0")
    for number, model in enumerate(["m", "twice", "m", "twice"]):
        desk.ask(f"r{number}", b"u%d" % (2 * number), model=model)
    desk.ask("nobody", b"", model="never asked for")
    desk.bank.open.set()
    desk.shop.open.set()
    await desk.idle()

    _, query = desk.shop.asked
    assert [each.model_id for each in query.models] == ["m", "twice"]
    assert (query.model_rows, query.segments) == ((2, 2), (1, 1, 1, 1))
    assert list(query.sample_ids) == [b"u0", b"u4", b"u2", b"u6"]
    assert {each.params_sha256 for each in query.models} == {"b" * 64}
    assert {each.params_sha256 for each in desk.bank.asked[1].models} == {"a" * 64}
    predictions = [(await desk.answer(f"r{number}")).predictions.tolist() for number in range(4)]
    assert predictions == [[[0.0]], [[4.5]], [[4.5]], [[13.5]]]
    manifests = [(await desk.answer(f"r{number}")).manifest_sha256 for number in range(4)]
    expected = [desk.questions[model].manifest.manifest_sha256 for model in ("m", "twice")]
    assert manifests == [*expected, *expected]
    assert (await desk.answer("nobody")).status.tolist() == [SampleStatus.ID_INVALID]


async def test_a_model_that_a_party_refuses_is_named_to_its_own_callers_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", LONG_S)
    desk = Desk()
    desk.ask("first", b"u0")
    desk.ask("good", b"u2")
    desk.ask("bad", b"u2", b"", model="bad")
    desk.bank.open.set()
    desk.shop.open.set()
    good, bad = await desk.answer("good"), await desk.answer("bad")

    assert good.predictions.tolist() == [[2.25]]
    assert [each.problem for each in good.parties] == ["", ""]
    assert bad.status.tolist() == [SampleStatus.REFUSED, SampleStatus.ID_INVALID]
    assert np.isnan(bad.predictions).all()
    assert [each.problem for each in bad.parties] == ["", "party shop refused"]
    (told,) = [each for each in caplog.records if each.message == "party.failed"]
    assert getattr(told, "requests") == ["bad"]  # noqa: B009  a field of the log line


async def test_where_a_party_refuses_every_model_of_a_round_each_caller_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", LONG_S)
    desk = Desk()
    desk.questions["worse"] = _question("worse", {})
    desk.ask("first", b"u0")

    def refuse(query: ScoreQuery) -> PartyReply:
        raise PartyRefusedError("not listed", party="shop")

    monkeypatch.setattr(desk.shop, "_share", refuse)
    desk.ask("bad", b"u2", model="bad")
    desk.ask("worse", b"u2", model="worse")
    desk.bank.open.set()
    desk.shop.open.set()
    await desk.idle()

    for name in ("bad", "worse"):
        answer = await desk.answer(name)
        assert answer.status.tolist() == [SampleStatus.REFUSED]
        assert answer.parties[1].problem == "party shop refused"


async def test_a_round_holds_no_more_models_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", LONG_S)
    monkeypatch.setattr(lanes, "ROUND_MODELS", 3)
    desk = Desk()
    desk.ask("first", b"u0")
    for number in range(8):
        desk.ask(f"r{number}", b"u2", model=f"m{number % 7}")
    desk.bank.open.set()
    desk.shop.open.set()
    await desk.idle()

    assert [[each.model_id for each in query.models] for query in desk.shop.asked] == [
        ["m"],
        ["m0", "m1", "m2"],
        ["m3", "m4", "m5"],
        ["m6", "m0"],
    ]
    assert [(await desk.answer(f"r{number}")).predictions.item() for number in range(8)] == [2.25] * 8


IDS = st.lists(
    st.one_of(
        st.integers(0, 24).map(lambda number: b"u%d" % number), st.sampled_from([b"", b"\xff", b"a\nb", b"x" * 257])
    ),
    min_size=1,
    max_size=12,
)


MODELS = st.sampled_from(["m", "twice", "constant", "bad"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(MODELS, IDS), min_size=1, max_size=12), st.integers(1, 9))
def test_company_changes_no_answer(requests: list[tuple[str, list[bytes]]], round_rows: int) -> None:
    async def ask_all() -> dict[str, Prediction | BaseException]:
        desk = Desk(is_open=True, round_rows=round_rows)
        for number, (model, ids) in enumerate(requests):
            desk.ask(str(number), *ids, model=model)
        await desk.idle()
        return desk.answers

    answers = asyncio.run(ask_all())

    assert len(answers) == len(requests)
    for number, (model, ids) in enumerate(requests):
        answer = answers[str(number)]
        assert isinstance(answer, Prediction)
        expected = [_expected(model, sample_id) for sample_id in ids]
        assert [None if np.isnan(row[0]) else row[0] for row in answer.predictions.tolist()] == expected
        assert (answer.status == SampleStatus.OK).tolist() == [each is not None for each in expected]


def _expected(model: str, sample_id: bytes) -> float | None:
    bank, shop = TABLE["bank"].get(sample_id), TABLE["shop"].get(sample_id)
    if not valid_sample_ids([sample_id])[0] or (bank is None and shop is None) or model == "bad":
        return None
    if shop is None and model == "constant":
        shop = 0.5
    if bank is None or shop is None:
        return None
    return 2.0 * (bank + shop) if model == "twice" else bank + shop
