"""Which participants an initiator's standing populations go to, and how far each has the newest version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from fedpredict.errors import TableCorruptError
from fedpredict.model.standing import PopulationState
from fedpredict.warehouse.base import Column, ColumnType, Partition, TableSchema, Warehouse

DELIVERIES = TableSchema(
    "fp_population_deliveries",
    (
        Column("version", ColumnType.INT),
        Column("state", ColumnType.STRING),
        Column("missing", ColumnType.INT),
        Column("problem", ColumnType.STRING),
        Column("changed_at", ColumnType.TIMESTAMP),
    ),
    (
        Column("owner", ColumnType.STRING),
        Column("population", ColumnType.STRING),
        Column("party", ColumnType.STRING),
    ),
)
"""One row per participant of a population; `missing` counts buckets, `state` is what the participant said last."""


ACCEPTANCES = TableSchema(
    "fp_population_acceptances",
    (Column("version", ColumnType.INT), Column("changed_at", ColumnType.TIMESTAMP)),
    DELIVERIES.partitioned_by,
)
"""One row per participant of a population: the newest version that it answers for, as it said last; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How far a participant has a population.

    Attributes:
        owner: The initiator.
        population: Its name.
        party: The participant.
        version: The version that the rest is about; 0: none was told yet.
        state: What holds of it there; None where it does not know the version.
        missing: How many buckets it lacks.
        problem: Why nothing goes there now; empty otherwise.
        changed_at: When it became so.
    """

    owner: str
    population: str
    party: str
    version: int
    state: PopulationState | None
    missing: int
    problem: str
    changed_at: datetime


def list_deliveries(warehouse: Warehouse, owner: str, population: str | None = None) -> list[Delivery]:
    """Return the participants of an owner's populations, or of one, by population and party.

    Raises:
        TableCorruptError: A row that no delivery gives.
    """
    where: Partition = {"owner": owner} if population is None else {"owner": owner, "population": population}
    names = [column.name for column in (*DELIVERIES.columns, *DELIVERIES.partitioned_by)]
    found = [_delivery(row) for row in warehouse.read(DELIVERIES.name, names, where).to_pylist()]
    return sorted(found, key=lambda each: (each.population, each.party))


def write_delivery(warehouse: Warehouse, delivery: Delivery) -> None:
    """Write a row, in place of what was there."""
    row = {
        "version": delivery.version,
        "state": str(delivery.state or ""),
        "missing": delivery.missing,
        "problem": delivery.problem,
        "changed_at": delivery.changed_at,
    }
    rows = pa.Table.from_pylist([row], schema=DELIVERIES.arrow_schema)
    warehouse.replace(DELIVERIES.name, _partition(delivery), rows)


def remove_deliveries(warehouse: Warehouse, owner: str, population: str) -> None:
    """Remove the rows of a population."""
    for delivery in list_deliveries(warehouse, owner, population):
        warehouse.replace(DELIVERIES.name, _partition(delivery), DELIVERIES.arrow_schema.empty_table())


def accepted_versions(warehouse: Warehouse, owner: str, population: str) -> dict[str, int]:
    """Return the newest version of a population that each participant answers for, as far as known; 0: none."""
    rows = warehouse.read(ACCEPTANCES.name, ["party", "version"], {"owner": owner, "population": population})
    return {str(row["party"]): int(row["version"]) for row in rows.to_pylist()}


def write_acceptance(warehouse: Warehouse, delivery: Delivery, version: int) -> None:
    """Write which version the participant of a delivery answers for, in place of what was there."""
    rows = pa.Table.from_pylist(
        [{"version": version, "changed_at": delivery.changed_at}], schema=ACCEPTANCES.arrow_schema
    )
    warehouse.replace(ACCEPTANCES.name, _partition(delivery), rows)


def _partition(delivery: Delivery) -> Partition:
    return {"owner": delivery.owner, "population": delivery.population, "party": delivery.party}


def _delivery(row: dict[str, object]) -> Delivery:
    state, changed_at = str(row["state"]), row["changed_at"]
    if (state and state not in set(PopulationState)) or not isinstance(changed_at, datetime):
        raise TableCorruptError(f"{DELIVERIES.name}: state {state!r} of {row['population']} at {row['party']}")
    return Delivery(
        owner=str(row["owner"]),
        population=str(row["population"]),
        party=str(row["party"]),
        version=int(str(row["version"])),
        state=PopulationState(state) if state else None,
        missing=int(str(row["missing"])),
        problem=str(row["problem"]),
        changed_at=changed_at,
    )
