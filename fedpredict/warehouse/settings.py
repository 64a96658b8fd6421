"""The `[warehouse]` table of every settings file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LOCAL_FIELDS = frozenset({"kind", "path"})


class WarehouseSettings(BaseModel):
    """Which warehouse holds this party's tables; relative paths start at the settings file.

    A password is never in the file: `password_file` names a file that holds it, or the environment does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local", "hive"] = "local"
    """`local`: a folder of Parquet files, queried in process. `hive`: a HiveServer2 (Hive, Spark, Kyuubi)."""
    path: Path | None = None
    """local: the folder; it is made when missing."""
    host: str | None = None
    """hive: the server's host name, which its certificate must carry where `tls` is on."""
    port: int = Field(default=10000, ge=1, le=65535)
    """hive: its Thrift port (binary: mostly 10000; http: mostly 10001)."""
    database: str = "default"
    """hive: the database (schema) of the tables; it must exist."""
    auth: Literal["none", "nosasl", "ldap", "custom", "kerberos"] = "none"
    """hive: how this end proves who it is."""
    username: str | None = None
    """hive: the user; needed for `ldap` and `custom`."""
    password_file: Path | None = None
    """hive: a file whose first line is the password; readable by its owner only."""
    kerberos_service_name: str | None = None
    """hive: the first part of the server's Kerberos principal; needed for `kerberos`."""
    transport: Literal["binary", "http"] = "binary"
    """hive: Thrift over TCP or over HTTP."""
    http_path: str = "cliservice"
    """hive: the path of the http transport."""
    tls: bool = False
    """hive: whether the connection is encrypted; the certificate is then verified."""
    tls_ca: Path | None = None
    """hive: the CA of the server's certificate in PEM; default: the system's."""
    tls_verify: bool = True
    """hive: may be off on loopback only."""
    staging: str | None = None
    """hive: a location that this process can write and the server can read, for bulk loads; a URI or absolute path."""
    max_inline_values: int = Field(default=200_000, ge=1)
    """hive: without `staging`, the most values (rows × columns) that one write puts into a statement."""
    connect_timeout_s: float = Field(default=30.0, gt=0.0)
    """hive: for connecting and logging in."""
    statement_timeout_s: float = Field(default=3600.0, gt=0.0)
    """hive: for one statement; it is cancelled then."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> WarehouseSettings:
        given = self.model_fields_set
        if self.kind == "local":
            if self.path is None:
                raise ValueError('kind = "local" needs path, the folder of the tables')
            foreign = sorted(given - LOCAL_FIELDS)
        else:
            if not self.host:
                raise ValueError('kind = "hive" needs host')
            foreign = sorted(given & {"path"})
        if foreign:
            raise ValueError(f'{", ".join(foreign)} does not belong to kind = "{self.kind}"')
        return self
