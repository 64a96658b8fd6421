"""The kinds of federated models: how wide a share is, which links they may have, and what their predictions are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from fedpredict.model.links import Link

MAX_CLASSES = 10_000
MAX_CLASS_LABEL = 200
"""In characters. Labels travel in every answer, so both are bounded where a model enters."""


class Kind(StrEnum):
    """What a raw score means. The names are those of the tables, the messages and the files."""

    LINEAR = "linear"
    BINARY = "binary"
    MULTINOMIAL = "multinomial"
    ONE_VS_REST = "one_vs_rest"
    """A score and a sigmoid per class: divided by their sum, or with the link logit as they are."""
    DECISION = "decision"
    """A classifier without probabilities, such as a support vector machine: predictions are its decision values."""
    PROBABILITY = "probability"
    """A classifier whose raw scores are probabilities already, such as a forest, the mean of its trees'."""
    ORDINAL = "ordinal"
    """Classes in an order, from one raw score; the thresholds between them are numbers of the link."""


class Output(StrEnum):
    """What the numbers of a prediction are."""

    MEAN = "mean"
    PROBABILITY = "probability"
    DECISION_VALUE = "decision value"


@dataclass(frozen=True, slots=True)
class KindSpec:
    """What a kind fixes.

    Attributes:
        links: The names of the links that a model of this kind may have; the first is its own, if none is said and it
            needs no numbers.
        output: What the numbers of a prediction are.
        is_classifier: Whether the model has classes.
        min_classes: Fewest classes; 0 for a regression.
        max_classes: Most classes, or None for no limit.
    """

    links: tuple[str, ...]
    output: Output
    is_classifier: bool = True
    min_classes: int = 2
    max_classes: int | None = None


KINDS: dict[Kind, KindSpec] = {
    Kind.LINEAR: KindSpec(
        ("identity", "log", "inverse", "sqrt", "power"),
        Output.MEAN,
        is_classifier=False,
        min_classes=0,
        max_classes=0,
    ),
    Kind.BINARY: KindSpec(("logit", "probit", "cloglog", "odds"), Output.PROBABILITY, max_classes=2),
    Kind.MULTINOMIAL: KindSpec(("softmax",), Output.PROBABILITY),
    Kind.ONE_VS_REST: KindSpec(("logit_normalised", "logit"), Output.PROBABILITY),
    Kind.DECISION: KindSpec(("identity",), Output.DECISION_VALUE),
    Kind.PROBABILITY: KindSpec(("identity",), Output.PROBABILITY),
    Kind.ORDINAL: KindSpec(("cumulative_logit", "cumulative_probit", "cumulative_cloglog"), Output.PROBABILITY),
}
"""The one place that says what a kind means; what a link means is in `links.LINKS`."""

_ONE_SCORE_FOR_TWO = frozenset({Kind.DECISION, Kind.PROBABILITY})
_ONE_SCORE = frozenset({Kind.BINARY, Kind.ORDINAL})
_OWN_LINKS: dict[Kind, Link] = {kind: Link(spec.links[0]) for kind, spec in KINDS.items() if kind is not Kind.ORDINAL}


def own_link(kind: Kind) -> Link:
    """Return the link of a model of which no other is said.

    Raises:
        ValueError: A model of this kind has to say its link, because there are numbers in it.

    >>> print(own_link(Kind.BINARY))
    logit
    """
    own = _OWN_LINKS.get(kind)
    if own is None:
        needed = " or ".join(KINDS[kind].links)
        raise ValueError(
            f"{_a(kind)} model needs its link: {needed} with its thresholds, as in cumulative_logit:-1,0.5"
        )
    return own


def is_own_link(kind: Kind, link: Link) -> bool:
    """Return whether a link is the one that a model of the kind has if none is said."""
    return _OWN_LINKS.get(kind) == link


def check_link(kind: Kind, link: Link) -> None:
    """Check that a model of a kind may have a link.

    Raises:
        ValueError: With the links that it may have.
    """
    known = KINDS[kind].links
    if link.name not in known:
        raise ValueError(f"{_a(kind)} model cannot have the link {link}; it may have {', '.join(known)}")


def check_widths(kind: Kind, n_scores: int, classes: tuple[str, ...], link: Link | None = None) -> None:
    """Check that classes and the number of scores fit the kind, and the classes of an ordinal model its link.

    A binary model has one score and two classes, and predicts the probability of `classes[1]`; a decision or
    probability model of two classes has one score too, which speaks for `classes[1]`; an ordinal model has one score,
    and a probability for each class; the other classifiers have one score per class; a regression has no classes and
    any number of scores.

    Raises:
        ValueError: With the counts; the caller names the file or the parties.
    """
    spec = KINDS[kind]
    if n_scores < 1:
        raise ValueError(f"{_a(kind)} model with {n_scores} outputs")
    if not spec.is_classifier:
        if classes:
            raise ValueError(f"{_a(kind)} model has no classes, but {len(classes)} are given")
        return
    _check_classes(kind, classes)
    one_score = kind in _ONE_SCORE or (kind in _ONE_SCORE_FOR_TWO and len(classes) == 2)
    expected = 1 if one_score else len(classes)
    if n_scores != expected:
        raise ValueError(f"{_a(kind)} model of {len(classes)} classes needs {expected} scores a sample, not {n_scores}")
    if kind is Kind.ORDINAL and link is not None and link.n_outputs(n_scores) != len(classes):
        raise ValueError(
            f"an ordinal model of {len(classes)} classes needs {len(classes) - 1} thresholds in its link, not "
            f"{len(link.numbers)}"
        )


def _check_classes(kind: Kind, classes: tuple[str, ...]) -> None:
    spec = KINDS[kind]
    if not classes:
        raise ValueError(f"{_a(kind)} model needs its classes, but none are given")
    repeated = sorted(name for name, count in Counter(classes).items() if count > 1)
    if repeated:
        raise ValueError(f"repeated classes: {', '.join(repeated)}")
    if len(classes) > MAX_CLASSES or any(len(label) > MAX_CLASS_LABEL for label in classes):
        raise ValueError(f"more than {MAX_CLASSES} classes, or a label of more than {MAX_CLASS_LABEL} characters")
    if len(classes) < spec.min_classes or (spec.max_classes is not None and len(classes) > spec.max_classes):
        raise ValueError(f"{_a(kind)} model with {len(classes)} classes")


def _a(kind: Kind) -> str:
    return f"{'an' if kind is Kind.ORDINAL else 'a'} {kind}"
