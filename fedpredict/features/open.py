"""Settings -> an online store: the one place that picks the implementation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedpredict.errors import ConfigError
from fedpredict.features.base import OnlineStore
from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.features.settings import StoreSettings
from fedpredict.security.passwords import read_password

if TYPE_CHECKING:
    from fedpredict.features.redis_connection import RedisConnection

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
    if settings.kind in ("memory", "none"):  # what holds nothing ready is never filled
        return MemoryStore()
    if settings.kind == "redis":
        return _redis_store(settings, base, party, password)
    return MappedStore(base / settings.path / party)


def _redis_store(settings: StoreSettings, base: Path, party: str, password: str | None) -> OnlineStore:
    connection = redis_connection(settings, base, password, timeout_s=settings.timeout_s)
    writing = redis_connection(settings, base, password, timeout_s=max(settings.timeout_s, WRITE_TIMEOUT_S))
    from fedpredict.features.redis_store import RedisStore  # noqa: PLC0415  the driver is an optional extra

    return RedisStore(connection, f"{settings.prefix}:{{{party}}}", writing=writing)


def redis_connection(settings: StoreSettings, base: Path, password: str | None, *, timeout_s: float) -> RedisConnection:
    """Return a connection to the Redis that the settings describe; nothing is connected yet.

    Args:
        settings: The `[store]` table.
        base: The folder of the settings file.
        password: Wins over `password_file`.
        timeout_s: For an answer.

    Raises:
        ConfigError: As `open_store` says.
    """
    try:
        # the driver is an optional extra: without Redis nothing may ask for it
        from fedpredict.features.redis_connection import RedisAddress, RedisConnection  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError("store: Redis's driver is not installed: pip install 'fedpredict[redis]'") from error
    if password is None and settings.password_file is not None:
        password = read_password(base / settings.password_file, "store.password_file")
    tls_ca = None if settings.tls_ca is None else base / settings.tls_ca
    if tls_ca is not None and not tls_ca.is_file():
        raise ConfigError(f"store.tls_ca is {tls_ca}, which is no file")
    return RedisConnection(RedisAddress(url=str(settings.url), password=password, tls_ca=tls_ca, timeout_s=timeout_s))
