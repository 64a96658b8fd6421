"""One step of preprocessing: columns in, columns out; what each kind computes, and what it cannot take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats, all_true, count_up_to
from fedpredict.model.normal import normal_quantile


class StepKind(StrEnum):
    """What a step computes. The names are those of the tables and the files; docs/portable-model.md tells each."""

    FILL = "fill"
    MISSING = "missing"
    SCALE = "scale"
    CLIP = "clip"
    POWER = "power"
    QUANTILE = "quantile"
    NORMAL = "normal"
    BINS = "bins"
    MAP = "map"
    ONEHOT = "onehot"
    PRODUCT = "product"


ELEMENTWISE = frozenset(
    {StepKind.FILL, StepKind.MISSING, StepKind.SCALE, StepKind.CLIP, StepKind.POWER, StepKind.NORMAL}
)
"""Kinds of which each output comes from the input in its place, and each row of numbers belongs to one of them."""

_GROWING = frozenset({StepKind.SCALE, StepKind.POWER, StepKind.PRODUCT})
"""Kinds of which an output may be infinite where no input is."""

INVALID, VALUE, NAN, MISSING = "invalid", "value", "nan", "missing"
"""What `map` does with a value that is none of its own (the option `unknown`: invalid, value, nan), or that is missing
(the option `missing`: missing, value, nan): a status, the numbers of that name, or a missing output."""

YEO_JOHNSON, BOX_COX = "yeo-johnson", "box-cox"
_METHODS = (YEO_JOHNSON, BOX_COX)
"""The methods of `power`."""

_SCALES = ("subtract", "divide", "multiply", "add")
_SMALL_EXPONENT = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Some columns made of others. A column is a number, NaN where it is missing; texts are read by `map` alone.

    | kind | outputs | numbers | options |
    |---|---|---|---|
    | fill | x, or its number where x is missing | number (n, 1) | |
    | missing | 1.0 where x is missing, else 0.0 | | |
    | scale | (x - subtract) / divide * multiply + add | each of the four may be left out; (n, 1) | |
    | clip | low where x < low, high where x > high, else x | low, high (n, 1) | |
    | power | the transform of Yeo and Johnson, or of Box and Cox (x > 0) | exponent (n, 1) | method |
    | quantile | the mean of interpolations from the left and from the right; the first `to` where x is below, or by
      less than margin above, the first `from`; the last likewise | from, to (n_points, 1), rising; margin (1, 1) | |
    | normal | where the standard normal distribution function reaches x (`normal_quantile`) | | |
    | bins | how many edges are <= x | edge (n_edges, 1), rising | |
    | map | the row of values whose key x is, or of the text x | key (n_rows, 1) for a number, rising; values
      (n_rows, n_outputs), for a text in the order of its codes; unknown, missing (1, n_outputs) | unknown, missing |
    | onehot | 1.0 where x is the output's number, else 0.0 | number (n_outputs, 1) | |
    | product | the product of some inputs, with repeats | | terms: positions of the inputs, for each output |

    A missing x gives a missing output in scale, clip, power, quantile, normal and onehot, and FEATURE_MISSING in bins
    and product. x <= 0 in Box and Cox's transform gives FEATURE_INVALID, and so does an infinity that a step other than
    clip reads: scale, power and product may overflow.

    Attributes:
        kind: What it computes.
        inputs: Names of columns: features, or outputs of steps before.
        outputs: Names of the new columns.
        numbers: Its parameters by name, all of two dimensions.
        options: What is no number: JSON values by name.
    """

    kind: StepKind
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[str, Floats] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, numbers in self.numbers.items():
            if numbers.ndim != 2 or not np.isfinite(numbers).all():
                raise ValueError(f"{self.kind}: {name} is no table of finite numbers")
        if self.kind in ELEMENTWISE:
            _check_elementwise(self)
        elif self.kind is StepKind.PRODUCT:
            _check_product(self)
        else:
            _check_single(self)

    def inputs_of(self, output: int) -> tuple[str, ...]:
        """Return the inputs that an output is made of."""
        if self.kind is StepKind.PRODUCT:
            return tuple(dict.fromkeys(self.inputs[place] for place in self.terms[output]))
        return (self.inputs[output],) if self.kind in ELEMENTWISE else self.inputs

    @property
    def terms(self) -> list[list[int]]:
        """For each output of a product, the positions of its factors."""
        terms = self.options.get("terms")
        if not isinstance(terms, list) or not all(isinstance(term, list) for term in terms):
            raise ValueError("product: terms is a list with a list of positions for each output")
        return terms

    @property
    def is_of_text(self) -> bool:
        """Whether it reads a text feature."""
        return self.kind is StepKind.MAP and "key" not in self.numbers


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


class Shaped(Protocol):
    """What stands where, of a step."""

    @property
    def kind(self) -> StepKind:
        """What it computes."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of columns."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of new ones."""


def refused_infinities(steps: Sequence[Shaped]) -> list[tuple[str, ...]]:
    """Return for each step the inputs that may have overflowed, and then make a sample invalid.

    No library takes infinities; but a clip is the second half of a scaler that clips, which hands none on.
    """
    may_grow = {name for step in steps if step.kind in _GROWING for name in step.outputs}
    return [
        () if step.kind is StepKind.CLIP else tuple(name for name in step.inputs if name in may_grow)
        for step in steps
    ]  # fmt: skip


