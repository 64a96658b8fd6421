"""What the words of a Hive server become."""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa
import pytest

from fedpredict.warehouse import hive
from fedpredict.warehouse.hive import _asked
from fedpredict.warehouse.hive_connection import RefusedByServerError
from fedpredict.warehouse.hive_statements import without_bound

STUMBLED = RefusedByServerError(
    "Error running query: [_LEGACY_ERROR_TEMP_3065] AnalysisException: SparkRuntimeException: "
    "[INTERNAL_ERROR_HIVE_METASTORE_PARTITION_FILTER] Failed to get partition metadata by filter from Hive metastore.",
    None,
    0,
)


def test_a_server_with_few_counters_is_told_of_with_the_fix_and_without_values() -> None:
    error = RefusedByServerError("Counters limit exceeded: many, m-secret", None, 2)
    assert without_bound(error, {"model_id": "m-secret"}) == (
        "Counters limit exceeded: many, ?; let the server's administrator raise mapreduce.job.counters.max "
        "and tez.counters.max to 1200"
    )
    assert without_bound(RefusedByServerError("no such column", None, 1), {}) == "no such column"


class Session:
    """A session that refuses a number of times."""

    def __init__(self, refusal: RefusedByServerError, n: int) -> None:
        self._refusal, self._left = refusal, n
        self.n_asked = 0

    def execute(self, _sql: str) -> pa.Table:
        self.n_asked += 1
        if self._left:
            self._left -= 1
            raise self._refusal
        return pa.table({"n": [7]})


@pytest.mark.parametrize(("n_refusals", "n_asked"), [(0, 1), (3, 4), (4, 4)])
def test_a_query_in_whose_way_a_partition_was_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, n_refusals: int, n_asked: int
) -> None:
    monkeypatch.setattr(hive, "PAUSES_S", (0.0, 0.0, 0.0))
    session = Session(STUMBLED, n_refusals)
    if n_refusals < n_asked:
        assert _asked(cast("Any", session), "SELECT 7").to_pylist() == [{"n": 7}]
    else:
        with pytest.raises(RefusedByServerError, match="PARTITION_FILTER"):
            _asked(cast("Any", session), "SELECT 7")
    assert session.n_asked == n_asked


def test_any_other_refusal_is_told_at_once() -> None:
    session = Session(RefusedByServerError("no such column", "42000", 1), 1)
    with pytest.raises(RefusedByServerError, match="no such column"):
        _asked(cast("Any", session), "SELECT x")
    assert session.n_asked == 1
