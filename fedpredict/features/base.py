"""The contract of an online store: the features behind nearline scoring, one snapshot per view version at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa

from fedpredict.features.texts import Texts
from fedpredict.model.arrays import Bools, Floats, Micros
from fedpredict.tables.views import Snapshot


# not frozen, though nobody changes one: a frozen dataclass takes three times as long to make
@dataclass(slots=True, eq=False)
class FeatureRows:
    """The features of some samples, in the order asked.

    Attributes:
        values: Shape (n_samples, n_columns); NaN where the sample is not found or the feature is NULL. NaN and
            infinities of the snapshot are as they are there. Not to be written to: it may be the snapshot itself.
        found: Shape (n_samples,): whether the snapshot has the sample id.
        ambiguous: Shape (n_samples,): whether the sample's latest event time has more than one row.
        event_time: Shape (n_samples,): of the row used; 0 where not found.
        is_clear: True where all are found and none is ambiguous; False says nothing.
        texts: For each column asked for that is text, the texts that its values are positions in; None where no
            column is text. The same object each time, as long as the same snapshot answers for the same columns.
    """

    values: Floats
    found: Bools
    ambiguous: Bools
    event_time: Micros
    is_clear: bool = False
    texts: Mapping[str, Texts] | None = None


class OnlineStore(Protocol):
    """One party's features, by sample id. Calls may come from any thread.

    A reader sees one whole snapshot or another, never a mixture.
    """

    @property
    def is_remote(self) -> bool:
        """Whether it is another server's: calls wait for the network, and what it holds may vanish there.

        `snapshot_of` waits for nothing: it tells what was seen last.
        """

    @property
    def held(self) -> frozenset[tuple[str, int]]:
        """The view versions that the store holds: those served, and those that an earlier process left behind."""

    def publish(self, snapshot: Snapshot, rows: pa.Table) -> None:
        """Replace what is served of the snapshot's view version, at once.

        Args:
            snapshot: What `rows` are a snapshot of.
            rows: `sample_id` (string), `event_time` (timestamp, UTC) and the view's features by column name, in any
                order of rows; other columns are not served. Of one sample id the row with the latest event time counts.

        Raises:
            TableCorruptError: A row has no sample id or no event time; what was served stays.
            StoreError: The store cannot be written; what was served stays.
        """

    def serve(self, snapshot: Snapshot, read: Callable[[], pa.Table]) -> None:
        """Serve a snapshot: as another process left it, else with the rows that `read` returns.

        Of several processes that share a store and ask at the same time, one reads and the others wait for it. Where
        the store is remote and a newer snapshot is served there, it stays. Asking again for what is served makes good
        what a remote store has lost.

        Args:
            snapshot: What to serve of its view version.
            read: Returns the rows, as for `publish`; not called where the store holds the snapshot.

        Raises:
            TableCorruptError, StoreError: As `publish` says; what was served stays.
        """

    def lookup(self, view: str, view_version: int, columns: Sequence[str], sample_ids: Sequence[bytes]) -> FeatureRows:
        """Return features of samples, compared byte by byte; a repeated id is answered each time.

        Args:
            view: The feature view.
            view_version: Its version.
            columns: Names of feature columns, in the order of the answer; text comes as `FeatureRows.texts` says.
            sample_ids: Any bytes; what is no sample id is not found, also where the snapshot has such a row.

        Raises:
            ModelNotReadyError: No snapshot of that view version is served, or it has no such column.
        """

    def snapshot_of(self, view: str, view_version: int) -> Snapshot | None:
        """Return the snapshot that is served of a view version, or None."""

    def drop(self, view: str, view_version: int) -> None:
        """Stop serving a view version and free what it takes; dropping what is not held is harmless."""


@runtime_checkable
class CheckedStore(Protocol):
    """A store that can say whether its server is there and as it should be."""

    def check(self) -> str:
        """Return what is there, in the operator's words; raise `StoreError` where something is wrong."""