def program_of(step: Step) -> Program:
    """Return what computes a step; what it needs is worked out once."""
    return _PROGRAMS[step.kind](step)


def _check_elementwise(step: Step) -> None:
    needed = _NUMBERS[step.kind]
    width = len(step.inputs)
    if len(step.outputs) != width:
        raise ValueError(f"{step.kind}: {len(step.outputs)} outputs for {width} inputs")
    unknown = set(step.numbers) - set(needed)
    missing = set() if step.kind is StepKind.SCALE else set(needed) - set(step.numbers)
    if unknown or missing or any(each.shape != (width, 1) for each in step.numbers.values()):
        raise ValueError(f"{step.kind} needs {', '.join(needed) or 'no numbers'}, one of each for an input")
    if step.kind is StepKind.SCALE and (step.numbers.get("divide", np.ones(1)) == 0.0).any():
        raise ValueError("scale: a division by zero")
    if step.kind is StepKind.CLIP and (step.numbers["low"] > step.numbers["high"]).any():
        raise ValueError("clip: low above high")
    if step.kind is StepKind.POWER and step.options.get("method") not in _METHODS:
        raise ValueError(f"power: the method is {YEO_JOHNSON} or {BOX_COX}")


def _check_product(step: Step) -> None:
    places = range(len(step.inputs))
    if step.numbers or len(step.terms) != len(step.outputs):
        raise ValueError("product: there are not as many terms as outputs")
    for term in step.terms:
        if any(type(place) is not int or place not in places for place in term):
            raise ValueError("product: a term is a list of positions of inputs")


def _check_single(step: Step) -> None:
    if len(step.inputs) != 1:
        raise ValueError(f"{step.kind} has {len(step.inputs)} inputs instead of one")
    if step.kind is StepKind.MAP:
        _check_map(step, len(step.outputs))
    else:
        _check_vectors(step, len(step.outputs))


def _check_vectors(step: Step, width: int) -> None:
    numbers = {name: each[:, 0] for name, each in step.numbers.items() if each.shape[1] == 1}
    if set(step.numbers) != set(_NUMBERS[step.kind]) or len(numbers) != len(step.numbers):
        raise ValueError(f"{step.kind} needs columns of numbers {', '.join(_NUMBERS[step.kind])}")
    if step.kind is StepKind.ONEHOT:
        if len(numbers["number"]) != width:
            raise ValueError(f"onehot: {len(numbers['number'])} numbers for {width} outputs")
    elif width != 1:
        raise ValueError(f"{step.kind} has {width} outputs instead of one")
    elif any((np.diff(each) < 0).any() for each in numbers.values()):
        raise ValueError(f"{step.kind}: {', '.join(numbers)} must rise")
    elif step.kind is StepKind.QUANTILE and (
        not 0 < len(numbers["from"]) == len(numbers["to"]) or len(numbers["margin"]) != 1 or numbers["margin"][0] < 0.0
    ):
        raise ValueError("quantile: from and to are as long as each other and not empty, margin is one number from 0")


def _check_map(step: Step, width: int) -> None:
    numbers, options = step.numbers, step.options
    rows = numbers.get("values")
    if rows is None or rows.shape[1] != width:
        raise ValueError("map: values do not have one column for each output")
    if "key" in numbers and (numbers["key"].shape != (len(rows), 1) or (np.diff(numbers["key"][:, 0]) <= 0).any()):
        raise ValueError("map: the keys do not rise, or are not as many as the values")
    policies = {"unknown": (INVALID, VALUE, NAN), "missing": (MISSING, VALUE, NAN)}
    for name, allowed in policies.items():
        if options.get(name) not in allowed:
            raise ValueError(f"map: {name} is one of {', '.join(allowed)}")
        if (options[name] == VALUE) != (name in numbers) or numbers.get(name, rows[:1]).shape[1] != width:
            raise ValueError(f"map: there are numbers for {name} where that is a value, one for each output")
        if name in numbers and len(numbers[name]) != 1:
            raise ValueError(f"map: {name} has more than one row of numbers")
    if set(numbers) - {"key", "values", *policies} or set(options) - set(policies):
        raise ValueError("map: has key, values, unknown and missing")


def _fill(step: Step) -> Program:
    filler = step.numbers["number"][:, 0]
    return lambda x: Derived(np.where(np.isnan(x), filler, x))


def _missing(_: Step) -> Program:
    return lambda x: Derived(np.isnan(x).astype(np.float64))


def _scale(step: Step) -> Program:
    operations = (np.subtract, np.divide, np.multiply, np.add)
    used = [(operation, step.numbers[name][:, 0]) for operation, name in zip(operations, _SCALES, strict=True)
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


_NUMBERS: Mapping[StepKind, Sequence[str]] = {
    StepKind.FILL: ("number",),
    StepKind.MISSING: (),
    StepKind.SCALE: _SCALES,
    StepKind.CLIP: ("low", "high"),
    StepKind.POWER: ("exponent",),
    StepKind.QUANTILE: ("from", "to", "margin"),
    StepKind.NORMAL: (),
    StepKind.BINS: ("edge",),
    StepKind.ONEHOT: ("number",),
}
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
