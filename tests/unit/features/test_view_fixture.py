"""Fixtures of `view test`: what a file may say, and what is told of one that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpredict.errors import ViewRefusedError
from fedpredict.features.view_fixture import generated, read_fixture
from fedpredict.features.view_test import differences
from tests.raw_transactions import AS_OF, EXAMPLES, example

VIEW, _, _ = example("transactions")


def test_a_fixture_says_rows_an_instant_and_what_is_expected() -> None:
    fixture = read_fixture(EXAMPLES / "transactions.test.toml", VIEW)

    assert fixture.as_of == AS_OF
    assert fixture.rows["tx"][0]["at"] == "2024-01-31 00:00:00.000000"
    assert [row["account"] for row in fixture.expected] == ["alice", "bob"]


ROWS = "as_of = 2024-03-01T00:00:00Z\n[[rows.tx]]\namount = 9999999999.99\nat = 2024-02-29T23:00:00+01:00\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("as_of = ", "test.toml"),
        ("as_of = 2024-03-01T00:00:00\n[rows]\n", "as_of must be a moment with a zone"),
        ("as_of = 2024-03-01T00:00:00Z\n", r"write as_of, \[\[rows.SOURCE\]\]"),
        ("as_of = 2024-03-01T00:00:00Z\n[[rows.tx]]\n[[expcted]]\n", "nothing else"),
        ("as_of = 2024-03-01T00:00:00Z\n[[rows.t]]\n", "the view's sources are tx, merchants"),
        ("as_of = 2024-03-01T00:00:00Z\n[[rows.tx]]\nfee = 1\n", "declares no column fee"),
        ("as_of = 2024-03-01T00:00:00Z\n[rows.tx]\nid = 1\n", r"rows.tx is no list of rows: write two brackets"),
        ("as_of = 2024-03-01T00:00:00Z\nrows = {tx = 5}\n", "rows.tx is no list of rows"),
        ("as_of = 2024-03-01T00:00:00Z\nexpected = [5]\n[rows]\n", "expected is no list of rows"),
        (
            "as_of = 2024-03-01T00:00:00Z\n[rows]\n[[expected]]\nn_30 = 3\n",
            "expected: .* no column n_30",
        ),
        (f"{ROWS}[[rows.tx]]\namount = 'x'\n", r"rows.tx: row 2: amount is 'x', which is no decimal\(12,2\)"),
        (f"{ROWS}[[rows.tx]]\namount = 10000000000\n", r"row 2: amount is 10000000000, which is no decimal\(12,2\)"),
        (f"{ROWS}[[rows.tx]]\namount = nan\n", r"row 2: amount is nan, which is no decimal\(12,2\)"),
        (f"{ROWS}[[rows.tx]]\nat = 'yesterday'\n", "row 2: at is 'yesterday', which is no timestamp"),
        (f"{ROWS}[[rows.merchants]]\nopened = '2024-02-30'\n", "row 1: opened is '2024-02-30', which is no date"),
        ("as_of = 2024-03-01T00:00:00Z\n" + "[[rows.tx]]\n" * 201, "more than 200 rows"),
    ],
)
def test_a_fixture_that_cannot_be_used_is_told(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "test.toml"
    file.write_text(text)

    with pytest.raises(ViewRefusedError, match=told):
        read_fixture(file, VIEW)


def test_random_rows_are_the_same_for_a_seed_and_keep_a_dimensions_key() -> None:
    one, again, other = generated(VIEW, 1), generated(VIEW, 1), generated(VIEW, 2)

    assert one == again != other
    merchants = [row["merchant"] for row in one.rows["merchants"]]
    assert len(set(merchants)) == len(merchants)


def test_differences_are_told_by_sample_and_feature() -> None:
    columns = [each.column for each in VIEW.feature_view(1).features]
    row: dict[str, object] = {"sample_id": "a", **dict.fromkeys(columns, 1.0), "last_channel": "web"}

    assert differences(VIEW, [row], [{**row, "n_1h": 1.0 + 1e-13}], "hive") == []
    assert differences(VIEW, [row], [{**row, "n_1h": 1.0 + 1e-11, "last_channel": None}], "hive") == [
        "hive: n_1h of 'a' is 1.00000000001, not 1.0",
        "hive: last_channel of 'a' is None, not 'web'",
    ]
    assert differences(VIEW, [row], [{**row, "sample_id": "b"}], "hive") == [
        "hive: no row for 'a'",
        "hive: a row more, for 'b'",
    ]
