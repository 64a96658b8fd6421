"""A partial model: one party's share of a jointly trained model, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedpredict.model.arrays import Floats
from fedpredict.model.combination import combination_of
from fedpredict.model.combine import finish
from fedpredict.model.ids import check_model_id, check_party_id
from fedpredict.model.kinds import Kind, check_link, check_widths, own_link
from fedpredict.model.links import Link
from fedpredict.model.part import Part
from fedpredict.model.share import SampleStatus

MAX_TRAINING_RUN = 200
"""Characters in the name of a training run."""
TOLERANCE, TOLERANCE_FLOAT32 = 1e-9, 1e-6
"""How far a part's scores may be from those of a library that computes in float64, and in float32."""
_UNSAID = Link("identity")
"""This very object, where no link is said: the kind's own is meant."""


@dataclass(frozen=True, slots=True, eq=False)
class VerificationRows:
    """Samples with the partial scores that the training side got for them.

    Attributes:
        features: Shape (n_rows, n_features), columns in the order of the part's features; texts as the part's codes.
        partial_scores: Shape (n_rows, n_scores); NaN throughout where the training side has no score either.
        predictions: Shape (n_rows, n_outputs): what the training side predicts for them, where it gives that instead of
            scores (`partial_scores` is then as wide as the part's and NaN); only for a part that is the whole model.
    """

    features: Floats
    partial_scores: Floats
    predictions: Floats | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.partial_scores.ndim != 2 or len(self.features) != len(self.partial_scores):
            raise ValueError(
                f"verification features of shape {self.features.shape}, scores of {self.partial_scores.shape}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class PartialModel:
    """One party's share of a model, with what the parties must agree on.

    Attributes:
        model_id: The training task's id; the same at every party.
        training_run: The run that made all parts; parts of two runs are never added up.
        party: Whose part this is.
        kind: What raw scores mean.
        classes: Class labels as text, in the order of the scores; empty for a regression.
        fit_intercept: Whether the joint model has an intercept, at whichever party.
        part: The parameters.
        verification: Rows to replay at conversion, if the training side gave some.
        metadata: Free text by name, shown by `model show`, never used for scoring.
        link: What relates raw scores and predictions; the kind's own where none is said.
        float32: Whether the training library adds up scores in float32, and so agrees to fewer digits.
    """

    model_id: str
    training_run: str
    party: str
    kind: Kind
    classes: tuple[str, ...]
    fit_intercept: bool
    part: Part
    verification: VerificationRows | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    link: Link = _UNSAID
    float32: bool = False

    def __post_init__(self) -> None:
        if self.link is _UNSAID:
            object.__setattr__(self, "link", own_link(self.kind))
        check_link(self.kind, self.link)
        check_model_id(self.model_id)
        check_party_id(self.party)
        if not 1 <= len(self.training_run) <= MAX_TRAINING_RUN or not self.training_run.isprintable():
            raise ValueError(f"a training run is named by 1 to {MAX_TRAINING_RUN} printable characters")
        check_widths(self.kind, self.n_raw, self.classes, self.link)
        if self.fit_intercept and combination_of(self.part) is not None:
            raise ValueError("the intercept of a model with a head is in the head: fit_intercept must be false")
        if self.holds_intercept and not self.fit_intercept:
            raise ValueError("this part holds an intercept, but the joint model is said to have none")
        if self.verification is not None:
            shapes = self.verification.features.shape[1], self.verification.partial_scores.shape[1]
            expected = len(self.part.features), self.part.n_scores
            if shapes != expected:
                raise ValueError(f"verification rows of widths {shapes}, the part has {expected}")

    @property
    def holds_intercept(self) -> bool:
        """Whether the joint model's intercept is in this part."""
        return self.part.intercept is not None

    @property
    def n_outputs(self) -> int:
        """The width of a prediction."""
        return self.link.n_outputs(self.n_raw)

    @property
    def n_raw(self) -> int:
        """The raw scores per sample of the joint model: the width of a share, unless a head makes them."""
        combination = combination_of(self.part)
        return self.part.n_scores if combination is None else combination.n_outputs

    @property
    def tolerance(self) -> float:
        """How far scores may be from the training library's, relative to the sum of the absolute terms."""
        return TOLERANCE_FLOAT32 if self.float32 else TOLERANCE


def largest_difference(partial: PartialModel) -> tuple[float, float]:
    """Return how far the part's scores are from its verification rows: (largest absolute, largest relative).

    Without verification rows both are 0.0.
    """
    if partial.verification is None:
        return 0.0, 0.0
    return largest_deviation(own_scores(partial.part, partial.verification.features), partial.verification, partial)


def own_scores(part: Part, features: Floats) -> Floats:
    """Return a part's scores of samples, NaN where its status is not OK; shape (n_samples, n_scores)."""
    scores, statuses = part.scores_and_statuses(features)
    return scores if statuses is None else np.where((statuses == SampleStatus.OK)[:, None], scores, np.nan)


def largest_deviation(scores: Floats, rows: VerificationRows, partial: PartialModel) -> tuple[float, float]:
    """Return how far scores of verification rows are from what is expected: (largest absolute, largest relative).

    The relative difference is measured against the sum of the absolute terms of each score, because that is what
    rounding in another order of summation is proportional to; that of predictions against their size, or 1 where they
    are smaller. A score where none is expected, and none where one is, are infinitely far.

    Args:
        scores: Shape (n_rows, n_scores); NaN where there is no score.
        rows: What is expected.
        partial: What the rows are of.
    """
    if not len(scores):
        return 0.0, 0.0
    if rows.predictions is None:
        found, expected, terms = scores, rows.partial_scores, partial.part.magnitudes(rows.features)
    else:
        status = np.where(np.isnan(scores).any(axis=1), SampleStatus.FEATURE_INVALID, SampleStatus.OK)
        found, expected = finish(partial.link, scores, status.astype(np.uint8)).predictions, rows.predictions
        terms = np.maximum(1.0, np.abs(expected))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(found - expected)
    neither = np.isnan(found) & np.isnan(expected)
    difference = np.where(neither, 0.0, np.where(np.isnan(difference), np.inf, difference))
    relative = np.divide(difference, terms, out=np.where(difference > 0.0, np.inf, 0.0), where=terms > 0.0)
    return float(difference.max()), float(relative.max())
