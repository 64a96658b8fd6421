"""What `doctor` looks at of masked sums at a participant: whether somebody can ask for them."""

from __future__ import annotations

from collections.abc import Iterator

from fedpredict.cli.checks_local import Checked
from fedpredict.cli.names import nearest
from fedpredict.participant.settings import MaskedSettings, ParticipantSettings
from fedpredict.security.check import Finding, Level
from fedpredict.security.settings import ALL_MODELS


def check_masked(settings: ParticipantSettings, models: frozenset[str]) -> Iterator[Checked]:
    """Yield for each model under `[masked]` whether it is here, and whether some initiator can ask for its sum.

    Args:
        settings: The participant's.
        models: The ids of the models that it has.
    """
    for model_id, masked in settings.masked.items():
        yield "masked sums", _check_sum(settings, models, model_id, masked)


def _check_sum(settings: ParticipantSettings, models: frozenset[str], model_id: str, masked: MaskedSettings) -> Finding:
    if model_id not in models:
        what = f"masked.{model_id}: there is no such model here, and one of another name leaves without masks"
        return Finding(Level.WARNING, what, nearest(model_id, models, "this party has no model yet"))
    askers = {party for party, rule in settings.callers.items() if {ALL_MODELS, model_id}.intersection(rule.models)}
    if not askers:
        return Finding(
            Level.WARNING, f"{model_id} leaves masked, and nobody may ask", f"add {model_id} to an initiator's models"
        )
    others = ", ".join(masked.parties)
    if askers <= set(masked.parties):
        what = f"{model_id} is masked with {others}, and nobody else may ask: every sum is refused"
        fix = f"name participants alone in masked.{model_id}.parties: the initiator, which asks, has no masks"
        return Finding(Level.PROBLEM, what, fix)
    lack = f"; a sum may lack {', '.join(masked.may_lack)}" if masked.may_lack else ""
    return Finding(Level.OK, f"{model_id} leaves masked, with the masks of {others}{lack}")
