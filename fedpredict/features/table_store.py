"""What the stores of this package have in common: they serve tables that this process holds or maps."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from fedpredict.errors import ModelNotReadyError
from fedpredict.features.base import FeatureRows, OnlineStore
from fedpredict.features.table import FeatureTable
from fedpredict.tables.views import Snapshot


class TableStore(OnlineStore):
    """A table for each view version; where tables come from is the subclass's business.

    A table is put in place by one assignment, so that readers need no lock.
    """

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int], FeatureTable] = {}

    @property
    @override
    def is_remote(self) -> bool:
        """No: tables are this process's, or mapped by it."""
        return False

    @override
    def lookup(self, view: str, view_version: int, columns: Sequence[str], sample_ids: Sequence[bytes]) -> FeatureRows:
        """Return features of samples from the table that is served at this moment."""
        table = self._tables.get((view, view_version))
        if table is None:
            raise ModelNotReadyError(f"no snapshot of view {view} version {view_version} is loaded")
        return table.lookup(columns, sample_ids)

    @override
    def snapshot_of(self, view: str, view_version: int) -> Snapshot | None:
        """Return what this process serves at this moment."""
        table = self._tables.get((view, view_version))
        return None if table is None else table.snapshot

    def n_bytes(self, view: str, view_version: int) -> int:
        """Return how many bytes a view version takes, in memory or mapped; 0 where it is not served."""
        table = self._tables.get((view, view_version))
        return 0 if table is None else table.n_bytes
