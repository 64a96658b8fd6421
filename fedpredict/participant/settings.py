"""A participant's settings: what `participant.toml` holds, checked as a whole before anything starts."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedpredict.features.settings import StoreSettings
from fedpredict.observe.settings import LogSettings
from fedpredict.security.settings import Address, ModelOrAll, PartyId, Seconds, TlsSettings, check_transport
from fedpredict.warehouse.settings import WarehouseSettings
from fedpredict.wire.channel import MAX_SAMPLES_PER_CALL


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CallerSettings(_Settings):
    """`[callers.<party>]`: an initiator, by the party in its certificate, and what it may ask for."""

    models: tuple[ModelOrAll, ...]
    """Model ids, or "*" for all."""


class ParticipantSettings(_Settings):
    """The whole file. Relative paths are relative to it."""

    party: PartyId
    """This party; its certificate says the same."""
    listen: Address = "127.0.0.1:7443"
    """host:port; port 0 takes any free one."""
    insecure: bool = False
    """Plain text, on loopback only: nobody's identity is proved."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that serve the same ports."""
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
    store: StoreSettings = Field(default_factory=StoreSettings)
    callers: Mapping[PartyId, CallerSettings] = Field(default_factory=dict)
    """Who is not listed here gets the answer for a model that does not exist."""
    log: LogSettings = Field(default_factory=LogSettings)

    @model_validator(mode="after")
    def _transport_is_safe(self) -> ParticipantSettings:
        check_transport(self.tls, {"listen": self.listen}, insecure=self.insecure)
        return self
