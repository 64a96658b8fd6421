"""Models and snapshots, from the warehouse into memory, and again whenever the warehouse has new ones."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

import pyarrow as pa

from fedpredict.errors import (
    FedPredictError,
    ModelConflictError,
    ModelNotReadyError,
    TableCorruptError,
    WarehouseUnavailableError,
)
from fedpredict.features.base import OnlineStore
from fedpredict.model.combination import combination_of
from fedpredict.model.manifest import PartDescription
from fedpredict.model.part import Part
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.scoring.stored import StoredShares, views_of
from fedpredict.scoring.texts import TextCodes
from fedpredict.tables.models import ModelVersion, list_versions, load_model, served_versions
from fedpredict.tables.names import column_names
from fedpredict.tables.registered import max_ages
from fedpredict.tables.schemas import MODELS
from fedpredict.tables.views import Snapshot, latest_snapshot, read_snapshot_rows
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Round:
    """One refresh under way."""

    loaded: dict[tuple[str, str], LoadedModel] = field(default_factory=dict)
    current: dict[str, LoadedModel] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


class ModelLoader:
    """Keeps a `PartyState` and an online store up to date with one party's warehouse.

    - The newest version of every model and the versions before it are loaded, until `keep_versions` different digests
      are; a version is verified against its digest before it can be scored.
    - What cannot be loaded is a problem of that model alone: its versions that are loaded stay, the other models do
      not notice, and the next refresh tries again.
    - A warehouse that is away changes nothing: what was loaded is served on.
    - A model that the warehouse no longer lists is unloaded: an operator deleted it. Where the whole table of models is
      gone, the warehouse is taken to be away.
    - A problem is logged when it comes, changes or goes, not at every refresh.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        party: str,
        store: OnlineStore,
        *,
        keep_versions: int = 3,
        fills_store: bool = True,
        computed: Collection[str] = (),
    ) -> None:
        """Load nothing yet; call `refresh`.

        Args:
            warehouse: The party's own.
            party: The party's id; parts of other parties are refused.
            store: Gets the snapshots that the models need.
            keep_versions: How many digests of a model stay loaded.
            fills_store: Whether snapshots and stored shares go to the store; where not, a model is ready without.
            computed: Views that are computed when they are asked for: that such a one has no snapshot is no problem.
        """
        self._computed = computed
        self._warehouse = warehouse
        self._party = party
        self._store = store
        self._shares = StoredShares(warehouse, store)
        self._keep_versions = keep_versions
        self._fills_store = fills_store
        self.loaded_at: dict[tuple[str, int], float] = {}
        """View and version -> when its snapshot was loaded, in seconds since 1970 UTC."""
        self._state = PartyState()
        self._lock = threading.Lock()

    @property
    def state(self) -> PartyState:
        """What can be scored at this moment."""
        return self._state

    def is_ready(self, model_id: str) -> bool:
        """Return whether the newest loaded version of a model can be scored: it and its features are there."""
        model = self._state.current.get(model_id)
        if model is None or not self._fills_store:
            return model is not None
        return self._store.snapshot_of(model.view, model.view_version) is not None

    def refresh(self) -> PartyState:
        """Read what is new in the warehouse and return the new state; blocks, raises no error of the warehouse's."""
        with self._lock:
            before = self._state
            try:
                after = self._read()
            except FedPredictError as error:
                after = replace(before, warehouse_problem=str(error))
            self._state = after
            self._drop_unused(after)
            _log_changes(before, after)
            return after

    def _read(self) -> PartyState:
        done = _Round()
        versions = sorted(self._list(done), key=lambda each: (each.model_id, -each.version))
        if self._state.loaded and not versions:
            self._check_table_is_there()
        for model_id, of_model in groupby(versions, key=lambda each: each.model_id):
            self._read_model(model_id, served_versions(of_model, self._keep_versions), done)
        if self._fills_store:
            # snapshots first: a model becomes visible when its features are there
            self._read_snapshots(done)
            for model_id, problem in self._shares.refresh(done.loaded).items():
                done.problems.setdefault(model_id, problem)
        return PartyState(current=done.current, loaded=done.loaded, problems=done.problems, read_once=True)

    def _list(self, done: _Round) -> list[ModelVersion]:
        try:
            return list_versions(self._warehouse)
        except TableCorruptError:
            model_ids = self._model_ids()
            if not model_ids:
                raise
        versions: list[ModelVersion] = []
        for model_id in model_ids:
            try:
                versions += list_versions(self._warehouse, model_id)
            except TableCorruptError as error:
                self._keep(model_id, str(error), done)
        return versions

    def _model_ids(self) -> set[str]:
        try:
            return set(self._warehouse.read(MODELS.name, ["model_id"], {}).column("model_id").to_pylist())
        except TableCorruptError:
            return set(self._state.current) | set(self._state.problems)

    def _keep(self, model_id: str, problem: str, done: _Round) -> None:
        """Serve on what is loaded of a model whose versions cannot be listed."""
        done.problems[model_id] = problem
        done.loaded.update({key: model for key, model in self._state.loaded.items() if key[0] == model_id})
        if model_id in self._state.current:
            done.current[model_id] = self._state.current[model_id]

    def _check_table_is_there(self) -> None:
        """Tell a warehouse whose last model was deleted from one that lost its table, such as a disk not mounted."""
        rows = self._warehouse.read(MODELS.name, ["model_id"], {})
        if pa.types.is_null(rows.schema.field("model_id").type):
            raise WarehouseUnavailableError(f"table {MODELS.name} is gone; what was loaded is served on")

    def _read_model(self, model_id: str, versions: list[ModelVersion], done: _Round) -> None:
        for version in versions:
            try:
                model = self._state.loaded.get((model_id, version.params_sha256)) or self._load(version)
            except WarehouseUnavailableError:
                raise
            except (FedPredictError, ValueError) as error:
                done.problems.setdefault(model_id, f"version {version.version}: {error}")
                continue
            done.loaded[model_id, version.params_sha256] = model
            done.current.setdefault(model_id, model)

    def _load(self, version: ModelVersion) -> LoadedModel:
        if version.party != self._party:
            raise ModelConflictError(f"is the part of party {version.party}; this process serves {self._party}")
        part = load_model(self._warehouse, version).part
        column_of = column_names(part.features)
        return LoadedModel(
            description=_description(version, self._party, part),
            part=part,
            view=version.view,
            view_version=version.view_version,
            columns=tuple(column_of[name] for name in part.features),
            max_age=max_ages(self._warehouse, version.view, version.view_version),
        )

    def _read_snapshots(self, done: _Round) -> None:
        served: dict[tuple[str, int], str] = {}
        for model in done.loaded.values():
            name = (model.view, model.view_version)
            if name not in served:
                served[name] = self._read_snapshot(*name)
        for model_id, model in done.current.items():
            problem = served[model.view, model.view_version] or self._unfit_columns(model)
            if problem:
                done.problems.setdefault(model_id, problem)

    def _read_snapshot(self, view: str, view_version: int) -> str:
        """Publish the newest snapshot of a view version if it is not served yet; return what is wrong, or nothing."""
        try:
            newest = latest_snapshot(self._warehouse, view, view_version)
            if newest is None:
                return (
                    ""
                    if view in self._computed
                    else f"view {view} version {view_version} has no snapshot; load its features"
                )
            served = self._store.snapshot_of(view, view_version)
            # a remote store may have lost what it served
            if served is None or served.snapshot != newest.snapshot or self._store.is_remote:
                self._publish(newest)
        except WarehouseUnavailableError:
            raise
        except FedPredictError as error:
            return f"view {view} version {view_version}: {error}"
        return ""

    def _publish(self, snapshot: Snapshot) -> None:
        columns = ["sample_id", "event_time", *(feature.column for feature in snapshot.view.features)]
        view = snapshot.view
        before = self._store.snapshot_of(view.name, view.version)
        self._store.serve(snapshot, lambda: read_snapshot_rows(self._warehouse, snapshot, columns))
        if before is not None and before == self._store.snapshot_of(view.name, view.version):
            return
        self.loaded_at[view.name, view.version] = time.time()
        extra = {
            "view": view.name,
            "view_version": view.version,
            "snapshot": snapshot.snapshot,
            "n_rows": snapshot.n_rows,
        }
        logger.info("snapshot.loaded", extra=extra)

    def _unfit_columns(self, model: LoadedModel) -> str:
        """Return which columns the served snapshot lacks or has in another type; else nothing, and it reads texts."""
        served = self._store.snapshot_of(model.view, model.view_version)
        if served is None:
            return ""
        types = {feature.column: feature.type for feature in served.view.features}
        missing = sorted(set(model.columns) - set(types))
        if missing:
            return f"view {model.view} has no column {', '.join(missing)}"
        try:
            # no rows, but the texts: so no request has to wait for what is made of them
            rows = self._store.lookup(model.view, model.view_version, model.columns, ())
            (model.texts or TextCodes(model.part, model.columns)).tables(rows.texts)
        except ModelNotReadyError as error:
            return str(error)
        return ""

    def _drop_unused(self, state: PartyState) -> None:
        # with the warehouse away, nobody knows what a file of an earlier run is good for
        if state.warehouse_problem:
            return
        views = state.views | views_of(state.loaded)
        for view, view_version in sorted(self._store.held - views):
            self._store.drop(view, view_version)
            self.loaded_at.pop((view, view_version), None)


