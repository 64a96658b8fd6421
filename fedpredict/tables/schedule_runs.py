"""How the last run of each scheduled job ended: one row each, in the party's warehouse, for people and daemons."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.tables.schemas import RUNS
from fedpredict.warehouse.base import Warehouse

DONE, FAILED = "done", "failed"
HELD = "held"
"""Of a run that found another process at it, which records its own."""
MAX_PROBLEM = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The last run of a job.

    Attributes:
        job: Its name.
        due: The instant that it was for, UTC.
        outcome: `done` or `failed`.
        problem: What went wrong; empty where it is done.
        started_at: UTC.
        finished_at: UTC.
        done_due: The newest due instant that a run of this job made; None where none did.
        host: Where it ran.
    """

    job: str
    due: datetime
    outcome: str
    problem: str
    started_at: datetime
    finished_at: datetime
    done_due: datetime | None
    host: str


def write_run(warehouse: Warehouse, run: Run) -> None:
    """Write a job's row in place of what was there.

    Raises:
        WarehouseError: As the warehouse says.
    """
    row = {column.name: getattr(run, column.name) for column in RUNS.columns}
    row["problem"] = run.problem[:MAX_PROBLEM]
    warehouse.ensure(RUNS)
    warehouse.replace(RUNS.name, {"job": run.job}, pa.Table.from_pylist([row], schema=RUNS.arrow_schema))


def list_runs(warehouse: Warehouse) -> dict[str, Run]:
    """Return the last run of each job that ran, by name.

    Raises:
        TableCorruptError: A row that no run gives.
        WarehouseError: As the warehouse says.
    """
    names = ["job", *(column.name for column in RUNS.columns)]
    return {str(row["job"]): _run(row) for row in warehouse.read(RUNS.name, names, {}).to_pylist()}


def _run(row: dict[str, object]) -> Run:
    try:
        return Run(
            job=str(row["job"]),
            due=_instant(row["due"]),
            outcome=str(row["outcome"]),
            problem=str(row["problem"] or ""),
            started_at=_instant(row["started_at"]),
            finished_at=_instant(row["finished_at"]),
            done_due=None if row["done_due"] is None else _instant(row["done_due"]),
            host=str(row["host"]),
        )
    except TypeError as error:
        raise TableCorruptError(f"{RUNS.name} has a damaged row for job {row['job']}; delete that partition") from error


def _instant(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no instant")
    return value.astimezone(UTC)
