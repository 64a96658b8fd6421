"""The examples of the documentation are real: they read, verify and add up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedpredict.convert.embedding_form import combination_from_plain
from fedpredict.convert.layers_file import parse_layers
from fedpredict.convert.portable import from_portable, parse_json
from fedpredict.convert.read import check_verification
from fedpredict.convert.sklearn_linear import SUPPORTED
from fedpredict.convert.sklearn_trees import SUPPORTED_TREES
from fedpredict.model.activations import Activation
from fedpredict.model.kinds import KINDS
from fedpredict.model.links import LINKS

PAGE = (Path(__file__).parents[3] / "docs" / "portable-model.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_examples_of_networks_are_read() -> None:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (network,) = (each for each in blocks if '"family": "network"' in each)
    described, bottom, top = (each for each in blocks if '"fedpredict-layers-1"' in each)

    part = from_portable(parse_json(network)).part
    layers = parse_layers(described)

    assert part.partial_scores(np.array([[2.0, 1.0]])) == pytest.approx(
        1.5 * (1 + 0.25 + 0.5 + 0.1) - 2 * (2 - 0.125 + 1.5 - 0.1) + 0.3
    )
    assert layers.inputs is not None
    assert [each.feature for each in layers.inputs] == ["age", "colour"]
    assert len(layers.steps) == 4
    below, part_below = parse_layers(top).below, combination_from_plain(parse_layers(bottom).embedding)
    assert below is not None
    assert part_below is not None
    assert part_below.structure_sha256 == below.structure_sha256
    assert (below.parties, below.n_numbers) == (("bank", "lab"), 5)


def test_the_page_lists_every_activation() -> None:
    found = re.search(r"\*\*Activations\*\*:(.*?)\n- ", PAGE, re.DOTALL)

    assert found is not None
    assert set(re.findall(r"`(\w+)`", found[1])) - {"slope"} == {each.value for each in Activation}


def test_the_examples_are_the_model_that_they_say() -> None:
    imaging = from_portable(parse_json(block("json")))
    hospital = from_portable(ast.literal_eval(block("python")))
    data = load_breast_cancer(as_frame=True)
    names = [*hospital.part.features, *imaging.part.features]
    features = data.data[names].to_numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, data.target_names[data.target])

    check_verification(imaging)
    check_verification(hospital)
    scores = hospital.part.partial_scores(features[:, :2]) + imaging.part.partial_scores(features[:, 2:])

    # another machine's solver may end a little elsewhere
    np.testing.assert_allclose(scores[:, 0], model.decision_function(features), rtol=1e-4, atol=1e-3)
    assert scores[0, 0] == pytest.approx(6.102, abs=1e-3)
    assert imaging.classes == tuple(model.classes_)


def test_the_example_of_trees_sums_the_values_of_its_leaves() -> None:
    bank = from_portable(parse_json(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[1]))

    rows = np.array([[30.0, 1.0], [np.nan, 0.0], [31.0, 0.0]])
    assert bank.part.partial_scores(rows)[:, 0].tolist() == [1.5, 2.5, 4.5]


def test_the_page_lists_every_link_with_the_kinds_that_may_have_it() -> None:
    rows = re.findall(r"^\| `(\w+)(?::[a-z,]+)?` \| [^|]* \| ([^|]*) \|", PAGE, re.MULTILINE)
    listed = {name: set(re.findall(r"`(\w+)`", kinds)) for name, kinds in rows if name in LINKS}

    assert listed == {name: {kind.value for kind in KINDS if name in KINDS[kind].links} for name in LINKS}


def test_the_page_lists_every_estimator_that_is_read() -> None:
    rows = re.findall(r"^\| ([A-Z][^|]*) \| `", PAGE, re.MULTILINE)

    assert {name for row in rows for name in re.findall(r"[A-Z]\w+", row)} == {*SUPPORTED, *SUPPORTED_TREES}
