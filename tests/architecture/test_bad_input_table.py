"""The table of docs/bad-input.md is a promise: every row names its tests, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "bad-input.md"
COLUMNS = "| given | where | what it gets | what stays | test |"
N_COLUMNS = 5
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """Return the cells of every row of every table, headers and rulers left out."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line != COLUMNS and set(line) - set("|-")
    ]


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the test functions of a module; none where there is no such module."""
    file = ROOT / path
    tree = ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


@pytest.mark.parametrize("cells", rows(), ids=lambda cells: cells[0][:60])
def test_a_row_is_complete_and_its_tests_exist(cells: list[str]) -> None:
    assert len(cells) == N_COLUMNS
    assert all(cells[:3])
    tests = TEST.findall(cells[-1])
    assert tests
    assert TEST.sub("", cells[-1]).strip(" ,") == ""
    assert [f"{path}::{name}" for path, name in tests if name not in names_in(path)] == []


def test_every_table_has_the_columns_that_are_checked() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rulers = [number for number, line in enumerate(lines) if re.fullmatch(r"[|-]+", line)]
    assert {lines[number - 1] for number in rulers} == {COLUMNS}
    assert len(rows()) > 40
