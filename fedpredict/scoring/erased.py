"""What was found of a person in one place, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from fedpredict.warehouse.base import Partition


@dataclass(frozen=True, slots=True)
class Erased:
    """What was found of a person in one place.

    Attributes:
        table: The table.
        place: The partition, as `name=value`, or the snapshot of a view.
        found: Rows.
        removed: Of these, those that are gone now.
        note: Why the others are not, or nobody knows whether there are any; empty where none is left.
    """

    table: str
    place: str
    found: int
    removed: int
    note: str = ""


def place_of(partition: Partition) -> str:
    """Return a partition as people are told of it."""
    return ", ".join(f"{name}={value}" for name, value in partition.items())
