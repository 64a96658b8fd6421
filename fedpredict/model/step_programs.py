"""What each kind of step computes: columns in, columns out, and what it cannot take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats, all_true, count_up_to
from fedpredict.model.normal import normal_quantile
from fedpredict.model.step import BOX_COX, INVALID, MISSING, SCALES, Step, StepKind

_SMALL_EXPONENT = 1e-5


@dataclass(slots=True, eq=False)
class Derived:
    """What a step gives for some samples.

    Attributes:
        values: Shape (n_samples, n_outputs).
        missing: Shape (n_samples,): which samples lack something that the step needs; None for none.
        invalid: Shape (n_samples,): which samples have something that the step cannot take; None for none.
    """

    values: Floats
    missing: Bools | None = None
    invalid: Bools | None = None


Program = Callable[[Floats], Derived]
"""The inputs of some samples, shape (n_samples, n_inputs) -> what a step gives."""


def program_of(step: Step) -> Program:
    """Return what computes a step; what it needs is worked out once."""
    return _PROGRAMS[step.kind](step)


def _fill(step: Step) -> Program:
    filler = step.numbers["number"][:, 0]
    return lambda x: Derived(np.where(np.isnan(x), filler, x))


def _missing(_: Step) -> Program:
    return lambda x: Derived(np.isnan(x).astype(np.float64))


def _scale(step: Step) -> Program:
    operations = (np.subtract, np.divide, np.multiply, np.add)
    used = [(operation, step.numbers[name][:, 0]) for operation, name in zip(operations, SCALES, strict=True)
            if name in step.numbers]  # fmt: skip

    def run(x: Floats) -> Derived:
        for operation, number in used:
            x = operation(x, number)
        return Derived(x)

    return run


def _clip(step: Step) -> Program:
    low, high = step.numbers["low"][:, 0], step.numbers["high"][:, 0]
    return lambda x: Derived(np.clip(x, low, high))


def _power(step: Step) -> Program:
    exponent = step.numbers["exponent"][:, 0]
    if step.options["method"] == BOX_COX:

        def box_cox(x: Floats) -> Derived:
            return Derived(_grown(np.log(x), exponent), invalid=_any(x <= 0.0))

        return box_cox

    def yeo_johnson(x: Floats) -> Derived:
        logarithm = np.log1p(np.abs(x))
        return Derived(np.where(x >= 0.0, _grown(logarithm, exponent), -_grown(logarithm, 2.0 - exponent)))

    return yeo_johnson


def _grown(logarithm: Floats, exponent: Floats) -> Floats:
    """Return (e^(exponent * logarithm) - 1) / exponent, and its limit for a small exponent."""
    small = np.abs(exponent) < _SMALL_EXPONENT
    return np.where(small, logarithm * (1.0 + exponent * logarithm * (0.5 + exponent * logarithm / 6.0)),
                    np.expm1(exponent * logarithm) / np.where(small, 1.0, exponent))  # fmt: skip


def _quantile(step: Step) -> Program:
    points, reached = step.numbers["from"][:, 0], step.numbers["to"][:, 0]
    mirrored = -points[::-1], -reached[::-1]
    first, last, margin = points.item(0), points.item(-1), step.numbers["margin"].item()

    def one(x: float) -> float:
        if x >= last or x + margin > last:
            return reached.item(-1)
        if x <= first or x - margin < first:
            return reached.item(0)
        return 0.5 * (_interpolated(x, points, reached) - _interpolated(-x, *mirrored))

    def run(x: Floats) -> Derived:
        if len(x) == 1:
            return Derived(np.array([[one(x.item())]]))
        column = x[:, 0]
        # of equal points the one side takes the first, the other the last
        values = np.interp(column, points, reached)
        values -= np.interp(-column, *mirrored)
        values *= 0.5
        values[(column >= last) | (column + margin > last)] = reached[-1]
        values[(column <= first) | (column - margin < first)] = reached[0]
        values[np.isnan(column)] = np.nan  # of a single point np.interp makes a number of NaN
        return Derived(values[:, None])

    return run


def _interpolated(x: float, points: Floats, reached: Floats) -> float:
    """Return what np.interp does of one number between the first point and the last, in a third of its time."""
    at = int(points.searchsorted(x, side="right")) - 1
    below = points.item(at)
    if x == below or x != x:  # noqa: PLR0124  NaN
        return reached.item(at) if x == below else x
    slope = (reached.item(at + 1) - reached.item(at)) / (points.item(at + 1) - below)
    return slope * (x - below) + reached.item(at)


def _bins(step: Step) -> Program:
    edges = step.numbers["edge"][:, 0]

    def run(x: Floats) -> Derived:
        column = x[:, 0]
        return Derived(count_up_to(edges, column)[:, None].astype(np.float64), missing=np.isnan(column))

    return run


def _map(step: Step) -> Program:
    rows, key = step.numbers["values"], step.numbers.get("key")
    keys = None if key is None else key[:, 0]
    of_unknown, of_missing = (_only_row(step, name) for name in ("unknown", "missing"))
    is_missing_odd, is_unknown_odd = step.options["missing"] == MISSING, step.options["unknown"] == INVALID

    def run(x: Floats) -> Derived:
        if len(x) == 1 and (place := _row_of(keys, len(rows), x.item())) >= 0:
            return Derived(rows[place : place + 1])
        column = x[:, 0]
        at, is_own = _rows_of(keys, len(rows), column)
        values = rows.take(at, axis=0, mode="clip") if len(rows) else np.empty((len(column), rows.shape[1]))
        if all_true(is_own):
            return Derived(values)
        missing = np.isnan(column)
        unknown = ~(is_own | missing)
        values[unknown], values[missing] = of_unknown, of_missing
        return Derived(values, missing if is_missing_odd else None, unknown if is_unknown_odd else None)

    return run


def _only_row(step: Step, name: str) -> Floats:
    """Return what stands for an unknown or missing value, shape (n_outputs,); NaN where there are no numbers for it."""
    numbers = step.numbers.get(name)
    return np.full(len(step.outputs), np.nan) if numbers is None else numbers[0]


def _row_of(keys: Floats | None, n_rows: int, value: float) -> int:
    """Return `_rows_of` for one value, in a fifth of the time; -1 where it has none."""
    if keys is None:
        return int(value) if 0.0 <= value < n_rows else -1
    place = int(keys.searchsorted(value))
    return place if place < n_rows and keys.item(place) == value else -1


def _rows_of(keys: Floats | None, n_rows: int, column: Floats) -> tuple[NDArray[np.intp], Bools]:
    """Return the row of each value among keys (None: codes of texts), and whether it has one; both (n_samples,)."""
    if keys is None:
        is_own = (column >= 0.0) & (column < n_rows)
        return np.where(is_own, column, 0.0).astype(np.intp), is_own
    at = count_up_to(keys, column)
    at -= 1
    return at, keys.take(at, mode="clip") == column if n_rows else np.zeros(len(column), dtype=np.bool_)


def _onehot(step: Step) -> Program:
    numbers = step.numbers["number"][:, 0]
    return lambda x: Derived(np.where(np.isnan(x), x, (x == numbers).astype(np.float64)))


def _product(step: Step) -> Program:
    terms = step.terms
    # every output has as many factors as the longest: 1.0, which stands behind the inputs, changes nothing
    longest = max((len(term) for term in terms), default=0)
    factors = [
        np.array([term[number] if number < len(term) else len(step.inputs) for term in terms], dtype=np.intp)
        for number in range(longest)
    ]

    def run(x: Floats) -> Derived:
        inputs = np.vstack([x.T, np.ones(len(x))])
        values = np.ones((len(terms), len(x))) if not factors else inputs.take(factors[0], axis=0)
        for places in factors[1:]:
            values *= inputs.take(places, axis=0)
        return Derived(values.T, missing=_any(np.isnan(x)))

    return run


def _any(mask: Bools) -> Bools:
    return np.asarray(mask.any(axis=1), dtype=np.bool_)


_PROGRAMS: Mapping[StepKind, Callable[[Step], Program]] = {
    StepKind.FILL: _fill,
    StepKind.MISSING: _missing,
    StepKind.SCALE: _scale,
    StepKind.CLIP: _clip,
    StepKind.POWER: _power,
    StepKind.QUANTILE: _quantile,
    StepKind.NORMAL: lambda _: lambda x: Derived(normal_quantile(x)),
    StepKind.BINS: _bins,
    StepKind.MAP: _map,
    StepKind.ONEHOT: _onehot,
    StepKind.PRODUCT: _product,
}
