"""The `[log]`, `[metrics]` and `[traces]` tables of every settings file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedpredict.errors import NameRefusedError
from fedpredict.model.ids import check_address


def _address(value: str) -> str:
    try:
        return check_address(value)
    except NameRefusedError as error:  # pydantic collects ValueErrors, and names the key
        raise ValueError(str(error)) from error


def _endpoint(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"{value!r} is no endpoint: write http://host:port or https://host:port")
    return value


Ratio = Annotated[float, Field(ge=0.0, le=1.0)]


class LogSettings(BaseModel):
    """How much is logged; whatever the level, never sample ids, features, weights or scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Literal["debug", "info", "warning", "error"] = "info"
    requests: Literal["all", "sampled", "errors"] = "sampled"
    """Which answered requests get a line; failures and partial answers always do."""
    sample_ratio: Ratio = 0.01
    """The part of the requests answered in full that get a line where `requests` is "sampled"."""


class MetricsSettings(BaseModel):
    """Where Prometheus reads metrics, over plain HTTP: counts and times, nothing of any sample."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: Annotated[str, AfterValidator(_address)] | None = None
    """host:port of the first worker, the next ones take the ports after it; not opened unless set."""


class TracesSettings(BaseModel):
    """Where spans go, and of which requests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    """An OTLP collector over HTTP; nothing is traced unless set."""
    sample_ratio: Ratio = 0.01
    """The part of the requests that are traced; a caller's own traced request always is, up to `max_per_s`."""
    max_per_s: float = Field(default=100.0, gt=0.0, le=10_000.0)
    """Most requests traced in a second, whatever callers ask for."""
