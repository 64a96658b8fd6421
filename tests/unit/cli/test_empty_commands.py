"""The commands on a party without features: a cut says what its share is, and its part scores every id of a view."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedpredict.cli.main import run
from tests.unit.cli.test_commands import Shell, load, shell

__all__ = ["shell"]

CUT = ("--party", "bank=age,income", "--party", "lab=", "--out", "parts")
DENSE = {"weights": [[1.0, 0.5], [-1.0, 0.25]], "bias": [0.5, -0.5], "activation": "tanh"}
BINS = [{"to": 30, "points": -8}, {"from": 30, "points": 5}]
SCALE = {"kind": "scale", "inputs": ["age", "income"], "outputs": ["a", "b"], "numbers": {"divide": [2, 4]}}
PLAIN: dict[str, Any] = {"features": ["age", "income"], "weights": [1, 2]}
JOINT: Mapping[str, dict[str, Any]] = {
    "linear": {**PLAIN, "intercept": 0.5},
    "scorecard": {
        "family": "scorecard",
        "part": {
            "base_points": 480,
            "features": [{"name": name, "closed": "left", "bins": BINS} for name in ("age", "income")],
        },
    },
    "network": {
        "family": "network",
        "part": {"features": ["age", "income"], "layers": [DENSE, {"weights": [[1], [2]], "bias": [0.25]}]},
        "fit_intercept": False,
    },
    "steps": {
        "family": "steps",
        "part": {
            "features": ["age", "income"],
            "steps": [SCALE],
            "core": {"family": "linear", "part": {"features": ["a", "b"], "weights": [1, 2], "intercept": [-3]}},
        },
    },
}


def write_joint(shell: Shell, family: str) -> None:
    base = {"format": "fedpredict-partial-1", "model_id": "credit", "training_run": "r", "party": "joint-model"}
    content = {**base, "kind": "linear", "fit_intercept": True, **JOINT[family]}
    (shell.folder / "joint.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("family", "more", "told"),
    [
        ("linear", ("--intercept", "bank"), "its share is zero"),
        ("linear", ("--intercept", "lab"), "its share is the constant 0.5"),
        ("scorecard", ("--intercept", "lab"), "its share is the constant 480"),
        ("network", (), "its share is zero"),
        ("network", ("--head", "bank"), "its share is zero"),
        ("steps", ("--intercept", "lab"), "its share is the constant -3"),
    ],
)
def test_a_cut_says_what_the_share_of_a_party_without_features_is(
    family: str, more: tuple[str, ...], told: str, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    write_joint(shell, family)

    capsys.readouterr()
    code = run(["model", "split", "joint.json", *CUT, *more])

    assert code == 0
    notes = " ".join(capsys.readouterr().err.split())
    assert f"nothing in the model asks for features of lab: {told} for all samples" in notes
    assert Path("parts/lab.pkl").exists()
    report = shell.json("simulate", "--model", "parts", "--data", "people.csv")
    assert report["parties"] == ["bank", "lab"]
    assert report["scored"] == 3
    assert report["largest_relative_difference"] <= 1e-15


def test_a_part_without_features_scores_every_id_of_its_view_by_both_engines(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    write_joint(shell, "linear")
    shell.run("model", "split", "joint.json", *CUT, "--intercept", "lab", "--rows", "people.csv")
    load(shell)

    capsys.readouterr()
    assert run(["model", "convert", "parts/lab.pkl", "--config", shell.config]) == 0
    notes = " ".join(capsys.readouterr().err.split())
    assert "no features: its share is the constant 0.5 for every sample id of view people" in notes
    shown = shell.json("model", "show", "credit", "--config", shell.config)
    assert (shown["features"], shown["view"]) == ([], "people")
    assert [each["engine"] for each in shown["certificate"]["parity"]] == ["numpy", "duckdb"]
    for engine in ("numpy", "warehouse"):
        words = ("score", "--model", "credit", "--engine", engine, "--config", shell.config)
        rows = shell.json(*words, "u1", "u2", "u3", "nobody")
        assert [(each["status"], each["score"]) for each in rows] == [("ok", 0.5)] * 3 + [("not_found", None)]


def test_which_view_a_part_without_features_is_for_is_said_where_there_are_several(shell: Shell) -> None:
    write_joint(shell, "linear")
    shell.run("model", "split", "joint.json", *CUT, "--intercept", "bank")
    words = ("model", "convert", "parts/lab.pkl", "--config", shell.config)
    assert "there are no features yet" in shell.fails(4, *words)
    load(shell)
    shell.run("features", "load", "people.csv", "--view", "others", "--key", "id", "--config", shell.config)

    told = shell.fails(4, *words)
    assert "any view fits: name the one whose sample ids it shall score with --view (there is others, people)" in told
    assert shell.json(*words, "--view", "others")["view"] == "others"
