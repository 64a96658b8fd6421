"""Every claim of the threat model has a test beside it, and the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs" / "threat-model.md").read_text()
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def _claims() -> list[str]:
    rows = [line for line in TEXT.split("## What each can try")[1].splitlines() if line.startswith("| ")]
    return [row for row in rows if not row.startswith("| tries |")]


def test_every_claim_names_a_test() -> None:
    claims = _claims()
    assert len(claims) > 30
    assert [claim for claim in claims if not NAMED.search(claim)] == []


def test_every_test_that_is_named_is_there() -> None:
    named = set(NAMED.findall(TEXT))
    assert len(named) > 50
    missing = [
        f"{file}::{test}"
        for file, test in sorted(named)
        if not (TESTS / file).exists() or not re.search(rf"^ *(async )?def {test}\(", (TESTS / file).read_text(), re.M)
    ]
    assert missing == []
