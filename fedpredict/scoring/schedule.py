"""`[schedule]`: what a daemon does by itself, and when."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedpredict.scoring.cron import Cron, parse_cron
from fedpredict.security.hours import check_zone
from fedpredict.security.settings import ViewName

SCORE = "score"


class TaskSchedule(BaseModel):
    """`[schedule.tasks]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: str | None = None
    """When `task score` runs for the day (UTC), and then `shares prune` where `[tasks] keep_days` is set."""


class ScheduleSettings(BaseModel):
    """`[schedule]`: cron expressions of five fields, in `timezone`; a key that is no other names a view."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timezone: str | None = None
    """A zone's name, such as "Europe/Berlin" or "UTC"; needed where something is scheduled."""
    views: Mapping[ViewName, str] = Field(default_factory=dict)
    """View -> when it is refreshed; the same as a key of `[schedule]`, for a view called like one of these."""
    tasks: TaskSchedule = TaskSchedule()

    @model_validator(mode="before")
    @classmethod
    def _other_keys_are_views(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        own = {key: each for key, each in value.items() if key in cls.model_fields}
        others = {key: each for key, each in value.items() if key not in own}
        for key, each in others.items():
            near = difflib.get_close_matches(key, cls.model_fields, n=1, cutoff=0.8)
            if near and not _is_cron(each):
                raise ValueError(f"{key} is no view with a cron expression of five fields; did you mean {near[0]}?")
        return {**own, "views": {**own.get("views", {}), **others}} if others else own

    @model_validator(mode="after")
    def _can_be_due(self) -> ScheduleSettings:
        if self.timezone is not None:
            try:
                check_zone(self.timezone)
            except ValueError as error:
                raise ValueError(f"timezone: {error}") from error
        for key, text in self._texts().items():
            if self.timezone is None:
                raise ValueError(f'timezone: {key} needs one, such as timezone = "Europe/Berlin"')
            try:
                parse_cron(text, self.timezone)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        return self

    @property
    def jobs(self) -> tuple[Job, ...]:
        """What is scheduled; refreshes first."""
        zone = self.timezone or ""
        refreshes = tuple(Job(f"refresh.{view}", parse_cron(text, zone), view) for view, text in self.views.items())
        score = self.tasks.score
        return refreshes if score is None else (*refreshes, Job(SCORE, parse_cron(score, zone)))

    def _texts(self) -> dict[str, str]:
        return {**self.views, **({} if self.tasks.score is None else {"tasks.score": self.tasks.score})}


def _is_cron(value: object) -> bool:
    return isinstance(value, str) and len(value.split()) == 5


@dataclass(frozen=True, slots=True)
class Job:
    """Something scheduled.

    Attributes:
        name: In logs and metrics: `refresh.VIEW`, or `score`.
        cron: When it is due.
        view: What is refreshed; None: a day is scored.
    """

    name: str
    cron: Cron
    view: str | None = None
