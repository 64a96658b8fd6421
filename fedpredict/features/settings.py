"""The `[store]` and `[features]` tables of the settings files of both daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

REDIS_FIELDS = frozenset({"url", "password_file", "tls_ca", "timeout_s", "prefix"})


class StoreSettings(BaseModel):
    """Where the features that are served stand; a relative path starts at the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mapped", "memory", "redis", "none"] = "mapped"
    """`mapped`: files that the party's processes share. `memory`: each process has a copy, and nothing is on disk.
    `redis`: a Redis or Valkey that processes on any number of machines share. `none`: nothing is held ready; online
    questions of modes nearline and offline are not answered, and offline tasks from the warehouse alone."""
    path: Path = Path("store")
    """mapped: the folder, made when missing; every party gets a folder of its own in it."""
    url: str | None = None
    """redis: `redis://[user@]host:port/database`, or `rediss://` for TLS; never with a password."""
    password_file: Path | None = None
    """redis: a file whose first line is the password; or the environment holds it."""
    tls_ca: Path | None = None
    """redis: the CA certificates (PEM) that the server's is verified with; default: the machine's own."""
    timeout_s: float = Field(default=0.5, gt=0.0, le=60.0)
    """redis: the longest wait for the answer to a look-up."""
    prefix: str = Field(default="fedpredict", pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    """redis: what every key begins with; the party's id follows."""

    @model_validator(mode="after")
    def _fields_are_of_the_kind(self) -> StoreSettings:
        if self.kind == "redis":
            if "path" in self.model_fields_set:
                raise ValueError('path: kind = "redis" has no folder')
            check_redis_url("url", self.url)
            if self.tls_ca is not None and not str(self.url).startswith("rediss://"):
                raise ValueError("tls_ca: means nothing without a rediss:// url")
        elif given := sorted(REDIS_FIELDS & self.model_fields_set):
            raise ValueError(f'{", ".join(given)}: used by kind = "redis" only')
        return self


def check_redis_url(key: str, url: str | None) -> None:
    """Raise `ValueError`, naming the setting's key, unless a URL is one of a Redis, without a password."""
    if url is None:
        raise ValueError(f'{key}: kind = "redis" needs one, such as redis://127.0.0.1:6379/0')
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError(f"{key}: write redis://host:port/database, or rediss:// for TLS")
    if parts.password is not None:
        raise ValueError(f"{key}: holds a password; write it into a file and name that as password_file")
    if parts.query or parts.fragment or not (parts.path in ("", "/") or parts.path[1:].isdigit()):
        raise ValueError(f"{key}: nothing may follow the number of the database")


class FeatureSettings(BaseModel):
    """`[features]`: how long snapshots are kept in the warehouse."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_days: int | None = Field(default=None, ge=1)
    """Days of snapshots that a refresh of a view leaves of its version, the newest always; None: all."""
