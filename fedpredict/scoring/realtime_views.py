"""The views that a process computes when they are asked for: opened as models need them, and their dimensions kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

from fedpredict.errors import (
    FedPredictError,
    FeedNotFoundError,
    LeaseHeldError,
    ModelNotReadyError,
    ViewRefusedError,
)
from fedpredict.features.event_feed import Feed, feed_of
from fedpredict.features.raw import RawSource, read_typed
from fedpredict.features.realtime import QueryEngine, RealtimeView
from fedpredict.scoring.realtime import no_views, not_computed
from fedpredict.scoring.realtime_settings import EVENTS, RealtimeSettings
from fedpredict.state.event_base import EventStore
from fedpredict.tables.script import duplicates_query
from fedpredict.tables.script_store import RegisteredView, list_scripts
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

PRUNE_EVERY_S = 3600.0
PRUNE_AT_ONCE = 20_000
"""Events that one look removes; the next one goes on."""
DAY_US = 86_400_000_000

Key: TypeAlias = tuple[str, int]
HoldPruning: TypeAlias = Callable[[], AbstractContextManager[object]]
OpenSource: TypeAlias = Callable[[RegisteredView, Sequence[RegisteredView]], RawSource]
"""A registered view, and all of them -> where its raw rows are."""


class RealtimeViews:
    """What mode realtime computes; `refresh` and questions may come from different threads."""

    def __init__(
        self,
        warehouse: Warehouse,
        settings: RealtimeSettings,
        engine: QueryEngine,
        open_source: OpenSource,
        *,
        events: EventStore | None = None,
        keep_days: int | None = None,
        alone: HoldPruning | None = nullcontext,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open nothing yet; call `refresh`.

        Args:
            warehouse: Where views are registered and dimensions are; its owner closes it.
            settings: By view, where its raw rows are.
            engine: For what numpy does not compute; closed by `close`.
            open_source: Opens the source of a view that is asked for.
            events: The event store, if this party has one; closed by `close`.
            keep_days: How long events are kept.
            alone: Holds, for a block, what only one process at a time has: the removal of older events; raises
                `LeaseHeldError` where another one has it. None: this process removes none.
            clock: Seconds since 1970 UTC.
        """
        self.events = events
        self._warehouse = warehouse
        self._settings = settings
        self._engine = engine
        self._open_source = open_source
        self._keep_days = keep_days
        self._alone = alone
        self._clock = clock
        self._opened: dict[Key, RealtimeView] = {}
        self._views: dict[Key, RealtimeView] = {}  # of these, whose dimensions were read
        self._sources: list[RawSource] = []
        self._read_at: dict[Key, float] = {}
        self._problems: dict[Key | None, str] = {}  # None: of all views
        self._scripts: Mapping[Key, RegisteredView] = {}
        self._feeds: Mapping[str, Feed] = {}
        self._looked = False
        self._pruned_at: float | None = None

    def __call__(self, view: str, view_version: int) -> RealtimeView:
        """Return what computes a version of a view.

        Raises:
            UnsupportedModeError: The settings name no source for the view, or it has no script.
            ModelNotReadyError: It could not be opened yet.
        """
        key = (view, view_version)
        if view not in self._settings:
            return no_views(view, view_version)
        found = self._views.get(key)
        if found is not None:
            return found
        if self._looked and key not in self._scripts:
            why = f"version {view_version} was loaded from files; a script comes by `fedpredict view register`"
            raise not_computed(view, why)
        raise ModelNotReadyError(f"view {view}: {self._problems.get(key, 'its script is being read')}")

    @property
    def names(self) -> frozenset[str]:
        """The views that the settings name a source for."""
        return frozenset(self._settings)

    def is_ready(self, view: str, view_version: int) -> bool:
        """Return whether a version of a view can be computed now, as far as is known."""
        key = (view, view_version)
        return key in self._views

    def feed(self, view: str) -> Feed:
        """Return the feed that takes the events of a view.

        Raises:
            FeedNotFoundError: The view is not registered, or its source is not the event store.
        """
        found = self._feeds.get(view)
        if found is None:
            raise FeedNotFoundError(
                f"view {view} takes no events: it needs a script, and events as its source under [realtime]"
            )
        return found

    def refresh(self, needed: Iterable[Key]) -> None:
        """Open the views that models read, and read what is old of their dimensions; blocks, raises nothing.

        Args:
            needed: View and version of every loaded model.
        """
        try:
            scripts = {(each.view.name, each.version): each for each in list_scripts(self._warehouse)}
        except FedPredictError as error:
            self._tell(None, str(error))
            return
        self._tell(None, "")
        if scripts.keys() != self._scripts.keys():  # a version never changes
            self._feeds = self._feeds_of(scripts)
        self._scripts, self._looked = scripts, True
        for key in sorted({key for key in needed if key[0] in self._settings} & scripts.keys()):
            try:
                self._refresh_view(key)
                problem = ""
            except FedPredictError as error:
                problem = str(error)
            self._tell(key, problem)
        self._prune()

    def close(self) -> None:
        """Close what was opened; closing twice is harmless."""
        for source in self._sources:
            source.close()
        if self.events is not None:
            self.events.close()
        self._engine.close()

    def _feeds_of(self, scripts: Mapping[Key, RegisteredView]) -> dict[str, Feed]:
        """Return the feed of the newest version of each view that takes events; it takes a parser's time."""
        newest = {name: scripts[name, version] for name, version in sorted(scripts)}
        found: dict[str, Feed] = {}
        for name in (name for name, each in self._settings.items() if each.source == EVENTS and name in newest):
            try:
                found[name] = feed_of(newest[name], scripts.values())
            except FedPredictError as error:
                logger.warning("realtime.problem", extra={"view": name, "problem": str(error)})
        return found

    def _refresh_view(self, key: Key) -> None:
        view = self._opened.get(key)
        if view is None:
            source = self._open_source(self._scripts[key], list(self._scripts.values()))
            self._sources.append(source)
            view = self._opened[key] = RealtimeView(self._scripts[key], source, self._engine)
        max_age_s = self._settings[key[0]].dimension_max_age / 1e6
        now = self._clock()
        if key not in self._read_at or now - self._read_at[key] >= max_age_s:
            self._read_dimensions(view)
            self._read_at[key] = now
        self._views[key] = view

    def _read_dimensions(self, view: RealtimeView) -> None:
        for alias, source in view.dimensions.items():
            repeated = self._warehouse.run(duplicates_query(source), {}).column("n")[0].as_py()
            if repeated:
                raise ViewRefusedError(f"dimension {alias} ({source.table}) has {repeated} keys with more than one row")
        tables = {alias: read_typed(self._warehouse, source) for alias, source in view.dimensions.items()}
        view.put_dimensions(tables)

    def _tell(self, key: Key | None, problem: str) -> None:
        """Log a problem when it comes, changes or goes."""
        if self._problems.get(key, "") == problem:
            return
        extra: dict[str, object] = {} if key is None else {"view": key[0], "view_version": key[1]}
        if problem:
            self._problems[key] = problem
            logger.warning("realtime.problem", extra={**extra, "problem": problem})
        else:
            self._problems.pop(key, None)
            logger.info("realtime.recovered", extra=extra)

    def _prune(self) -> None:
        now = self._clock()
        if self.events is None or self._keep_days is None or self._alone is None:
            return
        if self._pruned_at is None:  # the first look makes models ready, and nothing else
            self._pruned_at = now - PRUNE_EVERY_S
            return
        if now - self._pruned_at < PRUNE_EVERY_S:
            return
        before = int(now * 1e6) - self._keep_days * DAY_US
        try:
            with self._alone():
                n_removed = self.events.remove(before=before, at_most=PRUNE_AT_ONCE)
        except LeaseHeldError as error:  # whoever has it removes them all
            self._pruned_at = now
            logger.info("events.pruned_elsewhere", extra={"reason": str(error)})
            return
        except FedPredictError as error:
            self._pruned_at = now
            logger.warning("events.problem", extra={"problem": str(error)})
            return
        if n_removed < PRUNE_AT_ONCE:
            self._pruned_at = now
        if n_removed:
            logger.info("events.pruned", extra={"events": n_removed, "keep_days": self._keep_days})
