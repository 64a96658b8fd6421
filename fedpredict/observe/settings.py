"""The `[log]` table of every settings file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class LogSettings(BaseModel):
    """How much is logged; whatever the level, never sample ids, features, weights or scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Literal["debug", "info", "warning", "error"] = "info"
