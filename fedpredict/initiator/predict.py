"""The use case: a total task becomes rows of rounds, and the parties' shares one prediction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias
from weakref import WeakValueDictionary

from fedpredict.errors import InputsRefusedError, TooManySamplesError
from fedpredict.initiator.admission import Admission
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.lane import Lane
from fedpredict.initiator.masking import MaskedSums
from fedpredict.initiator.question import Question, Route
from fedpredict.initiator.settings import PolicyName
from fedpredict.initiator.submit import Done, GiveUp
from fedpredict.initiator.waiting import Waiting
from fedpredict.model.inputs import Inputs
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.manifest import Manifest
from fedpredict.model.prediction import Prediction, PredictTask
from fedpredict.model.scorer import PartyScorer
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.observe.watch import PredictionWatch, outcome_of_prediction
from fedpredict.security.identity import Identity
from fedpredict.wire.channel import max_samples_of

logger = logging.getLogger(__name__)

WAY_BACK = 0.1
"""The part of the caller's remaining time that is kept for the answer, so that a slow party is named in it."""
MAX_WAY_BACK_S = 0.1
MAX_LANES = 64
"""Lanes of one version of a model that are kept while idle: one for each set of names of inputs."""
SMALL_ROWS = 256
"""Larger requests travel with others for the same model alone: a job must not hold up every model's applicants."""
HEAD_NUMBERS = 2**18
"""Numbers of a party's share in a round that a head finishes, about 2 MB: wide shares hold up all others on a link."""
FOR_PARTIES = 0.75
"""The part of the time that the parties get where a fallback model may have to answer after them."""


class Predicts(Protocol):
    """Answers total tasks: with partners, or made up."""

    async def predict(self, task: PredictTask, caller: Identity, *, deadline_s: float | None) -> Prediction:
        """Return the answer to a total task, in the order of its sample ids.

        Args:
            task: What is asked for.
            caller: Who asks.
            deadline_s: How long the caller still waits, in seconds; None for as long as the settings allow.

        Raises:
            ModelNotFoundError: No such model, or not this caller's.
            ModelNotReadyError: Nothing usable is pinned.
            EmptyRequestError, TooManySamplesError: The task cannot be taken.
        """

    def submit(self, task: PredictTask, caller: Identity, *, deadline_s: float | None, done: Done) -> GiveUp:
        """Begin what `predict` does, without a task of the caller's.

        Args:
            task: What is asked for.
            caller: Who asks.
            deadline_s: As for `predict`.
            done: Called once in this event loop, after `submit` has returned.

        Returns:
            What gives the prediction up.

        Raises:
            FedPredictError: What can be refused at once; `done` is not called then.
        """


CheckTypes: TypeAlias = Callable[[str, str, Inputs], None]
"""(model id, this party's digest, inputs): raises `InputsRefusedError` where texts came for numbers, or the reverse."""


