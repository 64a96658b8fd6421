"""What erasures that were killed left in tables of work: the next one removes it, whoever that is for.

Who erases holds a lease, so what is in such a table before the first row is written anew is nobody's any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fedpredict.errors import StatementError
from fedpredict.scoring.erased import Erased, place_of
from fedpredict.tables import erasure
from fedpredict.tables.erasure import CopiedFrom, Copy, copies_left, work_name
from fedpredict.tables.script_store import list_scripts
from fedpredict.tables.shares import SHARES
from fedpredict.tables.views import list_snapshots
from fedpredict.warehouse.base import Warehouse


def from_copies(warehouse: Warehouse, tables: Iterable[str], sample_id: str, *, keep: bool = False) -> list[Erased]:
    """Remove all that is left in the tables of work of some tables, and say where a person was in it.

    Args:
        warehouse: The party's.
        tables: Names; what they hold is there still where a call was killed, or can be made again.
        sample_id: Whose.
        keep: Change nothing, and say what is there.

    Raises:
        WarehouseError: As the warehouse says.
    """
    places = [CopiedFrom(table) for table in sorted(set(tables))]
    return _from(warehouse, places, sample_id, irreplaceable=(), keep=keep)


def from_party_copies(
    warehouse: Warehouse, raw: Collection[CopiedFrom], sample_id: str, *, keep: bool = False
) -> list[Erased]:
    """Do the same for snapshots, stored shares, and raw tables of this warehouse.

    A copy of a raw partition that has fewer rows by now stays, and is told: it may be all that is left of it.
    """
    made = {each.view.schema.name for each in list_snapshots(warehouse)} | {SHARES.name}
    made |= {each.view.feature_view(each.version).schema.name for each in list_scripts(warehouse)}
    found = from_copies(warehouse, made, sample_id, keep=keep)
    return found + _from(warehouse, raw, sample_id, irreplaceable={each.table for each in raw}, keep=keep)


def _from(
    warehouse: Warehouse,
    places: Collection[CopiedFrom],
    sample_id: str,
    *,
    irreplaceable: Collection[str],
    keep: bool,
) -> list[Erased]:
    left: list[Copy] = []
    found: list[Erased] = []
    for each in places:
        try:
            left += copies_left(warehouse, each, sample_id)
        except StatementError as error:
            found.append(Erased(work_name(each.table), "", 0, 0, f"it cannot be read, look there: {error}"))
    for copy in left:  # a table may hold ids in two columns, and is then looked at twice
        why = _why_kept(warehouse, copy) if copy.table in irreplaceable else ""
        if not (why or keep):
            erasure.forget_copies(warehouse, copy)
        if copy.n_theirs or why:
            n_removed = 0 if why or keep else copy.n_theirs
            found.append(Erased(work_name(copy.table), place_of(copy.partition), copy.n_theirs, n_removed, why))
    return found


def _why_kept(warehouse: Warehouse, copy: Copy) -> str:
    n_there = erasure.count_rows(warehouse, copy.table, copy.partition)
    if n_there is None or n_there >= copy.n_rows:
        return ""
    return (
        f"an erasure that was killed left it, and {copy.table} has fewer rows there ({n_there}, not {copy.n_rows}): put"
        " them back, or remove them here, and repeat"
    )
