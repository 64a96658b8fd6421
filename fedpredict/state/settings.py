"""`[leases]`: a database for leases, where neither the warehouse nor the store can keep them."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from fedpredict.security.settings import check_no_password


class LeaseSettings(BaseModel):
    """`[leases]` of a party's settings; a relative path starts at the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    """SQLAlchemy URL, such as postgresql+psycopg://user@host/database; never with a password."""
    password_file: Path | None = None
    """A file whose first line is the password; or the environment holds it."""

    @field_validator("url")
    @classmethod
    def _has_no_password(cls, url: str) -> str:
        check_no_password(url, "url", "password_file")
        return url
