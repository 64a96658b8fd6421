"""A person's row of a task's results, blanked: other rows keep their places, which offsets of readers count."""

from __future__ import annotations

import pyarrow as pa
from sqlglot import exp

from fedpredict.model.prediction import Origin
from fedpredict.model.share import SampleStatus
from fedpredict.tables import sql
from fedpredict.tables.erasure import put_back, work_table
from fedpredict.tables.results import RESULTS, results_partition, stored_results
from fedpredict.warehouse.base import Value, Warehouse

_ID = "fp_erased_id"
_BLANK: dict[str, exp.Expr] = {
    "sample_id": exp.Literal.string(""),
    "status": sql.number(SampleStatus.ID_INVALID),
    "origin": sql.number(Origin.UNSPECIFIED),
    "predictions": exp.null(),
}


def blank_copy(warehouse: Warehouse, task_id: str, bucket: int, sample_id: str, *, with_rank: bool) -> pa.Table:
    """Write the results of a bucket into the table of work with a person's row blanked, and return them by position.

    Such a row keeps position and rank, so that no other row is counted differently; it has an empty id, which nobody
    has, the status ID_INVALID, and no number.

    Raises:
        WarehouseError: As the warehouse says.
    """
    work, partition = work_table(RESULTS), results_partition(task_id, bucket)
    warehouse.ensure(work)
    is_theirs = exp.EQ(this=sql.column("sample_id"), expression=exp.Placeholder(this=_ID))
    columns = [
        sql.named(sql.case(sql.column(name), (is_theirs.copy(), _BLANK[name].copy())), name)
        if name in _BLANK
        else sql.column(name)
        for name in (column.name for column in RESULTS.columns)
    ]
    params: dict[str, Value] = {**partition, _ID: sample_id}
    warehouse.replace_from(work.name, partition, sql.stored(columns, RESULTS.name, partition), params)
    return stored_results(warehouse, task_id, bucket, with_rank=with_rank, table=work.name)


def put_blanked(warehouse: Warehouse, task_id: str, bucket: int) -> None:
    """Make what `blank_copy` wrote the results of a bucket; raise `WarehouseError` as the warehouse says."""
    put_back(warehouse, RESULTS, results_partition(task_id, bucket))
