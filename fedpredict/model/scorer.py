"""The seam between asking for a share and computing one: in this process or at another organisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedpredict.model.manifest import PartDescription
from fedpredict.model.share import Mode, Share


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreQuery:
    """One sub-task: the same for every party of a prediction, but for the digest.

    Attributes:
        request_id: Names the prediction in every log.
        model_id: The model.
        manifest_sha256: The agreed version.
        params_sha256: The asked party's digest in that version.
        mode: The freshness asked for.
        sample_ids: UTF-8 bytes, in the order of the answer; an invalid one gets a status.
        epoch: The activation that the caller stands in; 0 until there is activation.
    """

    request_id: str
    model_id: str
    manifest_sha256: str
    params_sha256: str
    mode: Mode
    sample_ids: Sequence[bytes]
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartyReply:
    """A party's answer to a `ScoreQuery`.

    Attributes:
        share: In the order of the query's sample ids.
        oldest_event_time: The oldest event time among the features used, in microseconds UTC, or None.
        elapsed_s: Seconds the party spent.
    """

    share: Share
    oldest_event_time: int | None
    elapsed_s: float


class PartyScorer(Protocol):
    """A party as its asker sees it. An implementation computes in process, or wraps a channel."""

    @property
    def party(self) -> str:
        """The party's id."""

    async def describe(self, model_id: str, *, deadline_s: float) -> PartDescription:
        """Return the description of the party's current part.

        Raises:
            ModelNotFoundError: The party has no such model, or none for this caller.
            PartyError: The party is away, slow, or refuses.
        """

    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        """Return the party's share, within `deadline_s` seconds.

        Raises:
            PartyError: The party is away, slow, or refuses.
            ManifestMismatchError: It does not serve the version asked for.
        """
