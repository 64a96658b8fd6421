"""The commands on a scorecard, and on a linear model with an exposure."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow.parquet
import pytest

from tests.unit.cli.test_commands import Shell, load, shell, write_model

__all__ = ["shell"]

CARD: dict[str, Any] = {
    "format": "fedpredict-partial-1",
    "model_id": "card",
    "training_run": "run-1",
    "party": "lab",
    "kind": "linear",
    "fit_intercept": True,
    "family": "scorecard",
    "part": {
        "base_points": 100,
        "features": [
            {
                "name": "age",
                "closed": "left",
                "reason": "R01",
                "bins": [{"to": 30, "points": -8}, {"from": 30, "to": 200, "points": 5}],
            },
            {
                "name": "visits",
                "closed": "left",
                "missing": 1,
                "bins": [{"to": 2, "points": 3}, {"from": 2, "points": 13}],
            },
        ],
    },
}


@pytest.fixture
def card(shell: Shell) -> Shell:
    (shell.folder / "card.json").write_text(json.dumps(CARD))
    load(shell)
    converted = shell.json("model", "convert", "card.json", "--config", shell.config)
    assert converted["kind"] == "linear"
    return shell


@pytest.mark.parametrize("engine", ["numpy", "warehouse"])
def test_points_add_up_and_a_value_in_no_bin_has_none(engine: str, card: Shell) -> None:
    rows = card.json("score", "--model", "card", "--engine", engine, "--config", card.config)

    assert [(each["sample_id"], each["status"], each["score"]) for each in rows] == [
        ("u1", "ok", 108.0),
        ("u2", "ok", 93.0),
        ("u3", "feature_invalid", None),
    ]


def test_the_largest_losses_of_points_are_listed_by_the_party_itself(card: Shell) -> None:
    rows = card.json("score", "--model", "card", "--reasons", "2", "--config", card.config)
    card.run("score", "--model", "card", "--reasons", "1", "--out", "scores.parquet", "--config", card.config)

    keys = ("reason_1", "loss_1", "reason_2", "loss_2")
    assert [[each[key] for key in keys] for each in rows] == [
        ["visits", 10.0, None, None],
        ["R01", 13.0, "visits", 12.0],
        [None] * 4,
    ]
    assert pyarrow.parquet.read_table("scores.parquet").column_names[-2:] == ["reason_1", "loss_1"]
    assert "--engine numpy only" in card.fails(
        4, "score", "--model", "card", "--reasons", "2", "--engine", "warehouse", "--config", card.config
    )


def test_a_model_that_is_no_scorecard_has_no_reasons(shell: Shell) -> None:
    load(shell)
    shell.run("model", "convert", "lab.json", "--config", shell.config)

    told = shell.fails(4, "score", "--model", "credit", "--reasons", "1", "--config", shell.config)

    assert "--reasons are of scorecards; this model's part is of family linear" in told


def test_a_converted_model_gets_the_exposure_that_the_operator_names(shell: Shell) -> None:
    from fedpredict.model.kinds import Kind
    from fedpredict.model.links import Link

    write_model(shell.folder / "lab.json", "lab", {"income": 0.5}, kind=Kind.LINEAR, classes=(), link=Link("log"))
    load(shell)

    shell.run("model", "convert", "lab.json", "--exposure", "age", "--offset", "visits", "--config", shell.config)
    for engine in ("numpy", "warehouse"):
        rows = shell.json("score", "--model", "credit", "--engine", engine, "--config", shell.config)

        assert [each["status"] for each in rows] == ["ok", "feature_missing", "ok"]
        assert rows[0]["score"] == pytest.approx(0.125 + 2 * 0.5 + 1 + math.log(40), rel=1e-15)
    told = shell.fails(4, "model", "convert", "lab.json", "--exposure", "income", "--config", shell.config)
    assert "the exposure 'income' has a weight other than 1" in told


def test_a_cut_model_gets_its_exposure_at_the_party_that_owns_it(shell: Shell) -> None:
    from fedpredict.model.kinds import Kind
    from fedpredict.model.links import Link

    weights = {"income": 0.5, "visits": 2.0}
    write_model(shell.folder / "joint.json", "joint-model", weights, kind=Kind.LINEAR, classes=(), link=Link("log"))
    (shell.folder / "rows.csv").write_text("id,age,income,visits\nu1,40,2,1\nu2,0,2,1\nu3,30,8,3\n")

    cut = shell.json(
        *("model", "split", "joint.json", "--party", "lab=income,visits", "--party", "bank=age", "--exposure", "age"),
        *("--intercept", "lab", "--rows", "rows.csv", "--out", "parts"),
    )
    report = shell.json("simulate", "--model", "parts", "--data", "rows.csv")

    assert [(each["party"], each["features"]) for each in cut] == [("lab", ["income", "visits"]), ("bank", ["age"])]
    assert (report["rows"], report["scored"]) == (3, 2)
