"""What the files of all boosting libraries have in common: how their trees become a partial model."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedpredict.convert.arrays import Label
from fedpredict.convert.intercepts import held_intercept, joint_intercept
from fedpredict.convert.labels import label_text
from fedpredict.convert.nodes import Node
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.portable import agreed
from fedpredict.convert.sklearn_file import Reading
from fedpredict.convert.values import described, mapping
from fedpredict.errors import ModelFileError, UnsupportedModelError
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.closed import Closed
from fedpredict.model.kinds import Kind, check_widths
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel
from fedpredict.model.trees import Ints, Trees, TreesPart


@dataclass(frozen=True, slots=True)
class Wrappers:
    """The scikit-learn wrappers of a library.

    Attributes:
        library: Its name, for people.
        package: Where its wrappers are.
        names: The classes that are read.
        booster: The path of its Booster, which every fitted wrapper holds.
    """

    library: str
    package: str
    names: frozenset[str]
    booster: str


def unwrapped(value: Node, wrappers: Wrappers) -> tuple[str, dict[str, object], Node]:
    """Return the class and the attributes of a pickled wrapper, and its Booster.

    Raises:
        UnsupportedModelError: It is of another class, or not fitted.
        ModelFileError: It is damaged.
    """
    package, _, name = value.path.rpartition(".")
    if package != wrappers.package or name not in wrappers.names:
        raise UnsupportedModelError(
            f"the file holds {described(value)}; of {wrappers.library}, Booster and "
            f"{', '.join(sorted(wrappers.names))} are read"
        )
    state = mapping(value.state, f"the state of {name}") if value.built else {}
    booster = state.get("_Booster")
    if not isinstance(booster, Node) or booster.path != wrappers.booster:
        raise UnsupportedModelError(f"{name} is not fitted: it has no Booster")
    return name, state, booster


def class_texts(name: str, labels: tuple[Label, ...] | None, n_scores: int) -> tuple[str, ...]:
    """Return the labels of a wrapper; without any, the numbers from 0 that a Booster counts its classes by.

    Args:
        name: The class of the wrapper.
        labels: Its labels; None for a Booster alone.
        n_scores: Of a sample; one for two classes.

    Raises:
        ModelFileError: There are not as many labels as classes.
    """
    count = max(n_scores, 2)
    if labels is None:
        return tuple(str(number) for number in range(count))
    if len(labels) != count:
        raise ModelFileError(f"{name} has {len(labels)} labels, its Booster {count} classes")
    return tuple(label_text(label) for label in labels)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Ensemble:
    """A boosted model as its file says it; the arrays as `TreesPart` has them.

    Attributes:
        source: What wrote it, for people.
        kind: What a raw score means.
        link: What relates raw scores and predictions.
        classes: In the order of the scores; empty for a regression.
        features: The feature names in the order of the columns.
        categories: For each text feature, its texts in the order of their codes.
        may_miss: Shape (n_features,).
        trees: The nodes.
        output: Shape (n_trees,).
        values: Shape (n_nodes, 1) or (n_nodes, n_scores).
        base: Shape (n_scores,): what is added to every raw score; zeros where the library has no such thing.
        has_base: Whether it has.
        closed: The features whose unknown categories the library refuses, as `TreesPart` has them.
    """

    source: str
    kind: Kind
    link: Link
    classes: tuple[str, ...]
    features: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    may_miss: Bools
    trees: Trees
    output: Ints
    values: Floats
    base: Floats
    has_base: bool
    closed: Closed = field(default_factory=dict)


def booster_reading(ensemble: Ensemble, options: ReadOptions) -> Reading:
    """Return the partial model of an ensemble.

    Args:
        ensemble: What the file says.
        options: Must name the model id, the training run and the party, because no booster does.

    Raises:
        ModelFileError: A name is not given, or the pieces do not fit together.
        ModelConflictError: File and operator say different things.
    """
    try:
        check_widths(ensemble.kind, len(ensemble.base), ensemble.classes)
        part = TreesPart(
            features=ensemble.features,
            categories=ensemble.categories,
            may_miss=ensemble.may_miss,
            trees=ensemble.trees,
            n_scores=len(ensemble.base),
            output=ensemble.output,
            values=ensemble.values,
            intercept=held_intercept(ensemble.base, options, fitted=ensemble.has_base),
            closed=ensemble.closed,
        )
        partial = PartialModel(
            model_id=agreed(None, options.model_id, "model_id"),
            training_run=agreed(None, options.training_run, "training_run"),
            party=agreed(None, options.party, "party"),
            kind=ensemble.kind,
            classes=ensemble.classes,
            fit_intercept=joint_intercept(options, fitted=ensemble.has_base),
            part=part,
            link=ensemble.link,
            metadata={"source": ensemble.source},
            float32=part.trees.float32,
        )
    except ValueError as error:
        raise ModelFileError(f"the trees in the file do not make a model: {error}") from error
    return Reading(partial, ensemble.source)
