"""The `[realtime]` and `[events]` tables of both daemons' settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedpredict.errors import NameRefusedError
from fedpredict.scoring.freshness import Duration
from fedpredict.security.identity import SCHEME, Identity, IdentityKind, identity_from_uri
from fedpredict.security.settings import ViewName

EVENTS, WAREHOUSE = "events", "warehouse"
_POSTGRES = ("postgresql", "postgresql+psycopg")


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

    @model_validator(mode="after")
    def _url_has_no_password(self) -> EventSettings:
        _check_no_password("url", self.url)  # here, because the message of a field shows its value
        return self


class RealtimeViewSettings(BaseModel):
    """`[realtime.<view>]`, or the source alone as a text: where mode realtime finds a view's raw rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """`events`: what `[events]` keeps; `warehouse`: the view's own table; or the URL of a PostgreSQL."""
    password_file: Path | None = None
    """PostgreSQL: a file whose first line is the password."""
    table: str | None = Field(default=None, pattern=r"^[^\x00\"]{1,63}$")
    """PostgreSQL: the table's name there; default: that of the view."""
    table_schema: str | None = Field(default=None, alias="schema", pattern=r"^[^\x00\"]{1,63}$")
    """PostgreSQL: the table's schema."""
    dimension_max_age: Duration = 600_000_000
    """How old what was read of the dimension tables may become before it is read again; in microseconds."""

    @model_validator(mode="before")
    @classmethod
    def _source_alone(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _source_is_known(self) -> RealtimeViewSettings:
        _check_no_password("source", self.source)
        of_postgres = sorted({"password_file", "table", "table_schema"} & self.model_fields_set)
        if self.source in (EVENTS, WAREHOUSE):
            if of_postgres:
                raise ValueError(f"{', '.join(of_postgres).replace('table_', '')}: for a PostgreSQL, not {self.source}")
        elif urlsplit(self.source).scheme not in _POSTGRES or not urlsplit(self.source).hostname:
            raise ValueError('source: write "events", "warehouse", or postgresql+psycopg://user@host/database')
        return self


RealtimeSettings: TypeAlias = Mapping[ViewName, RealtimeViewSettings]
"""By feature view; what is not listed is not computed in mode realtime."""
