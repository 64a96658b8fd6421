"""The feature view that a model is converted for: of which version, and what is to be said about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedpredict.cli.names import nearest
from fedpredict.errors import FeatureNamesError, InputError
from fedpredict.model.partial import PartialModel
from fedpredict.tables.script_store import list_scripts
from fedpredict.tables.views import FeatureView, list_snapshots
from fedpredict.warehouse.base import Warehouse

NOTHING = "there are no features yet; see `fedpredict features load`, `fedpredict view register`"


@dataclass(frozen=True, slots=True)
class ChosenView:
    """A version of a view.

    Attributes:
        view: The version.
        note: What its user should know and do, or an empty text.
    """

    view: FeatureView
    note: str


@dataclass(frozen=True, slots=True)
class _Versions:
    """The versions of one view: all of them, the newest with a snapshot (None: none has one), the newest of all."""

    known: Mapping[int, FeatureView]
    filled: int | None
    newest: int

    @property
    def default(self) -> FeatureView:
        return self.known[self.newest if self.filled is None else self.filled]


def choose_view(
    warehouse: Warehouse, name: str | None, partial: PartialModel, version: int | None = None
) -> ChosenView:
    """Return the newest version with a snapshot of the named view, or the newest registered one where none has any.

    Args:
        warehouse: Where the views are.
        name: The view; None: the only one that has all features.
        partial: The part.
        version: Which version, with or without a snapshot; None: as above.

    Raises:
        InputError: No such view or version; it says which there are.
        FeatureNamesError: No view, or more than one, has all features.
    """
    views = _views(warehouse)
    chosen = _named(views, name) if name is not None else _fitting(views, partial)
    versions = views[chosen]
    if version is not None and version not in versions.known:
        raise InputError(f"view {chosen} has no version {version}: {', '.join(map(str, versions.known))}")
    view = versions.default if version is None else versions.known[version]
    return ChosenView(view, _note(view, versions, is_default=version is None))


def _views(warehouse: Warehouse) -> dict[str, _Versions]:
    filled = [each.view for each in list_snapshots(warehouse)]
    registered = [each.view.feature_view(each.version) for each in list_scripts(warehouse)]
    found: dict[str, _Versions] = {}
    for name in sorted({each.name for each in (*filled, *registered)}):
        known = {each.version: each for each in (*registered, *filled) if each.name == name}
        last = max((each.version for each in filled if each.name == name), default=None)
        found[name] = _Versions(dict(sorted(known.items())), last, max(known))
    return found


def _note(view: FeatureView, versions: _Versions, *, is_default: bool) -> str:
    refresh = f"`fedpredict features refresh {view.name}`"
    if versions.filled is None or view.version > versions.filled:
        return (
            f"note: version {view.version} of view {view.name} has no snapshot: the model answers in mode realtime"
            f" alone, where [realtime] has a source for the view, until {refresh}"
        )
    if is_default and versions.newest > versions.filled:
        return (
            f"note: the model is bound to version {view.version} of view {view.name}; version {versions.newest} is"
            f" registered and has no snapshot yet: for that one, {refresh}, then convert again, or convert with"
            f" --view {view.name} --view-version {versions.newest}"
        )
    return ""


def _named(views: Iterable[str], name: str) -> str:
    if name not in views:
        raise InputError(f"no feature view {name}; {nearest(name, views, NOTHING)}")
    return name


def _fitting(views: Mapping[str, _Versions], partial: PartialModel) -> str:
    if not partial.part.features and len(views) > 1:
        raise FeatureNamesError(
            "the part has no features, so that any view fits: name the one whose sample ids it shall score with --view "
            f"({nearest('', views, NOTHING)})"
        )
    wanted = set(partial.part.features)
    fitting = [name for name, each in views.items() if wanted <= {feature.name for feature in each.default.features}]
    if len(fitting) == 1:
        return fitting[0]
    if len(views) == 1:
        return next(iter(views))  # what it lacks is told by name when the two are matched
    told = ", ".join(fitting) or "none"
    raise FeatureNamesError(
        f"views with all features of the model: {told}; name one with --view ({nearest('', views, NOTHING)})"
    )
