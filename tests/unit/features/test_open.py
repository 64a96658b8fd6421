from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.features.open import open_store
from fedpredict.features.settings import StoreSettings
from tests.unit.features.support import numbered, snapshot_named


def test_by_default_the_files_are_beside_the_settings_in_a_folder_of_the_party(tmp_path: Path) -> None:
    store = open_store(StoreSettings(), tmp_path, "lab")
    assert isinstance(store, MappedStore)
    assert not (tmp_path / "store").exists()
    store.publish(snapshot_named(), numbered())
    assert [path.parent for path in tmp_path.rglob("*.arrow")] == [tmp_path / "store" / "lab"]


def test_a_store_in_memory_leaves_the_disk_alone(tmp_path: Path) -> None:
    store = open_store(StoreSettings(kind="memory"), tmp_path, "lab")
    assert isinstance(store, MemoryStore)
    store.publish(snapshot_named(), numbered())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("table", [{"kind": "redis"}, {"folder": "store"}])
def test_what_is_not_known_is_refused(table: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        StoreSettings.model_validate(table)
