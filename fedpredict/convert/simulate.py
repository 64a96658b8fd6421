"""Plays all parties of a cut model in one process and compares with the model before the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpredict.convert.labels import shown
from fedpredict.errors import FeatureNamesError, IncompatiblePartsError
from fedpredict.model.arrays import Floats
from fedpredict.model.combination import combination_of
from fedpredict.model.combine import Combined, combine
from fedpredict.model.head import HeadModel, HeadShelf, LoadedHead
from fedpredict.model.manifest import Manifest, PartDescription, build_manifest
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus, Share, all_ok_statuses, build_share

_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True, eq=False)
class SimulationReport:
    """How far the parties together are from the uncut model.

    Attributes:
        n_samples: Rows given.
        n_scored: Rows with a prediction; the others have a NaN or infinite feature, or no number by the link.
        combined: What the parties' shares became.
        expected: What the uncut model says.
        largest_absolute: Largest absolute difference of the predictions; 0.0 where nothing was scored.
        largest_relative: Largest difference of the raw scores, relative to the sum of the absolute terms of a score.
    """

    n_samples: int
    n_scored: int
    combined: Combined
    expected: Combined
    largest_absolute: float
    largest_relative: float


def simulate(
    parts: Mapping[str, PartialModel],
    joint: PartialModel,
    features: Floats,
    names: Sequence[str],
    head: HeadModel | None = None,
) -> SimulationReport:
    """Return how the combined prediction of all parts compares with the uncut model's.

    Args:
        parts: Party id -> its part.
        joint: The uncut model.
        features: Shape (n_samples, len(names)), unscaled, as the feature tables hold them; texts as the uncut
            model's codes.
        names: The names of the columns of `features`; may be more than the model has.
        head: What finishes the parts' shares, where they are not added up.

    Raises:
        IncompatiblePartsError: The parts, or the parts and the uncut model, are not of one model, or have other
            categories.
        FeatureNamesError: A feature of a part or of the uncut model is not among `names`.
    """
    shelf = HeadShelf({} if head is None else {head.model_id: (LoadedHead(head, _NO_DIGEST),)})
    manifest = build_manifest({party: _description(party, part) for party, part in parts.items()}, shelf)
    _check_same(manifest, joint)
    _check_categories(parts, joint)
    shares = {party: _share(part, features, names) for party, part in parts.items()}
    combined = combine(manifest.link, shares, head.head if head is not None and manifest.head is not None else None)
    if combined.problem:
        raise IncompatiblePartsError(f"{combined.n_misfits} rows: {combined.problem}", parties=manifest.parties)
    expected = combine(joint.link, {"joint": _share(joint, features, names)})
    # a score next to where the link has no number may have one in one order of summation only
    scored = (combined.status == SampleStatus.OK) & (expected.status == SampleStatus.OK)
    return SimulationReport(
        n_samples=len(features),
        n_scored=int((combined.status == SampleStatus.OK).sum()),
        combined=combined,
        expected=expected,
        largest_absolute=_largest(np.abs(combined.predictions - expected.predictions)[scored]),
        largest_relative=_largest(_relative(joint, features, names, combined.raw - expected.raw)[scored]),
    )


def _description(party: str, partial: PartialModel) -> PartDescription:
    return PartDescription(
        party=party,
        model_id=partial.model_id,
        params_sha256=_NO_DIGEST,
        training_run=partial.training_run,
        kind=partial.kind,
        link=partial.link,
        classes=partial.classes,
        n_scores=partial.part.n_scores,
        holds_intercept=partial.holds_intercept,
        fit_intercept=partial.fit_intercept,
        combination=combination_of(partial.part),
    )


def _check_same(manifest: Manifest, joint: PartialModel) -> None:
    ours = _description("", joint)
    compared = ["model_id", "training_run", "kind", "link", "classes"]
    if manifest.head is None:
        compared += ["n_scores", "fit_intercept"]
    for what in compared:
        if getattr(manifest, what) != getattr(ours, what):
            raise IncompatiblePartsError(
                f"the parts say {what} {getattr(manifest, what)}, the uncut model {getattr(ours, what)}",
                parties=manifest.parties,
            )
    if manifest.n_raw != ours.n_scores:
        raise IncompatiblePartsError(
            f"the head makes {manifest.n_raw} scores a sample, the uncut model {ours.n_scores}",
            parties=manifest.parties,
        )


def _check_categories(parts: Mapping[str, PartialModel], joint: PartialModel) -> None:
    for party, partial in parts.items():
        for name in partial.part.features:
            if partial.part.categories.get(name) != joint.part.categories.get(name):
                raise IncompatiblePartsError(
                    f"feature {name!r} of {party} has other categories than in the uncut model", parties=[party]
                )


def _share(partial: PartialModel, features: Floats, names: Sequence[str]) -> Share:
    own = _columns(partial, features, names)
    scores, statuses = partial.part.scores_and_statuses(own)
    return build_share(scores, all_ok_statuses(len(own)) if statuses is None else statuses)


def _columns(partial: PartialModel, features: Floats, names: Sequence[str]) -> Floats:
    position = {name: index for index, name in enumerate(names)}
    missing = [name for name in partial.part.features if name not in position]
    if missing:
        raise FeatureNamesError(f"the data lacks features of the model: {shown(missing)}", names=missing)
    return np.take(features, [position[name] for name in partial.part.features], axis=1)


def _relative(joint: PartialModel, features: Floats, names: Sequence[str], difference: Floats) -> Floats:
    """Shape (n_samples, n_scores): the difference over the sum of the absolute terms."""
    terms = joint.part.magnitudes(_columns(joint, features, names))
    relative: Floats = np.divide(np.abs(difference), terms, out=np.zeros_like(terms), where=terms > 0.0)
    return relative


def _largest(differences: Floats) -> float:
    return float(differences.max()) if differences.size else 0.0
