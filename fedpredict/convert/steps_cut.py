"""Cuts a part with steps by features: a step goes where its inputs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedpredict.convert.labels import shown
from fedpredict.errors import ModelConflictError
from fedpredict.model.arrays import Floats
from fedpredict.model.part import Family, Part
from fedpredict.model.step import ELEMENTWISE, Step, StepKind
from fedpredict.model.steps import StepsPart

if TYPE_CHECKING:
    from fedpredict.convert.families import FamilyForm


def cut_steps(
    families: Mapping[Family, FamilyForm],
    joint: StepsPart,
    columns: Mapping[str, list[int]],
    intercept_party: str | None,
    feature_constants: Floats | None,
) -> Mapping[str, Part]:
    """Return each party's features, the steps of them, and its part of the core; as `families.Cut` says.

    Raises:
        ModelConflictError: A column is made of features of more than one party.
    """
    del feature_constants  # of a core behind steps, no constant belongs to a feature
    owner = {joint.features[place]: party for party, places in columns.items() for place in places}
    nobody = intercept_party if intercept_party is not None else next(iter(columns))
    own: dict[str, list[Step]] = {party: [] for party in columns}
    for step in joint.steps:
        outputs: dict[str, list[int]] = {}
        for place, name in enumerate(step.outputs):
            owner[name] = _owner(step, place, owner, nobody)
            outputs.setdefault(owner[name], []).append(place)
        for party, places in outputs.items():
            own[party].append(_kept(step, places))
    read = {
        party: _in_order([joint.features[place] for place in places], joint.core.features, owner, party)
        for party, places in columns.items()
    }
    cores = families[joint.core.family].cut(joint.core, read, intercept_party, None)
    return {
        party: _part(joint, tuple(joint.features[place] for place in places), own[party], cores[party])
        for party, places in columns.items()
    }


def _in_order(features: list[str], of_core: tuple[str, ...], owner: Mapping[str, str], party: str) -> list[int]:
    """Return the places of the core's columns that are a party's: features first, in its order."""
    own = [place for place, name in enumerate(of_core) if owner[name] == party]
    rank = {name: place for place, name in enumerate(features)}
    return sorted(own, key=lambda place: (rank.get(of_core[place], len(rank)), place))


def _owner(step: Step, output: int, owner: Mapping[str, str], nobody: str) -> str:
    inputs = step.inputs_of(output)
    parties = sorted({owner[name] for name in inputs})
    if len(parties) > 1:
        raise ModelConflictError(
            f"a {step.kind} step needs {shown(inputs)} together, but they belong to {shown(parties)}: a column of "
            "several parties' features cannot be made by one of them; train without it"
        )
    return parties[0] if parties else nobody


def _kept(step: Step, places: list[int]) -> Step:
    """Return a step with some of its outputs."""
    outputs = tuple(step.outputs[place] for place in places)
    if step.kind is StepKind.PRODUCT:
        used = sorted({item for place in places for item in step.terms[place]})
        terms = [[used.index(item) for item in step.terms[place]] for place in places]
        return Step(step.kind, tuple(step.inputs[item] for item in used), outputs, options={"terms": terms})
    if step.kind not in ELEMENTWISE:
        return step
    inputs = tuple(step.inputs[place] for place in places)
    return Step(step.kind, inputs, outputs, {name: each[places] for name, each in step.numbers.items()}, step.options)


def _part(joint: StepsPart, features: tuple[str, ...], steps: list[Step], core: Part) -> Part:
    if not steps and core.features == features:
        return core
    known = {name: texts for name, texts in joint.categories.items() if name in features}
    return StepsPart(features, known, tuple(steps), core)
