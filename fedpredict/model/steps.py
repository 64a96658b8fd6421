"""A party's part with preprocessing in front: steps make columns of features, and a core scores the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats, Statuses, all_finite, any_true
from fedpredict.model.combination import Combination, combination_of
from fedpredict.model.part import Family, Part
from fedpredict.model.share import SampleStatus, all_ok_statuses
from fedpredict.model.step import Step, refused_infinities
from fedpredict.model.step_programs import Program, program_of

_Places = slice | NDArray[np.intp]
_Compiled = tuple[_Places, _Places | None, slice, Program]
"""The places of a step's inputs, of those that must not have overflowed (None: none), of its outputs, and what computes
it."""


@dataclass(frozen=True, slots=True, eq=False)
class StepsPart:
    """Steps, and the part behind them.

    Infinite features are invalid, whatever the steps would make of them. A step may say more (`Step`), and so may the
    core of the columns that it reads.

    Attributes:
        features: The feature names, in the order of the columns.
        categories: For each text feature, its texts in the order of their codes.
        steps: In order: each reads features and outputs of steps before.
        core: The part behind; its features are features or outputs.
    """

    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    steps: tuple[Step, ...]
    core: Part
    _compiled: tuple[_Compiled, ...] = field(init=False)
    _read: _Places = field(init=False)
    """The places of the columns that the core reads."""

    def __post_init__(self) -> None:
        if self.core.family is Family.STEPS:
            raise ValueError("steps behind steps: write them as one list")
        place = {name: position for position, name in enumerate(self.features)}
        if len(place) != len(self.features):
            raise ValueError("repeated feature names")
        odd = set(self.categories) - set(place)
        if odd or any(len(set(texts)) != len(texts) for texts in self.categories.values()):
            raise ValueError("categories of a feature that there is not, or repeated")
        compiled: list[_Compiled] = []
        for step, refused in zip(self.steps, refused_infinities(self.steps), strict=True):
            self._check_inputs(step, place)
            inputs = _slice_or_places([place[name] for name in step.inputs])
            grown = _slice_or_places([place[name] for name in refused]) if refused else None
            start = len(place)
            place |= {name: start + position for position, name in enumerate(step.outputs)}
            if len(place) != start + len(step.outputs):
                raise ValueError(f"{step.kind}: an output is named as another column is")
            compiled.append((inputs, grown, slice(start, len(place)), program_of(step)))
        self._check_core(place)
        object.__setattr__(self, "_compiled", tuple(compiled))
        object.__setattr__(self, "_read", _slice_or_places([place[name] for name in self.core.features]))

    def _check_inputs(self, step: Step, known: Mapping[str, int]) -> None:
        unknown = [name for name in step.inputs if name not in known]
        if unknown:
            raise ValueError(f"{step.kind} reads {unknown[0]!a}, which is no feature and no output of a step before")
        texts = [self.categories[name] for name in step.inputs if name in self.categories]
        if bool(texts) != step.is_of_text:
            raise ValueError(
                f"{step.kind} of {step.inputs[0]!a}: a text is read by map without keys, and by nothing else"
            )
        if texts and len(step.numbers["values"]) != len(texts[0]):
            raise ValueError(f"map of {step.inputs[0]!a} has not one row for each of {len(texts[0])} texts")

    def _check_core(self, known: Mapping[str, int]) -> None:
        if self.core.family is Family.SCORECARD:
            raise ValueError(
                "no steps stand in front of a scorecard, which bins its features itself: leave them out, or write the "
                "points as bins and map in front of a linear core"
            )
        for name in self.core.features:
            if name not in known:
                raise ValueError(f"the core reads {name!a}, which is no feature and no output of a step")
            if self.core.categories.get(name) != self.categories.get(name):
                raise ValueError(f"the core has other categories of {name!a} than the steps")

    @property
    def family(self) -> Family:
        """Steps."""
        return Family.STEPS

    @property
    def intercept(self) -> Floats | None:
        """The core's."""
        return self.core.intercept

    @property
    def combination(self) -> Combination | None:
        """The core's: what it must have in common with a head."""
        return combination_of(self.core)

    @property
    def n_scores(self) -> int:
        """The core's."""
        return self.core.n_scores

    @property
    def n_bytes(self) -> int:
        """The memory that all arrays take."""
        return self.core.n_bytes + sum(each.nbytes for step in self.steps for each in step.numbers.values())

    def partial_scores(self, features: Floats) -> Floats:
        """Return the core's scores of the columns, as `Part.partial_scores`."""
        return self.core.partial_scores(self._derived(features)[0])

    def magnitudes(self, features: Floats) -> Floats:
        """Return the sum of the core's absolute terms, as `Part.magnitudes`."""
        return self.core.magnitudes(self._derived(features)[0])

    def statuses(self, features: Floats) -> Statuses | None:
        """Return why samples cannot be scored, as `Part.statuses`: by an infinite feature, a step, or the core."""
        columns, missing, invalid = self._derived(features)
        return _with_verdicts(features, self.core.statuses(columns), missing, invalid)

    def scores_and_statuses(self, features: Floats) -> tuple[Floats, Statuses | None]:
        """Return the core's scores and all statuses of columns that are derived once, as `Part.scores_and_statuses`."""
        columns, missing, invalid = self._derived(features)
        scores, status = self.core.scores_and_statuses(columns)
        return scores, _with_verdicts(features, status, missing, invalid)

    def _derived(self, features: Floats) -> tuple[Floats, Bools | None, Bools | None]:
        """Return the columns that the core reads, and which samples a step calls missing or invalid (None: none)."""
        if features.ndim != 2 or features.shape[1] != len(self.features):
            raise ValueError(f"features of shape {features.shape} for {len(self.features)} features")
        width = self._compiled[-1][2].stop if self._compiled else len(self.features)
        columns = np.empty((width, len(features)))  # a column's numbers side by side, because steps go by columns
        columns[: len(self.features)] = features.T
        missing: Bools | None = None
        invalid: Bools | None = None
        with np.errstate(all="ignore"):
            for inputs, grown, outputs, program in self._compiled:
                if grown is not None and not all_finite(given := columns[grown]):
                    invalid = _either(invalid, np.asarray(np.isinf(given).any(axis=0), dtype=np.bool_))
                derived = program(columns[inputs].T)
                columns[outputs] = derived.values.T
                missing, invalid = _either(missing, derived.missing), _either(invalid, derived.invalid)
        return columns[self._read].T, missing, invalid


def _slice_or_places(places: Sequence[int]) -> _Places:
    """Return how columns are taken: by a slice where they stand side by side, which copies nothing."""
    if places and list(places) == list(range(places[0], places[0] + len(places))):
        return slice(places[0], places[0] + len(places))
    return np.array(places, dtype=np.intp)


def _with_verdicts(
    features: Floats, status: Statuses | None, missing: Bools | None, invalid: Bools | None
) -> Statuses | None:
    """Return the core's statuses with what the steps and infinite features add to them."""
    if not all_finite(features):
        invalid = _either(invalid, np.asarray(np.isinf(features).any(axis=1), dtype=np.bool_))
    if missing is None and invalid is None:
        return status
    if status is None:
        status = all_ok_statuses(len(features))
    if missing is not None:
        status[missing & (status != SampleStatus.FEATURE_INVALID)] = SampleStatus.FEATURE_MISSING
    if invalid is not None:
        status[invalid] = SampleStatus.FEATURE_INVALID
    return status if any_true(status != SampleStatus.OK) else None


def _either(some: Bools | None, others: Bools | None) -> Bools | None:
    """Return which samples either names; None where nobody names one."""
    if others is None or not any_true(others):
        return some
    return others if some is None else some | others
