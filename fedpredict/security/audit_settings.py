"""`[audit]` of every party's settings."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fedpredict.security.settings import Address, Seconds


class Fsync(StrEnum):
    """When lines are flushed to the disk."""

    CHECKPOINT = "checkpoint"
    EACH = "each"


class AuditSettings(BaseModel):
    """Where the audit log stands, and how it is kept; a relative path starts at the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    """Whether there is a log at all."""
    path: Path = Path("audit")
    """The folder, made when missing; every party gets a folder of its own in it, every worker one in that."""
    write_s: Seconds = 0.1
    """How long a line may wait in memory: what a process that is killed loses at most."""
    fsync: Fsync = Fsync.CHECKPOINT
    """When lines are flushed: with every checkpoint, or each, and no answer leaves before its line is."""
    checkpoint_s: Seconds = 30.0
    """How often a chain that grew is signed, and flushed to the disk."""
    ids_per_line: int = Field(default=16, ge=0, le=1_000)
    """Of a call about so many ids at most, each is written as its keyed hash; of a larger one a hash of all."""
    file_mb: int = Field(default=64, ge=1, le=10_000)
    """A file that is larger is followed by another."""
    keep_days: int | None = Field(default=None, ge=1)
    """Files whose last line is older are removed, and the chain says so; None: none are."""
    syslog: Address | None = None
    """host:port of a syslog server that checkpoints are sent to, by UDP (RFC 3164)."""
    anchor: Path | None = None
    """A file that checkpoints are appended to, on another machine's disk, say."""
    peers: bool = True
    """Whether the parties that this one works with are handed checkpoints: they learn how many lines there are."""
    required: bool = True
    """Whether calls are refused while lines cannot be written."""
