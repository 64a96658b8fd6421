"""Settings -> an online store: the one place that picks the implementation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

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


class RedisPlace(Protocol):
    """What settings say of a Redis."""

    @property
    def password_file(self) -> Path | None:
        """A file whose first line is the password."""

    @property
    def tls_ca(self) -> Path | None:
        """The CA certificates that the server's is verified with."""


def redis_connection(settings: StoreSettings, base: Path, password: str | None, *, timeout_s: float) -> RedisConnection:
    """Return a connection to the Redis of `[store]`; as `connection_to`."""
    return connection_to(str(settings.url), settings, base, password, timeout_s=timeout_s, setting="store")


def connection_to(
    url: str, place: RedisPlace, base: Path, password: str | None, *, timeout_s: float, setting: str
) -> RedisConnection:
    """Return a connection to the Redis that some settings describe; nothing is connected yet.

    Args:
        url: Where it is.
        place: What else the settings say.
        base: The folder of the settings file.
        password: Wins over the password's file.
        timeout_s: For an answer.
        setting: The table of the settings, for messages.

    Raises:
        ConfigError: As `open_store` says.
    """
    try:
        # the driver is an optional extra: without Redis nothing may ask for it
        from fedpredict.features.redis_connection import RedisAddress, RedisConnection  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(f"{setting}: Redis's driver is not installed: pip install 'fedpredict[redis]'") from error
    if password is None and place.password_file is not None:
        password = read_password(base / place.password_file, f"{setting}.password_file")
    tls_ca = None if place.tls_ca is None else base / place.tls_ca
    if tls_ca is not None and not tls_ca.is_file():
        raise ConfigError(f"{setting}.tls_ca is {tls_ca}, which is no file")
    address = RedisAddress(url=url, password=password, tls_ca=tls_ca, timeout_s=timeout_s, setting=setting)
    return RedisConnection(address)
