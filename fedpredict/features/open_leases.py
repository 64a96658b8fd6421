"""Settings -> leases: the one place that picks where they are kept."""

from __future__ import annotations

from pathlib import Path

from fedpredict.features.settings import StoreSettings
from fedpredict.state.leases import Leases, NoLeases
from fedpredict.warehouse.settings import WarehouseSettings

FOLDER = ".leases"


def open_leases(
    store: StoreSettings,
    warehouse: WarehouseSettings,
    base: Path,
    party: str,
    *,
    store_password: str | None = None,
    database: tuple[str, str | None] | None = None,
) -> Leases:
    """Return a party's leases: in what all of its processes share, be it Redis, the embedded warehouse, or a database.

    Args:
        store: The `[store]` table; Redis is taken first.
        warehouse: The `[warehouse]` table; a folder of the embedded one is taken next.
        base: The folder of the settings file.
        party: Whose.
        store_password: For Redis; wins over `password_file`.
        database: SQLAlchemy URL and password of a database, taken last; with none of the three there are no leases.

    Raises:
        ConfigError: A driver is not installed, a password cannot be read, or the URL cannot be used.
        StateError: The database is unavailable.
    """
    if store.kind == "redis":
        from fedpredict.features.open import redis_connection  # noqa: PLC0415  the stores come with it
        from fedpredict.features.redis_leases import RedisLeases  # noqa: PLC0415  its driver is an optional extra

        connection = redis_connection(store, base, store_password, timeout_s=store.timeout_s)
        return RedisLeases(connection, f"{store.prefix}:{{{party}}}")
    if warehouse.path is not None:
        from fedpredict.state.lease_files import FolderLeases  # noqa: PLC0415

        return FolderLeases(base / warehouse.path / FOLDER)
    if database is None:
        return NoLeases()
    from fedpredict.state.lease_sql import open_leases as open_sql  # noqa: PLC0415  the driver takes long to import

    return open_sql(database[0], base, database[1])
