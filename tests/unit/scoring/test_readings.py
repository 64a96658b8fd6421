from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.features.base import OnlineStore
from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.readings import store_readings
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import FeatureView, ViewFeature, publish_snapshot
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse


@pytest.fixture(params=["memory", "mapped"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> OnlineStore:
    return MemoryStore() if request.param == "memory" else MappedStore(tmp_path / "store")


def test_a_store_is_read_with_the_instant_size_and_loading_of_what_the_models_use(
    store: OnlineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = LocalWarehouse(tmp_path / "tables")
    view = FeatureView("people", 3, (ViewFeature("age", "age", ColumnType.DOUBLE),), "person", None)
    moment = datetime(2026, 1, 31, 8, 30, tzinfo=UTC)
    rows = pa.table(
        {
            "sample_id": pa.array([f"u{number}" for number in range(1000)]),
            "event_time": pa.array([moment] * 1000, pa.timestamp("us", tz="UTC")),
            "age": pa.array(np.arange(1000.0)),
        }
    )
    publish_snapshot(warehouse, view, "20260131T083000.000000Z", rows)
    part = LinearPart(("age",), np.ones((1, 1)), None, np.zeros(1))
    publish_model(warehouse, PartialModel("m", "run", "lab", Kind.LINEAR, (), False, part), view, "00" * 32)
    loader = ModelLoader(warehouse, "lab", store)
    assert list(store_readings(loader, store)()) == []
    monkeypatch.setattr("fedpredict.scoring.loader.time.time", lambda: 1_800_000_000.0)
    loader.refresh()
    (reading,) = store_readings(loader, store)()
    assert (reading.view, reading.view_version, reading.rows) == ("people", 3, 1000)
    assert reading.instant == moment.timestamp()
    assert reading.loaded_at == 1_800_000_000.0
    assert reading.n_bytes is not None
    assert 1000 * (8 + 8 + 4) <= reading.n_bytes <= 1000 * 100  # an age, a time and an id each, and an index
    warehouse.close()
