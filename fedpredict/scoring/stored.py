"""Stored shares in the online store: served of the newest day that is whole, and looked up by sample id."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from fedpredict.errors import FedPredictError, ModelNotReadyError, TableCorruptError, WarehouseUnavailableError
from fedpredict.features.base import OnlineStore
from fedpredict.model.arrays import Micros
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.manifest import PartDescription
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus, Share, build_share
from fedpredict.scoring.inputs import NEVER
from fedpredict.tables.share_rows import read_shares
from fedpredict.tables.shares import (
    VIEW_VERSION,
    ShareTask,
    list_tasks,
    shares_columns,
    shares_snapshot,
    shares_view,
)
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)


class StoredShares:
    """Keeps an online store up to date with the shares that tasks have stored in a warehouse."""

    def __init__(self, warehouse: Warehouse, store: OnlineStore) -> None:
        """Read nothing yet.

        Args:
            warehouse: The party's.
            store: Gets the shares, as snapshots of views of their own.
        """
        self._warehouse = warehouse
        self._store = store

    def refresh(self, loaded: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Serve the shares of the newest day that is whole, of each model and digest that has one.

        A day that is begun again is not whole until it is done; meanwhile what was served of it is served on.

        Args:
            loaded: (model id, params_sha256) of what can be asked for.

        Returns:
            Model id -> what is wrong with its shares.

        Raises:
            WarehouseUnavailableError: The warehouse cannot be read.
        """
        try:
            newest = _newest(list_tasks(self._warehouse))
        except TableCorruptError as error:
            return {model_id: str(error) for model_id, _ in loaded}
        problems = {}
        for key in sorted(set(loaded) & newest.keys()):
            try:
                self._serve(newest[key])
            except WarehouseUnavailableError:
                raise
            except FedPredictError as error:
                problems[key[0]] = f"stored shares of {newest[key].day}: {error}"
        return problems

    def _serve(self, task: ShareTask) -> None:
        snapshot = shares_snapshot(task)
        served = self._store.snapshot_of(snapshot.view.name, VIEW_VERSION)
        is_newer = served is None or served.snapshot < snapshot.snapshot
        if is_newer or self._store.is_remote:  # a remote store may have lost what it served
            self._store.serve(snapshot, lambda: read_shares(self._warehouse, task))
        if is_newer:
            extra = {"model": task.model_id, "params_sha256": task.params_sha256, "day": task.day.isoformat()}
            logger.info("shares.loaded", extra={**extra, "n_ids": task.n_ids})


def views_of(loaded: Iterable[tuple[str, str]]) -> set[tuple[str, int]]:
    """Return the views that the stored shares of models are served as, whether or not there are any."""
    return {(shares_view(model_id, digest), VIEW_VERSION) for model_id, digest in loaded}


def stored_share(
    store: OnlineStore, model: PartDescription, sample_ids: Sequence[bytes], oldest: int | None = None
) -> tuple[Share, Micros]:
    """Return the stored share of samples, and the event time of each that is OK, `NEVER` of the others.

    Args:
        store: Serves the shares.
        model: Whose: the shares are those of its digest, and of no other.
        sample_ids: An id that has no share is NOT_FOUND, what is no sample id ID_INVALID.
        oldest: The event time before which a share is STALE, in microseconds; None: none is.

    Raises:
        ModelNotReadyError: No shares of that digest are served.
    """
    columns = shares_columns(model.n_scores)
    try:
        rows = store.lookup(shares_view(model.model_id, model.params_sha256), VIEW_VERSION, columns, sample_ids)
    except ModelNotReadyError as error:
        raise ModelNotReadyError(
            f"model {model.model_id}: no day's shares of version {model.params_sha256[:12]} are stored; "
            "`fedpredict task score` stores them"
        ) from error
    status = np.where(rows.found, rows.values[:, 0], SampleStatus.NOT_FOUND).astype(np.uint8)
    if not rows.found.all():
        absent = ~rows.found
        valid = valid_sample_ids(SampleIds.of(sample_ids).select(absent))
        status[absent] = np.where(valid, np.uint8(SampleStatus.NOT_FOUND), np.uint8(SampleStatus.ID_INVALID))
    if oldest is not None:
        status[(status == SampleStatus.OK) & (rows.event_time < oldest)] = SampleStatus.STALE
    share = build_share(rows.values[:, 1:], status)
    return share, np.where(status == SampleStatus.OK, rows.event_time, NEVER)


def _newest(tasks: Iterable[ShareTask]) -> dict[tuple[str, str], ShareTask]:
    """Return the finished task of the newest day, by model id and digest."""
    newest: dict[tuple[str, str], ShareTask] = {}
    for task in tasks:  # by day
        if task.finished_at is not None:
            newest[task.model_id, task.params_sha256] = task
    return newest
