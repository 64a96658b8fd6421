"""`[tasks]`: how a party's shares are computed ahead and kept."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class AnswerFrom(StrEnum):
    """Where the shares of an offline task's buckets come from."""

    STORE = "store"
    WAREHOUSE = "warehouse"


class TaskSettings(BaseModel):
    """`[tasks]` of a party's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket_rows: int = Field(default=4_000_000, ge=1_000)
    """Rows of a bucket at most, on average: what an engine that has to group holds at a time, or who answers from the
    warehouse. After a crash the embedded warehouse does one again, a server those of half a minute (ADR 0040)."""
    stability_limit: float = Field(default=0.25, gt=0.0)
    """A population stability index above it, against the day before, is a warning."""
    answer_from: AnswerFrom = AnswerFrom.STORE
    """`store`: the online store, as for online questions. `warehouse`: stored shares, or what the engine computes,
    piece by piece: memory holds some pieces, however many ids there are."""
    answer_rows: int = Field(default=1_000_000, ge=1_000)
    """warehouse: rows of a piece that is computed, at most on average; stored shares are read by their buckets."""
    keep_days: int | None = Field(default=None, ge=1)
    """Days of shares that `task score` leaves, today included, and the newest whole one of each version there is."""
    keep_parameters: int | None = Field(default=None, ge=1)
    """Versions of each model, by their parameters, whose tables `task score` leaves, as `model prune`; None: all."""
