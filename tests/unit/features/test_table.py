from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.features.build import build_table, prepare
from fedpredict.features.table import FEW
from fedpredict.model.sample_ids import SampleIds
from tests.unit.features.support import snapshot_named
from tests.unit.features.test_hashing import SEED, colliding

N_SOME = [1, 3, FEW, FEW + 1, 500]


@pytest.mark.parametrize("n_asked", N_SOME)
def test_an_absent_id_with_the_hash_of_a_present_one_is_not_found(n_asked: int) -> None:
    present = [f"{i:016d}" for i in range(50)]
    rows = pa.table({"sample_id": present, "event_time": pa.array([0] * 50, pa.timestamp("us", tz="UTC"))})
    table = build_table(prepare(snapshot_named(), rows, [SEED]))
    asked = [colliding(present[i % 50].encode()) for i in range(n_asked)]
    assert not table.lookup([], asked).found.any()
    assert table.lookup([], [each.encode() for each in present]).found.all()


@pytest.mark.parametrize("n_asked", N_SOME)
@pytest.mark.parametrize("n_rows", [1, 2, 3, 17, 5000])
def test_all_of_a_table_is_found_and_nothing_else(n_rows: int, n_asked: int) -> None:
    rng = np.random.default_rng(n_rows)
    ids = [f"{i}" * (1 + i % 5) for i in range(n_rows)]
    rows = pa.table(
        {
            "sample_id": ids,
            "event_time": pa.array(range(n_rows), pa.timestamp("us", tz="UTC")),
            "age": pa.array(np.arange(n_rows, dtype=np.float64)),
        }
    )
    table = build_table(prepare(snapshot_named(), rows))
    asked = rng.integers(-n_rows, n_rows, n_asked)
    names = [ids[i].encode() if i >= 0 else b"x%d" % i for i in asked.tolist()]
    for some in (names, SampleIds.of(names)):
        found = table.lookup(["age"], some)
        assert found.found.tolist() == (asked >= 0).tolist()
        np.testing.assert_array_equal(found.values[:, 0], np.where(asked >= 0, asked, np.nan))
        assert found.event_time.tolist() == np.where(asked >= 0, asked, 0).tolist()
        assert found.values.dtype == np.float64


def test_what_a_look_up_returns_cannot_change_the_table() -> None:
    rows = pa.table({"sample_id": ["a"], "event_time": pa.array([5], pa.timestamp("us", tz="UTC")), "age": [1.5]})
    found = build_table(prepare(snapshot_named(), rows)).lookup(["age"], [b"a"])
    for array in (found.values, found.found, found.ambiguous, found.event_time):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_values_are_put_in_order_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpredict.features.build.BLOCK_BYTES", 100)
    n_rows = 1000
    rows = pa.table(
        {
            "sample_id": [f"u{i}" for i in range(n_rows)],
            "event_time": pa.array([0] * n_rows, pa.timestamp("us", tz="UTC")),
            "age": pa.array(np.arange(n_rows, dtype=np.float64)),
            "income": pa.array(-np.arange(n_rows, dtype=np.float64)),
        }
    )
    parts = prepare(snapshot_named(), rows)
    assert max(block.nbytes for block in parts.blocks()) <= 100
    found = build_table(parts).lookup(["income", "age"], [b"u%d" % i for i in range(n_rows)])
    np.testing.assert_array_equal(found.values, np.arange(n_rows)[:, None] * [-1.0, 1.0])
