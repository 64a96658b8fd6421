"""The commands on a party's warehouse, and an operator's usual mistakes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from fedpredict.cli.convert import NOT_ISOLATED
from fedpredict.cli.main import run
from fedpredict.convert.sandbox import run_child
from fedpredict.state.lease_files import FolderLeases
from fedpredict.state.leases import hold

WEIGHTS = {"income": 0.5, "age": -0.25, "visits": 2.0}


class Shell:
    """Runs commands of one party, and gives what they print."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.config = str(folder / "lab" / "participant.toml")

    def fails(self, code: int, *words: str) -> str:
        """Run a command that must end with `code`, and return its standard error in one line."""
        self._capsys.readouterr()
        assert run(list(words)) == code
        return " ".join(self._capsys.readouterr().err.split())

    def run(self, *words: str) -> str:
        """Run a command that must succeed, and return its standard output."""
        self._capsys.readouterr()
        code = run(list(words))
        captured = self._capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A party named lab with a feature file, and a model file that is its part."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path, capsys)
    shell.run("init", "participant", "lab", "--no-certs")
    (tmp_path / "people.csv").write_text("id,age,income,visits\nu1,40,2,1\nu2,20,4,\nu3,1e300,8,3\n")
    write_model(tmp_path / "lab.json", "lab", {"age": -0.25, "income": 0.5})
    return shell


def write_model(path: Path, party: str, weights: dict[str, float], **changes: object) -> None:
    from fedpredict.convert.write import write_partial
    from fedpredict.model.kinds import Kind
    from fedpredict.model.linear import LinearPart
    from fedpredict.model.partial import PartialModel

    part = LinearPart(tuple(weights), np.array([[each] for each in weights.values()]), np.array([0.125]), np.zeros(1))
    arguments: dict[str, Any] = {
        "model_id": "credit",
        "training_run": "run-1",
        "party": party,
        "kind": Kind.BINARY,
        "classes": ("no", "yes"),
        "fit_intercept": True,
        "part": part,
        **changes,
    }
    write_partial(path, PartialModel(**arguments))


def load(shell: Shell) -> Any:
    return shell.json("features", "load", "people.csv", "--view", "people", "--key", "id", "--config", shell.config)


def convert(shell: Shell) -> Any:
    return shell.json("model", "convert", "lab.json", "--config", shell.config)


def test_a_snapshot_is_loaded_and_listed(shell: Shell) -> None:
    loaded = load(shell)
    listed = shell.json("features", "list", "--config", shell.config)

    assert (loaded["view"], loaded["version"], loaded["rows"], loaded["new_version"]) == ("people", 1, 3, True)
    assert listed == [
        {
            "view": "people",
            "version": 1,
            "snapshot": loaded["snapshot"],
            "rows": 3,
            "features": ["age", "income", "visits"],
        }
    ]


def test_a_type_can_be_stated(shell: Shell) -> None:
    loaded = shell.json(
        *("features", "load", "people.csv", "--view", "people", "--key", "id"),
        *("--type", "visits=text", "--config", shell.config),
    )

    assert {each["name"]: each["type"] for each in loaded["columns"]} == {
        "age": "double",
        "income": "double",
        "visits": "string",
    }


def test_the_key_that_is_not_there_is_told_with_the_nearest(shell: Shell) -> None:
    told = shell.fails(4, "features", "load", "people.csv", "--view", "people", "--key", "di", "--config", shell.config)

    assert "no key column 'di'" in told
    assert "'id'" in told


def test_a_converted_model_is_listed_and_shown_without_its_weights(shell: Shell) -> None:
    load(shell)
    converted = convert(shell)
    listed = shell.json("model", "list", "--config", shell.config)
    shown = shell.run("model", "show", "credit", "--config", shell.config, "--json")

    assert (converted["written"], converted["view"], converted["features"]) == (True, "people", ["age", "income"])
    assert [(each["model_id"], each["version"], each["versions"]) for each in listed] == [("credit", 1, 1)]
    assert json.loads(shown)["params_sha256"] == converted["params_sha256"]
    assert "-0.25" not in shown
    assert "0.125" not in shown


