from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedpredict.errors import ConfigError, StoreError
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


def test_redis_is_asked_for_nothing_before_it_is_needed(tmp_path: Path) -> None:
    url = "redis://ada@redis.invalid:6380/3"
    store = open_store(StoreSettings(kind="redis", url=url), tmp_path, "lab", "secret")
    assert store.is_remote
    assert store.snapshot_of("people", 1) is None
    with pytest.raises(StoreError, match=r"Redis at redis\.invalid:6380: cannot be reached") as raised:
        store.publish(snapshot_named(), numbered())
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"kind": "rediss"}, "kind"),
        ({"folder": "store"}, "folder"),
        ({"kind": "redis"}, "url: .* needs one"),
        ({"kind": "redis", "url": "redis://host", "path": "store"}, "path"),
        ({"kind": "redis", "url": "redis://:secret@host"}, "password_file"),
        ({"kind": "redis", "url": "http://host"}, "rediss://"),
        ({"kind": "redis", "url": "redis:///0"}, "redis://host"),
        ({"kind": "redis", "url": "redis://host/0?password=secret"}, "nothing may follow"),
        ({"kind": "redis", "url": "redis://host/one"}, "nothing may follow"),
        ({"kind": "redis", "url": "redis://host", "tls_ca": "ca.pem"}, "tls_ca"),
        ({"kind": "redis", "url": "redis://host", "prefix": "a{b}"}, "prefix"),
        ({"kind": "redis", "url": "redis://host", "timeout_s": 0}, "timeout_s"),
        ({"kind": "memory", "url": "redis://host"}, "url: used by"),
    ],
)
def test_what_cannot_be_is_refused_by_name(table: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        StoreSettings.model_validate(table)


@pytest.mark.parametrize("name", ["password_file", "tls_ca"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    settings = StoreSettings.model_validate({"kind": "redis", "url": "rediss://host", name: "nowhere"})
    with pytest.raises(ConfigError, match=f"{name}.*nowhere"):
        open_store(settings, tmp_path, "lab")


def test_without_its_driver_redis_is_refused_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("redis_connection", "redis_layout", "redis_store"):
        monkeypatch.delitem(sys.modules, f"fedpredict.features.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"fedpredict\[redis\]"):
        open_store(StoreSettings(kind="redis", url="redis://host"), tmp_path, "lab")
