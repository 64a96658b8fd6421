"""The portable form of a part of split trees: that of trees, without what leaves are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from fedpredict.convert.options import ReadOptions
from fedpredict.convert.plain import check_keys
from fedpredict.convert.trees_form import NODE_KEYS, count_of_scores, nodes_from_plain, nodes_to_plain
from fedpredict.errors import ModelConflictError, ModelFileError
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.trees import FOREIGN

_KEYS = (*NODE_KEYS, "n_outputs")


def split_trees_to_plain(part: SplitTreesPart) -> dict[str, object]:
    """Return the nodes, with -2 for the feature of another party's split, and the number of the head's outputs."""
    return nodes_to_plain(part) | {"n_outputs": part.n_outputs}


def split_trees_from_plain(content: Mapping[str, object], options: ReadOptions) -> SplitTreesPart:
    """Return the part.

    Raises:
        ModelFileError, FeatureNamesError, ModelConflictError: As `FamilyForm.from_plain` says.
    """
    check_keys(content, _KEYS, "part")
    n_outputs = count_of_scores(content, "n_outputs")
    try:
        nodes = nodes_from_plain(content, options, FOREIGN)
        return SplitTreesPart(nodes.features, nodes.categories, nodes.may_miss, nodes.trees, n_outputs, nodes.closed)
    except ValueError as error:
        raise ModelFileError(f"part: {error}") from error


def refuse_cut(*_: object) -> NoReturn:
    """Refuse to cut a part that was cut before."""
    raise ModelConflictError("this is one party's part of trees that were split: cut the joint model instead")
