"""The use case: a total task becomes one sub-task per party, and their shares one prediction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedpredict.errors import (
    Code,
    FedPredictError,
    ModelNotReadyError,
    PartyRefusedError,
    PartyTimeoutError,
    TooManySamplesError,
    public_status,
)
from fedpredict.initiator import policy
from fedpredict.initiator.admission import Admission
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.policy import Answer
from fedpredict.initiator.settings import ModelSettings, PolicyName
from fedpredict.initiator.submit import Done, GiveUp, submit_coroutine
from fedpredict.model.arrays import Bools
from fedpredict.model.combine import combine
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.manifest import Manifest
from fedpredict.model.prediction import PartyReport, Prediction, PredictTask
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.share import SampleStatus, Share
from fedpredict.observe.logs import log_context
from fedpredict.security.identity import Identity
from fedpredict.wire.channel import max_samples_of

logger = logging.getLogger(__name__)

WAY_BACK = 0.1
"""The part of the caller's remaining time that is kept for the answer, so that a slow party is named in it."""
MAX_WAY_BACK_S = 0.1
FOR_PARTIES = 0.75
"""The part of the time that the parties get where a fallback model may have to answer after them."""
_AWAY = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})


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
            EmptyRequestError, TooManySamplesError, UnsupportedModeError: The task cannot be taken.
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


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    share: Share
    report: PartyReport


class Predictor:
    """Answers with the parties' shares."""

    def __init__(
        self, catalogue: Catalogue, scorers: Mapping[str, PartyScorer], admission: Admission, *, deadline_s: float
    ) -> None:
        """Prepare.

        Args:
            catalogue: Which manifest is pinned for which model.
            scorers: By party id, every party of every model.
            admission: What a task must be.
            deadline_s: Longest wait for the parties, where neither the model's settings nor the caller are stricter.
        """
        self._catalogue = catalogue
        self._scorers = scorers
        self._admission = admission
        self._deadline_s = deadline_s

    async def predict(self, task: PredictTask, caller: Identity, *, deadline_s: float | None) -> Prediction:
        """Return the answer: shares of the pinned manifest and nothing else, combined by the model's policy."""
        with log_context(request_id=task.request_id, caller=caller.name, model=task.model_id):
            self._admission.check(task, caller)
            manifest = self._catalogue.answerable(task.model_id)
            _check_width(task, manifest)
            settings = self._catalogue.settings(task.model_id)
            ends = asyncio.get_running_loop().time() + self._budget_s(settings, deadline_s)
            valid = valid_sample_ids(task.sample_ids)
            outcomes = await self._ask_all(task, manifest, valid, _for_parties(settings, ends))
            shares = {party: outcome.share for party, outcome in outcomes.items()}
            answer = await self._apply_policy(task, settings, manifest, shares, ends)
            _log_done(manifest, answer)
        return Prediction(
            request_id=task.request_id,
            manifest_sha256=manifest.manifest_sha256,
            predictions=answer.predictions,
            status=answer.status,
            origin=answer.origin,
            classes=manifest.classes,
            parties=tuple(outcomes[party].report for party in manifest.parties),
        )

    def submit(self, task: PredictTask, caller: Identity, *, deadline_s: float | None, done: Done) -> GiveUp:
        """Begin a prediction; `done` gets the answer."""
        return submit_coroutine(self.predict(task, caller, deadline_s=deadline_s), done)

    def _budget_s(self, settings: ModelSettings, deadline_s: float | None) -> float:
        own_s = settings.deadline_s or self._deadline_s
        if deadline_s is None:
            return own_s
        return min(own_s, deadline_s - min(WAY_BACK * deadline_s, MAX_WAY_BACK_S))

    async def _ask_all(self, task: PredictTask, manifest: Manifest, valid: Bools, ends: float) -> dict[str, _Outcome]:
        """Ask every party at once; leaving early (the caller left) cancels all of them."""
        async with asyncio.TaskGroup() as tasks:
            asked = {
                party: tasks.create_task(self._ask(task, manifest, party, valid, ends)) for party in manifest.parties
            }
        return {party: outcome.result() for party, outcome in asked.items()}

    async def _ask(self, task: PredictTask, manifest: Manifest, party: str, valid: Bools, ends: float) -> _Outcome:
        loop = asyncio.get_running_loop()
        began = loop.time()
        sample_ids = [sample_id for sample_id, good in zip(task.sample_ids, valid, strict=True) if good]
        try:
            reply = await self._reply(task, manifest, party, sample_ids, ends) if sample_ids else None
        except FedPredictError as error:
            logger.warning("party.failed", extra={"party": party, "reason": str(error)})
            share = policy.absent_share(valid, manifest.n_scores, _status_of(error))
            return _Outcome(share, _report(party, share, None, loop.time() - began, public_status(error).text))
        if reply is None:
            share = policy.absent_share(valid, manifest.n_scores, SampleStatus.ID_INVALID)
        else:
            share = policy.spread_share(reply.share, valid)
        return _Outcome(share, _report(party, share, reply, loop.time() - began, ""))

    async def _reply(
        self, task: PredictTask, manifest: Manifest, party: str, sample_ids: Sequence[bytes], ends: float
    ) -> PartyReply:
        query = ScoreQuery(
            request_id=task.request_id,
            model_id=manifest.model_id,
            manifest_sha256=manifest.manifest_sha256,
            params_sha256=dict(manifest.digests)[party],
            mode=task.mode,
            sample_ids=sample_ids,
        )
        remaining_s = ends - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(remaining_s):
                reply = await self._scorers[party].score(query, deadline_s=remaining_s)
        except TimeoutError as error:
            raise PartyTimeoutError(f"party {party} did not answer in {remaining_s:.3f} s", party=party) from error
        expected = (len(sample_ids), manifest.n_scores)
        if reply.share.values.shape != expected:
            shape = reply.share.values.shape
            raise PartyRefusedError(f"party {party} sent a share of shape {shape}, not {expected}", party=party)
        return reply

    async def _apply_policy(
        self, task: PredictTask, settings: ModelSettings, manifest: Manifest, shares: Mapping[str, Share], ends: float
    ) -> Answer:
        if settings.policy is PolicyName.DEFAULT_PARTIAL:
            return policy.default_partial(manifest.kind, shares, settings.defaults)
        answer = policy.fail(manifest.kind, shares)
        unscored = np.isin(answer.status, (SampleStatus.OK, SampleStatus.ID_INVALID), invert=True)
        if settings.fallback_model is None or not unscored.any():
            return answer
        return await self._fall_back(task, settings.fallback_model, answer, unscored, ends)

    async def _fall_back(
        self, task: PredictTask, model_id: str, answer: Answer, unscored: Bools, ends: float
    ) -> Answer:
        try:
            manifest = self._catalogue.answerable(model_id)
        except ModelNotReadyError as error:
            logger.warning("fallback.not_ready", extra={"fallback": model_id, "reason": str(error)})
            return answer
        outcomes = await self._ask_all(task, manifest, unscored, ends)
        shares = {party: outcome.share for party, outcome in outcomes.items()}
        return policy.fallback_model(answer, combine(manifest.kind, shares))


