"""The tables of offline tasks, and their rows as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from fedpredict.model.manifest import manifest_from_json, manifest_to_json
from fedpredict.model.offline import (
    BucketDone,
    CombinedBy,
    NewTask,
    OfflineState,
    OfflineTask,
    PartyTotals,
    PopulationRef,
    Ranking,
    Totals,
    Upload,
)
from fedpredict.model.prediction import Origin
from fedpredict.model.share import Mode, SampleStatus

METADATA = sa.MetaData()
TASKS = sa.Table(
    "fedpredict_offline_tasks",
    METADATA,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("submitted_by", sa.String(200), nullable=False),
    sa.Column("idempotency_key", sa.String(64), nullable=True),
    sa.Column("model_id", sa.String(100), nullable=False, index=True),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("mode", sa.String(20), nullable=False),
    sa.Column("owner", sa.String(100), nullable=False),
    sa.Column("population", sa.String(200), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("is_standing", sa.Boolean, nullable=False),
    sa.Column("asked_for", sa.String(300), nullable=False),
    sa.Column("n_buckets", sa.Integer, nullable=False),
    sa.Column("n_rows", sa.BigInteger, nullable=False),
    sa.Column("n_ids", sa.BigInteger, nullable=False),
    sa.Column("duplicates", sa.BigInteger, nullable=False),
    sa.Column("invalid", sa.BigInteger, nullable=False),
    sa.Column("note", sa.String(200), nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Column("problem_party", sa.String(100), nullable=False),
    sa.Column("buckets_done", sa.Integer, nullable=False),
    sa.Column("totals", sa.Text, nullable=False),
    sa.Column("bins", sa.Text, nullable=False),
    sa.Column("ran_s", sa.Float, nullable=False),
    sa.Column("submitted_at", sa.String(40), nullable=False),
    sa.Column("started_at", sa.String(40), nullable=True),
    sa.Column("finished_at", sa.String(40), nullable=True),
    sa.Column("results_removed", sa.Boolean, nullable=False),
    sa.Column("is_swept", sa.Boolean, nullable=False),
    sa.Column("not_before", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("lease_owner", sa.String(100), nullable=False),
    sa.Column("lease_until", sa.Float, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.UniqueConstraint("submitted_by", "idempotency_key"),
)
BUCKETS = sa.Table(
    "fedpredict_offline_buckets",
    METADATA,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("totals", sa.Text, nullable=False),
    sa.Column("results_sha256", sa.String(64), nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("finished_at", sa.String(40), nullable=False),
)
PLANS = sa.Table(
    "fedpredict_offline_plans",  # a table of its own: databases of before have tasks without
    METADATA,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("rank_output", sa.Integer, nullable=True),
    sa.Column("rank_top", sa.BigInteger, nullable=False),
    sa.Column("combined_by", sa.String(20), nullable=False),
    sa.Column("combined_why", sa.Text, nullable=False),
    sa.Column("has_work", sa.Boolean, nullable=False),
)
GATHERED = sa.Table(
    "fedpredict_offline_gathered",
    METADATA,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("totals", sa.Text, nullable=False),
)
REWRITTEN = sa.Table(
    "fedpredict_offline_rewritten",
    METADATA,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("results_sha256", sa.String(64), nullable=False),
)
"""Of buckets whose results are being written anew, the digest of those that are there until that is done."""
UPLOADS = sa.Table(
    "fedpredict_offline_uploads",
    METADATA,
    sa.Column("upload_id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(100), nullable=False),
    sa.Column("population", sa.String(200), nullable=False),
    sa.Column("n_buckets", sa.Integer, nullable=False),
    sa.Column("n_rows", sa.BigInteger, nullable=False),
    sa.Column("n_ids", sa.BigInteger, nullable=False),
    sa.Column("duplicates", sa.BigInteger, nullable=False),
    sa.Column("invalid", sa.BigInteger, nullable=False),
    sa.Column("uploaded_by", sa.String(200), nullable=False),
    sa.Column("uploaded_at", sa.String(40), nullable=False),
)
EVENTS = sa.Table(
    "fedpredict_offline_events",
    METADATA,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("what", sa.String(40), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)


TASK_ROWS = sa.select(
    TASKS,
    PLANS.c.rank_output,
    PLANS.c.rank_top,
    PLANS.c.combined_by,
    PLANS.c.combined_why,
    sa.select(sa.func.count())
    .where(GATHERED.c.task_id == TASKS.c.task_id)
    .where(~sa.exists().where((BUCKETS.c.task_id == GATHERED.c.task_id) & (BUCKETS.c.bucket == GATHERED.c.bucket)))
    .scalar_subquery()
    .label("n_gathered"),
).select_from(TASKS.outerjoin(PLANS, PLANS.c.task_id == TASKS.c.task_id))
"""Tasks with what `task_of_row` wants of them."""


def row_of_plan(task_id: str, new: NewTask) -> dict[str, object]:
    """Return the row of how a task that was just submitted is to be done."""
    return {
        "task_id": task_id,
        "rank_output": None if new.ranking is None else new.ranking.output,
        "rank_top": 0 if new.ranking is None else new.ranking.top,
        "combined_by": str(CombinedBy.UNDECIDED),
        "combined_why": "",
        "has_work": False,
    }


def row_of_task(task_id: str, new: NewTask, now: datetime) -> dict[str, object]:
    """Return the row of a task that was just submitted."""
    return {
        "task_id": task_id,
        "submitted_by": new.submitted_by,
        "idempotency_key": new.idempotency_key or None,
        "model_id": new.manifest.model_id,
        "manifest": manifest_to_json(new.manifest),
        "manifest_sha256": new.manifest.manifest_sha256,
        "mode": str(new.mode),
        "owner": new.population.owner,
        "population": new.population.name,
        "version": new.population.version,
        "is_standing": new.population.is_standing,
        "asked_for": new.asked_for,
        "n_buckets": new.n_buckets,
        "n_rows": new.rows,
        "n_ids": new.ids,
        "duplicates": new.duplicates,
        "invalid": new.invalid,
        "note": new.note,
        "state": str(OfflineState.QUEUED),
        "problem": "",
        "problem_party": "",
        "buckets_done": 0,
        "totals": totals_to_json(Totals()),
        "bins": "[]",
        "ran_s": 0.0,
        "submitted_at": now.isoformat(),
        "results_removed": False,
        "is_swept": False,
        "not_before": 0.0,
        "attempts": 0,
        "lease_owner": "",
        "lease_until": 0.0,
        "token": 0,
    }


def task_of_row(row: sa.Row[Any]) -> OfflineTask:
    """Return the task of a row of `TASK_ROWS`; raise `ValueError` for one that no task gives."""
    manifest = manifest_from_json(row.manifest)
    if manifest.manifest_sha256 != row.manifest_sha256:
        raise ValueError(f"task {row.task_id} has another manifest than {row.manifest_sha256}")
    return OfflineTask(
        task_id=row.task_id,
        new=NewTask(
            manifest=manifest,
            mode=Mode(row.mode),
            population=PopulationRef(
                owner=row.owner, name=row.population, version=row.version, is_standing=row.is_standing
            ),
            asked_for=row.asked_for,
            n_buckets=row.n_buckets,
            rows=row.n_rows,
            ids=row.n_ids,
            duplicates=row.duplicates,
            invalid=row.invalid,
            idempotency_key=row.idempotency_key or "",
            note=row.note,
            submitted_by=row.submitted_by,
            ranking=None if row.rank_output is None else Ranking(row.rank_output, row.rank_top),
        ),
        state=OfflineState(row.state),
        problem=row.problem,
        problem_party=row.problem_party,
        buckets_done=row.buckets_done,
        totals=totals_from_json(row.totals),
        bins=tuple((float(first), float(width)) for first, width in json.loads(row.bins)),
        ran_s=row.ran_s,
        submitted_at=datetime.fromisoformat(row.submitted_at),
        started_at=_instant(row.started_at),
        finished_at=_instant(row.finished_at),
        results_removed=row.results_removed,
        combined_by=CombinedBy(row.combined_by or ""),
        combined_why=row.combined_why or "",
        buckets_gathered=row.n_gathered,
    )


def bucket_of_row(row: sa.Row[Any]) -> BucketDone:
    """Return the record of a row; raise `ValueError` for one that no record gives."""
    return BucketDone(
        bucket=row.bucket,
        totals=totals_from_json(row.totals),
        results_sha256=row.results_sha256,
        seconds=row.seconds,
        finished_at=datetime.fromisoformat(row.finished_at),
    )


def row_of_upload(upload: Upload) -> dict[str, object]:
    """Return the row of a list."""
    return {
        "upload_id": upload.upload_id,
        "owner": upload.population.owner,
        "population": upload.population.name,
        "n_buckets": upload.n_buckets,
        "n_rows": upload.rows,
        "n_ids": upload.ids,
        "duplicates": upload.duplicates,
        "invalid": upload.invalid,
        "uploaded_by": upload.uploaded_by,
        "uploaded_at": upload.uploaded_at.isoformat(),
    }


def upload_of_row(row: sa.Row[Any]) -> Upload:
    """Return the list of a row; raise `ValueError` for one that no list gives."""
    return Upload(
        upload_id=row.upload_id,
        population=PopulationRef(owner=row.owner, name=row.population, version=1, is_standing=False),
        n_buckets=row.n_buckets,
        rows=row.n_rows,
        ids=row.n_ids,
        duplicates=row.duplicates,
        invalid=row.invalid,
        uploaded_by=row.uploaded_by,
        uploaded_at=datetime.fromisoformat(row.uploaded_at),
    )


def totals_to_json(totals: Totals) -> str:
    """Return totals as text."""
    value = {
        "ids": totals.ids,
        "statuses": _counts_to(totals.statuses),
        "origins": {origin.name: count for origin, count in totals.origins.items()},
        "parties": {
            party: {
                "statuses": _counts_to(each.statuses),
                "oldest": each.oldest_event_time,
                "sources": each.sources,
            }
            for party, each in totals.parties.items()
        },
        "histograms": totals.histograms,
    }
    return json.dumps(value, separators=(",", ":"))


def totals_from_json(text: str) -> Totals:
    """Return what `totals_to_json` wrote; raise `ValueError` for anything else."""
    try:
        value = json.loads(text)
        return Totals(
            ids=int(value["ids"]),
            statuses=_counts_from(value["statuses"]),
            origins={Origin[name]: int(count) for name, count in value["origins"].items()},
            parties={
                party: PartyTotals(
                    statuses=_counts_from(each["statuses"]),
                    oldest_event_time=each["oldest"],
                    sources=tuple(map(str, each.get("sources", ()))),  # records of before have none
                )
                for party, each in value["parties"].items()
            },
            histograms=tuple(tuple(int(count) for count in each) for each in value["histograms"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"totals without {error}") from error


def _counts_to(counts: Mapping[SampleStatus, int]) -> dict[str, int]:
    return {status.name: count for status, count in counts.items()}


def _counts_from(value: Mapping[str, int]) -> dict[SampleStatus, int]:
    return {SampleStatus[name]: int(count) for name, count in value.items()}


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
