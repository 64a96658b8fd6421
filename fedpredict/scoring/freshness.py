"""How old the features behind a score may be, by view and model: the `[freshness]` table of both daemons' settings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fedpredict.model.durations import parse_duration
from fedpredict.model.share import Mode
from fedpredict.security.settings import ModelId, ViewName


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
    max_age_offline: Duration | None = None
    """Default: the view's."""
    stale: Stale | None = None
    """Default: the view's."""


class ViewFreshness(BaseModel):
    """`[freshness.<view>]`, or the age alone as a text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_age: Duration | None = None
    """Between the features' event time and the request, in microseconds; written as "90s", "15m", "2h" or "3d"."""
    max_age_offline: Duration | None = None
    """The same of stored shares; default for both: what the registered view's `[max_age]` says."""
    stale: Stale = Stale.REFUSE
    """`refuse`: what is older answers STALE and gets no score. `serve`: it is scored; the reply has its event time."""
    models: Mapping[ModelId, ModelFreshness] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _age_alone(cls, value: Any) -> Any:
        return {"max_age": value} if isinstance(value, str) else value

    def limit(self, model_id: str, mode: Mode, default: int | None) -> int | None:
        """Return the age beyond which a model's samples are refused, in microseconds; None: they never are.

        Args:
            model_id: The model.
            mode: In which features are extracted, looked up, or stood behind a stored share.
            default: What the view says itself.
        """
        own = self.models.get(model_id, ModelFreshness())
        if (own.stale or self.stale) is Stale.SERVE:
            return None
        if mode is Mode.OFFLINE:
            return own.max_age_offline or self.max_age_offline or default
        return own.max_age or self.max_age or default


FreshnessSettings: TypeAlias = Mapping[ViewName, ViewFreshness]
"""By feature view; for what is not listed, a registered view's own `[max_age]` holds."""