def _check_width(task: PredictTask, manifest: Manifest) -> None:
    limit = max_samples_of(manifest.n_scores)
    if len(task.sample_ids) > limit:
        told = f"{len(task.sample_ids)} samples of {manifest.n_scores} numbers each are more than one message holds"
        raise TooManySamplesError(told, limit=limit)


def _for_parties(settings: ModelSettings, ends: float) -> float:
    if settings.policy is not PolicyName.FALLBACK_MODEL:
        return ends
    now = asyncio.get_running_loop().time()
    return now + (ends - now) * FOR_PARTIES


def _status_of(error: FedPredictError) -> SampleStatus:
    return SampleStatus.PARTY_UNAVAILABLE if public_status(error).code in _AWAY else SampleStatus.REFUSED


def _report(party: str, share: Share, reply: PartyReply | None, round_trip_s: float, problem: str) -> PartyReport:
    return PartyReport(
        party=party,
        status=None if (share.status == SampleStatus.OK).all() else share.status,
        oldest_event_time=reply.oldest_event_time if reply else None,
        round_trip_s=round_trip_s,
        elapsed_s=reply.elapsed_s if reply else 0.0,
        problem=problem,
    )


def _log_done(manifest: Manifest, answer: Answer) -> None:
    scored = int((answer.status == SampleStatus.OK).sum())
    logger.info(
        "predict.done",
        extra={"manifest": manifest.manifest_sha256, "n_samples": len(answer.status), "n_scored": scored},
    )
