"""Every claim of the threat model has a test beside it, and the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs" / "threat-model.md").read_text()
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
CLAIMS = {"What each can learn": 10, "What each can try": 50}
"""Sections whose tables are claims, and the fewest rows that they have."""


def _rows(section: str) -> list[str]:
    """Return the rows of a section's tables, heads and rules left out."""
    lines = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()
    below = zip(lines, [*lines[1:], ""], strict=True)
    return [line for line, after in below if line.startswith("| ") and not after.startswith("|---")]


@pytest.mark.parametrize("section", CLAIMS)
def test_every_claim_names_a_test(section: str) -> None:
    rows = _rows(section)
    assert len(rows) >= CLAIMS[section]
    # in the last column: a test named in the middle of a claim would be none of the others of its row
    assert [row for row in rows if not NAMED.search(row.split(" | ")[-1])] == []


def test_every_section_with_a_table_is_checked_or_makes_no_claim() -> None:
    with_tables = {part.split("\n")[0] for part in TEXT.split("\n## ")[1:] if "\n|---" in part}
    assert with_tables == {"What is worth protecting", *CLAIMS}


def test_every_test_that_is_named_is_there() -> None:
    named = set(NAMED.findall(TEXT))
    assert len(named) > 50
    missing = [
        f"{file}::{test}"
        for file, test in sorted(named)
        if not (TESTS / file).exists() or not re.search(rf"^ *(async )?def {test}\(", (TESTS / file).read_text(), re.M)
    ]
    assert missing == []
