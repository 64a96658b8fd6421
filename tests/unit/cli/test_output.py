"""Results as tables and lines for people, as JSON for scripts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedpredict.cli.output import Output, as_text
from fedpredict.model.share import SampleStatus

ROWS = [{"name": "credit", "ready": True, "digest": "abc"}, {"name": "fraud", "ready": False, "digest": "def"}]


def test_rows_are_a_table_of_the_columns_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    Output().rows(("name", "ready"), ROWS, empty="none")

    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["name", "ready"]
    assert lines[2:] == [["credit", "yes"], ["fraud", "no"]]


def test_rows_are_a_json_array_with_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).rows(("name",), ROWS, empty="none")

    assert json.loads(capsys.readouterr().out) == ROWS


def test_no_rows_are_a_sentence_or_an_empty_array(capsys: pytest.CaptureFixture[str]) -> None:
    Output().rows(("name",), [], empty="No models yet.")
    Output(as_json=True).rows(("name",), [], empty="No models yet.")

    assert capsys.readouterr().out == "No models yet.\n[]\n"


def test_json_has_null_for_nan_and_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).fields({"values": [float("nan"), float("inf"), 0.1], "status": SampleStatus.NOT_FOUND})

    assert json.loads(capsys.readouterr().out) == {"values": [None, None, 0.1], "status": "not_found"}


def test_json_has_every_digit_of_a_float(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).fields({"value": 0.1 + 0.2})

    assert "0.30000000000000004" in capsys.readouterr().out


def test_json_has_instants_paths_and_text_beyond_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).fields({"at": datetime(2026, 1, 2, tzinfo=UTC), "path": Path("a/b"), "name": "年龄"})

    assert json.loads(capsys.readouterr().out) == {"at": "2026-01-02T00:00:00+00:00", "path": "a/b", "name": "年龄"}


def test_with_json_nothing_but_the_document_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.say("for people")
    output.note("for the log")
    with output.progress("working", total=2) as advance:
        advance(1, 2)
    output.result({"done": 1}, "done")

    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"done": 1}
    assert captured.err == "for the log\n"


def test_fields_are_lined_up(capsys: pytest.CaptureFixture[str]) -> None:
    Output().fields({"model": "credit", "parties": ("bank", "lab"), "by": None})

    assert capsys.readouterr().out == "model:   credit\nparties: bank, lab\nby:      -\n"


def test_a_long_line_is_not_broken_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    Output().say("x" * 500)

    assert capsys.readouterr().out == "x" * 500 + "\n"


def test_markup_and_control_characters_of_a_cell_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    Output().rows(("id",), [{"id": "[red]a\x1b[2J\nb"}], empty="")

    assert "[red]a\\x1b[2J\\nb" in capsys.readouterr().out


def test_a_cell_is_never_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    Output().rows(("id",), [{"id": "y" * 450}], empty="")

    assert capsys.readouterr().out.count("y") == 450


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ("", "-"), ((), "-"), (False, "no"), (0, "0"), (0.0, "0.0"), ({"a": 1}, '{"a": 1}')],
)
def test_values_as_text(value: object, text: str) -> None:
    assert as_text(value) == text
