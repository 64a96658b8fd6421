"""Settings -> an online store: the one place that picks the implementation."""

from __future__ import annotations

from pathlib import Path

from fedpredict.errors import ConfigError
from fedpredict.features.base import OnlineStore
from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.features.settings import StoreSettings
from fedpredict.security.passwords import read_password

WRITE_TIMEOUT_S = 60.0
"""For a piece of a snapshot, or for the script that replaces one."""


def open_store(settings: StoreSettings, base: Path, party: str, password: str | None = None) -> OnlineStore:
    """Return the store that the settings describe; nothing is made or read there yet.

    Args:
        settings: The `[store]` table.
        base: The folder of the settings file.
        party: Whose features.
        password: For Redis; wins over `password_file`.

    Raises:
        ConfigError: The password's or the CA's file cannot be read, or Redis's driver is not installed.
    """
    if settings.kind == "memory":
        return MemoryStore()
    if settings.kind == "redis":
        return _redis_store(settings, base, party, password)
    return MappedStore(base / settings.path / party)


def _redis_store(settings: StoreSettings, base: Path, party: str, password: str | None) -> OnlineStore:
    try:
        # the driver is an optional extra: without Redis nothing may ask for it
        from fedpredict.features.redis_connection import RedisAddress, RedisConnection  # noqa: PLC0415
        from fedpredict.features.redis_store import RedisStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError("store: Redis's driver is not installed: pip install 'fedpredict[redis]'") from error
    if password is None and settings.password_file is not None:
        password = read_password(base / settings.password_file, "store.password_file")
    tls_ca = None if settings.tls_ca is None else base / settings.tls_ca
    if tls_ca is not None and not tls_ca.is_file():
        raise ConfigError(f"store.tls_ca is {tls_ca}, which is no file")

    def connection(timeout_s: float) -> RedisConnection:
        address = RedisAddress(url=str(settings.url), password=password, tls_ca=tls_ca, timeout_s=timeout_s)
        return RedisConnection(address)

    writing = connection(max(settings.timeout_s, WRITE_TIMEOUT_S))
    return RedisStore(connection(settings.timeout_s), f"{settings.prefix}:{{{party}}}", writing=writing)
