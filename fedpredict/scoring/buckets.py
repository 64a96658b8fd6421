"""Buckets of offline tasks, answered in this process: by the path that online questions take (ADR 0031)."""

from __future__ import annotations

import asyncio

from typing_extensions import override

from fedpredict.errors import ProtocolError
from fedpredict.model.populations import BucketAnswer, BucketQuery, BucketScorer, PopulationRows, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery


class LocalBuckets(BucketScorer):
    """The part that this process holds, as an offline task sees it; it takes sample ids, not rows of a population."""

    def __init__(self, part: PartyScorer) -> None:
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
        reply = await score_ids(self._part, query, query.rows, deadline_s)
        return BucketAnswer(
            share=reply.share,
            ids_sha256=ids_sha256,
            oldest_event_time=reply.oldest_event_time,
            elapsed_s=reply.elapsed_s,
        )


async def score_ids(part: PartyScorer, query: BucketQuery, sample_ids: SampleIds, deadline_s: float) -> PartyReply:
    """Return a part's share of the samples that a bucket's query is about.

    Raises:
        FedPredictError: As the part says.
    """
    asked = ScoreQuery(
        request_id=query.request_id,
        model_id=query.model_id,
        manifest_sha256=query.manifest_sha256,
        params_sha256=query.params_sha256,
        mode=query.mode,
        sample_ids=sample_ids,
        epoch=query.epoch,
    )
    return await part.score(asked, deadline_s=deadline_s)
