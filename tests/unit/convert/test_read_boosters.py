"""Boosters through the confined process: what it answers is the model that reading in this process gives."""

from __future__ import annotations

import pickle
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.convert.read import read_model_file
from fedpredict.convert.split import split_model
from fedpredict.errors import ModelFileError
from fedpredict.model.trees import TreesPart
from tests.unit.convert.boosters import mixed_data, signal
from tests.unit.convert.support import options_for

FEATURES = mixed_data(0)
SIGNAL = signal(FEATURES)


def files() -> dict[str, bytes]:
    booster = xgb.train({"max_depth": 3, "nthread": 1}, xgb.DMatrix(FEATURES, SIGNAL), 3)
    model = lgb.LGBMClassifier(n_estimators=3, num_leaves=6, verbose=-1, n_jobs=1).fit(FEATURES, SIGNAL > 1)
    return {
        "xgboost.json": bytes(booster.save_raw("json")),
        "xgboost.ubj": bytes(booster.save_raw("ubj")),
        "xgboost.pkl": pickle.dumps(booster),
        "lightgbm.txt": model.booster_.model_to_string().encode(),
        "lightgbm.pkl": pickle.dumps(model),
    }


FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_the_confined_process_gives_the_same_model(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(FILES[name])
    here = read_content(FILES[name], options_for(8), Limits())

    found = read_model_file(path, options_for(8))

    assert found.source == here.source
    assert (found.partial.kind, found.partial.classes) == (here.partial.kind, here.partial.classes)
    ours, theirs = found.partial.part, here.partial.part
    assert isinstance(ours, TreesPart)
    assert isinstance(theirs, TreesPart)
    assert (ours.trees.threshold == theirs.trees.threshold).all()
    assert (ours.may_miss == theirs.may_miss).all()
    assert (ours.partial_scores(FEATURES) == theirs.partial_scores(FEATURES)).all()


def test_damage_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.ubj"
    path.write_bytes(FILES["xgboost.ubj"][:-100])

    with pytest.raises(ModelFileError, match=r"cut\.ubj: the UBJSON content"):
        read_model_file(path, options_for(8))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_model_whose_trees_keep_to_a_party_is_cut(library: str) -> None:
    """Trained with interaction constraints, the parties' shares add up to the library's own margin."""
    groups = [[0, 2, 4, 6], [1, 3, 5, 7]]
    if library == "xgboost":
        params = {"max_depth": 3, "nthread": 1, "interaction_constraints": str(groups)}
        booster = xgb.train(params, xgb.DMatrix(FEATURES, SIGNAL), 6)
        data, expected = bytes(booster.save_raw("ubj")), booster.predict(xgb.DMatrix(FEATURES))
    else:
        params = {"num_leaves": 6, "verbose": -1, "num_threads": 1, "interaction_constraints": groups}
        model = lgb.train(params, lgb.Dataset(FEATURES, SIGNAL), 6)
        data, expected = model.model_to_string().encode(), np.asarray(model.predict(FEATURES))
    joint = read_content(data, options_for(8), Limits()).partial
    parties = {name: [f"f{column}" for column in group] for name, group in zip("ab", groups, strict=True)}

    parts = split_model(joint, parties, "a" if library == "xgboost" else None)

    total = np.zeros(len(FEATURES))
    for name, group in zip("ab", groups, strict=True):
        total += parts[name].part.partial_scores(FEATURES[:, group])[:, 0]
    terms = joint.part.magnitudes(FEATURES)[:, 0]
    assert (np.abs(total - expected) <= (1e-6 if library == "xgboost" else 1e-9) * terms).all()
