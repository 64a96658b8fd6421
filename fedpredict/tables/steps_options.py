"""What of a part with steps stands in its version's row: how columns are made of columns, and no number of theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedpredict.errors import TableCorruptError
from fedpredict.model.part import Family
from fedpredict.model.step import StepKind

if TYPE_CHECKING:
    from fedpredict.tables.version import ModelVersion


@dataclass(frozen=True, slots=True)
class StepShape:
    """A step without its numbers: as `Step`, with the shape of each table of numbers."""

    kind: StepKind
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, object]
    shapes: Mapping[str, tuple[int, int]]


_PIVOTED_KEYS = 32
_HIVE_JOINS = 4
"""So many are seen to work in front of a linear core, with the 120 counters that Hive on Tez has as it comes."""


NO_ROOM = 100
"""More than Hive has room for, in levels of trees."""


def is_joined(step: StepShape) -> bool:
    """Return whether a map is joined rather than pivoted into the one row of parameters: that it has many keys."""
    return step.kind is StepKind.MAP and step.shapes["values"][0] > _PIVOTED_KEYS


def joins_of(steps: Sequence[StepShape]) -> int:
    """Return the joins of some steps: one for a large map, two for a quantile."""
    return sum(2 if step.kind is StepKind.QUANTILE else is_joined(step) for step in steps)


def levels_of(steps: Sequence[StepShape]) -> list[list[tuple[int, StepShape]]]:
    """Return the steps (with their places) by how many stand in front of them, one behind another."""
    depth: dict[str, int] = {}  # of what steps make; a feature has none
    found: list[list[tuple[int, StepShape]]] = []
    for place, step in enumerate(steps):
        own = max((depth.get(name, 0) for name in step.inputs), default=0)
        depth |= dict.fromkeys(step.outputs, own + 1)
        if len(found) <= own:
            found.append([])
        found[own].append((place, step))
    return found


def is_light(steps: Sequence[StepShape]) -> bool:
    """Return whether Hive has room for the joins of some steps."""
    return joins_of(steps) <= _HIVE_JOINS


def hive_steps_of(steps: Sequence[StepShape]) -> int:
    """Return how much of Hive's room steps take, in levels of trees: each level of theirs and each join, and one more.

    A quantile, which groups its points four times on the way to its two joins, leaves no room. ADR 0023 has what was
    seen to work.
    """
    if any(step.kind is StepKind.QUANTILE for step in steps):
        return NO_ROOM
    return joins_of(steps) + len(levels_of(steps)) + 1 if steps else 0


@dataclass(frozen=True, slots=True)
class StepsOptions:
    """The steps, and what the core is.

    Attributes:
        steps: In order.
        core: The core's family.
        core_features: The columns that it reads, in its order.
        core_options: What its own layout has to say.
    """

    steps: tuple[StepShape, ...]
    core: Family
    core_features: tuple[str, ...]
    core_options: Mapping[str, object]


def plain_options(shape: StepsOptions) -> dict[str, object]:
    """Return JSON values; the inverse of `parse_options`."""
    return {
        "steps": [
            {
                "kind": step.kind.value,
                "inputs": list(step.inputs),
                "outputs": list(step.outputs),
                "options": dict(step.options),
                "shapes": {name: list(sizes) for name, sizes in step.shapes.items()},
            }
            for step in shape.steps
        ],
        "core": shape.core.value,
        "core_features": list(shape.core_features),
        "core_options": dict(shape.core_options),
    }


def parse_options(options: Mapping[str, object]) -> StepsOptions:
    """Return what a version's options say.

    Raises:
        TableCorruptError: They say something else.
    """
    try:
        return StepsOptions(
            tuple(_step(each) for each in _listed(options["steps"])),
            Family(str(options["core"])),
            tuple(str(name) for name in _listed(options["core_features"])),
            _mapped(options["core_options"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise TableCorruptError(f"the options of the steps are damaged ({error})") from error


def core_version(version: ModelVersion, shape: StepsOptions) -> ModelVersion:
    """Return the version of the core alone: the same rows, read by the layout of its family."""
    known = {name: texts for name, texts in version.categories.items() if name in shape.core_features}
    return replace(
        version, family=shape.core, features=shape.core_features, categories=known, options=shape.core_options
    )


def _step(value: object) -> StepShape:
    step = _mapped(value)
    return StepShape(
        StepKind(str(step["kind"])),
        tuple(str(name) for name in _listed(step["inputs"])),
        tuple(str(name) for name in _listed(step["outputs"])),
        _mapped(step["options"]),
        {name: _sizes(sizes) for name, sizes in _mapped(step["shapes"]).items()},
    )


def _sizes(value: object) -> tuple[int, int]:
    rows, columns = _listed(value)
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise TypeError("a shape that is no two numbers")
    return rows, columns


def _listed(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("no list where one should be")
    return value


def _mapped(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError("no object where one should be")
    return value
