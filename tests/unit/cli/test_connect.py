"""What the command line and `client.toml` say about the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpredict.cli.main import run


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["p0"], 3, "which server?"),
        (["p0", "--server", "127.0.0.1:1"], 3, "needs tls"),
        (["p0", "--server", "bank.example:1", "--insecure"], 3, "loopback only"),
        (["p0", "--server", "127.0.0.1:1", "--ca", "ca.pem"], 3, "--ca, --cert and --key go together"),
        (["p0", "--server", "127.0.0.1:1", "--tls-dir", "."], 3, "holds 2 private keys"),
        (
            ["p0", "--server", "127.0.0.1:1", "--server-party", "bank", "--ca", "x", "--cert", "y", "--key", "z"],
            8,
            "no such file: x, y, z; make a request with `fedpredict certs request`",
        ),
        (["p0", "--config", "none.toml"], 3, "none.toml: no such file"),
        ([], 4, "name sample ids, or a file of them"),
        (["p0", "--in", "ids.csv"], 4, "one of the two"),
        (["p0", "--out", "x.xlsx"], 4, "written as .csv or .parquet"),
        (["p0", "--server", "127.0.0.1:1", "--insecure", "--timeout", "0.5"], 6, "127.0.0.1:1 cannot be reached"),
    ],
)
def test_a_mistake_is_told_with_its_code(
    words: list[str],
    code: int,
    told: str,
    *,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.key", "b.key"):
        (tmp_path / name).touch()

    assert run(["predict", "--model", "m", *words]) == code
    assert told in " ".join(capsys.readouterr().err.split())


def test_the_file_in_the_folder_is_taken_and_options_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "client.toml").write_text('server = "127.0.0.1:1"\ninsecure = true\ntimeout_s = 0.3\n')

    assert run(["predict", "--model", "m", "p0"]) == 6
    assert "127.0.0.1:1 cannot" in capsys.readouterr().err
    assert run(["models", "--server", "127.0.0.1:2"]) == 6
    assert "127.0.0.1:2 cannot" in capsys.readouterr().err
