"""A participant's settings: what `participant.toml` holds, checked as a whole before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedpredict.errors import NameRefusedError
from fedpredict.model.ids import check_model_id, check_party_id
from fedpredict.security.settings import TlsSettings
from fedpredict.security.tls import is_loopback
from fedpredict.warehouse.settings import WarehouseSettings
from fedpredict.wire.channel import MAX_SAMPLES_PER_CALL

ALL_MODELS = "*"


def _party_id(value: str) -> str:
    try:
        return check_party_id(value)
    except NameRefusedError as error:
        raise ValueError(str(error)) from error


def _model_or_all(value: str) -> str:
    try:
        return value if value == ALL_MODELS else check_model_id(value)
    except NameRefusedError as error:
        raise ValueError(str(error)) from error


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) <= 65535):
        raise ValueError(f"{value!r} is not an address: write host:port")
    return value


PartyId: TypeAlias = Annotated[str, AfterValidator(_party_id)]
Seconds: TypeAlias = Annotated[float, Field(gt=0.0, le=600.0)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LogSettings(_Settings):
    """The `[log]` table."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class CallerSettings(_Settings):
    """`[callers.<party>]`: an initiator, by the party in its certificate, and what it may ask for."""

    models: tuple[Annotated[str, AfterValidator(_model_or_all)], ...]
    """Model ids, or "*" for all."""


class ParticipantSettings(_Settings):
    """The whole file. Relative paths are relative to it."""

    party: PartyId
    """This party; its certificate says the same."""
    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:7443"
    """host:port; port 0 takes any free one."""
    insecure: bool = False
    """Plain text, on loopback only: nobody's identity is proved."""
    poll_s: Seconds = 5.0
    """Seconds between two looks at the warehouse for new models and features."""
    drain_s: float = Field(default=10.0, ge=0.0, le=600.0)
    """Seconds that calls under way may take when the process stops."""
    max_samples: int = Field(default=10_000, ge=1, le=MAX_SAMPLES_PER_CALL)
    """Most sample ids in one call."""
    keep_versions: int = Field(default=3, ge=1, le=100)
    """Versions of a model that stay loaded, the newest included."""
    tls: TlsSettings | None = None
    warehouse: WarehouseSettings
    callers: Mapping[PartyId, CallerSettings] = Field(default_factory=dict)
    """Who is not listed here gets the answer for a model that does not exist."""
    log: LogSettings = Field(default_factory=LogSettings)

    @model_validator(mode="after")
    def _transport_is_safe(self) -> ParticipantSettings:
        if self.insecure and not is_loopback(self.listen):
            raise ValueError(f"insecure = true is for loopback only, but listen is {self.listen}")
        if not self.insecure and self.tls is None:
            raise ValueError("tls: needed (or insecure = true, on loopback, for trials)")
        return self