def _description(version: ModelVersion, party: str, part: Part) -> PartDescription:
    return PartDescription(
        party=party,
        model_id=version.model_id,
        params_sha256=version.params_sha256,
        training_run=version.training_run,
        kind=version.kind,
        link=version.link,
        classes=version.classes,
        n_scores=version.n_scores,
        holds_intercept=version.holds_intercept,
        fit_intercept=version.fit_intercept,
        combination=combination_of(part),
    )


def _log_changes(before: PartyState, after: PartyState) -> None:
    if after.warehouse_problem != before.warehouse_problem:
        if after.warehouse_problem:
            logger.warning("warehouse.problem", extra={"problem": after.warehouse_problem})
        else:
            logger.info("warehouse.recovered")
    for model_id, problem in after.problems.items():
        if before.problems.get(model_id) != problem:
            logger.warning("model.problem", extra={"model": model_id, "problem": problem})
    for model_id in sorted(before.problems.keys() - after.problems.keys()):
        logger.info("model.recovered", extra={"model": model_id})
    _log_versions("model.loaded", after.loaded, before.loaded)
    _log_versions("model.unloaded", before.loaded, after.loaded)


def _log_versions(
    event: str, some: Mapping[tuple[str, str], LoadedModel], others: Mapping[tuple[str, str], LoadedModel]
) -> None:
    for model_id, digest in sorted(some.keys() - others.keys()):
        logger.info(event, extra={"model": model_id, "params_sha256": digest})
