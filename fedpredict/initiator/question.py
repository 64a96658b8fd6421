"""What requests have in common: those for one version of a model, and those whose rounds may be one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedpredict.initiator.masking import MaskedSum
from fedpredict.initiator.settings import ModelSettings
from fedpredict.model.head import Head
from fedpredict.model.links import Link
from fedpredict.model.manifest import Manifest
from fedpredict.model.scorer import ModelRef, PartyScorer
from fedpredict.model.share import Mode
from fedpredict.observe.watch import PredictionWatch


@dataclass(slots=True, kw_only=True, eq=False)
class Question:
    """What all requests for one version of a model have in common.

    Attributes:
        manifest: The version that answers.
        settings: The model's.
        fallback: Returns the manifest of the fallback model; raises `ModelNotReadyError`.
        head: What finishes the shares; None where they are added up.
        refs: By party, what it is asked for.
    """

    manifest: Manifest
    settings: ModelSettings
    fallback: Callable[[], Manifest]
    head: Head | None = None
    refs: Mapping[str, ModelRef] = field(init=False)

    def __post_init__(self) -> None:
        manifest = self.manifest
        self.refs = {
            party: ModelRef(manifest.model_id, manifest.manifest_sha256, digest) for party, digest in manifest.digests
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """What all requests have in common that may travel together, whatever their models (ADR 0018).

    Attributes:
        parties: Who is asked; every party of the models' manifests, in the manifests' order.
        link: The models' link; their shares are combined in one go.
        n_scores: The width of their shares.
        mode: The freshness asked for.
        scorers: By party, those and every party of the fallback models.
        own_party: This initiator's, the only one that ever sees inputs.
        head: What finishes the shares, of the only model that travels so; None where shares are added up.
        masked: How the other parties' shares are added up without being seen; None where they are not masked.
        watch: Told of every round.
    """

    parties: tuple[str, ...]
    link: Link
    n_scores: int
    mode: Mode
    scorers: Mapping[str, PartyScorer]
    own_party: str
    head: Head | None = None
    masked: MaskedSum | None = None
    watch: PredictionWatch = field(default_factory=PredictionWatch)
