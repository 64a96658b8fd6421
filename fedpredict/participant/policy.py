"""Who may ask this participant for which model. What is not listed is not there."""

from __future__ import annotations

from collections.abc import Mapping

from fedpredict.errors import ModelNotFoundError
from fedpredict.participant.settings import CallerSettings
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.settings import ALL_MODELS

_PARTY = IdentityKind.PARTY  # members of an enumeration are slow to look up
_NONE: frozenset[str] = frozenset()


class CallerPolicy:
    """The `[callers]` of the settings."""

    def __init__(self, callers: Mapping[str, CallerSettings]) -> None:
        self._models = {name: frozenset(each.models) for name, each in callers.items()}
        limits = {name: each.distinct_ids_per_day for name, each in callers.items()}
        self.distinct_ids: Mapping[str, int] = {name: limit for name, limit in limits.items() if limit is not None}
        """How many distinct sample ids callers may ask about on a day; who has no limit is not in it."""

    def may_ask(self, caller: Identity, model_id: str) -> bool:
        """Return whether `caller`, a party, may know that the model exists, and ask for shares of it."""
        # a client of some initiator can have a party's name; it is not that party
        models = self._models.get(caller.name, _NONE) if caller.kind is _PARTY else _NONE
        return ALL_MODELS in models or model_id in models

    def is_listed(self, caller: Identity) -> bool:
        """Return whether `caller` is a party of the settings."""
        return caller.kind is _PARTY and caller.name in self._models

    def check(self, caller: Identity, model_id: str) -> None:
        """Raise `ModelNotFoundError`, as for a model that does not exist, where `caller` may not ask."""
        if not self.may_ask(caller, model_id):
            raise ModelNotFoundError(f"{caller} may not ask for model {model_id}: it is not under [callers]")
