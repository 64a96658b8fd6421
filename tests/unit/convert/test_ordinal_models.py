"""Ordinal models from the portable form to tables: cut, played, published, read back."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from fedpredict.convert.portable import from_portable, parse_json, to_json
from fedpredict.convert.simulate import simulate
from fedpredict.convert.split import split_model
from fedpredict.errors import IncompatiblePartsError, ModelFileError, TableCorruptError
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.tables.models import list_versions, load_model, publish_model
from fedpredict.tables.views import FeatureView, ViewFeature
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse

NAMES = ["a", "b", "c"]
THRESHOLDS = [-1.0, 1 / 3, 2e-17 + 1.1]
CONTENT: dict[str, Any] = {
    "format": "fedpredict-partial-1",
    "model_id": "grade",
    "training_run": "run-1",
    "party": "joint",
    "kind": "ordinal",
    "link": "cumulative_logit:" + ",".join(map(repr, THRESHOLDS)),
    "classes": ["A", "B", "C", "D"],
    "features": NAMES,
    "weights": [0.5, -1.25, 2.0],
    "constant": 0.125,
    "fit_intercept": False,
}


def test_the_parties_of_a_cut_model_give_the_probabilities_of_the_uncut_one() -> None:
    joint = from_portable(CONTENT)
    rows = np.random.default_rng(3).normal(size=(50, 3))
    rows[7, 1] = np.nan

    parts = split_model(joint, {"bank": ["c"], "lab": ["a", "b"]}, None, rows=rows)
    report = simulate(parts, joint, rows, NAMES)

    below = expit(np.array(THRESHOLDS) - (rows @ [0.5, -1.25, 2.0] + 0.125)[:, None])
    expected = np.diff(below, axis=1, prepend=0.0, append=1.0)
    np.testing.assert_allclose(report.combined.predictions, expected, rtol=1e-11)
    assert (report.n_scored, report.combined.raw.shape) == (49, (50, 1))
    assert report.largest_absolute < 1e-15


def test_a_published_ordinal_model_is_read_back_with_its_thresholds_bit_equal(tmp_path: Path) -> None:
    partial = from_portable(parse_json(to_json(from_portable(CONTENT))))
    view = FeatureView("v", 1, tuple(ViewFeature(name, name, ColumnType.DOUBLE) for name in NAMES), "id", None)
    with closing(LocalWarehouse(tmp_path)) as warehouse:
        publish_model(warehouse, partial, view, "0" * 64)
        (version,) = list_versions(warehouse)
        loaded = load_model(warehouse, version)

    assert (version.kind, version.n_scores, version.n_outputs) == (Kind.ORDINAL, 1, 4)
    assert version.link.numbers == loaded.link.numbers == tuple(THRESHOLDS)
    assert to_json(loaded) == to_json(partial)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"link": None}, "an ordinal model needs its link: cumulative_logit or"),
        ({"link": "logit"}, "an ordinal model cannot have the link logit; it may have cumulative_logit"),
        ({"link": "cumulative_logit:1,2"}, "an ordinal model of 4 classes needs 3 thresholds in its link, not 2"),
        ({"link": "cumulative_logit:1,3,2"}, "do not rise"),
        ({"classes": []}, "needs its classes"),
        ({"kind": "multinomial"}, "a multinomial model cannot have the link cumulative_logit"),
        ({"weights": [[1, 2], [3, 4], [5, 6]], "constant": None}, "needs 1 scores a sample, not 2"),
    ],
)
def test_an_ordinal_model_that_does_not_fit_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        from_portable(CONTENT | change)


def test_parts_with_other_thresholds_make_no_model() -> None:
    joint = from_portable(CONTENT)
    parts = split_model(joint, {"bank": ["c"], "lab": ["a", "b"]}, None)
    parts["lab"] = from_portable(
        CONTENT | {"party": "lab", "features": NAMES[:2], "weights": [0.5, -1.25], "link": "cumulative_logit:-1,0,1"}
    )
    with pytest.raises(
        IncompatiblePartsError, match=r"the parts differ in link: bank says cumulative_logit:-1\.0,0\.3"
    ):
        simulate(parts, joint, np.zeros((1, 3)), NAMES)


def test_thresholds_that_were_changed_in_the_table_are_found(tmp_path: Path) -> None:
    view = FeatureView("v", 1, tuple(ViewFeature(name, name, ColumnType.DOUBLE) for name in NAMES), "id", None)
    with closing(LocalWarehouse(tmp_path)) as warehouse:
        version, _ = publish_model(warehouse, from_portable(CONTENT), view, "0" * 64)
        with pytest.raises(TableCorruptError, match="another digest"):
            load_model(warehouse, replace(version, link=Link("cumulative_logit", numbers=(-1.0, 0.0, 1.0))))
