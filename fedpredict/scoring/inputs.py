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
from fedpredict.tables.views import FeatureView
from fedpredict.warehouse.base import ColumnType

NEVER = 2**63 - 1
"""The event time of what has none, so that the oldest of several is found by a minimum."""
_IS_TEXT = "is text; inputs are numbers: leave them out, so that features are looked up"
_SHOWN = 80
"""Characters of a name that are repeated to the caller."""


def rows_of_inputs(inputs: Inputs, view: FeatureView, features: Sequence[str], ids: Sequence[bytes]) -> FeatureRows:
    """Return the features of a model as if a store had them; what is no sample id is not found; no event times.

    Args:
        inputs: What came with the request, one row per id. More features of the view than the model's are let pass.
        view: What the model was made for.
        features: The model's, in its order.
        ids: The sample ids.

    Raises:
        InputsRefusedError: It names a feature that the view does not have, that the model lacks, or that is text.
        ValueError: Another number of rows than of ids.
    """
    n_samples = len(ids)
    if len(inputs.values) != n_samples:
        raise ValueError(f"{len(inputs.values)} rows of inputs for {n_samples} sample ids")
    _check_names(inputs.names, view, features)
    never = np.full(n_samples, NEVER, dtype=np.int64)
    return FeatureRows(_values(inputs, features), valid_sample_ids(ids), np.zeros(n_samples, dtype=np.bool_), never)


def _values(inputs: Inputs, features: Sequence[str]) -> Floats:
    if inputs.names == tuple(features):
        return inputs.values
    position = {name: column for column, name in enumerate(inputs.names)}
    return inputs.values.take([position[name] for name in features], axis=1)


def _check_names(names: Sequence[str], view: FeatureView, features: Sequence[str]) -> None:
    types = {feature.name: feature.type for feature in view.features}
    for name in names:
        if name not in types:
            near = difflib.get_close_matches(name[:_SHOWN], types, n=1, cutoff=0.0)
            raise _refused(name, f"is not one of the view; the nearest is {_shown(near[0])}" if near else "is unknown")
        if types[name] is not ColumnType.DOUBLE:
            raise _refused(name, _IS_TEXT)
    missing = sorted(set(features) - set(names))
    if missing and types.get(missing[0]) is ColumnType.STRING:
        raise _refused(missing[0], _IS_TEXT)
    if missing:
        raise _refused(missing[0], "is needed by the model and was not sent")


def _refused(name: str, problem: str) -> InputsRefusedError:
    shown = _shown(name)
    return InputsRefusedError(f"inputs: feature {shown} {problem}", feature=shown, problem=problem)


def _shown(name: str) -> str:
    return ascii(name if len(name) <= _SHOWN else name[:_SHOWN] + "…")
