"""Heads and split trees as files: what is written reads back, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpredict.cli.main import run
from fedpredict.convert.head_form import head_from_portable, head_to_portable
from fedpredict.convert.options import ReadOptions
from fedpredict.convert.portable import from_portable, to_portable
from fedpredict.convert.read import HeadResult, read_file, read_model_file
from fedpredict.convert.simulate import simulate
from fedpredict.convert.split import split_model
from fedpredict.convert.split_trees_cut import HeadedCut, split_with_head
from fedpredict.convert.write import write_head, write_partial
from fedpredict.errors import IncompatiblePartsError, ModelConflictError, ModelFileError
from fedpredict.model.split_trees import SplitTreesPart
from fedpredict.model.tree_head import TreeHead
from tests.split_trees import Trained, boosted_classifier, forest

OWNERS = {"bank": ["f0", "f1", "f2"], "lab": ["f3", "f4", "f5"]}


@pytest.fixture(scope="module")
def trained() -> Trained:
    return boosted_classifier(n_estimators=3)


@pytest.fixture(scope="module")
def cut(trained: Trained) -> HeadedCut:
    return split_with_head(trained.joint, OWNERS, "bank", rows=trained.rows)


@pytest.mark.parametrize("make", [boosted_classifier, forest])
def test_a_head_reads_back_as_it_was_written(make: Callable[[], Trained], tmp_path: Path) -> None:
    head = split_with_head(make().joint, OWNERS, "bank").head
    write_head(tmp_path / "head.json", head)

    result = read_file(tmp_path / "head.json")

    assert isinstance(result, HeadResult)
    found, written = result.head.head, head.head
    assert isinstance(found, TreeHead)
    assert isinstance(written, TreeHead)
    assert found.values.tobytes() == written.values.tobytes()
    assert found.intercept.tobytes() == written.intercept.tobytes()
    assert (found.output.tolist(), found.combination) == (written.output.tolist(), written.combination)
    assert (result.head.party, result.head.classes) == ("bank", head.classes)


def test_a_part_reads_back_as_it_was_written(cut: HeadedCut, tmp_path: Path) -> None:
    write_partial(tmp_path / "lab.pkl", cut.parts["lab"])

    part = read_model_file(tmp_path / "lab.pkl").partial
    assert isinstance(part.part, SplitTreesPart)
    written = cut.parts["lab"].part
    assert isinstance(written, SplitTreesPart)
    assert part.part.combination == written.combination
    rows = cut.parts["lab"].verification
    assert rows is not None
    assert part.part.partial_scores(rows.features).tobytes() == written.partial_scores(rows.features).tobytes()
    assert part.verification is not None


def test_a_head_is_no_partys_part(cut: HeadedCut, tmp_path: Path) -> None:
    write_head(tmp_path / "head.json", cut.head)

    with pytest.raises(ModelConflictError, match="for the initiator alone"):
        read_model_file(tmp_path / "head.json")


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda head: head["head"].pop(key)


def _with(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda head: head["head"].update({key: value})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_without("intercept"), "head.intercept"),
        (_without("structure_sha256"), "structure_sha256"),
        (_without("values"), "head.values"),
        (_with("structure_sha256", "5"), "structure_sha256"),
        (_with("n_leaves", [1, 2, 3]), "leaf values of shape"),
        (_with("n_leaves", [0, 2, 3]), "without leaves"),
        (_with("n_leaves", [1, 2]), "outputs that are not among 1"),
        (_with("n_leaves", "all"), "head.n_leaves"),
        (_with("n_outputs", 0), "head.n_outputs"),
        (_with("n_outputs", True), "head.n_outputs"),
        (_with("output", [0, 1, 0]), "outputs that are not among 1"),
        (_with("values", [float("inf")]), "infinity"),
        (_with("secret", 1), "unknown key 'secret'"),
        (lambda head: head.update(combining="sum"), "combining"),
        (lambda head: head.update(head=None), "needs head"),
        (lambda head: head.update(classes=["a"]), "classes"),
    ],
)
def test_a_head_that_does_not_fit_together_is_refused(
    cut: HeadedCut, damage: Callable[[dict[str, Any]], None], told: str
) -> None:
    content: dict[str, Any] = json.loads(json.dumps(head_to_portable(cut.head)))
    damage(content)

    with pytest.raises(ModelFileError, match=told):
        head_from_portable(content)


def test_file_and_operator_must_say_the_same_of_a_head(cut: HeadedCut) -> None:
    content = head_to_portable(cut.head)

    with pytest.raises(ModelConflictError, match="party"):
        head_from_portable(content, ReadOptions(party="lab"))
    with pytest.raises(ModelConflictError, match="neither features"):
        head_from_portable(content, ReadOptions(features=("a",)))


def test_a_part_with_leaf_values_is_refused(cut: HeadedCut) -> None:
    content: dict[str, Any] = to_portable(cut.parts["lab"])
    content["part"]["values"] = [0.0]

    with pytest.raises(ModelFileError, match="unknown key 'values'"):
        from_portable(content)


def test_a_part_that_was_split_is_not_cut_again(cut: HeadedCut) -> None:
    with pytest.raises(ModelConflictError, match="cut the joint model instead"):
        split_model(cut.parts["lab"], {"a": ["f3"], "b": ["f4", "f5"]}, None)


def test_trees_that_mix_features_are_not_summed_and_the_fix_is_named(trained: Trained) -> None:
    with pytest.raises(ModelConflictError, match=r"name the initiator .*--head"):
        split_model(trained.joint, OWNERS, "bank")


def test_a_simulation_plays_masks_and_head(trained: Trained, cut: HeadedCut) -> None:
    names = trained.joint.part.features

    report = simulate(cut.parts, trained.joint, trained.rows, names, cut.head)

    assert report.n_scored == len(trained.rows)
    assert report.largest_relative <= 1e-12
    np.testing.assert_allclose(report.combined.predictions, report.expected.predictions, rtol=1e-12)
    with pytest.raises(IncompatiblePartsError, match="no head for them"):
        simulate(cut.parts, trained.joint, trained.rows, names)
    other = split_with_head(boosted_classifier(seed=1, n_estimators=3).joint, OWNERS, "bank").head
    with pytest.raises(IncompatiblePartsError, match="no head for them"):
        simulate(cut.parts, trained.joint, trained.rows, names, other)


def test_the_command_refuses_an_intercept_beside_a_head(trained: Trained, tmp_path: Path) -> None:
    write_partial(tmp_path / "joint.json", trained.joint)
    words = ["--party", "bank=f0,f1,f2", "--party", "lab=f3,f4,f5", "--out", str(tmp_path / "parts")]

    assert run(["model", "split", str(tmp_path / "joint.json"), *words, "--head", "bank", "--intercept", "lab"]) == 2
    assert not (tmp_path / "parts").exists()
