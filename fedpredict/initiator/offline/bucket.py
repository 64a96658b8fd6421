"""One bucket of a task: asked of every party at once, page by page, and combined as online predictions are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from fedpredict.errors import FedPredictError, PartyError, PartyLimitedError, PartyRefusedError
from fedpredict.initiator import policy
from fedpredict.initiator.masking import MaskedSum
from fedpredict.initiator.offline.distribution import counts_of
from fedpredict.initiator.offline.failure import PartyFailedError
from fedpredict.initiator.pacing import pause_of
from fedpredict.initiator.policy import Answer
from fedpredict.initiator.settings import ModelSettings, PolicyName
from fedpredict.initiator.unmasking import open_defaults, share_without_numbers, unmasked
from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.combine import combine
from fedpredict.model.head import Head
from fedpredict.model.manifest import Manifest
from fedpredict.model.offline import OfflineTask, PartyTotals, Totals, add_totals
from fedpredict.model.populations import (
    MAX_BUCKET_ROWS,
    BucketAnswer,
    BucketQuery,
    BucketScorer,
    PopulationRows,
    digest_of,
)
from fedpredict.model.prediction import Origin
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus, Share, all_ok
from fedpredict.wire.codec import new_request_id

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

REPLY_BYTES = 8 * 1024 * 1024
"""What a party's answer to one call may take; wider shares are asked for in several calls of fewer rows."""
MASKED_ROWS = 8_192
"""Most rows of a masked call: they go over the links of online questions, which must not wait for megabytes."""
QUERY_BYTES = 10 * 1024 * 1024
"""What the ids of one call may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What all buckets of a task have in common.

    Attributes:
        task: The task.
        settings: The model's.
        head: What finishes the shares; None where they are added up.
        fallback: Returns the manifest of the fallback model; raises `ModelNotReadyError`.
        scorers: By party.
        own_party: This initiator's, which is asked in this process.
        deadline_s: How long a party may take for one call.
        threads: Where arrays are computed with.
        masked: How the other parties' shares are added up without being seen; None where they are not masked.
    """

    task: OfflineTask
    settings: ModelSettings
    head: Head | None
    fallback: Callable[[], Manifest]
    scorers: Mapping[str, BucketScorer]
    own_party: str
    deadline_s: float
    threads: Executor
    masked: MaskedSum | None = None

    @property
    def manifest(self) -> Manifest:
        """The version that the task was begun with."""
        return self.task.new.manifest


@dataclass(slots=True, eq=False)
class BucketOutcome:
    """What became of a bucket's ids.

    Attributes:
        predictions: Shape (n_ids, n_outputs); NaN where the status is not OK.
        status: Shape (n_ids,), `SampleStatus` values.
        origin: Shape (n_ids,), `Origin` values; UNSPECIFIED where the status is not OK.
        totals: Counted, but for the histograms.
    """

    predictions: Floats
    status: Statuses
    origin: Statuses
    totals: Totals


@dataclass(slots=True, eq=False)
class _Page:
    """Rows of a bucket that travel in one call.

    Attributes:
        bucket: Which bucket.
        bucket_sha256: The digest of all of its ids.
        first: The first row.
        ids: The rows' ids.
        sha256: The digest of these; where they are the whole bucket, that of the bucket.
    """

    bucket: int
    bucket_sha256: str
    first: int
    ids: SampleIds
    sha256: str


def _page(bucket: int, bucket_sha256: str, sample_ids: SampleIds, start: int, stop: int) -> _Page:
    if stop - start == len(sample_ids):  # read_bucket has held it to its digest
        return _Page(bucket, bucket_sha256, start, sample_ids, bucket_sha256)
    ids = sample_ids.cut(start, stop)
    return _Page(bucket, bucket_sha256, start, ids, digest_of(ids))


async def ask_bucket(asking: Asking, bucket: int, bucket_sha256: str, sample_ids: SampleIds) -> BucketOutcome:
    """Return the predictions for the ids of a bucket.

    Args:
        asking: What all buckets have in common.
        bucket: Which.
        bucket_sha256: The digest of its ids.
        sample_ids: In the population's order.

    Raises:
        PartyFailedError: A party gave no share; the calls to the others have ended.
    """
    answers, totals = [], Totals()
    width = asking.manifest.n_outputs
    most = MAX_BUCKET_ROWS if asking.masked is None else MASKED_ROWS
    for start, stop in pages(sample_ids, asking.manifest.n_scores, most):
        page = await _thread(asking, partial(_page, bucket, bucket_sha256, sample_ids, start, stop))
        replies = await _ask_in_time(asking, page)
        answer = await _thread(asking, partial(_combined, asking, replies))
        if asking.settings.fallback_model is not None and not answer.all_ok:
            answer = await _fall_back(asking, page, answer)
        if answer.n_misfits:
            extra = {"model": asking.manifest.model_id, "reason": answer.problem, "n_samples": answer.n_misfits}
            logger.error("shares.contradict", extra=extra)
        answers.append(answer)
        totals = add_totals(totals, _totals(answer, replies))
    if not answers:
        nothing = np.empty(0, dtype=np.uint8)
        return BucketOutcome(np.empty((0, width)), nothing, nothing, totals)
    return BucketOutcome(
        predictions=np.concatenate([each.predictions for each in answers]),
        status=np.concatenate([each.status for each in answers]),
        origin=np.concatenate([each.origin for each in answers]),
        totals=totals,
    )