def test_the_link_is_shown_wherever_the_kind_is(shell: Shell) -> None:
    from fedpredict.model.kinds import Kind
    from fedpredict.model.links import Link

    claims: dict[str, Any] = {"kind": Kind.LINEAR, "classes": (), "link": Link("log")}
    write_model(shell.folder / "lab.json", "lab", {"age": -0.25, "income": 0.5}, **claims)
    write_model(shell.folder / "joint.json", "joint-model", WEIGHTS, **claims)
    (shell.folder / "rows.csv").write_text("id,age,income,visits\nu1,40,2,1\n")
    load(shell)

    told = [
        convert(shell),
        *shell.json("model", "list", "--config", shell.config),
        shell.json("model", "show", "credit", "--config", shell.config),
        *shell.json(
            *("model", "split", "joint.json", "--party", "lab=income,visits", "--party", "bank=age"),
            *("--intercept", "bank", "--out", "parts"),
        ),
        shell.json("simulate", "--model", "parts", "--data", "rows.csv"),
    ]

    assert [(each["kind"], each["link"]) for each in told] == [("linear", "log")] * 6


def test_converting_the_same_file_again_changes_nothing(shell: Shell) -> None:
    load(shell)
    first = convert(shell)
    again = convert(shell)

    assert again == {**first, "written": False}


@pytest.mark.parametrize(
    "words", [("convert", "lab.json"), ("rollback", "credit", "--to", "1"), ("delete", "credit", "--yes")]
)
def test_versions_of_a_model_are_changed_by_one_process_at_a_time(shell: Shell, words: tuple[str, ...]) -> None:
    load(shell)
    convert(shell)
    write_model(shell.folder / "lab.json", "lab", {"age": 1.0, "income": 0.5})
    with hold(FolderLeases(shell.folder / "lab" / "warehouse" / ".leases"), "model:credit"):
        told = shell.fails(10, "model", *words, "--config", shell.config)

    assert "model:credit is under way" in told
    assert [each["version"] for each in shell.json("model", "list", "--config", shell.config)] == [1]
    shell.run("model", *words, "--config", shell.config)


def test_a_version_can_be_rolled_back_and_a_model_deleted(shell: Shell) -> None:
    load(shell)
    first = convert(shell)
    write_model(shell.folder / "lab.json", "lab", {"age": 1.0, "income": 0.5})
    second = convert(shell)
    back = shell.json("model", "rollback", "credit", "--config", shell.config)
    gone = shell.json("model", "delete", "credit", "--yes", "--config", shell.config)

    assert (first["version"], second["version"], back["version"]) == (1, 2, 3)
    assert back["params_sha256"] == first["params_sha256"] != second["params_sha256"]
    assert gone == {"model_id": "credit", "versions": 3}
    assert shell.json("model", "list", "--config", shell.config) == []


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1), ("y\n", 0, 0)])
def test_deleting_asks_first(answer: str, code: int, left: int, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    load(shell)
    convert(shell)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))

    assert run(["model", "delete", "credit", "--config", shell.config]) == code
    assert len(shell.json("model", "list", "--config", shell.config)) == left


@pytest.mark.parametrize("verb", ["show", "rollback", "delete"])
def test_a_model_that_is_not_there_is_told_with_the_nearest(verb: str, shell: Shell) -> None:
    load(shell)
    convert(shell)

    told = shell.fails(5, "model", verb, "credti", "--config", shell.config)

    assert told == "error: no model credti; did you mean credit?"


def test_without_any_model_the_next_step_is_told(shell: Shell) -> None:
    assert "fedpredict model convert" in shell.fails(5, "model", "show", "credit", "--config", shell.config)


def test_a_view_that_is_not_there_is_told_with_those_there_are(shell: Shell) -> None:
    load(shell)

    told = shell.fails(4, "model", "convert", "lab.json", "--view", "patients", "--config", shell.config)

    assert told == "error: no feature view patients; there is people"


def test_without_features_a_conversion_says_what_comes_first(shell: Shell) -> None:
    assert "fedpredict features load" in shell.fails(4, "model", "convert", "lab.json", "--config", shell.config)


def test_of_several_views_the_one_with_the_features_is_taken(shell: Shell) -> None:
    load(shell)
    (shell.folder / "other.csv").write_text("id,height\nu1,1.5\n")
    shell.run("features", "load", "other.csv", "--view", "other", "--key", "id", "--config", shell.config)

    assert convert(shell)["view"] == "people"


def test_features_that_the_view_lacks_are_named(shell: Shell) -> None:
    load(shell)
    write_model(shell.folder / "lab.json", "lab", {"age": 1.0, "incme": 0.5})

    told = shell.fails(4, "model", "convert", "lab.json", "--config", shell.config)

    assert "'incme' (the nearest is 'income')" in told


def test_another_partys_file_is_refused(shell: Shell) -> None:
    load(shell)
    write_model(shell.folder / "lab.json", "imaging", {"age": 1.0})

    told = shell.fails(4, "model", "convert", "lab.json", "--config", shell.config)

    assert "imaging" in told
    assert "lab" in told
    assert shell.json("model", "list", "--config", shell.config) == []


