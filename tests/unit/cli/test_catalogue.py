"""The catalogue shows old and new, and pins nothing by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedpredict.cli.main import run
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest
from fedpredict.state.sql import SqlPinStore, open_pin_store

OLD = Manifest(
    model_id="credit",
    training_run="run-1",
    kind=Kind.BINARY,
    link=own_link(Kind.BINARY),
    classes=("no", "yes"),
    n_scores=1,
    fit_intercept=True,
    intercept_party="bank",
    digests=(("bank", "aa" * 32), ("lab", "bb" * 32)),
)
NEW = replace(OLD, training_run="run-2", digests=(("bank", "aa" * 32), ("lab", "cc" * 32)))


@pytest.fixture
def config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    run(["init", "initiator", str(tmp_path / "bank"), "--no-certs"])
    path = tmp_path / "bank" / "initiator.toml"
    models = '[parties.lab]\naddress = "127.0.0.1:1"\n[models.credit]\nparties = ["bank", "lab"]\n'
    path.write_text(f"{path.read_text()}\n{models}")
    capsys.readouterr()
    return str(path)


@pytest.fixture
def store(config: str) -> SqlPinStore:
    return open_pin_store("sqlite:///state.db", Path(config).parent)


def document(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert run([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def states(capsys: pytest.CaptureFixture[str], config: str) -> list[str]:
    return [each["state"] for each in document(capsys, "catalogue", "list", "--config", config)]


def test_the_state_of_a_model_goes_from_unmet_to_pinned_to_another_offered(
    config: str, store: SqlPinStore, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = states(capsys, config)
    store.offer("credit", OLD)
    seen += states(capsys, config)
    store.pin(OLD, by="somebody", replaces=None)
    seen += states(capsys, config)
    store.offer("credit", NEW)
    seen += states(capsys, config)
    store.offer("credit", None, "lab holds another training run")
    seen += states(capsys, config)

    assert seen == [
        "parties not met yet",
        "offered, not pinned",
        "pinned",
        "another version is offered",
        "pinned; the parties offer nothing",
    ]
    store.close()


def test_what_is_offered_is_pinned_after_a_look_at_old_and_new(
    config: str, store: SqlPinStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.pin(OLD, by="somebody", replaces=None)
    store.offer("credit", NEW)

    assert run(["catalogue", "pin", "credit", "--by", "me", "--yes", "--config", config]) == 0

    told = capsys.readouterr().out
    assert ["digest", "of", "lab", "bb" * 32, "cc" * 32, "no"] in [line.split() for line in told.splitlines()]
    history = store.pins()["credit"]
    assert [(each.manifest, each.pinned_by) for each in history] == [(NEW, "me"), (OLD, "somebody")]
    store.close()


def test_without_a_yes_nothing_is_pinned(config: str, store: SqlPinStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    store.offer("credit", NEW)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))

    assert run(["catalogue", "pin", "credit", "--config", config]) == 1
    assert store.pins() == {}
    store.close()


def test_an_earlier_version_can_be_pinned_again(
    config: str, store: SqlPinStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.pin(OLD, by="somebody", replaces=None)
    store.pin(NEW, by="somebody", replaces=OLD.manifest_sha256)

    done = document(capsys, "catalogue", "pin", "credit", "--to", OLD.manifest_sha256[:8], "--yes", "--config", config)

    assert done["pinned"] == OLD.manifest_sha256
    assert store.pins()["credit"][0].manifest == OLD
    store.close()


def test_a_version_that_was_never_pinned_is_not_in_the_history(
    config: str, store: SqlPinStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.pin(OLD, by="somebody", replaces=None)

    assert run(["catalogue", "pin", "credit", "--to", "ffff", "--yes", "--config", config]) == 4
    assert OLD.manifest_sha256[:12] in capsys.readouterr().err
    store.close()


def test_with_nothing_offered_there_is_nothing_to_pin(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalogue", "pin", "credit", "--yes", "--config", config]) == 5
    assert "nothing is offered yet" in capsys.readouterr().err


def test_what_is_pinned_already_changes_nothing(
    config: str, store: SqlPinStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.offer("credit", OLD)
    store.pin(OLD, by="somebody", replaces=None)

    done = document(capsys, "catalogue", "pin", "credit", "--yes", "--config", config)

    assert done == {"model_id": "credit", "changed": False}
    store.close()


def test_a_model_that_is_not_in_the_settings_is_told_with_the_nearest(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["catalogue", "show", "credti", "--config", config]) == 5
    assert "did you mean credit?" in capsys.readouterr().err


def test_showing_tells_both_manifests_and_the_history(
    config: str, store: SqlPinStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.pin(OLD, by="somebody", replaces=None)
    store.offer("credit", NEW)

    shown = document(capsys, "catalogue", "show", "credit", "--config", config)

    assert (shown["pinned"], shown["offered"]) == (OLD.manifest_sha256, NEW.manifest_sha256)
    assert shown["offered_manifest"]["digest of lab"] == "cc" * 32
    assert [each["pinned_by"] for each in shown["history"]] == ["somebody"]
    store.close()
