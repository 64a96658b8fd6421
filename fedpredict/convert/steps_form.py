"""The portable form of a part with steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedpredict.convert.labels import check_feature_names, shown
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.plain import check_keys, matrix
from fedpredict.convert.values import clipped
from fedpredict.errors import ModelConflictError, ModelFileError
from fedpredict.model.arrays import Floats
from fedpredict.model.part import Family, Part
from fedpredict.model.step import Step, StepKind
from fedpredict.model.steps import StepsPart

if TYPE_CHECKING:
    from fedpredict.convert.families import FamilyForm

_KEYS = ("features", "categories", "steps", "core")
_STEP_KEYS = ("kind", "inputs", "outputs", "numbers", "options")


def steps_to_plain(families: Mapping[Family, FamilyForm], part: StepsPart) -> dict[str, object]:
    """Return the form that docs/portable-model.md describes."""
    core = families[part.core.family].to_plain(part.core)
    return {
        "features": list(part.features),
        "categories": {name: list(texts) for name, texts in part.categories.items()},
        "steps": [
            {
                "kind": step.kind.value,
                "inputs": list(step.inputs),
                "outputs": list(step.outputs),
                "numbers": {name: numbers.tolist() for name, numbers in step.numbers.items()},
                "options": dict(step.options),
            }
            for step in part.steps
        ],
        "core": {"family": part.core.family.value, "part": core},
    }


def steps_from_plain(
    families: Mapping[Family, FamilyForm], content: Mapping[str, object], options: ReadOptions
) -> StepsPart:
    """Return the part; raise as `FamilyForm.from_plain` says."""
    check_keys(content, _KEYS, "the part")
    features = check_feature_names(_texts(content.get("features"), "features"))
    if options.features is not None and options.features != features:
        raise ModelConflictError(
            f"the file names its features {shown(features)}, but --features names {shown(options.features)}: leave "
            "--features out"
        )
    categories = content.get("categories", {})
    if not isinstance(categories, dict):
        raise ModelFileError("categories is not a dict by feature name")
    listed = content.get("steps")
    if not isinstance(listed, list):
        raise ModelFileError("the part needs steps: a list of dicts")
    try:
        return StepsPart(
            features,
            {name: _texts(texts, f"categories of {name[:80]!a}") for name, texts in categories.items()},
            tuple(_step(each, f"step {place}") for place, each in enumerate(listed, start=1)),
            _core(families, content.get("core")),
        )
    except ValueError as error:
        raise ModelFileError(f"the steps do not fit together: {error}") from error


def _core(families: Mapping[Family, FamilyForm], core: object) -> Part:
    if not isinstance(core, dict):
        raise ModelFileError("the part needs core: a dict of family and part")
    check_keys(core, ("family", "part"), "core")
    known = [family.value for family in families if family is not Family.STEPS]
    name, part = core.get("family"), core.get("part")
    if not isinstance(name, str) or name not in known or not isinstance(part, dict):
        raise ModelFileError(f"core needs part, a dict, and family: one of {', '.join(known)}")
    return families[Family(name)].from_plain(part, ReadOptions())


def _step(value: object, what: str) -> Step:
    if not isinstance(value, dict):
        raise ModelFileError(f"{what} is not a dict")
    check_keys(value, _STEP_KEYS, what)
    kind, known = value.get("kind"), [each.value for each in StepKind]
    if not isinstance(kind, str) or kind not in known:
        raise ModelFileError(f"{what} has no kind that is known: {', '.join(known)}")
    numbers, options = value.get("numbers", {}), value.get("options", {})
    if not isinstance(numbers, dict) or not isinstance(options, dict):
        raise ModelFileError(f"{what}: numbers and options are dicts by name")
    inputs, outputs = (_texts(value.get(name), f"{what}: {name}") for name in ("inputs", "outputs"))
    what = f"{what} ({clipped(kind)})"
    try:
        read = {str(name): _columns(rows, f"{what}: {clipped(str(name))}") for name, rows in numbers.items()}
        return Step(StepKind(kind), inputs, outputs, read, options)
    except ValueError as error:
        raise ModelFileError(f"{what}: {error}") from error


def _columns(rows: object, what: str) -> Floats:
    """Return numbers as a matrix; none, as a bin of a constant has no edge, are a column of none."""
    found = matrix(rows, what)
    return found if len(found) else found.reshape(0, 1)


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ModelFileError(f"{what} is not a list of texts")
    return tuple(value)
