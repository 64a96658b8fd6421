"""The kinds of federated models: how wide a share is, and how raw scores become predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from fedpredict.model import links
from fedpredict.model.arrays import Floats

MAX_CLASSES = 10_000
MAX_CLASS_LABEL = 200
"""In characters. Labels travel in every answer, so both are bounded where a model enters."""


class Kind(StrEnum):
    """What a raw score means. The names are those of the tables, the messages and the files."""

    LINEAR = "linear"
    BINARY = "binary"
    MULTINOMIAL = "multinomial"
    ONE_VS_REST = "one_vs_rest"


@dataclass(frozen=True, slots=True)
class KindSpec:
    """What a kind fixes.

    Attributes:
        link: The link function's name, as tables and manifests write it.
        inverse_link: Raw scores (n_samples, n_scores) -> predictions (n_samples, n_outputs).
        is_classifier: Whether the model has classes.
        min_classes: Fewest classes; 0 for a regression.
        max_classes: Most classes, or None for no limit.
    """

    link: str
    inverse_link: Callable[[Floats], Floats]
    is_classifier: bool
    min_classes: int = 0
    max_classes: int | None = 0


KINDS: dict[Kind, KindSpec] = {
    Kind.LINEAR: KindSpec("identity", links.identity, is_classifier=False),
    Kind.BINARY: KindSpec("logit", links.sigmoid, is_classifier=True, min_classes=2, max_classes=2),
    Kind.MULTINOMIAL: KindSpec("softmax", links.softmax, is_classifier=True, min_classes=2, max_classes=None),
    Kind.ONE_VS_REST: KindSpec(
        "logit_normalised", links.normalised_sigmoid, is_classifier=True, min_classes=3, max_classes=None
    ),
}
"""The one place that says what a kind means."""


def check_widths(kind: Kind, n_scores: int, classes: tuple[str, ...]) -> None:
    """Check that classes and the number of scores fit the kind.

    A binary model has one score and two classes, and predicts the probability of `classes[1]`; the other classifiers
    have one score per class; a regression has no classes and any number of scores.

    Raises:
        ValueError: With the counts; the caller names the file or the parties.
    """
    spec = KINDS[kind]
    if n_scores < 1:
        raise ValueError(f"a {kind} model with {n_scores} outputs")
    if not spec.is_classifier:
        if classes:
            raise ValueError(f"a {kind} model has no classes, but {len(classes)} are given")
        return
    _check_classes(kind, classes)
    expected = 1 if kind is Kind.BINARY else len(classes)
    if n_scores != expected:
        raise ValueError(f"a {kind} model of {len(classes)} classes needs {expected} scores a sample, not {n_scores}")


def _check_classes(kind: Kind, classes: tuple[str, ...]) -> None:
    spec = KINDS[kind]
    if not classes:
        raise ValueError(f"a {kind} model needs its classes, but none are given")
    repeated = sorted(name for name, count in Counter(classes).items() if count > 1)
    if repeated:
        raise ValueError(f"repeated classes: {', '.join(repeated)}")
    if len(classes) > MAX_CLASSES or any(len(label) > MAX_CLASS_LABEL for label in classes):
        raise ValueError(f"more than {MAX_CLASSES} classes, or a label of more than {MAX_CLASS_LABEL} characters")
    if len(classes) < spec.min_classes or (spec.max_classes is not None and len(classes) > spec.max_classes):
        raise ValueError(f"a {kind} model with {len(classes)} classes")
