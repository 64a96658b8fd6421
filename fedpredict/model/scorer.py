"""The seam between asking for a share and computing one: in this process or at another organisation."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedpredict.errors import FedPredictError
from fedpredict.model.arrays import Micros
from fedpredict.model.fixed_point import MaskedWords
from fedpredict.model.inputs import Inputs
from fedpredict.model.manifest import PartDescription
from fedpredict.model.reasons import Reasons
from fedpredict.model.share import Mode, Share

NO_EVENT_TIME = -(2**63)
"""In arrays of event times: no feature was used."""


# these are not frozen, though nobody changes one: a frozen dataclass takes three times as long to make
@dataclass(slots=True, eq=False)
class ModelRef:
    """A version of a model, as one party is asked for it.

    Attributes:
        model_id: The model.
        manifest_sha256: The agreed version.
        params_sha256: The asked party's digest in that version.
    """

    model_id: str
    manifest_sha256: str
    params_sha256: str


@dataclass(slots=True, kw_only=True, eq=False)
class ScoreQuery:
    """One sub-task: the same for every party of a prediction, but for the digest.

    Requests for several models may travel as one (ADR 0018): the models are of one width, and the rows of each stand
    together, in the order of the models.

    Attributes:
        request_id: Names the prediction in every log.
        model_id: The model; the first, where there are several.
        manifest_sha256: The agreed version.
        params_sha256: The asked party's digest in that version.
        mode: The freshness asked for.
        sample_ids: UTF-8 bytes, in the order of the answer; an invalid one gets a status.
        epoch: The activation that the caller stands in; 0 until there is activation.
        segments: Where several requests travel as one round: the rows of each, in order; empty for one request.
        inputs: The asking initiator's own features, for its own part alone; they never leave its process.
        traceparent: The asking span in W3C's form where the prediction is traced; else empty.
        further: The models after the first. Only with `segments`, none of which crosses from one model to the next,
            and without `inputs`.
        model_rows: Where there are several models: how many rows each has, the first among them, at least 1.
    """

    request_id: str
    model_id: str
    manifest_sha256: str
    params_sha256: str
    mode: Mode
    sample_ids: Sequence[bytes]
    epoch: int = 0
    segments: tuple[int, ...] = ()
    inputs: Inputs | None = None
    traceparent: str = ""
    further: tuple[ModelRef, ...] = ()
    model_rows: tuple[int, ...] = ()

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model, in order."""
        return (ModelRef(self.model_id, self.manifest_sha256, self.params_sha256), *self.further)


@dataclass(slots=True, kw_only=True, eq=False)
class PartyReply:
    """A party's answer to a `ScoreQuery`.

    Attributes:
        share: In the order of the query's sample ids.
        oldest_event_time: The oldest event time among the features used, in microseconds UTC, or None.
        elapsed_s: Seconds the party spent.
        segment_event_times: Shape (n_segments,), the oldest event time of each segment, `NO_EVENT_TIME` where no
            feature was used; None for a query without segments.
        failures: Where there are several models: why one has no share, by its place in the query. Its rows are
            REFUSED here; where no model has a share, the width of this one says nothing.
        reasons: Why points were lost, in the order of the query's sample ids; None where the party tells nothing.
        masked: The share in a masked sum; `share` has the statuses and no numbers then. None: it is not masked.
        sources: Of a bucket's share: as in `BucketAnswer`.
    """

    share: Share
    oldest_event_time: int | None
    elapsed_s: float
    segment_event_times: Micros | None = None
    failures: Mapping[int, FedPredictError] = field(default_factory=dict)
    reasons: Reasons | None = None
    masked: MaskedWords | None = None
    sources: tuple[str, ...] = ()


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

    def score(self, query: ScoreQuery, *, deadline_s: float) -> Awaitable[PartyReply]:
        """Return the party's share, within `deadline_s` seconds; a future where nothing else has to run for it.

        Raises:
            PartyError: The party is away, slow, or refuses.
            ManifestMismatchError: It does not serve the version asked for.
        """
