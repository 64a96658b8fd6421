"""Pipelines written by old versions of scikit-learn, with those versions' own scores (see `old_steps/make.py`)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits, ReadOptions
from tests.step_models import coded

FOLDER = Path(__file__).parent / "old_steps"
FILES = sorted(FOLDER.glob("*.json"))
ENTRIES = [
    pytest.param(path, name, id=f"{path.stem}-{name}")
    for path in FILES
    for name in json.loads(path.read_text())["models"]
]


def test_there_are_files_of_three_versions() -> None:
    assert len(FILES) == 3


@pytest.mark.parametrize(("path", "name"), ENTRIES)
def test_an_old_pipeline_scores_as_its_own_version_did(path: Path, name: str) -> None:
    content = json.loads(path.read_text())
    model, frame = content["models"][name], pd.DataFrame(content["rows"])
    options = ReadOptions(model_id="m", training_run="run-1", party="lab")
    part = read_content(base64.b64decode(model["pickle"]), options, Limits()).partial.part
    features = coded(part, frame)
    assert part.statuses(features) is None
    expected = np.array(model["scores"]).reshape(len(features), -1)
    assert (np.abs(part.partial_scores(features) - expected) <= 1e-9 * part.magnitudes(features)).all()
