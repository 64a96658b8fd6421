"""`[tasks]`: how a party's shares are computed ahead and kept."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TaskSettings(BaseModel):
    """`[tasks]` of a party's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket_rows: int = Field(default=4_000_000, ge=1_000)
    """Rows of a bucket at most, on average: what is done again after a crash, and what an engine that has to group
    holds at a time."""
    stability_limit: float = Field(default=0.25, gt=0.0)
    """A population stability index above it, against the day before, is a warning."""
    keep_days: int | None = Field(default=None, ge=1)
    """Days of shares that `task score` leaves, today included, and the newest whole one of each version; None: all."""
