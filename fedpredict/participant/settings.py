"""A participant's settings: what `participant.toml` holds, checked as a whole before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedpredict.features.settings import FeatureSettings, StoreSettings
from fedpredict.http.settings import HttpSettings
from fedpredict.model.fixed_point import DEFAULT_SCALE_BITS, MAX_SCALE_BITS
from fedpredict.observe.settings import LogSettings, MetricsSettings, TracesSettings
from fedpredict.scoring.freshness import FreshnessSettings
from fedpredict.scoring.realtime_settings import EVENTS, EventSettings, RealtimeSettings
from fedpredict.scoring.schedule import ScheduleSettings
from fedpredict.scoring.settings import TaskSettings
from fedpredict.security.audit_settings import AuditSettings
from fedpredict.security.rules import RuleSettings
from fedpredict.security.settings import (
    Address,
    ModelId,
    PartyId,
    Seconds,
    TlsSettings,
    check_transport,
)
from fedpredict.state.settings import LeaseSettings
from fedpredict.warehouse.settings import WarehouseSettings
from fedpredict.wire.channel import MAX_SAMPLES_PER_CALL, Compression


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CallerSettings(RuleSettings):
    """`[callers.<party>]`: an initiator, by the party in its certificate, and what it may ask for."""

    accept_populations: bool = False
    """Whether the standing populations that it names count without the operator's word."""
    distinct_ids_per_day: int | None = Field(default=None, ge=1)
    """How many distinct sample ids it may ask about on a day of the UTC calendar; None: as many as it likes."""


class DistinctIdSettings(_Settings):
    """`[distinct_ids]`: where it is kept how many sample ids callers with a limit asked about."""

    path: Path = Path("distinct-ids")
    """The folder, made when needed, on a disk of this machine; every party gets a folder of its own in it."""


class CallersFile(_Settings):
    """The file that `policy` names."""

    callers: Mapping[PartyId, CallerSettings]


class PopulationSettings(_Settings):
    """`[populations]`: what is taken of the sample ids that initiators name ahead."""

    max_ids: int = Field(default=50_000_000, ge=0)
    """Most ids that are kept for one initiator, in all populations; 0: none are taken."""
    keep_versions: int = Field(default=3, ge=1, le=100)
    """Versions of a population that stay when a newer one is accepted, that one included."""


class MaskedSettings(_Settings):
    """`[masked.<model>]`: shares of this model leave masked, so that only their sum can be read, or not at all."""

    parties: tuple[PartyId, ...] = Field(min_length=1)
    """The other participants whose masks are in the sum: every party of the model but this one and the initiator."""
    scale_bits: int = Field(default=DEFAULT_SCALE_BITS, ge=0, le=MAX_SCALE_BITS)
    """Shares are multiplied by 2 to the power of this, and rounded; the same at every party."""
    may_lack: tuple[PartyId, ...] = ()
    """Which of the parties, this one included, a sum may lack, each alone or together; a party that names itself
    consents to what two sums tell of its share. The others, two at least, are in every sum."""


class Connect(StrEnum):
    """Who dials: initiators (in), or this participant (out), which then opens no port for scoring."""

    IN = "in"
    OUT = "out"


class InitiatorPeerSettings(_Settings):
    """`[initiators.<party>]`: an initiator that this participant dials; it may ask what `[callers]` says."""

    addresses: tuple[Address, ...] = Field(min_length=1)
    """host:port of each replica, where it listens for gRPC."""
    link_addresses: tuple[Address, ...] = ()
    """Of each in the same order, where it takes links over sockets; empty: gRPC alone."""
    compression: Compression = Compression.NONE

    @model_validator(mode="after")
    def _addresses_pair(self) -> InitiatorPeerSettings:
        if self.link_addresses and len(self.link_addresses) != len(self.addresses):
            raise ValueError("link_addresses: write one for each of addresses, in the same order, or none")
        return self


