"""Whether a file holds the joint model's intercept, by its own word and the operator's."""

from __future__ import annotations

from fedpredict.convert.options import ReadOptions
from fedpredict.errors import ModelConflictError
from fedpredict.model.arrays import Floats


def held_intercept(intercept: Floats, options: ReadOptions, *, fitted: bool) -> Floats | None:
    """Return the intercept, or None where the file holds none, or the operator says that another party holds it.

    Args:
        intercept: Shape (n_scores,), as in the file; zero where none was fitted.
        options: What the operator says.
        fitted: Whether the file's model was trained with an intercept (or a base score).

    Raises:
        ModelConflictError: File and operator say different things.
    """
    holds = fitted if options.holds_intercept is None else options.holds_intercept
    if holds and not fitted:
        raise ModelConflictError(
            "the file holds no intercept (fit_intercept=False, or a class without one), the operator says it holds one"
        )
    if not holds and intercept.any():
        raise ModelConflictError(
            "the file has an intercept that is not zero, but is said to hold none: scores would change"
        )
    return intercept if holds else None


def joint_intercept(options: ReadOptions, *, fitted: bool) -> bool:
    """Return whether the joint model has an intercept somewhere: the operator's word, else the file's.

    Raises:
        ModelConflictError: The file holds one, the operator says that there is none.
    """
    if options.fit_intercept is None:
        return fitted
    if not options.fit_intercept and fitted and options.holds_intercept is not False:
        raise ModelConflictError("the file holds an intercept, the operator says that the model has none")
    return options.fit_intercept
