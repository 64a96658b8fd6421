"""Where a family's statement takes features from: a snapshot as it stands, or what preprocessing makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedpredict.tables import sql
from fedpredict.tables.names import column_names
from fedpredict.tables.views import Snapshot

if TYPE_CHECKING:
    from sqlglot import exp


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of features for a statement.

    Attributes:
        column_of: Feature -> the name of its column.
        rows: Names of columns -> a query for them, all rows of the snapshot, every sample id as often as it is there.
        flags: Names of columns that the rows have besides: whether a feature that must not miss does (1 or 0), and
            whether one is infinite or not valid. A family adds them to its own; None where there are none.
    """

    column_of: Mapping[str, str]
    rows: Callable[[Sequence[str]], exp.Select]
    flags: tuple[str, str] | None = None


def source_of(snapshot: Snapshot, features: Sequence[str]) -> Source:
    """Return features of a snapshot as they stand in the feature table."""
    return Source(
        column_names(features),
        lambda columns: sql.stored(sql.columns_of(*columns), snapshot.view.schema.name, snapshot.partition),
    )
