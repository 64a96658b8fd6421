"""The initiator's own model that answers where the parties' has no number."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from fedpredict.errors import FedPredictError, ModelNotReadyError
from fedpredict.initiator import policy
from fedpredict.initiator.batch import Batch, Slice
from fedpredict.initiator.policy import Answer
from fedpredict.initiator.question import Question, Route
from fedpredict.model.arrays import Bools
from fedpredict.model.combine import combine
from fedpredict.model.manifest import Manifest
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import SampleStatus

logger = logging.getLogger(__name__)


async def fall_back(
    question: Question, route: Route, batch: Batch, slices: Sequence[Slice], *, rows: slice, answer: Answer
) -> Answer:
    """Return an answer with the fallback model's numbers for those rows of `slices` that have none.

    Where the fallback model has none either, whatever the reason, the answer stays as it is.

    Args:
        question: What the requests have in common.
        route: Whom they ask.
        batch: The rows of the round.
        slices: The requests; the answers to others are not due yet, or were given.
        rows: Which rows of the round are the model's.
        answer: Of `rows`.
    """
    unscored = np.isin(answer.status, (SampleStatus.OK, SampleStatus.ID_INVALID), invert=True)
    unscored &= _of(slices, rows)
    if not unscored.any():
        return answer
    try:
        manifest = question.fallback()
        if (manifest.classes, manifest.n_outputs) != (question.manifest.classes, question.manifest.n_outputs):
            raise ModelNotReadyError(f"the fallback model {manifest.model_id} has other classes by now")
        left_s = max(each.waiting.ends for each in slices) - asyncio.get_running_loop().time()
        ids = batch.ids.cut(rows.start, rows.stop).select(unscored)
        query = _query(manifest, route, slices[0].waiting.task.request_id, ids)
        reply = await route.scorers[route.own_party].score(query, deadline_s=left_s)
        own = policy.spread_share(reply.share, unscored)
        return policy.fallback_model(answer, combine(manifest.link, {route.own_party: own}))
    except FedPredictError as error:
        logger.warning("fallback.failed", extra={"reason": str(error)})
        return answer


def _of(slices: Sequence[Slice], rows: slice) -> Bools:
    """Return which of `rows` are those of `slices`."""
    of_slices = np.zeros(rows.stop - rows.start, dtype=np.bool_)
    for each in slices:
        of_slices[each.rows.start - rows.start : each.rows.stop - rows.start] = True
    return of_slices


def _query(manifest: Manifest, route: Route, request_id: str, ids: Sequence[bytes]) -> ScoreQuery:
    return ScoreQuery(
        request_id=request_id,
        model_id=manifest.model_id,
        manifest_sha256=manifest.manifest_sha256,
        params_sha256=manifest.digest_of(route.own_party),
        mode=route.mode,
        sample_ids=ids,
    )
