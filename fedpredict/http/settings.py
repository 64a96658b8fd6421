"""The `[http]` table: the limits of an HTTP edge."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MAX_HEAD_BYTES = 16 * 1024
"""Longest request line and headers together."""


class HttpSettings(BaseModel):
    """What one caller may cost; every limit holds for every path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=1024 * 1024 * 1024)
    """Longest body of a request; a longer one is refused from its content-length, before it is read."""
    request_timeout_s: float = Field(default=10.0, gt=0.0, le=600.0)
    """How long a request may take to arrive, from its first byte to its last."""
    max_connections: int = Field(default=10_000, ge=1, le=1_000_000)
    """Open connections; one more is answered 503 and closed."""
    keep_alive_s: float = Field(default=75.0, gt=0.0, le=3600.0)
    """How long a connection may be idle."""
