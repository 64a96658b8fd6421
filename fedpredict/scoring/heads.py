"""Keeps an initiator's heads loaded: those that its warehouse has now, and new ones when they appear."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from itertools import groupby

from fedpredict.errors import FedPredictError, ModelConflictError, WarehouseUnavailableError
from fedpredict.model.head import HeadShelf, LoadedHead
from fedpredict.tables.head_version import HeadVersion
from fedpredict.tables.heads import list_heads, load_head
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)


class HeadLoader:
    """Keeps a `HeadShelf` up to date with one party's warehouse.

    The newest heads of a model are loaded, as many as versions of a part; each is verified against its digest. One
    that cannot be loaded is a problem of its model alone, and a warehouse that is away changes nothing.
    """

    def __init__(self, warehouse: Warehouse, party: str, *, keep: int) -> None:
        """Load nothing yet; call `refresh`.

        Args:
            warehouse: The party's own.
            party: The party's id; heads of other parties are refused.
            keep: How many heads of a model stay loaded.
        """
        self._warehouse = warehouse
        self._party = party
        self._keep = keep
        self._shelf = HeadShelf()

    @property
    def shelf(self) -> HeadShelf:
        """What can be finished with at this moment."""
        return self._shelf

    def refresh(self) -> HeadShelf:
        """Read what is new in the warehouse and return the new shelf; blocks, raises no error of the warehouse's."""
        before = self._shelf
        try:
            after = self._read()
        except FedPredictError as error:
            logger.warning("heads.unread", extra={"reason": str(error)})
            return before
        self._shelf = after
        _log_changes(before, after)
        return after

    def _read(self) -> HeadShelf:
        heads: dict[str, tuple[LoadedHead, ...]] = {}
        problems: dict[str, str] = {}
        listed = sorted(list_heads(self._warehouse), key=lambda each: each.model_id)  # of one model the newest first
        for model_id, of_model in groupby(listed, key=lambda each: each.model_id):
            heads[model_id] = tuple(self._loaded(list(of_model)[: self._keep], problems))
        return HeadShelf(heads, problems)

    def _loaded(self, versions: Iterable[HeadVersion], problems: dict[str, str]) -> Iterable[LoadedHead]:
        for version in versions:
            known = self._shelf.version(version.model_id, version.head_sha256)
            try:
                yield known or self._load(version)
            except WarehouseUnavailableError:
                raise
            except FedPredictError as error:
                problems.setdefault(version.model_id, str(error))

    def _load(self, version: HeadVersion) -> LoadedHead:
        if version.party != self._party:
            raise ModelConflictError(f"the head is party {version.party}'s; this process serves {self._party}")
        return LoadedHead(load_head(self._warehouse, version), version.head_sha256)


def _log_changes(before: HeadShelf, after: HeadShelf) -> None:
    for model_id, problem in after.problems.items():
        if before.problems.get(model_id) != problem:
            logger.warning("head.problem", extra={"model": model_id, "problem": problem})
    old, new = _named(before.heads), _named(after.heads)
    for event, keys in (("head.loaded", new - old), ("head.unloaded", old - new)):
        for model_id, digest in sorted(keys):
            logger.info(event, extra={"model": model_id, "head_sha256": digest})


def _named(heads: Mapping[str, tuple[LoadedHead, ...]]) -> set[tuple[str, str]]:
    return {(model_id, each.head_sha256) for model_id, of_model in heads.items() for each in of_model}