class ParticipantSettings(_Settings):
    """The whole file. Relative paths are relative to it."""

    party: PartyId
    """This party; its certificate says the same."""
    listen: Address = "127.0.0.1:7443"
    """host:port; port 0 takes any free one."""
    link_listen: Address | None = None
    """host:port for standing links over sockets, the fast way; None: over gRPC alone."""
    http_listen: Address | None = None
    """host:port where raw events are taken over HTTP; None: nowhere."""
    http: HttpSettings = Field(default_factory=HttpSettings)
    connect: Connect = Connect.IN
    initiators: Mapping[PartyId, InitiatorPeerSettings] = Field(default_factory=dict)
    """Needed by `connect = "out"`, and used by nothing else."""
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
    buckets_at_once: int = Field(default=2, ge=1, le=64)
    """Buckets of offline tasks that a process computes at the same time; others wait."""
    keep_versions: int = Field(default=3, ge=1, le=100)
    """Versions of a model that stay loaded, the newest included."""
    tls: TlsSettings | None = None
    warehouse: WarehouseSettings
    store: StoreSettings = Field(default_factory=StoreSettings)
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    """How long snapshots of features are kept."""
    freshness: FreshnessSettings = Field(default_factory=dict)
    """By feature view: how old features may be."""
    realtime: RealtimeSettings = Field(default_factory=dict)
    """By feature view: where mode realtime finds its raw rows."""
    events: EventSettings = Field(default_factory=EventSettings)
    """Raw events that this party is sent."""
    tasks: TaskSettings = Field(default_factory=TaskSettings)
    """How shares are computed ahead and kept."""
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    """What this daemon does by itself, and when."""
    leases: LeaseSettings | None = None
    """A database for leases, where neither the warehouse nor `[store]` can keep them."""
    populations: PopulationSettings = Field(default_factory=PopulationSettings)
    """The standing populations of initiators."""
    callers: Mapping[PartyId, CallerSettings] = Field(default_factory=dict)
    """Who is not listed here gets the answer for a model that does not exist."""
    distinct_ids: DistinctIdSettings = Field(default_factory=DistinctIdSettings)
    """Where the limit `distinct_ids_per_day` of callers is counted."""
    policy: Path | None = None
    """A file of its own that holds `[callers]`, and nothing else; then there are none here."""
    masked: Mapping[ModelId, MaskedSettings] = Field(default_factory=dict)
    """Models of which only sums over several parties may be read."""
    audit: AuditSettings = Field(default_factory=AuditSettings)
    """Where it is written down who asked for what."""
    log: LogSettings = Field(default_factory=LogSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    traces: TracesSettings = Field(default_factory=TracesSettings)

    @model_validator(mode="after")
    def _transport_is_safe(self) -> ParticipantSettings:
        addresses = {"listen": self.listen}
        for key in ("link_listen", "http_listen"):
            if getattr(self, key) is not None:
                addresses[key] = getattr(self, key)
        for party, peer in self.initiators.items():
            for address in (*peer.addresses, *peer.link_addresses):
                addresses[f"initiators.{party}"] = address
        check_transport(self.tls, addresses, insecure=self.insecure)
        return self

    @model_validator(mode="after")
    def _masks_can_be_agreed_on(self) -> ParticipantSettings:
        if self.masked and self.insecure:
            raise ValueError("masked: needs TLS, as the parties' certificates sign the keys; not with insecure = true")
        for model_id, each in self.masked.items():
            if self.party in each.parties or len(set(each.parties)) != len(each.parties):
                raise ValueError(f"masked.{model_id}.parties: name each of the other participants once")
            _check_may_lack(f"masked.{model_id}.may_lack", each.may_lack, {self.party, *each.parties})
        return self

    @model_validator(mode="after")
    def _events_have_a_place(self) -> ParticipantSettings:
        if self.http_listen is not None and not any(each.source == EVENTS for each in self.realtime.values()):
            raise ValueError('http_listen: takes raw events, and no view under [realtime] has source = "events"')
        return self

    @model_validator(mode="after")
    def _rules_have_one_place(self) -> ParticipantSettings:
        if self.policy is not None and self.callers:
            raise ValueError("policy: names a file with [callers], so there can be none here")
        return self

    @model_validator(mode="after")
    def _one_side_dials(self) -> ParticipantSettings:
        if bool(self.initiators) != (self.connect is Connect.OUT):
            raise ValueError('initiators: needed by connect = "out", and used by nothing else')
        if self.connect is Connect.OUT and self.link_listen is not None:
            raise ValueError('link_listen: connect = "out" opens no port for links')
        return self


def _check_may_lack(key: str, may_lack: Sequence[str], parties: Set[str]) -> None:
    """Check which parties a sum may lack; raise `ValueError` where what is left would hide nothing."""
    strangers = ", ".join(sorted(set(may_lack) - parties))
    if strangers:
        raise ValueError(f"{key}: {strangers} is not in the sum of {', '.join(sorted(parties))}")
    if len(set(may_lack)) != len(may_lack):
        raise ValueError(f"{key}: name each party once")
    if len(parties) - len(may_lack) < 2:
        # sums that lack each of two in turn tell the share of a third as well, which consented to nothing
        raise ValueError(
            f"{key}: at least two of {', '.join(sorted(parties))} must be in every sum, or sums together tell the "
            "share of each: name fewer"
        )
