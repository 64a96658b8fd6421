"""What parties said beforehand: that masked sums may lack them. Kept while this process lives (ADR 0045)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from fedpredict.wire.v1 import masking_pb2


class KeptConsents:
    """The newest consent of each party to be left out of the sums of a version of a model."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """Begin without any; `now` is in seconds since 1970."""
        self._now = now
        self._kept: dict[tuple[str, str], masking_pb2.MaskConsent] = {}

    def keep(
        self, manifest_sha256: str, parties: Iterable[str], consents: Mapping[str, masking_pb2.MaskConsent]
    ) -> None:
        """Keep what parties said when a session of theirs was opened; who said nothing does not consent any more.

        Args:
            manifest_sha256: The version of the model.
            parties: Of the session.
            consents: By party, those that consent.
        """
        now, said = self._now(), {(manifest_sha256, party) for party in parties}
        self._kept = {key: each for key, each in self._kept.items() if key not in said and each.valid_until > now}
        self._kept.update({(manifest_sha256, party): each for party, each in consents.items()})

    def of(self, manifest_sha256: str, parties: Iterable[str]) -> tuple[masking_pb2.MaskConsent, ...] | None:
        """Return the consent of each of some parties; None where one has not consented, or no longer."""
        kept = [self._kept.get((manifest_sha256, party)) for party in parties]
        consents = tuple(each for each in kept if each is not None and each.valid_until > self._now())
        return consents if len(consents) == len(kept) else None
