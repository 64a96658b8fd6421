"""Models that rules name and a party does not know: mostly a slip of the pen. A model may come later: no error."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from fedpredict.cli import wiring
from fedpredict.cli.names import nearest
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.rules import RuleSettings
from fedpredict.security.settings import ALL_MODELS

if TYPE_CHECKING:
    from fedpredict.warehouse.base import Warehouse

NONE_CONVERTED, NONE_ANSWERED = "this party has no model yet", "there is no [models] yet"
"""Hints where a participant, or an initiator, knows no model at all."""


def unknown_models(rules: Mapping[str, RuleSettings], models: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (caller, model) for each model that a caller may ask for and that is not among `models`."""
    for caller, rule in rules.items():
        yield from ((caller, name) for name in rule.models if name not in (ALL_MODELS, *models))


def unknown_at_participant(settings: ParticipantSettings, warehouse: Warehouse) -> list[str]:
    """Return a sentence for each model in `[callers]` that was not converted here; reads the warehouse."""
    from fedpredict.tables.models import current_versions  # noqa: PLC0415  slow to import

    return _told(settings.callers, current_versions(warehouse), NONE_CONVERTED)


def unknown_at_initiator(settings: InitiatorSettings) -> list[str]:
    """Return a sentence for each model in `[clients]` that is not in `[models]`."""
    return _told(settings.clients, settings.models, NONE_ANSWERED)


def unknown_at(loaded: wiring.LoadedParty) -> list[str]:
    """Return what the settings of either role name and their party does not know; opens a participant's warehouse.

    Raises:
        FedPredictError: The warehouse cannot be read.
    """
    settings = loaded.settings
    if isinstance(settings, InitiatorSettings):
        return unknown_at_initiator(settings)
    warehouse = wiring.open_loaded_warehouse(loaded)
    try:
        return unknown_at_participant(settings, warehouse)
    finally:
        warehouse.close()


def _told(rules: Mapping[str, RuleSettings], models: Collection[str], none: str) -> list[str]:
    return [
        f"{caller} may ask for {name}, which is not here: {nearest(name, models, none)}"
        for caller, name in unknown_models(rules, models)
    ]
