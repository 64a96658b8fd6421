"""What conversion knows of each family of parts: its portable form, and how a jointly trained part is cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from fedpredict.convert.linear_cut import cut_linear
from fedpredict.convert.linear_form import linear_from_plain, linear_to_plain
from fedpredict.convert.network_cut import cut_network
from fedpredict.convert.network_form import network_from_plain, network_to_plain
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.scorecard_form import cut_scorecard, scorecard_from_plain, scorecard_to_plain
from fedpredict.convert.split_trees_form import refuse_cut, split_trees_from_plain, split_trees_to_plain
from fedpredict.convert.steps_cut import cut_steps
from fedpredict.convert.steps_form import steps_from_plain, steps_to_plain
from fedpredict.convert.trees_cut import cut_trees
from fedpredict.convert.trees_form import trees_from_plain, trees_to_plain
from fedpredict.model.arrays import Floats
from fedpredict.model.part import Family, Part

Cut: TypeAlias = Callable[[Any, Mapping[str, list[int]], str | None, Floats | None], Mapping[str, Part]]
"""(joint part, party -> the positions of its features, the intercept's party or None, constants by feature or None)
-> party -> its part, whose shares add up to the joint part's scores."""


@dataclass(frozen=True, slots=True)
class FamilyForm:
    """How parts of one family are written and cut.

    Attributes:
        to_plain: A part -> plain Python (dict, list, str, float, int, bool, None), under keys of its own.
        from_plain: The inverse: (mapping, what the operator adds) -> the part. Raises `ModelFileError` where a value is
            missing, of the wrong type or does not fit, `FeatureNamesError` where names do not.
        cut: See `Cut`. Raises `ModelConflictError` where it cannot be cut so. A party without features gets a part
            without, whose share is the same for all samples: zero, unless it gets what depends on no feature.
    """

    to_plain: Callable[[Any], dict[str, object]]
    from_plain: Callable[[Mapping[str, object], ReadOptions], Part]
    cut: Cut


FAMILIES: Mapping[Family, FamilyForm] = {
    Family.LINEAR: FamilyForm(linear_to_plain, linear_from_plain, cut_linear),
    Family.STEPS: FamilyForm(
        lambda part: steps_to_plain(FAMILIES, part),
        lambda content, options: steps_from_plain(FAMILIES, content, options),
        lambda *args: cut_steps(FAMILIES, *args),
    ),
    Family.TREES: FamilyForm(trees_to_plain, trees_from_plain, cut_trees),
    Family.NETWORK: FamilyForm(network_to_plain, network_from_plain, cut_network),
    Family.SCORECARD: FamilyForm(scorecard_to_plain, scorecard_from_plain, cut_scorecard),
    Family.SPLIT_TREES: FamilyForm(split_trees_to_plain, split_trees_from_plain, refuse_cut),
}
"""The one place that says so."""
