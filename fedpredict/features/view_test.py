"""The same script over the same rows in several engines: what differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedpredict.tables.script_view import ScriptView

RELATIVE = 1e-12
"""By how much doubles may differ, of themselves: engines add them in different orders. Nothing else may differ."""


def differences(
    view: ScriptView, one: Sequence[Mapping[str, object]], other: Sequence[Mapping[str, object]], name: str
) -> list[str]:
    """Return a line for each difference of other rows from the first ones, by sample id and feature.

    Args:
        view: Whose features.
        one: Rows with sample_id and the features by column name.
        other: The same; a feature that a row of it lacks is not compared.
        name: What to call the other rows.
    """
    columns = {each.name: each.column for each in view.feature_view(1).features}
    first = {row["sample_id"]: row for row in one}
    second = {row["sample_id"]: row for row in other}
    told = [f"{name}: no row for {key!r}" for key in first if key not in second]
    told += [f"{name}: a row more, for {key!r}" for key in second if key not in first]
    told += [f"{name}: {len(other) - len(second)} rows repeat a sample id"] if len(other) != len(second) else []
    for key in (key for key in first if key in second):
        for feature, column in columns.items():
            mine, theirs = first[key][column], second[key].get(column, first[key][column])
            if not _same(mine, theirs):
                told.append(f"{name}: {feature} of {key!r} is {theirs!r}, not {mine!r}")
    return told


def _same(one: object, other: object) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=RELATIVE) or (math.isnan(one) and math.isnan(other))
    return one == other
