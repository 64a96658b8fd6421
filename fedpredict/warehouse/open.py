"""Settings -> an open warehouse: the one place that picks the implementation."""

from __future__ import annotations

from pathlib import Path

from fedpredict.errors import ConfigError
from fedpredict.security.passwords import read_password
from fedpredict.warehouse.base import Warehouse
from fedpredict.warehouse.hive_settings import HiveSettings
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.warehouse.settings import WarehouseSettings

_NOT_HIVES = {"kind", "path", "password_file"}


def open_warehouse(settings: WarehouseSettings, base: Path, password: str | None = None) -> Warehouse:
    """Return the warehouse that the settings describe; close it when done.

    Args:
        settings: The `[warehouse]` table.
        base: The folder of the settings file; relative paths start there.
        password: For a Hive server; wins over `password_file`.

    Raises:
        ConfigError: A file is missing, settings do not fit together, or Hive's drivers are not installed.
    """
    if settings.path is not None:
        return LocalWarehouse(base / settings.path)
    # the drivers are an optional extra: without a Hive warehouse nothing may ask for them
    from fedpredict.warehouse.hive import HiveWarehouse  # noqa: PLC0415

    return HiveWarehouse(hive_settings(settings, base, password))


def hive_settings(settings: WarehouseSettings, base: Path, password: str | None = None) -> HiveSettings:
    """Return what a Hive connection needs; the arguments are those of `open_warehouse`.

    Raises:
        ConfigError: The password file cannot be read, or settings do not fit together.
    """
    fields = settings.model_dump(exclude_unset=True, exclude=_NOT_HIVES)
    if settings.tls_ca is not None:
        fields["tls_ca"] = base / settings.tls_ca
    if password is None and settings.password_file is not None:
        password = read_password(base / settings.password_file, "warehouse.password_file")
    return HiveSettings(**fields, password=password)


def create_database(settings: WarehouseSettings, base: Path, password: str | None = None) -> None:
    """Create the database of a Hive warehouse unless it exists; the arguments are those of `open_warehouse`.

    Raises:
        ConfigError: The warehouse is a local folder, which needs none; or as `open_warehouse`.
        WarehouseUnavailableError, WarehouseWriteError: As the server says.
    """
    if settings.kind == "local":
        raise ConfigError('kind = "local": a folder needs no database, the first load makes it')
    from fedpredict.warehouse.hive import HiveWarehouse  # noqa: PLC0415

    warehouse = HiveWarehouse(hive_settings(settings, base, password))
    try:
        warehouse.create_database()
    finally:
        warehouse.close()
