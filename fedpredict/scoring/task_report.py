"""What people are told of a task: counts, the distribution of the scores, and how it moved since the day before."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedpredict.model.distribution import scored_warnings, stability_index
from fedpredict.model.share import SampleStatus
from fedpredict.tables.shares import TaskState, totals_of


def report_of(state: TaskState, before: TaskState | None, *, limit: float) -> dict[str, Any]:
    """Return a task's report as JSON values.

    Args:
        state: The task.
        before: The same model's of an earlier day, where there is one.
        limit: A stability index above it is a warning; so is a share of ids with scores that fell by more than
            a quarter.

    Returns:
        rows (of the snapshot, in the buckets that are done), ids, duplicate (rows beyond an id's first), without_id,
        scored, absent (a feature is missing), invalid, out_of_range, statuses (all of them by name), histograms
        (output, first, width, counts: below, the inner bins, above), stability (one for each histogram, or None), and
        warnings (texts).
    """
    task, records = state.task, list(state.buckets.values())
    statuses = totals_of(records)
    n_rows, n_ids = sum(each.n_rows for each in records), sum(each.n_ids for each in records)
    histograms = _histograms(state)
    stability = None
    if before is not None and before.task.bins == task.bins:
        stability = [stability_index(old, new) for old, new in zip(_histograms(before), histograms, strict=True)]
    warnings = [
        f"the scores of output {output} have moved since {before.task.day}: stability index {index:.3f}, limit {limit}"
        for output, index in enumerate(stability or ())
        if before is not None and index is not None and index > limit
    ]
    counts = None if before is None else _scored(before)
    warnings += scored_warnings(*_scored(state), counts, "" if before is None else str(before.task.day))
    return {
        "date": task.day.isoformat(),
        "model": task.model_id,
        "params_sha256": task.params_sha256,
        "view": task.view,
        "view_version": task.view_version,
        "snapshot": task.snapshot,
        "finished": task.finished_at is not None,
        "buckets": task.n_buckets,
        "buckets_done": len(records),
        "rows": n_rows,
        "ids": n_ids,
        "duplicate": n_rows - n_ids,
        "without_id": task.n_rows - n_rows if task.finished_at is not None else None,
        "scored": statuses.get(SampleStatus.OK, 0),
        "absent": statuses.get(SampleStatus.FEATURE_MISSING, 0),
        "invalid": statuses.get(SampleStatus.FEATURE_INVALID, 0) + statuses.get(SampleStatus.ID_INVALID, 0),
        "out_of_range": statuses.get(SampleStatus.OUT_OF_RANGE, 0),
        "statuses": {status.name: count for status, count in statuses.items()},
        "histograms": [
            {"output": output, "first": first, "width": width, "counts": counts}
            for output, ((first, width), counts) in enumerate(zip(task.bins, histograms, strict=True))
        ],
        "stability": stability,
        "against": None if before is None else before.task.day.isoformat(),
        "warnings": warnings,
        "seconds": sum(each.seconds for each in records),
    }


def _scored(state: TaskState) -> tuple[int, int]:
    """Return how many ids of the buckets that are done have scores, and how many there are."""
    records = list(state.buckets.values())
    return totals_of(records).get(SampleStatus.OK, 0), sum(each.n_ids for each in records)


def _histograms(state: TaskState) -> list[list[int]]:
    """Return the histograms of all buckets that are done, added up."""
    of_buckets = [each.histograms for each in state.buckets.values() if each.histograms]
    return (
        np.sum(np.array(of_buckets, dtype=np.int64), axis=0).tolist() if of_buckets else [[] for _ in state.task.bins]
    )
