"""Trees that mix two parties' features: shares are leaf masks, and the initiator holds the values of the leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from paritycases import boosters, sklearn_trees
from paritycases.case import Case, two_parties

SOURCES = ("RandomForest", "HistGradientBoosting", "XGBoost gbtree", "LightGBM")
SHAPES = (".pkl",)


def cases() -> Iterator[Case]:
    """Return the cases of trees over all features, with every other feature at each of two parties."""
    for case in (*sklearn_trees.cases(), *boosters.cases(constrained=False)):
        if case.suffix in SHAPES and any(source in case.source for source in SOURCES):
            data = replace(case.data, parties=two_parties(list(case.data.frame.columns)))
            yield replace(case, kind=case.kind.replace("trees,", "split trees,"), data=data, is_split=True)
