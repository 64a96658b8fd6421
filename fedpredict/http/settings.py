"""The `[http]` table: the limits of an HTTP edge."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_HEAD_BYTES = 16 * 1024
"""Longest request line and headers together."""


class HttpSettings(BaseModel):
    """What one caller may cost; every limit holds for every path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=1024 * 1024 * 1024)
    """Longest body of a request; a longer one is refused from its content-length, before it is read."""
    max_body_bytes_total: int = Field(default=256 * 1024 * 1024, ge=1024, le=1024**4)
    """Bodies above 16 kB on all connections of a process together; what does not fit is answered 503."""
    request_timeout_s: float = Field(default=10.0, gt=0.0, le=600.0)
    """How long a request may take to arrive, from its first byte to its last."""
    max_connections: int = Field(default=10_000, ge=1, le=1_000_000)
    """Open connections; one more is answered 503 and closed."""
    keep_alive_s: float = Field(default=75.0, gt=0.0, le=3600.0)
    """How long a connection may be idle."""

    @model_validator(mode="after")
    def _check_total(self) -> Self:
        if self.max_body_bytes_total < self.max_body_bytes:
            raise ValueError(
                f"max_body_bytes_total = {self.max_body_bytes_total} is less than max_body_bytes = "
                f"{self.max_body_bytes}: a body of that size would never be taken"
            )
        return self
