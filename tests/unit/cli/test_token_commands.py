"""`fedpredict token`: made, shown once, listed, revoked; and how a client's commands find theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedpredict.cli import connect
from fedpredict.cli.main import run
from fedpredict.errors import ConfigError
from fedpredict.security.tokens import Tokens

SETTINGS = """
party = "bank"
insecure = true
tokens = "secrets/tokens.json"
[parties.lab]
address = "127.0.0.1:1"
[models.m]
parties = ["lab"]
[clients.desk]
models = ["m", "n"]
[clients.lab]
kind = "party"
models = ["*"]
"""
NOTHING = connect.Connection(None, None, None, None, None, None, False, None, None)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDPREDICT_TOKEN", raising=False)
    Path("initiator.toml").write_text(SETTINGS)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run(["token", *words, "--json"]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out) if code == 0 else " ".join(captured.err.split())


def test_a_token_is_shown_once_and_revoked_by_its_id(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    made = said(capsys, "create", "--client", "desk", "--models", "m", "--modes", "nearline", "--expires", "12h")
    tokens = Tokens(folder / "secrets" / "tokens.json")
    holder = tokens.holder(f"Bearer {made['token']}")
    assert (holder.name, holder.token.models, holder.token.modes) == ("desk", ("m",), ("nearline",))
    (row,) = said(capsys, "list")
    assert (row["id"], row["state"], row["client"]) == (made["id"], "valid", "desk")
    assert made["token"] not in json.dumps([row, said(capsys, "show", made["id"])])
    assert said(capsys, "list", "--client", "other") == []
    assert said(capsys, "revoke", made["id"])["state"] == "revoked"
    assert said(capsys, "show", made["id"])["revoked_at"]
    with pytest.raises(Exception, match="revoked"):
        tokens.holder(f"Bearer {made['token']}")


def test_a_token_goes_into_a_file_of_its_user_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert "token" not in said(capsys, "create", "--client", "desk", "--out", "desk.token")
    file = Path("desk.token")
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(said(capsys, "list")) == 1
    assert "exists already" in said(capsys, "create", "--client", "desk", "--out", "desk.token", code=8)
    assert len(said(capsys, "list")) == 1  # none was made for nothing
    named = replace(NOTHING, ca=Path("ca.pem"), token_file=file)
    resolved = connect.resolve(None, named)
    assert resolved.token == file.read_text().strip()
    assert (resolved.ca, resolved.tls, resolved.insecure) == (Path("ca.pem"), None, False)
    assert resolved.token not in repr(resolved)


def test_a_token_may_have_limits_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "create", "--client", "desk")
    said(capsys, "create", "--client", "desk", "--calls-per-s", "0.5", "--burst", "3", "--max-rows", "10")
    free, limited = said(capsys, "list")
    limits = ("calls_per_s", "burst", "max_rows")
    assert [free[key] for key in limits] == [None, None, None]
    assert [limited[key] for key in limits] == [0.5, 3, 10]
    kept = json.loads(Path("secrets/tokens.json").read_text())["tokens"]
    assert not set(limits) & set(kept[0])  # as before there were limits


def test_a_token_that_cannot_be_written_out_is_not_made(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("not a folder")
    assert "cannot be written" in said(capsys, "create", "--client", "desk", "--out", "file/desk.token", code=8)
    assert said(capsys, "list") == []


def test_a_token_that_cannot_be_kept_is_not_written_out(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "secrets").mkdir()
    (folder / "secrets" / "tokens.json").write_text("{")
    assert "damaged" in said(capsys, "create", "--client", "desk", "--out", "desk.token", code=3)
    assert not Path("desk.token").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--client", "nobody"), "has no client 'nobody'"),
        (("--client", "lab"), "has no client 'lab'"),
        (("--client", "desk", "--models", "m,other"), "may not ask for other"),
        (("--client", "desk", "--modes", "soon"), "write some of realtime,nearline,offline"),
        (("--client", "desk", "--expires", "soon"), "such as 90d or 12h"),
        (("--client", "desk", "--expires", "400d"), "366 days at most"),
        (("--client", "desk", "--burst", "3"), "--burst: needs --calls-per-s"),
    ],
)
def test_what_cannot_be_made_says_why(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str) -> None:
    assert told in said(capsys, "create", *words, code=4)


def test_an_initiator_without_a_file_of_tokens_takes_none(capsys: pytest.CaptureFixture[str]) -> None:
    Path("initiator.toml").write_text(SETTINGS.replace('tokens = "secrets/tokens.json"', ""))
    assert 'write tokens = "tokens.json"' in said(capsys, "list", code=3)


def test_a_clients_token_is_of_the_option_then_the_environment_then_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("option", "file"):
        Path(f"{name}.token").write_text(f"{name}-{'x' * 20}\n")
    Path("client.toml").write_text('server = "127.0.0.1:1"\ntoken_file = "file.token"\nca = "ca.pem"\n')
    assert connect.resolve(None, NOTHING).token == "file-" + "x" * 20
    assert connect.resolve(None, NOTHING).ca == Path("ca.pem").absolute()
    monkeypatch.setenv("FEDPREDICT_TOKEN", "environment-" + "x" * 20)
    assert connect.resolve(None, NOTHING).token == "environment-" + "x" * 20
    named = replace(NOTHING, token_file=Path("option.token"))
    assert connect.resolve(None, named).token == "option-" + "x" * 20
    Path("option.token").write_text("two words\n")
    with pytest.raises(ConfigError, match="the token is none") as raised:
        connect.resolve(None, named)
    assert "words" not in str(raised.value)


def test_the_doctor_looks_at_the_file_and_at_what_ends_soon(capsys: pytest.CaptureFixture[str]) -> None:
    made = said(capsys, "create", "--client", "desk", "--expires", "12h")
    said(capsys, "create", "--client", "desk")

    def found() -> list[tuple[str, str]]:
        capsys.readouterr()
        run(["doctor", "--config", "initiator.toml", "--json"])
        listed = json.loads(capsys.readouterr().out)
        return [(each["level"], each["what"]) for each in listed if each["topic"] == "tokens"]

    (fine, soon) = found()
    assert (fine[0], "2 of 2 tokens are valid" in fine[1]) == ("ok", True)
    assert (soon[0], f"token {made['id']} of desk ends" in soon[1]) == ("warning", True)
    Path("secrets/tokens.json").write_text("{")
    ((level, what),) = found()
    assert (level, "damaged" in what) == ("problem", True)
