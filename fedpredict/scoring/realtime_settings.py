"""The `[realtime]` and `[events]` tables of both daemons' settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedpredict.errors import NameRefusedError
from fedpredict.features.settings import check_redis_url
from fedpredict.scoring.freshness import Duration
from fedpredict.security.identity import SCHEME, Identity, IdentityKind, identity_from_uri
from fedpredict.security.rules import CallLimits
from fedpredict.security.settings import ViewName

EVENTS, WAREHOUSE = "events", "warehouse"
POSTGRES, REDIS = "PostgreSQL", "Redis"
_SCHEMES = {"postgresql": POSTGRES, "postgresql+psycopg": POSTGRES, "redis": REDIS, "rediss": REDIS}
_FIELDS = {
    "password_file": (POSTGRES, REDIS),
    **dict.fromkeys(("table", "table_schema"), (POSTGRES,)),
    **dict.fromkeys(("tls_ca", "timeout_s", "prefix"), (REDIS,)),
}
"""Settings -> the kinds of sources that have them."""


def _check_no_password(key: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise ValueError(f"{key}: holds a password; write it into a file and name that as password_file")


def _sender(text: str) -> str:
    try:
        return (identity_from_uri(text) if text.startswith(SCHEME) else Identity(IdentityKind.CLIENT, text)).uri
    except NameRefusedError as error:
        raise ValueError(str(error)) from None


class EventSettings(BaseModel):
    """`[events]`: where raw events are kept that this party is sent, and who may send them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = "sqlite:///events.db"
    """SQLAlchemy URL of the database; an SQLite file belongs on a disk of this machine."""
    password_file: Path | None = None
    """A file whose first line is the password of `url`; or the environment holds it."""
    keep_days: int | None = Field(default=None, ge=1, le=100_000)
    """Days that events are kept for, by their time; None: until `events prune`."""
    senders: tuple[Annotated[str, AfterValidator(_sender)], ...] = ()
    """Who may send events over HTTP: names of clients, or fedpredict://party/<id>; nobody else may."""
    limits: CallLimits = Field(default_factory=CallLimits)
    """How often and when each of them may send a message."""

    @model_validator(mode="after")
    def _url_has_no_password(self) -> EventSettings:
        _check_no_password("url", self.url)  # here, because the message of a field shows its value
        return self


class RealtimeViewSettings(BaseModel):
    """`[realtime.<view>]`, or the source alone as a text: where mode realtime finds a view's raw rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """`events`: what `[events]` keeps; `warehouse`: the view's own table; or the URL of a PostgreSQL or a Redis."""
    password_file: Path | None = None
    """PostgreSQL, Redis: a file whose first line is the password."""
    table: str | None = Field(default=None, pattern=r"^[^\x00\"]{1,63}$")
    """PostgreSQL: the table's name there; default: that of the view."""
    table_schema: str | None = Field(default=None, alias="schema", pattern=r"^[^\x00\"]{1,63}$")
    """PostgreSQL: the table's schema."""
    tls_ca: Path | None = None
    """Redis: the CA certificates (PEM) that the server's is verified with; default: the machine's own."""
    timeout_s: float = Field(default=0.5, gt=0.0, le=60.0)
    """Redis: the longest wait for an answer."""
    prefix: str | None = Field(default=None, pattern=r"^[^\x00-\x1f\x7f]{1,200}$")
    """Redis: what the key of a sample id begins with; default: the table's name in the view, and a colon."""
    dimension_max_age: Duration = 600_000_000
    """How old what was read of the dimension tables may become before it is read again; in microseconds."""

    @model_validator(mode="before")
    @classmethod
    def _source_alone(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _source_is_known(self) -> RealtimeViewSettings:
        _check_no_password("source", self.source)
        kind = self.kind
        odd = [name for name, kinds in _FIELDS.items() if name in self.model_fields_set and kind not in kinds]
        if odd:
            names = ", ".join(odd).replace("table_schema", "schema")
            raise ValueError(f"{names}: for a {' or '.join(_FIELDS[odd[0]])}, not {kind}")
        if kind == REDIS:
            check_redis_url("source", self.source)
            if self.tls_ca is not None and not self.source.startswith("rediss://"):
                raise ValueError("tls_ca: means nothing without a rediss:// source")
        return self

    @property
    def kind(self) -> str:
        """`EVENTS`, `WAREHOUSE`, `POSTGRES` or `REDIS`."""
        if self.source in (EVENTS, WAREHOUSE):
            return self.source
        parts = urlsplit(self.source)
        found = _SCHEMES.get(parts.scheme)
        if found is None or not parts.hostname:
            raise ValueError(
                'source: write "events", "warehouse", postgresql+psycopg://user@host/database, or redis://host:port/0'
            )
        return found


RealtimeSettings: TypeAlias = Mapping[ViewName, RealtimeViewSettings]
"""By feature view; what is not listed is not computed in mode realtime."""
