"""Settings -> what answers offline tasks for a part: the one place that picks the implementation."""

from __future__ import annotations

from collections.abc import Callable

from fedpredict.scoring.buckets import BucketPart, StoreBuckets
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.settings import AnswerFrom, TaskSettings
from fedpredict.scoring.state import PartyState
from fedpredict.warehouse.base import Warehouse


def open_buckets(
    settings: TaskSettings,
    warehouse: Warehouse,
    part: LocalParty,
    state: Callable[[], PartyState],
    *,
    poll_s: float,
    at_once: int,
) -> BucketPart:
    """Return what answers; nothing is read yet.

    Args:
        settings: `[tasks]`.
        warehouse: The party's; stays open.
        part: Answers online questions.
        state: The models that are loaded.
        poll_s: Seconds between two looks for newer shares.
        at_once: How many buckets are answered at the same time.
    """
    if settings.answer_from is AnswerFrom.STORE:
        return StoreBuckets(part, part.source_of)
    # a parser of SQL is large, and who answers from the store needs none
    from fedpredict.scoring.pieces import Pieces  # noqa: PLC0415
    from fedpredict.scoring.warehouse_buckets import WarehouseBuckets  # noqa: PLC0415

    pieces = Pieces(warehouse, rows=settings.answer_rows, poll_s=poll_s)
    return WarehouseBuckets(part.party, pieces, state, part.oldest, at_once=at_once)
