"""Steps, put together while a pipeline is read from its first transformer to its last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedpredict.convert.labels import shown
from fedpredict.errors import UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.step import MISSING, VALUE, Step, StepKind

PREFIX = "fp_s"
"""Outputs are named fp_s1_0, fp_s1_1 and so on: the step, counted from 1, and the place."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column between two transformers.

    Attributes:
        name: A feature, or an output.
        fill: The text that stands for a missing one; None where there is none.
    """

    name: str
    fill: str | None = None


@dataclass(slots=True)
class Builder:
    """What was read so far.

    Attributes:
        features: The names of the features, as the file has them.
        steps: In order.
        categories: For each feature that an encoder reads as text, its texts in the order of their codes.
    """

    features: tuple[str, ...]
    steps: list[Step] = field(default_factory=list)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(
        self,
        kind: StepKind,
        inputs: Sequence[Column],
        n_outputs: int,
        numbers: Mapping[str, Floats],
        options: Mapping[str, object] | None = None,
    ) -> list[Column]:
        """Add a step, and return its outputs.

        Args:
            kind: What it computes.
            inputs: The columns that it reads.
            n_outputs: How many columns it makes.
            numbers: As `Step.numbers`; a vector is a table of one column.
            options: As `Step.options`.

        Raises:
            UnsupportedModelError: An input is a text whose gaps were filled: only an encoder can read it.
            ValueError: As `Step` says.
        """
        filled = [column.name for column in inputs if column.fill is not None]
        if filled and not (kind is StepKind.MAP and "key" not in numbers):
            raise UnsupportedModelError(
                f"the texts of {shown(filled)} are imputed and then not encoded: a OneHotEncoder or OrdinalEncoder "
                "must follow"
            )
        outputs = tuple(f"{PREFIX}{len(self.steps) + 1}_{place}" for place in range(n_outputs))
        tables = {name: each if each.ndim == 2 else each.reshape(-1, 1) for name, each in numbers.items()}
        self.steps.append(Step(kind, tuple(column.name for column in inputs), outputs, tables, dict(options or {})))
        return [Column(name) for name in outputs]

    def know(self, name: str, texts: tuple[str, ...]) -> None:
        """Have a feature as text.

        Raises:
            UnsupportedModelError: It is known with other texts, or no feature.
        """
        if name not in self.features:
            raise UnsupportedModelError("an encoder of texts stands behind a step that makes numbers of its column")
        if self.categories.setdefault(name, texts) != texts:
            raise UnsupportedModelError(f"two encoders know other categories of {name!a}; give them the same ones")

    def apart(self, columns: Sequence[Column]) -> list[Column]:
        """Return the columns with a copy in place of each that is there a second time."""
        seen: set[str] = set()
        result: list[Column] = []
        for column in columns:
            again = column.name in seen
            result.append(self.add(StepKind.SCALE, [column], 1, {})[0] if again else column)
            seen.add(result[-1].name)
        return result


def fold_onehot(steps: Sequence[Step], columns: Sequence[str], weights: Floats) -> tuple[list[Step], list[str], Floats]:
    """Return steps, columns and weights that score the same, with each encoder's weights in its `map`.

    A one-hot encoder of a thousand categories becomes a table of a thousand rows instead of a thousand columns.

    Args:
        steps: The steps.
        columns: What the weights are for.
        weights: Shape (n_columns, n_scores).
    """
    n_scores = weights.shape[1]
    made = {name: step for step in steps for name in step.outputs}
    readers = [name for step in steps for name in step.inputs]
    row = {name: place for place, name in enumerate(columns)}
    replaced: dict[int, Step | None] = {}
    taken: set[str] = set()
    further: list[str] = []
    for step in steps:
        outputs = step.outputs
        foldable = step.kind is StepKind.ONEHOT and len(outputs) >= n_scores and all(name in row for name in outputs)
        if not foldable or any(name in readers for name in outputs):
            continue
        source = made.get(step.inputs[0])
        own = weights[[row[name] for name in outputs]]
        folded = _folded(step, source, own, alone=readers.count(step.inputs[0]) == 1 and step.inputs[0] not in row)
        replaced[id(step)] = folded
        if source is not None and source.kind is StepKind.MAP and folded.inputs == source.inputs:
            replaced[id(source)] = None
        taken |= set(outputs)
        further += folded.outputs
    kept = [name for name in columns if name not in taken]
    ones = np.tile(np.eye(n_scores), (len(further) // n_scores, 1)) if further else np.zeros((0, n_scores))
    after = [replaced.get(id(step), step) for step in steps]
    folded_weights = np.vstack([weights[[row[name] for name in kept]], ones])
    return [step for step in after if step is not None], [*kept, *further], folded_weights


def _folded(step: Step, source: Step | None, own: Floats, *, alone: bool) -> Step:
    """Return the one map that does what a one-hot encoder and its weights do; and its source's work, where it can."""
    outputs = tuple(f"{step.outputs[0]}_{place}" for place in range(own.shape[1]))
    numbers = step.numbers["number"][:, 0]

    def weighted(codes: Floats) -> Floats:
        return np.array([own[numbers == code].sum(axis=0) for code in codes[:, 0]]).reshape(-1, own.shape[1])

    if source is not None and source.kind is StepKind.MAP and alone:
        tables = {name: each if name == "key" else weighted(each) for name, each in source.numbers.items()}
        return Step(StepKind.MAP, source.inputs, outputs, tables, source.options)
    order = np.argsort(numbers)
    tables = {"key": numbers[order].reshape(-1, 1), "values": own[order], "unknown": np.zeros((1, own.shape[1]))}
    return Step(StepKind.MAP, step.inputs, outputs, tables, {"unknown": VALUE, "missing": MISSING})