def test_a_party_that_is_not_the_settings_is_refused(shell: Shell) -> None:
    assert "--party says bank" in shell.fails(
        4, "model", "convert", "lab.json", "--party", "bank", "--config", shell.config
    )


def test_a_missing_model_file_is_named(shell: Shell) -> None:
    load(shell)

    assert "nothing.pkl: there is no such file" in shell.fails(
        4, "model", "convert", "nothing.pkl", "--config", shell.config
    )


def test_a_misspelt_key_is_told_by_every_command(shell: Shell) -> None:
    path = Path(shell.config)
    path.write_text(path.read_text().replace("poll_s", "pol_s"))

    told = shell.fails(3, "model", "list", "--config", shell.config)

    assert told == "error: unknown key pol_s in participant.toml; did you mean poll_s?"


@pytest.mark.parametrize("engine", ["numpy", "warehouse"])
def test_partial_scores_are_the_same_by_hand(engine: str, shell: Shell) -> None:
    load(shell)
    convert(shell)

    rows = shell.json("score", "--model", "credit", "--engine", engine, "--config", shell.config)

    # 0.125 is the intercept, 0.5 the weight of income, -0.25 that of age
    assert [(each["sample_id"], each["status"]) for each in rows] == [("u1", "ok"), ("u2", "ok"), ("u3", "ok")]
    assert [each["score"] for each in rows] == [
        0.125 + 2 * 0.5 - 40 * 0.25,
        0.125 + 4 * 0.5 - 20 * 0.25,
        pytest.approx(-1e300 * 0.25, rel=1e-15),
    ]


@pytest.mark.parametrize("engine", ["numpy", "warehouse"])
def test_asked_samples_come_in_order_with_a_status_each(engine: str, shell: Shell) -> None:
    write_model(shell.folder / "lab.json", "lab", {"visits": 2.0})
    load(shell)
    convert(shell)

    rows = shell.json(
        "score", "--model", "credit", "--engine", engine, "--config", shell.config, "u3", "nobody", "u2", "", "u3"
    )

    assert [(each["sample_id"], each["status"], each["score"]) for each in rows] == [
        ("u3", "ok", 6.125),
        ("nobody", "not_found", None),
        ("u2", "feature_missing", None),
        ("", "id_invalid", None),
        ("u3", "ok", 6.125),
    ]


def test_scores_can_be_written_to_a_file(shell: Shell) -> None:
    load(shell)
    convert(shell)

    shell.run("score", "--model", "credit", "--out", "scores.parquet", "--config", shell.config)

    assert pyarrow.parquet.read_table("scores.parquet").column_names == ["sample_id", "status", "score"]


def test_a_cut_model_adds_up_to_the_uncut_one(shell: Shell) -> None:
    write_model(shell.folder / "joint.json", "joint-model", WEIGHTS)
    (shell.folder / "rows.csv").write_text("id,age,income,visits\nu1,40,2,1\nu3,30,8,3\n")

    cut = shell.json(
        *("model", "split", "joint.json", "--party", "lab=income,visits", "--party", "bank=age"),
        *("--intercept", "bank", "--rows", "rows.csv", "--out", "parts"),
    )
    report = shell.json("simulate", "--model", "parts", "--data", "rows.csv")

    assert [(each["party"], each["features"], each["holds_intercept"]) for each in cut] == [
        ("lab", ["income", "visits"], False),
        ("bank", ["age"], True),
    ]
    assert (report["rows"], report["scored"], report["parties"]) == (2, 2, ["bank", "lab"])
    assert report["largest_relative_difference"] < 1e-15


