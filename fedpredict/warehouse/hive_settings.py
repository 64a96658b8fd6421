"""What is needed to reach a HiveServer2: Apache Hive's, or Spark's Thrift Server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from fedpredict.errors import ConfigError, NameRefusedError
from fedpredict.warehouse.base import check_identifier

AUTHENTICATIONS = ("none", "nosasl", "ldap", "custom", "kerberos")
TRANSPORTS = ("binary", "http")
_WITH_PASSWORD = ("ldap", "custom")


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveSettings:
    """Where a HiveServer2 is, how to log in, and where bulk data goes.

    Args:
        host: A host name or address; with TLS, what the server's certificate must be for.
        port: The port of the transport in use; servers have 10000 for binary and 10001 for http by default.
        database: The database that holds all tables of this warehouse; it must exist.
        auth: What the server's `hive.server2.authentication` says, in lower case.
        username: Who logs in; with `none` and `nosasl` only a name for the server, `fedpredict` where it is not set.
        password: Needed with `ldap` and `custom`, refused otherwise.
        kerberos_service_name: Needed with `kerberos`: the first part of the server's principal, often `hive`.
        transport: `binary` or `http`, as `hive.server2.transport.mode`.
        http_path: As `hive.server2.thrift.http.path`.
        tls: Whether the server speaks TLS (`hive.server2.use.SSL`).
        tls_ca: The CA certificates (PEM) that the server's is verified with; `None` takes the machine's own.
        tls_verify: Verify the certificate and host name; may be off on loopback only.
        staging: A location (URI, or an absolute path) that this process can write and the server can read.
        max_inline_values: Without `staging`, the most values (rows x columns) that one `replace` writes by VALUES.
        connect_timeout_s: For connecting and logging in.
        call_timeout_s: For one call over the connection; the server compiles a statement within one.
        statement_timeout_s: For one statement as a whole; it is cancelled then.
    """

    host: str = "127.0.0.1"
    port: int = 10000
    database: str = "default"
    auth: str = "none"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    kerberos_service_name: str | None = None
    transport: str = "binary"
    http_path: str = "cliservice"
    tls: bool = False
    tls_ca: Path | None = None
    tls_verify: bool = True
    staging: str | None = None
    max_inline_values: int = 200_000
    connect_timeout_s: float = 30.0
    call_timeout_s: float = 300.0
    statement_timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        self._check_address()
        self._check_login()
        self._check_tls()
        for name in ("connect_timeout_s", "call_timeout_s", "statement_timeout_s", "max_inline_values"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"warehouse.{name} is {getattr(self, name)}; it must be above zero")
        if self.staging is not None and "://" not in self.staging and not Path(self.staging).is_absolute():
            raise ConfigError(
                f"warehouse.staging is {self.staging!r}; give a URI (hdfs://, s3://, file://) or an absolute path"
            )

    @property
    def address(self) -> str:
        """Return `host:port`, for messages."""
        return f"{self.host}:{self.port}"

    def _check_address(self) -> None:
        if not self.host:
            raise ConfigError("warehouse.host is empty")
        if not 0 < self.port < 65536:
            raise ConfigError(f"warehouse.port is {self.port}; allowed: 1 to 65535")
        try:
            check_identifier(self.database)
        except NameRefusedError as error:
            raise ConfigError(f"warehouse.database: {error}") from error
        if self.transport not in TRANSPORTS:
            raise ConfigError(f"warehouse.transport is {self.transport!r}; allowed: {', '.join(TRANSPORTS)}")

    def _check_login(self) -> None:
        if self.auth not in AUTHENTICATIONS:
            raise ConfigError(f"warehouse.auth is {self.auth!r}; allowed: {', '.join(AUTHENTICATIONS)}")
        if self.auth in _WITH_PASSWORD and not (self.username and self.password):
            raise ConfigError(f"warehouse.auth {self.auth} needs warehouse.username and a password")
        if self.auth not in _WITH_PASSWORD and self.password is not None:
            raise ConfigError(f"a password means nothing with warehouse.auth {self.auth}: set ldap or custom")
        if (self.auth == "kerberos") != bool(self.kerberos_service_name):
            raise ConfigError("warehouse.kerberos_service_name belongs to warehouse.auth kerberos, which needs it")
        if self.auth == "kerberos" and self.transport == "http":
            raise ConfigError("warehouse.auth kerberos goes with warehouse.transport binary only")

    def _check_tls(self) -> None:
        if not self.tls and (self.tls_ca is not None or not self.tls_verify):
            raise ConfigError("warehouse.tls_ca and warehouse.tls_verify mean nothing without warehouse.tls = true")
        if self.tls_ca is not None and not self.tls_ca.is_file():
            raise ConfigError(f"warehouse.tls_ca is {self.tls_ca}, which is no file")
        if not self.tls_verify and not _is_loopback(self.host):
            raise ConfigError(
                f"warehouse.tls_verify may be off on loopback only, not for {self.host}: set warehouse.tls_ca"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
