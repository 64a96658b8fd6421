"""Who may ask this initiator for what, and what a task must be before anybody works on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedpredict.errors import EmptyRequestError, ModelNotFoundError, TooManySamplesError, UnsupportedModeError
from fedpredict.initiator.settings import ClientSettings
from fedpredict.model.prediction import PredictTask
from fedpredict.model.share import Mode
from fedpredict.security.identity import Identity
from fedpredict.security.settings import ALL_MODELS

MODES = frozenset({Mode.NEARLINE})
"""What can be asked for today; the message carries the mode from the start."""


class Access:
    """The `[clients]` of the settings. Who is not listed may ask for nothing."""

    def __init__(self, clients: Mapping[str, ClientSettings]) -> None:
        self._clients = clients

    def may_ask(self, caller: Identity, model_id: str) -> bool:
        """Return whether `caller` may know that the model exists, and ask for it."""
        client = self._clients.get(caller.name)
        if client is None or client.kind is not caller.kind:
            return False
        return ALL_MODELS in client.models or model_id in client.models

    def check(self, caller: Identity, model_id: str) -> None:
        """Raise `ModelNotFoundError`, as for a model that does not exist, where `caller` may not ask."""
        if not self.may_ask(caller, model_id):
            raise ModelNotFoundError(
                f"{caller} may not ask for model {model_id}: see [clients.{caller.name}], its models and its kind"
            )


@dataclass(frozen=True, slots=True)
class Admission:
    """What a task must be before anybody works on it.

    Attributes:
        access: Who may ask for what.
        max_samples: Most sample ids in one task.
    """

    access: Access
    max_samples: int

    def check(self, task: PredictTask, caller: Identity) -> None:
        """Raise where a task cannot be taken."""
        self.access.check(caller, task.model_id)
        if not task.sample_ids:
            raise EmptyRequestError("a total task without sample ids")
        if len(task.sample_ids) > self.max_samples:
            raise TooManySamplesError(f"{len(task.sample_ids)} sample ids from {caller}", limit=self.max_samples)
        if task.mode not in MODES:
            raise UnsupportedModeError(f"mode {task.mode} asked for by {caller}", mode=task.mode)
