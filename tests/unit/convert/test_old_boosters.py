"""Files of old versions of XGBoost and LightGBM, with those versions' own predictions (see `old_models/boosters`)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.errors import UnsupportedModelError
from fedpredict.model.kinds import Kind
from tests.unit.convert.support import options_for, predictions_of

FOLDER = Path(__file__).parent / "old_models" / "boosters"
ENTRIES = {f"{path.stem}-{name}": entry for path in sorted(FOLDER.glob("*.json"))
           for name, entry in json.loads(path.read_text()).items()}  # fmt: skip
REFUSED = {
    "xgboost-1.2.1-wrapper": "old binary format.*save_model",
    "xgboost-1.2.1-squared": "written by XGBoost 1.2.1; versions from 1.5",
}
KINDS = {
    "squared": Kind.LINEAR,
    "poisson": Kind.LINEAR,
    "logistic": Kind.BINARY,
    "logitraw": Kind.DECISION,
    "softprob": Kind.MULTINOMIAL,
    "binary": Kind.BINARY,
    "forest": Kind.BINARY,
    "multiclass": Kind.MULTINOMIAL,
}


def test_there_are_files_of_seven_versions() -> None:
    assert len(list(FOLDER.glob("*.json"))) == 7


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in REFUSED])
def test_an_old_file_predicts_as_its_own_version_did(name: str) -> None:
    entry = ENTRIES[name]
    features = np.array(entry["features"], dtype=np.float64)

    partial = read_content(base64.b64decode(entry["file"]), options_for(4), Limits()).partial

    kind = name.rsplit("-", 1)[1]
    assert partial.kind is KINDS.get(kind, partial.kind)
    expected = np.array(entry["predictions"])
    tolerance = 1e-9 if name.startswith("lightgbm") else 3e-6
    np.testing.assert_allclose(predictions_of(partial, features), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "told"), REFUSED.items())
def test_an_old_format_is_refused_with_what_to_do(name: str, told: str) -> None:
    with pytest.raises(UnsupportedModelError, match=told):
        read_content(base64.b64decode(ENTRIES[name]["file"]), options_for(4), Limits())