class Predictor:
    """Answers with the parties' shares."""

    def __init__(
        self,
        catalogue: Catalogue,
        scorers: Mapping[str, PartyScorer],
        admission: Admission,
        *,
        own_party: str,
        deadline_s: float,
        watch: PredictionWatch | None = None,
        check_types: CheckTypes | None = None,
    ) -> None:
        """Prepare.

        Args:
            catalogue: Which manifest is pinned for which model.
            scorers: By party id, every party of every model.
            admission: What a task must be, and how many there may be at once.
            own_party: This initiator's.
            deadline_s: Longest wait for the parties, where neither the model's settings nor the caller are stricter.
            watch: Told of every round; default: nobody is.
            check_types: Refuses inputs of the wrong type; needed where this initiator holds parts.
        """
        self._check_types = check_types
        self._catalogue = catalogue
        self._scorers = scorers
        self._admission = admission
        self._own_party = own_party
        self._deadline_s = deadline_s
        self._watch = watch or PredictionWatch()
        self._masked = MaskedSums(scorers)
        self._plans: dict[str, _Plan] = {}
        self._shared: WeakValueDictionary[_SharedKey, Lane] = WeakValueDictionary()
        """The lanes whose rounds carry requests for several models; the plans keep them."""

    async def predict(self, task: PredictTask, caller: Identity, *, deadline_s: float | None) -> Prediction:
        """Return the answer: shares of the pinned manifest and nothing else, combined by the model's policy."""
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        give_up = self.submit(task, caller, deadline_s=deadline_s, done=partial(_settle, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            give_up()
            raise

    def submit(self, task: PredictTask, caller: Identity, *, deadline_s: float | None, done: Done) -> GiveUp:
        """Begin a prediction; `done` gets the answer."""
        self._admission.check(task, caller)
        manifest = self._catalogue.answerable(task.model_id)
        plan = self._plans.get(task.model_id)
        if plan is None or plan.question.manifest is not manifest or plan.limits_seen != self._catalogue.limits_seen:
            plan = self._plans[task.model_id] = self._plan(task.model_id, manifest)
        if len(task.sample_ids) > plan.max_samples:
            raise _too_wide(task, plan)
        lane = self._lane(task, plan)
        now = lane.loop.time()
        ends = now + (plan.deadline_s if deadline_s is None else min(plan.deadline_s, _less_way_back(deadline_s)))
        leave = self._admission.enter(task)

        def answered(outcome: Prediction | BaseException) -> None:
            leave()
            if not isinstance(outcome, BaseException) and self._watch.log.wants(outcome_of_prediction(outcome)):
                _log_done(task, caller, outcome)
            done(outcome)

        waiting = Waiting(task, plan.question, now, now + (ends - now) * plan.for_parties, ends, answered)
        lane.add(waiting)

        def give_up() -> None:
            if not waiting.over:
                waiting.over = True
                leave()
                lane.left()

        return give_up

    def waiting(self) -> tuple[int, int]:
        """Return how many requests wait for a round, and their rows."""
        queues = [lane.waiting() for lane in {lane for plan in self._plans.values() for lane in plan.lanes.values()}]
        return sum(requests for requests, _ in queues), sum(rows for _, rows in queues)

    def _plan(self, model_id: str, manifest: Manifest) -> _Plan:
        settings = self._catalogue.settings(model_id)
        falls_back = settings.policy is PolicyName.FALLBACK_MODEL
        fallback = partial(self._catalogue.answerable, settings.fallback_model or "")
        head = self._catalogue.head_of(manifest)
        return _Plan(
            question=Question(manifest=manifest, settings=settings, fallback=fallback, head=head),
            deadline_s=settings.deadline_s or self._deadline_s,
            for_parties=FOR_PARTIES if falls_back else 1.0,
            max_samples=max_samples_of(max(manifest.n_raw, manifest.n_outputs)),
            limits_seen=self._catalogue.limits_seen,
        )

    def _lane(self, task: PredictTask, plan: _Plan) -> Lane:
        given = None if task.inputs is None else (task.inputs.names, frozenset(task.inputs.texts))
        key = (task.mode, given, len(task.sample_ids) <= SMALL_ROWS)
        lane = plan.lanes.get(key)
        if lane is None:
            self._check_inputs(task, plan.question.manifest)
            if len(plan.lanes) >= MAX_LANES:
                plan.lanes = {each: lane for each, lane in plan.lanes.items() if not lane.is_idle}
            lane = plan.lanes[key] = self._new_lane(task, plan)
        if task.inputs is not None and self._check_types is not None:
            # here, and not where the round is scored: what is wrong with one request is no matter of the others
            digest = plan.question.manifest.digest_of(self._own_party)
            self._check_types(task.model_id, digest, task.inputs)
        return lane

    def _check_inputs(self, task: PredictTask, manifest: Manifest) -> None:
        if task.inputs is not None and self._own_party not in manifest.parties:
            raise InputsRefusedError(
                f"model {task.model_id} has no part at {self._own_party}",
                feature=repr(task.inputs.names[0][:63]) if task.inputs.names else "''",
                problem="has no place: this initiator holds no part of the model",
            )

    def _new_lane(self, task: PredictTask, plan: _Plan) -> Lane:
        manifest, head = plan.question.manifest, plan.question.head
        round_rows = min(self._catalogue.max_samples(task.model_id), max_samples_of(manifest.n_scores))
        if head is not None:
            round_rows = min(round_rows, max(1, HEAD_NUMBERS // manifest.n_scores))
        settings = plan.question.settings
        scale_bits = settings.scale_bits if settings.masked else None
        key = _SharedKey(
            manifest.parties, manifest.kind, manifest.link, manifest.n_scores, task.mode, round_rows, scale_bits
        )
        may_lack = settings.defaults if settings.masked else ()
        # a round has one head at most, and lacks the same parties: what travels together must be finished together
        is_shared = head is None and task.inputs is None and len(task.sample_ids) <= SMALL_ROWS and not may_lack
        lane = self._shared.get(key) if is_shared else None
        if lane is None:
            route = Route(
                parties=manifest.parties,
                link=manifest.link,
                n_scores=manifest.n_scores,
                mode=task.mode,
                scorers=self._scorers,
                own_party=self._own_party,
                head=head,
                masked=None if scale_bits is None else self._masked.of(manifest, scale_bits, may_lack),
                watch=self._watch,
            )
            lane = Lane(route, round_rows=round_rows)
            if is_shared:
                self._shared[key] = lane
        return lane


class _SharedKey(NamedTuple):
    """What models must have in common for their requests to travel together."""

    parties: tuple[str, ...]
    kind: Kind
    link: Link
    n_scores: int
    mode: Mode
    round_rows: int
    scale_bits: int | None
    """Where the shares are masked."""


@dataclass(slots=True, eq=False)
class _Plan:
    """What requests for one version of a model have in common, looked up once.

    Attributes:
        question: The version and the model's settings.
        deadline_s: Longest wait, where the caller is not stricter.
        for_parties: The part of it that the parties get.
        max_samples: Most samples that an answer holds.
        limits_seen: The catalogue's, when the plan was made: lanes keep to the parties' limits as they were then.
        lanes: By mode, the names of the inputs and which are texts, and whether requests are small.
    """

    question: Question
    deadline_s: float
    for_parties: float
    max_samples: int
    limits_seen: int
    lanes: dict[tuple[Mode, tuple[tuple[str, ...], frozenset[str]] | None, bool], Lane] = field(default_factory=dict)


def _settle(answer: asyncio.Future[Prediction], outcome: Prediction | BaseException) -> None:
    if answer.done():
        return
    if isinstance(outcome, BaseException):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _less_way_back(deadline_s: float) -> float:
    """Return what of a caller's time the work may take, so that a slow party can still be named in an answer."""
    return deadline_s - min(WAY_BACK * deadline_s, MAX_WAY_BACK_S)


def _too_wide(task: PredictTask, plan: _Plan) -> TooManySamplesError:
    manifest = plan.question.manifest
    width = max(manifest.n_raw, manifest.n_outputs)
    told = f"{len(task.sample_ids)} samples of {width} numbers each are more than one message holds"
    return TooManySamplesError(told, limit=plan.max_samples)


def _log_done(task: PredictTask, caller: Identity, outcome: Prediction) -> None:
    extra = {
        "request_id": task.request_id,
        "caller": caller.name,
        "model": task.model_id,
        "manifest": outcome.manifest_sha256,
        "n_samples": len(outcome.status),
        "n_scored": int((outcome.status == SampleStatus.OK).sum()),
    }
    logger.info("predict.done", extra=extra)
