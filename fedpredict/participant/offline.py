"""What a participant answers to offline tasks: shares of buckets, and populations that are named ahead (ADR 0031)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np

from fedpredict.errors import FedPredictError, PartyTimeoutError, UnsupportedModeError
from fedpredict.model.populations import BucketQuery, PopulationRows, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply
from fedpredict.model.share import Mode, SampleStatus, Share
from fedpredict.observe.logs import add_log_context
from fedpredict.observe.metrics import outcome_of
from fedpredict.observe.scoring import NO_PARTICIPANT_METRICS, ParticipantMetrics
from fedpredict.participant.audited import AskedIds, CallAudit
from fedpredict.participant.distinct import DistinctLimit
from fedpredict.participant.epoch import check_epoch
from fedpredict.participant.masking import Masking, no_masking
from fedpredict.participant.methods import METHODS, SERVICE
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.populations import StandingPopulations, refusal
from fedpredict.scoring.buckets import BucketPart
from fedpredict.security.entrance import Entrance
from fedpredict.security.identity import Identity
from fedpredict.security.masking import MaskSession
from fedpredict.security.policy import Needs, Rule
from fedpredict.tables.answered import AnsweredBucket
from fedpredict.wire.bucket_codec import bucket_query_from_wire, fill_bucket_reply
from fedpredict.wire.masked_codec import RoundRef, fill_masked_bucket_reply, round_from_wire
from fedpredict.wire.population_codec import bucket_ids_from_wire, notice_from_wire, standing_to_wire
from fedpredict.wire.v1 import link_pb2, masking_pb2, participant_pb2

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Mask: TypeAlias = Callable[[BucketQuery, SampleIds, PartyReply], PartyReply]

_NOTICE, _PUT = METHODS[f"{SERVICE}/RegisterPopulation"], METHODS[f"{SERVICE}/PutPopulationBucket"]
_BUCKET = METHODS[f"{SERVICE}/ScoreBucket"]

MAX_BUCKET_DEADLINE_S = 600.0
"""The longest that a call for a bucket may take."""


class OfflineAnswers:
    """Answers callers that the policy lists, with what `part` says; some buckets at once, others wait."""

    def __init__(
        self,
        part: BucketPart,
        policy: CallerPolicy,
        populations: StandingPopulations,
        *,
        buckets_at_once: int,
        answered: Callable[[AnsweredBucket], None] = lambda _: None,
        metrics: ParticipantMetrics = NO_PARTICIPANT_METRICS,
        audit: CallAudit | None = None,
        distinct: DistinctLimit | None = None,
        masking: Masking | None = None,
    ) -> None:
        """Serve one party.

        Args:
            part: This party's.
            policy: Who may ask for what.
            populations: Those that initiators named.
            buckets_at_once: How many buckets are computed, and how many taken, at a time.
            answered: Told of every answer.
            metrics: Counts them; default: nothing does.
            audit: Writes calls down; default: nothing does.
            distinct: Keeps the limits of distinct sample ids; default: `policy` may have none.
            masking: Masks shares of some models; default: of none.
        """
        self._masking = masking or no_masking(policy)
        self._part = part
        self._policy = policy
        self._populations = populations
        # threads of its own: a warehouse that hangs must not hold up online questions
        self._threads = ThreadPoolExecutor(2 * buckets_at_once + 2, "fedpredict-offline")
        self._answered = answered
        self._metrics = metrics
        self._audit = audit or CallAudit(None)
        self._entrance = Entrance(policy, self._audit)
        self._distinct = distinct or DistinctLimit(None, lambda: policy.distinct_ids)
        self.buckets_at_once = buckets_at_once
        self._turns = asyncio.Semaphore(buckets_at_once)
        self._taking = asyncio.Semaphore(buckets_at_once)

    async def answer(self, frame: link_pb2.Frame, caller: Identity, deadline_s: float) -> link_pb2.Frame:
        """Answer a frame that is a call of offline tasks."""
        if frame.HasField("population"):
            return link_pb2.Frame(population_told=await self.population(frame.population, caller))
        if frame.HasField("population_bucket"):
            return link_pb2.Frame(population_bucket_put=await self.put_bucket(frame.population_bucket, caller))
        answer = link_pb2.Frame()
        await self.score_bucket(frame.score_bucket, caller, deadline_s, answer.scored_bucket)
        return answer

    async def population(
        self, request: participant_pb2.PopulationRequest, caller: Identity
    ) -> participant_pb2.PopulationReply:
        """Take word of a version of a standing population, or say what became of it."""
        try:
            notice = notice_from_wire(request)
        except FedPredictError as error:
            self._entrance.misunderstood("RegisterPopulation", caller, error, _NOTICE)
            raise
        add_log_context(request_id=notice.request_id)
        try:
            self._audit.check()
            self._admit_population(caller, notice.population, _NOTICE)
            standing = await self._thread(self._populations.notice, caller.name, notice)
        except BaseException as error:
            self._audit.population(caller, notice, error)
            raise
        self._audit.population(caller, notice, None)
        await self._audit.safe()
        return standing_to_wire(notice.request_id, standing)

    async def put_bucket(
        self, request: participant_pb2.PopulationBucket, caller: Identity
    ) -> participant_pb2.PopulationBucketReply:
        """Take a bucket of such a version."""
        try:
            put = bucket_ids_from_wire(request)
        except FedPredictError as error:
            self._entrance.misunderstood("PutPopulationBucket", caller, error, _PUT)
            raise
        add_log_context(request_id=put.request_id)
        try:
            self._audit.check()
            rule = self._admit_population(caller, put.population, _PUT)
            rule.check_offline_rows(len(put.content if isinstance(put.content, SampleIds) else put.content.added))
            async with self._taking:
                await self._thread(self._populations.put, caller.name, put, rule.check_offline_rows)
        except BaseException as error:
            self._audit.put_bucket(caller, put, error)
            raise
        self._audit.put_bucket(caller, put, None)
        await self._audit.safe()
        return participant_pb2.PopulationBucketReply(request_id=put.request_id)

    async def score_bucket(
        self,
        request: participant_pb2.BucketRequest,
        caller: Identity,
        deadline_s: float,
        into: participant_pb2.BucketReply,
    ) -> None:
        """Write the share of a bucket into an empty message."""
        try:
            query = bucket_query_from_wire(request)
        except FedPredictError as error:
            self._entrance.misunderstood("ScoreBucket", caller, error, _BUCKET)
            raise
        reply, digest = await self._share_of(query, None, caller, deadline_s)
        fill_bucket_reply(into, query, digest, reply)

    async def masked_bucket(
        self,
        request: masking_pb2.MaskedBucketRequest,
        caller: Identity,
        deadline_s: float,
        into: participant_pb2.BucketReply,
    ) -> None:
        """Write the masked share of a bucket into an empty message.

        Until its round is begun nothing is waited for: rounds are begun in the order in which they came.
        """
        try:
            query, place = bucket_query_from_wire(request.bucket), round_from_wire(request.round)
        except FedPredictError as error:
            self._entrance.misunderstood("ScoreBucket", caller, error, _BUCKET)
            raise
        reply, digest = await self._share_of(query, place, caller, deadline_s)
        fill_masked_bucket_reply(into, query, digest, reply)

    async def _share_of(
        self, query: BucketQuery, place: RoundRef | None, caller: Identity, deadline_s: float
    ) -> tuple[PartyReply, str]:
        """Return the share of a bucket, masked where it has a round, and the digest of its ids."""
        add_log_context(request_id=query.request_id, model=query.model_id, task=query.task_id)
        began, counted = time.perf_counter(), self._metrics.bucket(caller.name, query.model_id)
        asked = AskedIds()
        try:
            self._audit.check()
            if isinstance(query.rows, SampleIds):
                asked.sample_ids = query.rows
            try:
                rule, session = self._admit(caller, query, place)  # a round is begun before anything is waited for
            finally:
                if self._policy.rule_of(caller) is None:
                    asked.sample_ids = None  # who has no rule keeps no thread busy, neither these nor the log's
                elif asked.sample_ids is not None:  # also for the line of a refusal
                    asked.sha256 = await self._thread(digest_of, asked.sample_ids)
            mask = None
            if session is not None and place is not None:
                mask = partial(self._masking.masked_bucket, session=session, place=place)
            reply, digests = await self._score(query, rule, deadline_s, asked, mask)
        except BaseException as error:
            counted.failed(outcome_of(error), time.perf_counter() - began)
            self._audit.bucket(caller, query, asked, error)
            raise
        self._audit.bucket(caller, query, asked, reply)
        await self._audit.safe()
        elapsed_s = time.perf_counter() - began
        counted.done(elapsed_s, reply.share.status)
        self._note(query, reply, caller=caller, digests=digests, elapsed_s=elapsed_s)
        return reply, digests[0]

    def _admit(self, caller: Identity, query: BucketQuery, place: RoundRef | None) -> tuple[Rule, MaskSession | None]:
        rule = self._policy.admit(caller, _BUCKET)
        rule.check_model(query.model_id)
        return rule, self._masking.admit(caller, query, place)

    async def _score(
        self, query: BucketQuery, rule: Rule, deadline_s: float, asked: AskedIds, mask: _Mask | None
    ) -> tuple[PartyReply, tuple[str, str]]:
        """Return the share of a bucket, masked where there is a mask, and the digests of its ids and of the bare share.

        `asked` gets the ids once known.
        """
        check_epoch(query.epoch)
        rule.check_mode(query.mode)
        rule.check_offline_rows(query.n_rows)
        if query.mode is Mode.REALTIME:
            raise UnsupportedModeError("a bucket was asked for in mode realtime", mode=query.mode.value)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(deadline_s), self._turns:
                ids = await self._ids(query, rule.caller, asked)
                new = await self._distinct.check_list(rule.caller.name, ids, asked.sha256)
                left_s = deadline_s - (time.perf_counter() - began)
                reply = await self._part.answer(query, ids, left_s)
                checksum = await self._thread(_checksum, reply.share)
                if mask is not None:
                    reply = await self._thread(mask, query, ids, reply)
                # last of what can fail: ids of an answer that nobody gets are not counted
                await new.count()
                return reply, (asked.sha256, checksum)
        except TimeoutError as error:
            told = f"bucket {query.bucket} was not computed within {deadline_s:.1f} s"
            raise PartyTimeoutError(told, party=self._part.party) from error

    async def _thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, partial(call, *arguments))

    def _note(
        self, query: BucketQuery, reply: PartyReply, *, caller: Identity, digests: tuple[str, str], elapsed_s: float
    ) -> None:
        """Log an answer, and keep a record of it, with the digests of its ids and of its share."""
        record = AnsweredBucket(
            caller=caller.name,
            task_id=query.task_id,
            model_id=query.model_id,
            manifest_sha256=query.manifest_sha256,
            bucket=query.bucket,
            n_buckets=query.n_buckets,
            n_rows=reply.share.n_samples,
            n_scored=int((reply.share.status == SampleStatus.OK).sum()),
            ids_sha256=digests[0],
            share_sha256=digests[1],
            elapsed_s=elapsed_s,
            answered_at=datetime.now(UTC),
        )
        self._answered(record)
        extra = {"bucket": query.bucket, "n_buckets": query.n_buckets, "mode": query.mode.value}
        counts = {"rows": record.n_rows, "scored": record.n_scored, "elapsed_s": round(elapsed_s, 3)}
        logger.info("bucket.done", extra={**extra, **counts})

    def _admit_population(self, caller: Identity, population: str, needs: Needs) -> Rule:
        if self._policy.rule_of(caller) is None:
            raise refusal(population, "no populations are taken here")
        return self._policy.admit(caller, needs)

    async def _ids(self, query: BucketQuery, caller: Identity, asked: AskedIds) -> SampleIds:
        """Return the ids that a query is about, and note them."""
        rows = query.rows
        if isinstance(rows, PopulationRows):
            known = await self._thread(self._populations.ids, caller.name, rows, query.bucket, query.n_buckets)
            asked.sample_ids, asked.sha256 = known
            return known[0]
        return rows


def _checksum(share: Share) -> str:
    """Return the checksum of a share that records have; see `AnsweredBucket`."""
    hashed = hashlib.sha256(share.status.tobytes())
    hashed.update(np.ascontiguousarray(share.values, dtype="<f8").data)
    return hashed.hexdigest()
