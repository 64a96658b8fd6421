"""Trees written by old versions of scikit-learn, with those versions' own predictions (see `old_trees/make.py`)."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.errors import UnsupportedModelError
from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus
from tests.unit.convert.support import options_for, predictions_of

FOLDER = Path(__file__).parent / "old_trees"
ENTRIES = {
    f"{path.stem}-{name}": entry
    for path in sorted(FOLDER.glob("*.json"))
    for name, entry in json.loads(path.read_text()).items()
}


def partial_of(name: str) -> PartialModel:
    """The model of an entry; a table's column names stand in the file."""
    options = options_for(4, features=None) if name.endswith("texts") else options_for(4)
    return read_content(base64.b64decode(ENTRIES[name]["pickle"]), options, Limits()).partial


def matrix_of(partial: PartialModel, rows: list[list[Any]]) -> Floats:
    """The rows as the part wants them: codes for texts, NaN for null."""
    columns = []
    for at, name in enumerate(partial.part.features):
        texts = partial.part.categories.get(name)
        column = [row[at] for row in rows]
        if texts is not None:
            column = [None if x is None else texts.index(x) if x in texts else -1.0 for x in column]
        columns.append([np.nan if x is None else float(x) for x in column])
    return np.array(columns).T


def test_there_are_files_of_four_versions_with_every_class() -> None:
    assert len(list(FOLDER.glob("*.json"))) == 4
    for path in FOLDER.glob("*.json"):
        assert {"tree_two", "extra_tree", "forest", "extra", "boosting_zero", "hist"} <= set(
            json.loads(path.read_text())
        )


@pytest.mark.parametrize("name", ENTRIES)
def test_an_old_file_predicts_as_its_own_version_did(name: str) -> None:
    partial = partial_of(name)

    for asked in ENTRIES[name]["asked"]:
        features = matrix_of(partial, asked["features"])
        status = partial.part.statuses(features)
        if asked["predictions"] is None:  # the version refused them all, because some have a value missing
            assert status is not None
            has_missing = np.isnan(features).any(axis=1)
            assert (status == np.where(has_missing, SampleStatus.FEATURE_MISSING, SampleStatus.OK)).all()
            continue
        assert status is None
        expected = np.array(asked["predictions"])
        expected = expected[:, 1:] if len(partial.classes) == 2 else expected
        np.testing.assert_allclose(predictions_of(partial, features), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("tree_two", Kind.PROBABILITY, "identity"),
        ("forest_three", Kind.PROBABILITY, "identity"),
        ("tree_two_targets", Kind.LINEAR, "identity"),
        ("boosting_three", Kind.MULTINOMIAL, "softmax"),
        ("boosting_two_exponential", Kind.BINARY, "logit"),
        ("hist_two", Kind.BINARY, "logit"),
        ("hist_poisson", Kind.LINEAR, "log"),
    ],
)
def test_the_kind_does_not_depend_on_the_version(name: str, kind: Kind, link: str) -> None:
    for version in ("1.2.2", "1.7.2"):
        partial = partial_of(f"scikit-learn-{version}-{name}")

        assert (partial.kind, partial.link.name) == (kind, link)


def test_trees_of_a_version_that_was_never_compared_are_refused() -> None:

    from sklearn.tree import DecisionTreeRegressor

    data = pickle.dumps(DecisionTreeRegressor(max_depth=1).fit([[0.0], [1.0]], [0.0, 1.0]), protocol=0)

    with pytest.raises(UnsupportedModelError, match=r"written by scikit-learn 1\.1\.3; trees are read from 1\.2"):
        read_content(data.replace(b"V1.9.1\n", b"V1.1.3\n"), options_for(1), Limits())
