"""Mode offline: shares are looked up as tasks have stored them, and nothing is computed."""

from __future__ import annotations

import time
from collections.abc import Callable

from fedpredict.errors import InputsRefusedError
from fedpredict.features.base import OnlineStore
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.scoring.replies import one_by_one, reply_of
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.scoring.stored import stored_share

_UNUSED = "is sent with mode offline, which looks scores up: ask for mode nearline"


def look_up(
    store: OnlineStore, state: PartyState, query: ScoreQuery, oldest: Callable[[LoadedModel], int | None]
) -> PartyReply:
    """Return the share of one model or several as it is stored.

    Args:
        store: Serves the shares.
        state: The models.
        query: The query.
        oldest: Model -> the event time before which its shares are STALE, in microseconds; None: none is.

    Raises:
        ModelNotFoundError, ManifestMismatchError, ModelNotReadyError: As `LocalParty.score`.
        InputsRefusedError: Features came along.
    """

    def of_one(query: ScoreQuery) -> PartyReply:
        start = time.perf_counter()
        if query.inputs is not None:
            raise InputsRefusedError(
                "inputs came with mode offline, which looks stored shares up",
                feature=query.inputs.names[0],
                problem=_UNUSED,
            )
        model = state.version(query.model_id, query.params_sha256)
        share, event_time = stored_share(store, model.description, query.sample_ids, oldest(model))
        return reply_of(query, share, event_time, start)

    return one_by_one(query, of_one)
