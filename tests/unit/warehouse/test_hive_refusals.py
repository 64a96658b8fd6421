"""What the words of a Hive server become."""

from __future__ import annotations

from fedpredict.warehouse.hive import _unbound
from fedpredict.warehouse.hive_connection import RefusedByServerError


def test_a_server_with_few_counters_is_told_of_with_the_fix_and_without_values() -> None:
    error = RefusedByServerError("Counters limit exceeded: many, m-secret", None, 2)
    assert _unbound(error, {"model_id": "m-secret"}) == (
        "Counters limit exceeded: many, ?; let the server's administrator raise mapreduce.job.counters.max "
        "and tez.counters.max to 1200"
    )
    assert _unbound(RefusedByServerError("no such column", None, 1), {}) == "no such column"
