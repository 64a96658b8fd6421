"""Buckets of offline tasks, answered in this process: by the path that online questions take (ADR 0031)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from typing_extensions import override

from fedpredict.errors import PartyTimeoutError, ProtocolError
from fedpredict.model.populations import BucketAnswer, BucketQuery, BucketScorer, PopulationRows, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery


class BucketPart(Protocol):
    """A part in this process, as offline tasks ask it."""

    @property
    def party(self) -> str:
        """The party's id."""

    async def answer(self, query: BucketQuery, sample_ids: SampleIds, deadline_s: float) -> PartyReply:
        """Return the share of the samples that a bucket's query is about.

        Args:
            query: Its rows may be those of a population.
            sample_ids: Which these are.
            deadline_s: Seconds.

        Raises:
            FedPredictError: As `PartyScorer.score` says, or the warehouse.
            TimeoutError: `deadline_s` passed.
        """


class StoreBuckets(BucketPart):
    """A part that answers as it answers online questions: from its online store."""

    def __init__(self, part: PartyScorer, source_of: Callable[[BucketQuery], str] = lambda _: "") -> None:
        """Take the part.

        Args:
            part: In this process.
            source_of: What a question would be answered from at this moment; empty: not known.
        """
        self._part = part
        self._source_of = source_of

    @property
    @override
    def party(self) -> str:
        """The party's id."""
        return self._part.party

    @override
    async def answer(self, query: BucketQuery, sample_ids: SampleIds, deadline_s: float) -> PartyReply:
        asked = ScoreQuery(
            request_id=query.request_id,
            model_id=query.model_id,
            manifest_sha256=query.manifest_sha256,
            params_sha256=query.params_sha256,
            mode=query.mode,
            sample_ids=sample_ids,
            epoch=query.epoch,
        )
        before = self._source_of(query)
        reply = await self._part.score(asked, deadline_s=deadline_s)
        # where they differ, the store changed meanwhile, and nobody knows which of the two it was
        reply.sources = tuple(sorted({before, self._source_of(query)} - {""}))
        return reply


class LocalBuckets(BucketScorer):
    """The part that this process holds, as an offline task sees it; it takes sample ids, not rows of a population."""

    def __init__(self, part: BucketPart) -> None:
        """Take the party's part.

        Args:
            part: In this process.
        """
        self._part = part

    @property
    @override
    def party(self) -> str:
        """The party's id."""
        return self._part.party

    @override
    async def score_bucket(self, query: BucketQuery, *, deadline_s: float) -> BucketAnswer:
        if isinstance(query.rows, PopulationRows):
            raise ProtocolError("rows of a population were asked of the part in this process, which takes sample ids")
        ids_sha256 = await asyncio.to_thread(digest_of, query.rows)
        if ids_sha256 != query.ids_sha256:
            raise ProtocolError(f"sample ids with digest {ids_sha256[:12]}, not {query.ids_sha256[:12]}")
        try:
            reply = await self._part.answer(query, query.rows, deadline_s)
        except TimeoutError as error:
            raise PartyTimeoutError(f"no share within {deadline_s:.1f} s", party=self.party) from error
        return BucketAnswer(
            share=reply.share,
            ids_sha256=ids_sha256,
            oldest_event_time=reply.oldest_event_time,
            elapsed_s=reply.elapsed_s,
            sources=reply.sources,
        )
