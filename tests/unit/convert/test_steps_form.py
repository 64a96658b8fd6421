"""The portable form of steps: the documentation's example, and what does not fit together."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer

from fedpredict.convert.portable import from_portable, parse_json, to_json, to_portable
from fedpredict.convert.sklearn_transformers import TRANSFORMERS
from fedpredict.errors import ConversionError
from fedpredict.model.share import SampleStatus
from fedpredict.model.step import StepKind
from tests.unit.convert.support import read_estimator

PAGE = (Path(__file__).parents[3] / "docs" / "portable-model.md").read_text()
NAN = float("nan")


def example() -> dict[str, Any]:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    return parse_json(next(block for block in blocks if '"steps"' in block))


def test_the_documentations_example_scores_as_it_says() -> None:
    part = from_portable(example()).part
    rows = np.array([[30.0, 0.0], [NAN, 1.0], [25.0, NAN], [24.9, 0.0], [60.0, 1.0]])
    woe = np.array([[-0.1, 0.2], [0.3, -0.4], [-0.1, 0.05], [-0.7, 0.2], [0.9, -0.4]])
    np.testing.assert_allclose(part.partial_scores(rows)[:, 0], woe @ [1.2, 0.8], rtol=1e-15)
    assert part.statuses(rows) is None
    odd = part.statuses(np.array([[30.0, -1.0], [np.inf, 0.0]]))
    assert odd is not None
    assert odd.tolist() == [SampleStatus.FEATURE_INVALID] * 2


def test_the_page_lists_every_kind_of_step_and_every_transformer() -> None:
    assert {kind.value for kind in StepKind} <= set(re.findall(r"^\| (\w+) \| ", PAGE, re.MULTILINE))
    scalers = {"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"}
    assert {name for _, name in TRANSFORMERS} - scalers <= set(re.findall(r"[A-Z]\w+", PAGE.split("| steps | of |")[1]))


def test_a_form_written_again_is_the_same() -> None:
    partial = from_portable(example())
    assert to_portable(from_portable(to_portable(partial))) == to_portable(partial)


def test_the_one_bin_of_a_constant_has_no_edge_also_when_written_and_read_again() -> None:
    frame = pd.DataFrame({"always": np.full(8, 5.0), "some": np.arange(8.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that one bin is left of the constant
        bins = KBinsDiscretizer(3, encode="onehot-dense", quantile_method="averaged_inverted_cdf")
        model = make_pipeline(bins, LogisticRegression()).fit(frame, np.arange(8) % 2)
    reading = read_estimator(model, features=None)

    again = from_portable(parse_json(to_json(reading.partial)))

    expected = model.decision_function(frame)
    np.testing.assert_allclose(again.part.partial_scores(frame.to_numpy())[:, 0], expected, rtol=1e-12, atol=1e-12)


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = copy.deepcopy(example())
    change(content["part"])
    return content


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda part: part.pop("steps"), "needs steps"),
        (
            lambda part: part.update(
                core={"family": "scorecard", "part": {"features": [{"name": "age_woe", "bins": [{"points": 1}]}]}}
            ),
            "no steps stand in front of a scorecard",
        ),
        (lambda part: part.pop("core"), "needs core"),
        (lambda part: part.update(stepps=[]), "did you mean 'steps'"),
        (lambda part: part["core"].update(family="steps"), "one of linear"),
        (lambda part: part["core"]["part"].update(features=["age_woe", "job"]), "'job'"),
        (lambda part: part["core"]["part"].update(features=["age_woe", "age_bon"]), "'age_bon'"),
        (lambda part: part["steps"][0].update(kind="fil"), "fill, missing"),
        (lambda part: part["steps"][0].update(inputs=["ages"]), "'ages'"),
        (lambda part: part["steps"][0].update(inputs=["job"]), "text"),
        (lambda part: part["steps"][0].update(outputs=["age"]), "named as another column"),
        (lambda part: part["steps"][0].update(outputs=["a", "b"]), "2 outputs for 1"),
        (lambda part: part["steps"][0].update(numbers={"number": [1, 2]}), "one of each for an input"),
        (lambda part: part["steps"][0].update(numbers={"number": [NAN]}), "NaN"),
        (lambda part: part["steps"][0].update(numbers={"number": ["1"]}), "str"),
        (lambda part: part["steps"][1].update(inputs=["age_filled", "age"]), "2 inputs"),
        (lambda part: part["steps"][1].update(numbers={"edge": [2, 1]}), "rise"),
        (lambda part: part["steps"][1].update(numbers={"edges": [1]}), "edge"),
        (lambda part: part["steps"][2]["numbers"].update(key=[0, 1, 1, 2]), "rise"),
        (lambda part: part["steps"][2]["numbers"].update(key=[0, 1]), "keys"),
        (lambda part: part["steps"][2]["options"].update(unknown="error"), "unknown is one of"),
        (lambda part: part["steps"][2]["options"].update(unknown="value"), "numbers for unknown"),
        (lambda part: part["steps"][3]["options"].update(missing="nan"), "numbers for missing"),
        (lambda part: part["steps"][3]["numbers"].update(values=[1, 2, 3]), "2 texts"),
        (lambda part: part["categories"].update(job=["baker", "baker"]), "repeated"),
        (lambda part: part["categories"].update(jobs=["baker"]), "there is not"),
        (lambda part: part["steps"].append({"kind": "scale", "inputs": ["age"], "outputs": ["z"],
                                            "numbers": {"divide": [0.0]}}), "division by zero"),
        (lambda part: part["steps"].append({"kind": "clip", "inputs": ["age"], "outputs": ["z"],
                                            "numbers": {"low": [1], "high": [0]}}), "low above high"),
        (lambda part: part["steps"].append({"kind": "power", "inputs": ["age"], "outputs": ["z"],
                                            "numbers": {"exponent": [1]}}), "method"),
        (lambda part: part["steps"].append({"kind": "power", "inputs": ["age"], "outputs": ["z"],
                                            "numbers": {"exponent": [1]}, "options": {"method": {}}}), "method"),
        (lambda part: part["steps"].append({"kind": "product", "inputs": ["age"], "outputs": ["z"],
                                            "options": {"terms": [[1]]}}), "positions"),
        (lambda part: part["steps"].append({"kind": "product", "inputs": ["age"], "outputs": ["z"]}), "terms"),
        (lambda part: part["steps"].append({"kind": "onehot", "inputs": ["age"], "outputs": ["z"],
                                            "numbers": {"number": [1, 2]}}), "2 numbers for 1"),
        (lambda part: part["steps"].append({"kind": "quantile", "inputs": ["age"], "outputs": ["z"],
                                            "numbers": {"from": [], "to": [], "margin": [0]}}), "quantile"),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit_together_are_refused_by_name(
    change: Callable[[dict[str, Any]], object], told: str
) -> None:
    with pytest.raises(ConversionError, match=re.escape(told)):
        from_portable(changed(change))
