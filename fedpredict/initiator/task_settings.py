"""`[tasks]` of an initiator: its own stored shares, and the offline tasks that it runs for its users."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedpredict.errors import InputError, NameRefusedError
from fedpredict.model.buckets import check_bucket_count
from fedpredict.model.ids import check_name
from fedpredict.scoring.settings import TaskSettings
from fedpredict.security.settings import Seconds


def _population(value: str) -> str:
    try:
        return check_name(value, "population")
    except NameRefusedError as error:
        raise ValueError(str(error)) from error


def _bucket_count(value: int) -> int:
    try:
        return check_bucket_count(value)
    except InputError as error:
        raise ValueError(str(error)) from error


Identifier = Annotated[str, Field(pattern="^[a-z0-9_]{1,126}$")]
PopulationName = Annotated[str, AfterValidator(_population)]


class Combine(StrEnum):
    """What combines the shares of tasks."""

    AUTO = "auto"
    """The engine of a warehouse that is a server, numpy beside an embedded one."""
    NUMPY = "numpy"
    """This process, bucket by bucket as they come."""
    ENGINE = "engine"
    """The warehouse's engine, all buckets in one statement once their shares are stored."""


class PopulationTable(BaseModel):
    """`[tasks.tables.<name>]`: a table of the warehouse whose ids a task may be about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Identifier
    column: Identifier = "sample_id"
    """Which holds the sample ids, as text."""


class InitiatorTaskSettings(TaskSettings):
    """`[tasks]` of an initiator's settings; what it has in common with a party's is about its own shares.

    `keep_days` holds for the results of tasks and the lists uploaded for them, too.
    """

    run: bool = True
    """Whether this process works on tasks; otherwise it only takes and shows them."""
    parallel: int = Field(default=1, ge=1, le=64)
    """Tasks at once, in each process."""
    buckets_under_way: int = Field(default=3, ge=1, le=64)
    """Buckets of a task that are asked for, combined or written at the same time: what memory holds."""
    bucket_deadline_s: Seconds = 300.0
    """How long a party may take for one call; a longer one counts as away."""
    least_buckets: Annotated[int, AfterValidator(_bucket_count)] = 1
    """Into how many buckets a list is cut at least, a power of two: of smaller buckets memory holds less."""
    combine: Combine = Combine.AUTO
    """What joins shares and combines them; where a model's shares are not numbers that a statement adds up, numpy does.
    """
    lease_s: Annotated[Seconds, Field(ge=1.0)] = 15.0
    """How long a task stays a process's that no longer says so; then another one, or the same once it is back, goes on.
    """
    max_rows: int = Field(default=1_000_000_000, ge=1)
    """The most rows of one uploaded list or table."""
    upload_grace_s: Seconds = 120.0
    """How long the sender of a list may be waited for in all, whatever it sends ..."""
    upload_rows_per_s: float = Field(default=1_000.0, gt=0.0)
    """... and how many rows make a second more: a slower one loses its place."""
    tables: Mapping[PopulationName, PopulationTable] = Field(default_factory=dict)
    """Tables of the warehouse that may be named as a population."""