@pytest.mark.parametrize("isolated", [True, False])
def test_where_the_reading_process_keeps_the_network_every_command_says_so(
    isolated: bool, shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(shell.folder / "joint.json", "joint-model", WEIGHTS)
    monkeypatch.setattr(
        "fedpredict.convert.read.run_child",
        lambda *arguments: {**run_child(*arguments), "network_isolated": isolated},
    )
    cut = ("--party", "lab=income,visits", "--party", "bank=age", "--intercept", "bank", "--out", "parts")
    for words in (
        ("model", "split", "joint.json", *cut),
        ("simulate", "--model", "parts", "--data", "people.csv"),
        ("features", "load", "people.csv", "--view", "people", "--key", "id", "--config", shell.config),
        ("model", "convert", "parts/lab.pkl", "--view", "people", "--config", shell.config),
    ):
        capsys.readouterr()
        assert run(list(words)) == 0
        told = " ".join(capsys.readouterr().err.split())
        assert (NOT_ISOLATED in told) is (not isolated and "features" not in words)


def test_parts_that_do_not_add_up_are_an_error(shell: Shell) -> None:
    write_model(shell.folder / "joint.json", "joint-model", WEIGHTS)
    shell.run(
        *("model", "split", "joint.json", "--party", "lab=income,visits", "--party", "bank=age"),
        *("--intercept", "bank", "--out", "parts"),
    )
    write_model(shell.folder / "parts" / "bank.pkl", "bank", {"age": 0.75})

    assert "other scores than the uncut model" in shell.fails(4, "simulate", "--model", "parts", "--data", "people.csv")


@pytest.mark.parametrize("owner", ["lab", "=income"])
def test_an_owner_that_cannot_be_read_says_how_to_write_it(owner: str, shell: Shell) -> None:
    assert "write PARTY=" in shell.fails(2, "model", "split", "joint.json", "--party", owner, "--out", "parts")


def test_the_names_of_a_file_without_names_may_stand_in_a_file(shell: Shell) -> None:
    from fedpredict.cli.convert import parse_features

    (shell.folder / "names").write_text("age, in years\nincome\n")

    assert parse_features("@names") == ("age, in years", "income")
    assert parse_features("a,b") == ("a", "b")
    assert parse_features(None) is None
    assert "nothing cannot be read" in shell.fails(
        4, "model", "convert", "lab.json", "--features", "@nothing", "--config", shell.config
    )


def test_verification_rows_are_replayed_and_shown(shell: Shell) -> None:
    load(shell)
    rows = "age,income,score,note\n40,2,-8.875,a\n20,4,-2.875,b\n,4,,c\n"
    (shell.folder / "rows.csv").write_text(rows)

    converted = shell.json("model", "convert", "lab.json", "--verify", "rows.csv", "--config", shell.config)

    parity = converted["certificate"]["parity"]
    assert [(each["engine"], each["rows"], each["max_abs"]) for each in parity] == [
        ("numpy", 3, 0.0),
        ("duckdb", 3, 0.0),
    ]
    assert converted["engines"] == ["numpy", "duckdb", "spark", "hive"]
    shown = shell.run("model", "show", "credit", "--config", shell.config)
    assert "duckdb" in shown
    assert shell.json("model", "show", "credit", "--config", shell.config)["certificate"]["parity"] == parity


def test_a_verification_row_that_differs_converts_nothing(shell: Shell) -> None:
    load(shell)
    (shell.folder / "rows.csv").write_text("age,income,score\n40,2,-8.875\n20,4,-2.8\n")

    told = shell.fails(4, "model", "convert", "lab.json", "--verify", "rows.csv", "--config", shell.config)

    assert "numpy gives other partial scores for the verification rows: off by 0.075" in told
    assert shell.json("model", "list", "--config", shell.config) == []


def test_verification_rows_without_a_feature_or_a_score_name_the_column(shell: Shell) -> None:
    load(shell)
    (shell.folder / "rows.csv").write_text("age,scores\n40,-8.875\n")

    told = shell.fails(4, "model", "convert", "lab.json", "--verify", "rows.csv", "--config", shell.config)

    assert "has no column 'income', 'score'" in told


def test_rows_with_predictions_hold_the_uncut_model_to_them_before_the_cut(shell: Shell) -> None:
    write_model(shell.folder / "all.json", "joint", {"age": -0.25, "income": 0.5})
    split = (
        "model",
        "split",
        "all.json",
        "--party",
        "a=age",
        "--party",
        "b=income",
        "--intercept",
        "a",
        "--out",
        "cut",
    )
    # the sigmoids of 0.125 and -0.125, and a row that nobody scores
    (shell.folder / "rows.csv").write_text(
        "age,income,prediction\n0,0,0.5312093733737563\n1,0,0.46879062662624377\n,1,\n"
    )
    (shell.folder / "wrong.csv").write_text("age,income,prediction\n0,0,0.5312\n")
    (shell.folder / "all.json").write_text((shell.folder / "all.json").read_text().replace('"joint"', '"joint-model"'))

    told = shell.fails(4, *split, "--rows", "wrong.csv")
    assert not (shell.folder / "cut").exists()
    shell.run(*split, "--rows", "rows.csv")

    assert "numpy gives other partial scores for the verification rows" in told
    assert len(json.loads((shell.folder / "cut" / "joint-model.json").read_text())["features"]) == 2
