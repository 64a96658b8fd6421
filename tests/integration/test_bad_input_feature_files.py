"""What an operator gets for a bad file of features, at the command line: one line, exit code 4, nothing written."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from fedpredict.cli.main import run

FEATURE_FILES: dict[str, tuple[bytes, str]] = {
    "duplicate-keys": (
        b"id,age,income\nu1,1,1\nu2,2,1\nu1,3,1\n",
        "1 rows have the sample id and event time of another row, the first is data row 3: name the event-time column",
    ),
    "no-key-column": (b"idd,age,income\nu1,1,1\n", "no key column 'id' in the file; near it: 'idd'"),
    "empty-key": (b"id,age,income\nu1,1,1\n,2,2\n", "key column 'id' is no sample id.*1 of 2 rows, the first is .* 2$"),
    "key-with-nul": (b"id,age,income\nu\x001,1,1\n", "key column 'id' is no sample id"),
    "key-not-utf-8": (b"id,age,income\n\xff,1,1\n", "key column 'id' is no sample id"),
    "bad-number": (b"id,age,income\nu1,1,1\nu2,12x,1\n", "column 'age' holds something that is not a number.*row 2$"),
    "ragged": (b"id,age,income\nu1,1,2,3\n", "data row 1 has 4 fields, the header has 3"),
    "column-twice": (b"id,age,age\nu1,1,2\n", "columns named twice: 'age'; rename them"),
    "names-that-differ-in-case": (b"id,Age,age\nu1,1,2\n", "Age.*age"),
    "empty": (b"", "is empty, or does not start with its column names"),
    "no-rows": (b"id,age,income\n", "has no rows"),
    "damaged-parquet": (b"PAR1 but no more", "damaged Parquet"),
    "other-columns": (b"id,age,height\nu1,1,2\n", "'height' is new; 'income' is missing"),
}


def stored(folder: Path) -> dict[str, str]:
    """Everything that stands in the warehouse: path -> digest of the content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", FEATURE_FILES)
def test_a_bad_feature_file_is_told_in_a_line_and_nothing_is_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, told = FEATURE_FILES[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "participant.toml").write_text('party = "lab"\ninsecure = true\n[warehouse]\npath = "w"\n')
    (tmp_path / "good.csv").write_text("id,age,income\nold,1,2\n")
    (tmp_path / "bad.file").write_bytes(content)
    load = ["--view", "people", "--key", "id", "--config", "participant.toml"]
    assert run(["features", "load", "good.csv", *load]) == 0
    before = stored(tmp_path / "w")
    capsys.readouterr()

    code = run(["features", "load", "bad.file", *load])

    (line,) = capsys.readouterr().err.splitlines()
    assert code == 4
    assert re.search(told, line), line
    assert stored(tmp_path / "w") == before