async def gather_bucket(
    asking: Asking, bucket: int, bucket_sha256: str, sample_ids: SampleIds
) -> tuple[dict[str, Share], Totals]:
    """Return every party's share of the ids of a bucket, not combined, and what the parties said of them.

    Arguments and errors are those of `ask_bucket`.
    """
    shares: dict[str, list[Share]] = {party: [] for party in asking.manifest.parties}
    totals = Totals()
    for start, stop in pages(sample_ids, asking.manifest.n_scores):
        page = await _thread(asking, partial(_page, bucket, bucket_sha256, sample_ids, start, stop))
        replies = await _ask_all(asking, page)
        for party, reply in replies.items():
            shares[party].append(reply.share)
        totals = add_totals(totals, Totals(ids=stop - start, parties=_party_totals(replies)))
    return {party: _whole(each) for party, each in shares.items() if each}, totals


def _whole(shares: Sequence[Share]) -> Share:
    if len(shares) == 1:
        return shares[0]
    return Share(np.concatenate([each.values for each in shares]), np.concatenate([each.status for each in shares]))


def pages(sample_ids: SampleIds, n_scores: int, most: int = MAX_BUCKET_ROWS) -> Iterator[tuple[int, int]]:
    """Return the rows of each call for a bucket, first and end, so that ids and shares fit into messages.

    >>> list(pages(SampleIds.of([b"u1", b"u2", b"u3"]), 1))
    [(0, 3)]
    >>> list(pages(SampleIds.of([b"u1", b"u2", b"u3"]), REPLY_BYTES // 16))
    [(0, 1), (1, 2), (2, 3)]
    """
    rows = max(1, min(most, REPLY_BYTES // (8 * n_scores + 1)))
    start, n_ids = 0, len(sample_ids)
    while start < n_ids:
        limit = int(sample_ids.offsets[start]) + QUERY_BYTES
        fitting = int(np.searchsorted(sample_ids.offsets, limit, side="right")) - 1
        stop = min(start + rows, max(fitting, start + 1), n_ids)
        yield start, stop
        start = stop


async def _ask_in_time(asking: Asking, page: _Page) -> dict[str, BucketAnswer]:
    """Ask all parties; where shares are masked and one says to come back later, ask all again then, in another round.

    Bare shares need no more than `_ask_all`: each call waits for its own party.
    """
    if asking.masked is None:
        return await _ask_all(asking, page)
    loop = asyncio.get_running_loop()
    ends = loop.time() + asking.deadline_s
    while True:
        try:
            return await _ask_all(asking, page)
        except PartyFailedError as failed:
            if not isinstance(failed.error, PartyLimitedError):
                raise
            pause_s = pause_of(failed.error)
            if loop.time() + pause_s >= ends:
                raise
        await asyncio.sleep(pause_s)


async def _ask_all(asking: Asking, page: _Page) -> dict[str, BucketAnswer]:
    masked: Mapping[str, asyncio.Future[BucketAnswer]] = {}
    if asking.masked is not None:
        queries = {party: _query(asking, party, page, asking.manifest) for party in asking.masked.parties}
        masked = asking.masked.ask_bucket(asking.manifest, queries, asking.deadline_s)
    calls = {
        party: asyncio.ensure_future(_ask(asking, party, page, masked.get(party))) for party in asking.manifest.parties
    }
    try:
        answers = await asyncio.gather(*calls.values())
    finally:
        for call in calls.values():
            call.cancel()
        await asyncio.gather(*calls.values(), return_exceptions=True)
    return dict(zip(calls, answers, strict=True))


async def _ask(asking: Asking, party: str, page: _Page, masked: asyncio.Future[BucketAnswer] | None) -> BucketAnswer:
    try:
        scorer = asking.scorers.get(party)
        if scorer is None:
            raise PartyRefusedError(f"party {party} is not under [parties] any more", party=party)
        if masked is None:
            query = _query(asking, party, page, asking.manifest)
            answer = await scorer.score_bucket(query, deadline_s=asking.deadline_s)
        else:
            answer = await masked
        expected = (len(page.ids), asking.manifest.n_scores)
        shape = answer.share.values.shape if answer.masked is None else answer.masked.words.shape
        if answer.ids_sha256 != page.sha256 or shape != expected:
            what = f"party {party} sent a share of shape {shape}, or of other ids, not {expected}"
            raise PartyRefusedError(what, party=party)
    except FedPredictError as error:
        # where one party of a masked sum cannot be asked, none is, and all have its error
        raise PartyFailedError(error.party if isinstance(error, PartyError) else party, error) from error
    return answer


def _query(asking: Asking, party: str, page: _Page, manifest: Manifest) -> BucketQuery:
    population = asking.task.new.population
    rows: SampleIds | PopulationRows = page.ids
    if population.is_standing and party != asking.own_party:
        rows = PopulationRows(
            population=population.name,
            version=population.version,
            bucket_sha256=page.bucket_sha256,
            first=page.first,
            rows=len(page.ids),
        )
    return BucketQuery(
        request_id=new_request_id(),
        task_id=asking.task.task_id,
        model_id=manifest.model_id,
        manifest_sha256=manifest.manifest_sha256,
        params_sha256=manifest.digest_of(party),
        mode=asking.task.new.mode,
        bucket=page.bucket,
        n_buckets=asking.task.new.n_buckets,
        rows=rows,
        ids_sha256=page.sha256,
    )


def _combined(asking: Asking, replies: Mapping[str, BucketAnswer]) -> Answer:
    shares = _shares(asking, replies)
    answer = policy.fail(asking.manifest.link, shares, asking.head)
    if asking.settings.policy is PolicyName.DEFAULT_PARTIAL and not all_ok(answer.status):
        defaults = open_defaults(asking.masked, asking.settings.defaults)
        return policy.default_partial(asking.manifest.link, shares, defaults)
    return answer


def _shares(asking: Asking, replies: Mapping[str, BucketAnswer]) -> dict[str, Share]:
    """Return every party's share; where they are masked, their sum in the place of one of them."""
    shares = {party: each.share for party, each in replies.items()}
    if asking.masked is None:
        return shares
    for party in asking.masked.parties:
        masked = replies[party].masked
        if masked is not None:
            shares[party] = share_without_numbers(masked, shares[party].status)
    found = unmasked(asking.masked, [len(shares[asking.masked.parties[0]].status)], asking.manifest.n_scores, replies)
    if found is None or found.misfits:
        logger.error("masks.contradict", extra={"model": asking.manifest.model_id})
        party = asking.masked.parties[0]
        raise PartyFailedError(party, PartyRefusedError("the parties' masks do not belong together", party=party))
    return {**shares, found.party: found.share}


async def _fall_back(asking: Asking, page: _Page, answer: Answer) -> Answer:
    """Return an answer with the fallback model's numbers where it has none; where that has none either, as it was."""
    unscored = np.isin(answer.status, (SampleStatus.OK, SampleStatus.ID_INVALID), invert=True)
    if not unscored.any():
        return answer
    party = asking.own_party

    def rest() -> _Page:
        ids = page.ids.select(unscored)
        return _Page(page.bucket, page.bucket_sha256, 0, ids, digest_of(ids))

    try:
        manifest = asking.fallback()
        query = _query(asking, party, await _thread(asking, rest), manifest)
        reply = await asking.scorers[party].score_bucket(query, deadline_s=asking.deadline_s)
    except FedPredictError as error:
        raise PartyFailedError(party, error) from error
    share = reply.share

    def filled() -> Answer:
        own = combine(manifest.link, {party: policy.spread_share(share, unscored)})
        return policy.fallback_model(answer, own)

    return await _thread(asking, filled)


def _totals(answer: Answer, replies: Mapping[str, BucketAnswer]) -> Totals:
    counts = np.bincount(answer.origin, minlength=max(Origin) + 1)
    known: list[Origin] = [each for each in Origin if each is not Origin.UNSPECIFIED]
    origins = {each: int(counts[each]) for each in known if counts[each]}
    return Totals(
        ids=len(answer.status), statuses=counts_of(answer.status), origins=origins, parties=_party_totals(replies)
    )


def _party_totals(replies: Mapping[str, BucketAnswer]) -> dict[str, PartyTotals]:
    return {
        party: PartyTotals(
            statuses=counts_of(each.share.status), oldest_event_time=each.oldest_event_time, sources=each.sources
        )
        for party, each in replies.items()
    }


async def _thread(asking: Asking, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(asking.threads, work)
