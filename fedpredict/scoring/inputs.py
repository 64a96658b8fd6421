"""Features that a request brings along, in the order of a model's: checked against the view by name and type."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np

from fedpredict.errors import InputsRefusedError
from fedpredict.features.base import FeatureRows
from fedpredict.model.arrays import Floats
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.inputs import Inputs
from fedpredict.model.part import Part
from fedpredict.scoring.state import LoadedModel
from fedpredict.tables.views import FeatureView

NEVER = 2**63 - 1
"""The event time of what has none, so that the oldest of several is found by a minimum."""
_SHOWN = 80
"""Characters of a name that are repeated to the caller."""


def rows_of_inputs(inputs: Inputs, view: FeatureView, model: LoadedModel, ids: Sequence[bytes]) -> FeatureRows:
    """Return the features of a model as if a store had them; what is no sample id is not found; no event times.

    Args:
        inputs: What came with the request, one row per id. More features of the view than the model's are let pass.
        view: What the model was made for.
        model: The features, in its part's order, and the texts that it knows.
        ids: The sample ids.

    Raises:
        InputsRefusedError: It names a feature that the view does not have, that the model lacks, or that is of the
            wrong type.
        ValueError: Another number of rows than of ids.
    """
    n_samples = len(ids)
    if len(inputs.values) != n_samples:
        raise ValueError(f"{len(inputs.values)} rows of inputs for {n_samples} sample ids")
    _check_names(inputs.names, view, model.part.features)
    check_types(inputs, model.part)
    never = np.full(n_samples, NEVER, dtype=np.int64)
    return FeatureRows(_values(inputs, model), valid_sample_ids(ids), np.zeros(n_samples, dtype=np.bool_), never)


def check_types(inputs: Inputs, part: Part) -> None:
    """Check that texts came for text features, and numbers for the others; what is missing throughout is neither.

    Raises:
        InputsRefusedError: It names the feature.
    """
    for name in part.categories:
        came_as_number = name in inputs.names and name not in inputs.texts
        if came_as_number and not np.isnan(inputs.values[:, inputs.names.index(name)]).all():
            raise _refused(name, "is text, and numbers were sent")
    for name, texts in inputs.texts.items():
        if texts and name not in part.categories and name in part.features:
            raise _refused(name, "is a number, and texts were sent")


def _values(inputs: Inputs, model: LoadedModel) -> Floats:
    features = model.part.features
    values = inputs.values
    if inputs.names != features:
        position = {name: column for column, name in enumerate(inputs.names)}
        values = values.take([position[name] for name in features], axis=1)
    if model.texts is None:
        return values
    if values is inputs.values:
        values = values.copy()
    for name, texts in inputs.texts.items():
        if name in model.part.categories:
            codes = values[:, features.index(name)]  # a view
            places = np.where(np.isnan(codes), len(texts), codes).astype(np.intp)
            codes[:] = model.texts.codes(name, texts).take(places)
    return values


def _check_names(names: Sequence[str], view: FeatureView, features: Sequence[str]) -> None:
    known = {feature.name for feature in view.features}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name[:_SHOWN], known, n=1, cutoff=0.0)
            raise _refused(name, f"is not one of the view; the nearest is {_shown(near[0])}" if near else "is unknown")
    missing = sorted(set(features) - set(names))
    if missing:
        raise _refused(missing[0], "is needed by the model and was not sent")


def _refused(name: str, problem: str) -> InputsRefusedError:
    shown = _shown(name)
    return InputsRefusedError(f"inputs: feature {shown} {problem}", feature=shown, problem=problem)


def _shown(name: str) -> str:
    return ascii(name if len(name) <= _SHOWN else name[:_SHOWN] + "…")
