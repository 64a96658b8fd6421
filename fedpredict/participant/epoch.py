"""Which activation of a model is served here."""

from __future__ import annotations

from fedpredict.errors import ManifestMismatchError

SERVED = 0
"""There is no activation yet, so that callers stand in none."""


def check_epoch(epoch: int) -> None:
    """Raise `ManifestMismatchError` where a caller stands in another activation than this participant."""
    if epoch != SERVED:
        raise ManifestMismatchError(f"epoch {epoch} was asked for; served is {SERVED}")
