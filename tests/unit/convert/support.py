"""What the tests of this room share: options for files without names, and files of scikit-learn."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.convert.sklearn_file import Reading
from fedpredict.model.arrays import Floats
from fedpredict.model.combine import combine
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus, build_share
from tests.linear_parts import linear


def options_for(n_features: int, **changes: Any) -> ReadOptions:
    """Options that give everything a plain estimator lacks."""
    given: dict[str, Any] = {
        "model_id": "credit",
        "training_run": "run-1",
        "party": "bank",
        "features": tuple(f"f{index}" for index in range(n_features)),
    }
    return ReadOptions(**{**given, **changes})


def read_estimator(model: Any, protocol: int = 4, **changes: Any) -> Reading:
    """Pickle a fitted estimator and read it in this process, where a crash would be seen."""
    data = pickle.dumps(model, protocol=protocol)
    return read_content(data, options_for(model.n_features_in_, **changes), Limits())


def predictions_of(partial: PartialModel, features: Floats) -> Floats:
    """What one party with all features predicts."""
    values = partial.part.partial_scores(np.asarray(features, dtype=np.float64))
    status = np.full(len(values), SampleStatus.OK, dtype=np.uint8)
    return combine(partial.link, {partial.party: build_share(values, status)}).predictions


def expected_of(model: Any, features: Any) -> Floats:
    """What scikit-learn predicts, in our shape: the probability of the second class alone where there are two."""
    if hasattr(model, "predict_proba"):
        found = np.asarray(model.predict_proba(features), dtype=np.float64)
        return found[:, 1:] if found.shape[1] == 2 else found
    found = np.asarray(model.predict(features), dtype=np.float64)
    return found.reshape(len(found), -1)


def assert_same_scores(model: Any, partial: PartialModel, features: Floats) -> None:
    """Raw scores agree to 1e-12 of the sum of the absolute terms, predictions accordingly."""
    ours = partial.part.partial_scores(features)
    score = model.decision_function if hasattr(model, "decision_function") else model.predict
    theirs = np.asarray(score(features), dtype=np.float64).reshape(ours.shape)
    terms = np.abs(features) @ np.abs(linear(partial.part).weights) + np.abs(linear(partial.part).offset)
    assert (np.abs(ours - theirs) <= 1e-12 * terms).all()


def joblib_bytes(model: Any, compress: Any = 0) -> bytes:
    """What joblib writes for a model."""
    import joblib

    file = io.BytesIO()
    joblib.dump(model, file, compress=compress)
    return file.getvalue()
