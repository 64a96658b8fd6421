"""The `[store]` table of the settings files of both daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class StoreSettings(BaseModel):
    """Where the features that are served stand; a relative path starts at the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mapped", "memory"] = "mapped"
    """`mapped`: files that the party's processes share. `memory`: each process has a copy, and nothing is on disk."""
    path: Path = Path("store")
    """mapped: the folder, made when missing; every party gets a folder of its own in it."""
