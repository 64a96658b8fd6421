"""One step of preprocessing: what there is, and what its parameters may be. `step_programs` computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from fedpredict.model.arrays import Floats


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

SCALES = ("subtract", "divide", "multiply", "add")
"""The numbers of `scale`, in the order in which they are applied."""


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


_NUMBERS: Mapping[StepKind, Sequence[str]] = {
    StepKind.FILL: ("number",),
    StepKind.MISSING: (),
    StepKind.SCALE: SCALES,
    StepKind.CLIP: ("low", "high"),
    StepKind.POWER: ("exponent",),
    StepKind.QUANTILE: ("from", "to", "margin"),
    StepKind.NORMAL: (),
    StepKind.BINS: ("edge",),
    StepKind.ONEHOT: ("number",),
}
