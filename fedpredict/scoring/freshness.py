"""How old the features behind a score may be, by view and model: the `[freshness]` table of both daemons' settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fedpredict.security.settings import ModelId, ViewName

_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|d)")
_MICROS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def parse_duration(text: object) -> int:
    """Return a duration in microseconds.

    >>> parse_duration("90m")
    5400000000

    Raises:
        ValueError: It is not written so, or is nothing.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None or not int(match[1]):
        raise ValueError('write a whole number above 0 and s, m, h or d, such as "90m"')
    return int(match[1]) * _MICROS[match[2]]


def _duration(value: object) -> object:
    # what has been read is read again where settings are copied
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else parse_duration(value)


Duration: TypeAlias = Annotated[int, BeforeValidator(_duration)]


class Stale(StrEnum):
    """What becomes of a sample whose features are older than allowed."""

    REFUSE = "refuse"
    SERVE = "serve"


class ModelFreshness(BaseModel):
    """`[freshness.<view>.models.<id>]`: what differs from the view's for one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_age: Duration | None = None
    """Default: the view's."""
    stale: Stale | None = None
    """Default: the view's."""


class ViewFreshness(BaseModel):
    """`[freshness.<view>]`, or the age alone as a text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_age: Duration | None = None
    """Between the features' event time and the request, in microseconds; written as "90s", "15m", "2h" or "3d"."""
    stale: Stale = Stale.REFUSE
    """`refuse`: what is older answers STALE and gets no score. `serve`: it is scored; the reply has its event time."""
    models: Mapping[ModelId, ModelFreshness] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _age_alone(cls, value: Any) -> Any:
        return {"max_age": value} if isinstance(value, str) else value

    def limit(self, model_id: str) -> int | None:
        """Return the age beyond which a model's samples are refused, in microseconds; None: they never are."""
        own = self.models.get(model_id, ModelFreshness())
        if (own.stale or self.stale) is Stale.SERVE:
            return None
        return own.max_age or self.max_age


FreshnessSettings: TypeAlias = Mapping[ViewName, ViewFreshness]
"""By feature view; the age of what is not listed does not matter."""
