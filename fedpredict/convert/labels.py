"""Class labels and feature names of a file as the texts that tables and messages carry."""

from __future__ import annotations

from collections.abc import Sequence

from fedpredict.convert.arrays import Label
from fedpredict.errors import FeatureNamesError, ModelConflictError

MAX_NAMES_SHOWN = 20


def label_text(label: Label) -> str:
    """Return a class label as text: a text as it is, a number as Python writes it.

    >>> [label_text(label) for label in ("no", 1, 1.0, True)]
    ['no', '1', '1.0', 'True']
    """
    return label if isinstance(label, str) else repr(label)


def shown(names: Sequence[str]) -> str:
    """Return names for a message: at most twenty, and how many more.

    >>> shown(["a", "b"])
    "'a', 'b'"
    """
    listed = ", ".join(ascii(name) for name in names[:MAX_NAMES_SHOWN])
    return listed if len(names) <= MAX_NAMES_SHOWN else f"{listed} and {len(names) - MAX_NAMES_SHOWN} more"


def check_feature_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names if each is a text that stands once, also without regard to case; else raise.

    Raises:
        FeatureNamesError: With the names: empty, repeated, or the same but for upper and lower case (a warehouse
            that lower-cases column names could not tell these apart).
    """
    if any(not name for name in names):
        raise FeatureNamesError("a feature with an empty name")
    repeated = sorted({name for name, count in _counts(names).items() if count > 1})
    if repeated:
        raise FeatureNamesError(f"feature names repeat: {shown(repeated)}", names=repeated)
    folded = _counts([name.casefold() for name in names])
    colliding = [name for name in names if folded[name.casefold()] > 1]
    if colliding:
        raise FeatureNamesError(
            f"feature names differ only in upper and lower case: {shown(colliding)}; rename one", names=colliding
        )
    return tuple(names)


def _counts(names: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def chosen_features(in_file: Sequence[str] | None, named: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Return the feature names of `count` weights: the file's, else the operator's.

    Raises:
        FeatureNamesError: There are none, not as many as weights, or they repeat.
        ModelConflictError: File and operator name different features, or in another order.
    """
    if in_file is None and named is None:
        raise FeatureNamesError(
            f"the file holds no names for its {count} features (it was trained on a plain array): "
            "give them in the order of training with --features"
        )
    if in_file is not None and named is not None and list(in_file) != list(named):
        raise ModelConflictError(
            f"the file names its features {shown(in_file)}, but --features names {shown(named)}: leave --features out"
        )
    names = in_file if in_file is not None else named or ()
    if len(names) != count:
        raise FeatureNamesError(f"{len(names)} feature names for {count} features: {shown(names)}", names=names)
    return check_feature_names(names)
