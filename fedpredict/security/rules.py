"""What a settings file says of one caller: `[callers.<party>]` of a participant, `[clients.<name>]` of an initiator."""

from __future__ import annotations

from typing import Annotated, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fedpredict.model.share import Mode
from fedpredict.security.hours import DAY_MINUTES, WEEKDAYS, Hours, check_zone, parse_hours
from fedpredict.security.identity import IdentityKind
from fedpredict.security.pace import Pace
from fedpredict.security.settings import ModelOrAll

MAX_PURPOSE = 200


def _hours(text: str) -> str:
    parse_hours(text)
    return text


def _weekday(value: object) -> object:
    if isinstance(value, str) and value not in WEEKDAYS:
        raise ValueError(f'"{value}" is no day of the week: write some of {", ".join(WEEKDAYS)}')
    return value


def _purpose(text: str) -> str:
    if not text.isprintable():
        raise ValueError("write one line of printable characters")
    return text


Weekday: TypeAlias = Annotated[str, BeforeValidator(_weekday)]
Rows: TypeAlias = Annotated[int, Field(ge=1)]


class CallLimits(BaseModel):
    """How often and when somebody may call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls_per_s: float | None = Field(default=None, ge=1e-4, le=1e6)
    """Calls in a second, in the long run; None: any number."""
    burst: int | None = Field(default=None, ge=1, le=1_000_000)
    """Calls that are taken at once; default: those of a second, at least one."""
    hours: Annotated[str, AfterValidator(_hours)] | None = None
    """Such as "08:00-18:00", or "22:00-06:00" over midnight; None: the whole day."""
    weekdays: tuple[Weekday, ...] | None = Field(default=None, min_length=1)
    """Days on which the hours begin: some of mon, tue, wed, thu, fri, sat, sun; None: every day."""
    time_zone: Annotated[str, AfterValidator(check_zone)] | None = None
    """Whose clock is meant, such as "Europe/Berlin"; needed where there are hours or weekdays."""

    @model_validator(mode="after")
    def _keys_fit(self) -> CallLimits:
        if self.burst is not None and self.calls_per_s is None:
            raise ValueError("burst: needs calls_per_s")
        has_hours = self.hours is not None or self.weekdays is not None
        if has_hours != (self.time_zone is not None):
            raise ValueError("time_zone: needed by hours and weekdays, and used by nothing else")
        return self

    @property
    def pace(self) -> Pace | None:
        """How often; None for any number of calls."""
        return None if self.calls_per_s is None else Pace.of(self.calls_per_s, self.burst)

    @property
    def span(self) -> Hours | None:
        """When; None for always."""
        if self.time_zone is None:
            return None
        first, end = (0, DAY_MINUTES) if self.hours is None else parse_hours(self.hours)
        days = frozenset(WEEKDAYS.index(day) for day in self.weekdays or WEEKDAYS)
        return Hours(first, end, days, ZoneInfo(self.time_zone))


class RuleSettings(CallLimits):
    """What one caller may ask for."""

    models: tuple[ModelOrAll, ...]
    """Model ids, or "*" for all."""
    modes: tuple[Mode, ...] = Field(default=tuple(Mode), min_length=1)
    """Of realtime, nearline, offline; default: all three."""
    max_rows: Rows | None = None
    """Sample ids in one call; default: the daemon's `max_samples`, which holds in any case."""
    max_offline_rows: Rows | None = None
    """Rows of one task at an initiator, of one bucket at a participant; default: `max_rows` where that is written."""
    purpose: Annotated[str, Field(max_length=MAX_PURPOSE), AfterValidator(_purpose)] = ""
    """What it asks for; lines of the audit log repeat it."""

    @property
    def of_kind(self) -> IdentityKind:
        """What kind of identity the caller's certificate must state."""
        return IdentityKind.PARTY
