"""The commands for views that scripts compute, from two files to features that a model is served from."""

from __future__ import annotations

import json
import shutil
import tomllib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fedpredict.cli.main import run
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.state.lease_files import FolderLeases
from fedpredict.state.leases import hold
from fedpredict.tables.models import publish_model
from fedpredict.tables.script_store import list_scripts
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import EXAMPLES, random_events, random_merchants, store

OPTIONS = ("--config", "lab/participant.toml")
ALONE = ("--without-dry-run", "spark,hive", *OPTIONS)


@pytest.fixture
def views(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example view, beside a party whose warehouse has its raw tables."""
    monkeypatch.chdir(tmp_path)
    assert run(["init", "participant", "lab", "--no-certs"]) == 0
    shutil.copytree(EXAMPLES, tmp_path / "views", ignore=shutil.ignore_patterns("*.py"))
    warehouse = LocalWarehouse(tmp_path / "lab" / "warehouse")
    store(warehouse, random_events(5, 20, 300), random_merchants(40))
    warehouse.close()
    capsys.readouterr()
    return tmp_path / "views"


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command and return what it says, in one line."""
    capsys.readouterr()
    assert run(list(words)) == code
    captured = capsys.readouterr()
    return " ".join((captured.out if code == 0 else captured.err).split())


def test_a_view_is_registered_refreshed_compared_and_changed(views: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(views / "transactions.toml")

    assert "spent_30d decimal(20,2)" in said(capsys, "view", "lint", file)
    assert "No views yet" in said(capsys, "view", "list", *OPTIONS)
    tried = "Tried on duckdb, not on spark, hive."
    assert said(capsys, "view", "register", file, *ALONE) == f"View transactions, version 1: registered. {tried}"
    assert said(capsys, "view", "register", file, *OPTIONS) == f"View transactions, version 1: unchanged. {tried}"
    refreshed = said(capsys, "features", "refresh", "transactions", "--as-of", "2024-03-01T00:00:00Z", *OPTIONS)
    assert refreshed == "20 rows are snapshot 20240301T000000.000000Z of view transactions, version 1."
    assert "No difference from version 1." in said(capsys, "view", "diff", file, *OPTIONS)

    script = views / "transactions.sql"
    script.write_text(script.read_text().replace("tx.amount > 0", "tx.amount > 1"))
    definition = Path(file)
    definition.write_text(definition.read_text().replace("max = 100000", "max = 200000"))

    changed = said(capsys, "view", "diff", file, *OPTIONS)
    assert "feature n_30d: max is 200000.0, was 100000.0" in changed
    assert "-WHERE tx.amount > 0 +WHERE tx.amount > 1" in changed
    registered = json.loads(said(capsys, "view", "register", file, "--json", *ALONE))
    assert (registered["version"], registered["tried"], registered["not_tried"]) == (2, ["duckdb"], ["spark", "hive"])
    assert json.loads(said(capsys, "view", "show", "transactions", "--json", *OPTIONS))["tried"] == ["duckdb"]
    assert "tx.amount > 0" in said(capsys, "view", "show", "transactions", "--version", "1", *OPTIONS)
    listed = json.loads(said(capsys, "view", "list", "--json", *OPTIONS))
    assert [(each["version"], each["owner"]) for each in listed] == [(1, "risk@bank.example"), (2, "risk@bank.example")]


def test_a_file_and_a_script_never_share_a_version_by_chance(views: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = views / "transactions.toml"
    said(capsys, "view", "register", str(file), *ALONE)
    Path("other.csv").write_text("who,income\nalice,3\n")
    load = ("features", "load", "other.csv", "--view", "transactions", "--key", "who", *OPTIONS)

    # the script's version has no snapshot yet, and is there all the same
    told = said(capsys, *load, code=4)
    assert "not those of view transactions version 1: 'income' is new; 'n_1h' is missing" in told
    assert json.loads(said(capsys, *load, "--new-version", "--json"))["version"] == 2

    file.write_text(file.read_text() + "\n# changed\n")
    assert "version 3: registered" in said(capsys, "view", "register", str(file), *ALONE)
    assert json.loads(said(capsys, *load, "--json"))["version"] == 2  # as the file before
    assert json.loads(said(capsys, *load, "--new-version", "--json"))["version"] == 4


def test_a_file_of_a_registered_views_columns_is_a_snapshot_of_that_version(
    views: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = views / "transactions.toml"
    said(capsys, "view", "register", str(file), *ALONE)
    names = list(tomllib.loads(file.read_text())["features"])
    values = ["web" if name == "last_channel" else "1" for name in names]
    Path("same.csv").write_text(f"who,{','.join(names)}\nalice,{','.join(values)}\n")

    loaded = said(capsys, "features", "load", "same.csv", "--view", "transactions", "--key", "who", "--json", *OPTIONS)

    assert [json.loads(loaded)[key] for key in ("version", "new_version", "rows")] == [1, False, 1]


def test_versions_of_a_view_are_made_by_one_process_at_a_time(views: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = views / "transactions.toml"
    Path("other.csv").write_text("who,income\nalice,3\n")
    load = ("features", "load", "other.csv", "--view", "transactions", "--key", "who", *OPTIONS)

    with hold(FolderLeases(Path("lab/warehouse/.leases")), "view:transactions"):
        assert "view:transactions is under way" in said(capsys, "view", "register", str(file), *ALONE, code=10)
        assert "view:transactions is under way" in said(capsys, *load, code=10)
    assert "No views yet" in said(capsys, "view", "list", *OPTIONS)

    assert "version 1: registered" in said(capsys, "view", "register", str(file), *ALONE)
    with hold(FolderLeases(Path("lab/warehouse/.leases")), "view:transactions"):
        assert "view:transactions is under way" in said(capsys, *load, "--new-version", code=10)
    assert json.loads(said(capsys, *load, "--new-version", "--json"))["version"] == 2


def test_a_max_age_for_real_time_is_told_to_do_nothing(views: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = views / "transactions.toml"
    assert run(["view", "lint", str(file)]) == 0
    assert capsys.readouterr().err == ""
    file.write_text(file.read_text().replace("[max_age]", '[max_age]\nrealtime = "5m"'))

    for words in (("lint", str(file)), ("register", str(file), *ALONE)):
        assert run(["view", *words]) == 0
        assert "note: [max_age] realtime has no effect" in " ".join(capsys.readouterr().err.split())


def test_a_refresh_is_of_the_newest_version_and_those_that_models_use(
    views: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, party = views / "transactions.sql", views.parent / "lab"
    said(capsys, "view", "register", str(views / "transactions.toml"), *ALONE)
    with closing(LocalWarehouse(party / "warehouse")) as warehouse:
        part = LinearPart(("last_amount",), np.array([[1.0]]), None, np.array([0.0]))
        partial = PartialModel("credit", "run-1", "bank", Kind.LINEAR, (), False, part)
        bound = list_scripts(warehouse, "transactions")[0]
        publish_model(warehouse, partial, bound.view.feature_view(1), "a" * 64, lambda _: {})
    for amount in ("1", "2"):
        script.write_text(script.read_text().replace("WHERE tx.amount > 0", f"WHERE tx.amount > 0.0{amount}"))
        said(capsys, "view", "register", str(views / "transactions.toml"), *ALONE)
        script.write_text(script.read_text().replace(f"WHERE tx.amount > 0.0{amount}", "WHERE tx.amount > 0"))
    day = ["--as-of", "2024-03-01T00:00:00Z"]

    told = json.loads(said(capsys, "features", "refresh", "transactions", *day, "--json", *OPTIONS))
    alone = json.loads(said(capsys, "features", "refresh", "transactions", "--version", "2", *day, "--json", *OPTIONS))
    FolderLeases(party / "warehouse" / ".leases").take("refresh:transactions:3", "other-host:7:x", 600.0)
    partly = said(capsys, "features", "refresh", "transactions", *day, *OPTIONS, code=10)
    listed = json.loads(said(capsys, "features", "list", "--json", *OPTIONS))

    assert (told["version"], [each["version"] for each in told["others"]]) == (3, [1])
    assert (alone["version"], alone["others"]) == (2, [])
    assert "refresh:transactions:3 is under way at other-host:7:x" in partly
    assert [each["version"] for each in listed] == [1, 1, 2, 3]


def test_a_refresh_is_of_versions_that_older_models_use_while_daemons_serve_them(
    views: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, party = views / "transactions.sql", views.parent / "lab"
    text = script.read_text()
    for version, least in enumerate(("0", "0.01"), start=1):
        script.write_text(text.replace("WHERE tx.amount > 0", f"WHERE tx.amount > {least}"))
        said(capsys, "view", "register", str(views / "transactions.toml"), *ALONE)
        with closing(LocalWarehouse(party / "warehouse")) as warehouse:
            part = LinearPart(("last_amount",), np.array([[float(version)]]), None, np.array([0.0]))
            partial = PartialModel("credit", "run-1", "bank", Kind.LINEAR, (), False, part)
            bound = list_scripts(warehouse, "transactions")[-1]
            publish_model(warehouse, partial, bound.view.feature_view(version), "a" * 64, lambda _: {})
    day = ["--as-of", "2024-03-01T00:00:00Z"]

    both = json.loads(said(capsys, "features", "refresh", "transactions", *day, "--json", *OPTIONS))
    FolderLeases(party / "warehouse" / ".leases").take("refresh:transactions:1", "other-host:7:x", 600.0)
    assert run(["features", "refresh", "transactions", *day, *OPTIONS]) == 0
    partly = " ".join("".join(capsys.readouterr()).split())
    one = said(capsys, "features", "refresh", "transactions", "--version", "1", *day, *OPTIONS, code=10)

    assert (both["version"], [each["version"] for each in both["others"]]) == (2, [1])
    assert "version 1, which only older versions of models use, was not refreshed: " in partly
    assert "under way at other-host:7:x" in partly
    assert "under way at other-host:7:x" in one


def test_view_test_compares_what_a_fixture_expects(views: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, fixture = str(views / "transactions.toml"), views / "transactions.test.toml"

    assert "Not asked: spark, hive" in said(capsys, "view", "test", file, *OPTIONS)

    fixture.write_text(fixture.read_text().replace("n_30d = 3", "n_30d = 4"))
    told = said(capsys, "view", "test", file, *OPTIONS, code=4)
    assert "1 differences from duckdb: expected: n_30d of 'alice' is 4, not 3.0" in told

    fixture.unlink()
    assert "duckdb 2 " in said(capsys, "view", "test", file, "--seeds", "2", *OPTIONS)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "event_time =",
            "event_tim =",
            r"unknown key [sources.tx] event_tim in transactions.toml; did you mean event_time?",
        ),
        ('type = "number"', 'type = "numbr"', "[features.n_1h] type in transactions.toml is 'numbr'"),
        ('account = "text"', 'acount = "text"', "line 23, column 10: no column account in tx; did you mean acount?"),
    ],
)
def test_a_mistake_in_a_definition_is_told_with_its_key(
    views: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, told: str
) -> None:
    file = views / "transactions.toml"
    file.write_text(file.read_text().replace(old, new, 1))

    assert told in said(capsys, "view", "lint", str(file), code=4 if "line" in told else 3)


def test_what_is_not_there_is_told_with_the_nearest(views: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = views / "transactions.toml"
    said(capsys, "view", "register", str(file), *ALONE)

    assert "did you mean transactions?" in said(capsys, "features", "refresh", "transaction", *OPTIONS, code=4)
    assert "no registered version 7: 1" in said(
        capsys, "view", "show", "transactions", "--version", "7", *OPTIONS, code=4
    )
    assert "has no time zone" in said(
        capsys, "features", "refresh", "transactions", "--as-of", "2024-03-01", *OPTIONS, code=2
    )
    assert "views/no.toml: no such file; it holds the view's def" in said(
        capsys, "view", "lint", "views/no.toml", code=3
    )
    file.with_suffix(".sql").unlink()
    assert "transactions.sql: no such file" in said(capsys, "view", "lint", str(file), code=3)


def test_a_target_that_is_not_tried_is_told_with_the_flag_to_go_on_without(
    views: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(views / "transactions.toml")
    party = Path("lab/participant.toml").read_text().replace('kind = "local"', 'kind = "hive"')
    # nobody listens at port 1
    Path("lab/away.toml").write_text(party.replace('path = "warehouse"', 'host = "127.0.0.1"\nport = 1'))

    told = said(capsys, "view", "register", file, *OPTIONS, code=4)
    assert "cannot be tried on spark and hive" in told
    assert "--without-dry-run spark,hive" in told
    told = said(
        capsys, "view", "register", file, "--engine-config", "lab/away.toml", "--without-dry-run", "hive", *OPTIONS,
        code=4,
    )  # fmt: skip
    assert "the warehouse of lab/away.toml cannot be reached" in told
    assert "so it cannot be tried on spark" in told
    assert "No views yet" in said(capsys, "view", "list", *OPTIONS)
    assert "there is duckdb, spark, hive" in said(
        capsys, "view", "register", file, "--without-dry-run", "sparc", *OPTIONS, code=4
    )

    registered = said(capsys, "view", "register", file, "--engine-config", "lab/away.toml", *ALONE)
    assert registered.endswith("Tried on duckdb, not on spark, hive.")
