"""An initiator's settings: what `initiator.toml` holds, checked as a whole before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator
from typing_extensions import override

from fedpredict.features.settings import FeatureSettings, StoreSettings
from fedpredict.http.settings import HttpSettings
from fedpredict.initiator.task_settings import InitiatorTaskSettings
from fedpredict.model.fixed_point import DEFAULT_SCALE_BITS, MAX_SCALE_BITS
from fedpredict.model.kinds import Kind, check_link, check_widths, own_link
from fedpredict.model.links import Link, parse_link
from fedpredict.observe.settings import LogSettings, MetricsSettings, TracesSettings
from fedpredict.scoring.freshness import FreshnessSettings
from fedpredict.scoring.realtime_settings import EventSettings, RealtimeSettings
from fedpredict.scoring.schedule import ScheduleSettings
from fedpredict.security.audit_settings import AuditSettings
from fedpredict.security.identity import IdentityKind
from fedpredict.security.rules import RuleSettings
from fedpredict.security.settings import (
    Address,
    ModelId,
    PartyId,
    Seconds,
    TlsSettings,
    check_no_password,
    check_transport,
)
from fedpredict.security.tls import is_loopback
from fedpredict.state.settings import LeaseSettings
from fedpredict.warehouse.settings import WarehouseSettings
from fedpredict.wire.channel import MAX_SAMPLES_PER_CALL, Compression

Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Defaults: TypeAlias = Annotated[tuple[Number, ...], Field(min_length=1)]


def _link(value: object) -> Link:
    if isinstance(value, Link):
        return value
    if not isinstance(value, str):
        raise ValueError('write a link as a text, such as "log" or "power:0.5"')  # noqa: TRY004  pydantic's error
    return parse_link(value)


class PolicyName(StrEnum):
    """What becomes of a sample that some party could not score."""

    FAIL = "fail"
    DEFAULT_PARTIAL = "default_partial"
    FALLBACK_MODEL = "fallback_model"


class PinMode(StrEnum):
    """How a model gets its first pin; every later one is an operator's."""

    FIRST = "first"
    MANUAL = "manual"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartySettings(_Settings):
    """`[parties.<id>]`: another organisation."""

    address: Address | None = None
    """Where its participant listens, as host:port."""
    connect: Literal["in"] | None = None
    """"in": its participant dials us, and opens no port; instead of an address."""
    compression: Compression = Compression.NONE
    """Of what is sent to it and comes back, where we dial."""

    @model_validator(mode="after")
    def _one_side_dials(self) -> PartySettings:
        if (self.address is None) == (self.connect is None):
            raise ValueError('write either address, or connect = "in" for a participant that dials us')
        return self


class SimulateSettings(_Settings):
    """`[models.<id>.simulate]`: the shape of made-up answers, where no manifest is pinned."""

    kind: Kind = Kind.BINARY
    link: Annotated[Link, PlainValidator(_link)] | None = None
    """Default: the kind's own; an ordinal model has none."""
    classes: tuple[str, ...] = ("0", "1")
    n_scores: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _widths_fit(self) -> SimulateSettings:
        link = own_link(self.kind) if self.link is None else self.link
        check_link(self.kind, link)
        check_widths(self.kind, self.n_scores, self.classes, link)
        return self


class ModelSettings(_Settings):
    """`[models.<id>]`: a model that this initiator answers for."""

    parties: tuple[PartyId, ...] = Field(min_length=1)
    """Every party that holds a part, this initiator's own included if it does."""
    policy: PolicyName = PolicyName.FAIL
    pin: PinMode = PinMode.FIRST
    deadline_s: Seconds | None = None
    """Longest wait for the parties; default: the initiator's."""
    defaults: Mapping[PartyId, Defaults] = Field(default_factory=dict)
    """For `default_partial`: what stands in for a party's share, one number per score, before the link; where shares
    are masked, for a party that is away and lets the sum lack it, alone."""
    fallback_model: ModelId | None = None
    """For `fallback_model`: a model that this initiator holds alone."""
    head: bool = False
    """Whether this initiator holds what finishes the parties' shares, which are not added up then."""
    masked: bool = False
    """Whether the other parties' shares are masked, so that only their sum can be read here."""
    scale_bits: int = Field(default=DEFAULT_SCALE_BITS, ge=0, le=MAX_SCALE_BITS)
    """Of masked shares: they are multiplied by 2 to the power of this, and rounded; the same at every party."""
    simulate: SimulateSettings | None = None

    @model_validator(mode="after")
    def _policy_has_what_it_needs(self) -> ModelSettings:
        if len(set(self.parties)) != len(self.parties):
            raise ValueError("parties: a party is listed twice")
        if bool(self.defaults) != (self.policy is PolicyName.DEFAULT_PARTIAL):
            raise ValueError('defaults: needed by policy = "default_partial", and used by no other policy')
        if (self.fallback_model is not None) != (self.policy is PolicyName.FALLBACK_MODEL):
            raise ValueError('fallback_model: needed by policy = "fallback_model", and used by no other policy')
        if self.head and self.defaults:
            raise ValueError(
                'head: a constant cannot stand in for a share that a head finishes; use policy = "fail", or '
                '"fallback_model"'
            )
        strangers = sorted(set(self.defaults) - set(self.parties))
        if strangers:
            raise ValueError(f"defaults: {', '.join(strangers)} holds no part of this model")
        if len({len(numbers) for numbers in self.defaults.values()}) > 1:
            raise ValueError("defaults: the parties' constants differ in width; write one number per score for each")
        return self

    @model_validator(mode="after")
    def _only_sums_are_masked(self) -> ModelSettings:
        if self.masked and self.head:
            raise ValueError("masked: shares that a head finishes are not added up, and only a sum can be masked")
        return self


class ClientSettings(RuleSettings):
    """`[clients.<name>]`: who may ask, by the name in the caller's certificate."""

    kind: IdentityKind = IdentityKind.CLIENT
    """The kind of the certificate: a party can have a client's name, and is not that client."""

    @property
    @override
    def of_kind(self) -> IdentityKind:
        return self.kind


class ClientsFile(_Settings):
    """The file that `policy` names."""

    clients: Mapping[PartyId, ClientSettings]


class LimitSettings(_Settings):
    """`[limits]`: how much may be under way at once; what comes beyond is refused with a hint when to try again."""

    max_requests: int = Field(default=512, ge=1, le=100_000)
    max_rows: int = Field(default=65_536, ge=1, le=10_000_000)
    """Sample ids in all requests under way."""
    model_share: float = Field(default=0.75, gt=0.0, le=1.0)
    """The part of both that one model may have, where there are several."""


class InitiatorSettings(_Settings):
    """The whole file. Relative paths are relative to it."""

    party: PartyId
    listen: Address = "127.0.0.1:7440"
    http_listen: Address | None = None
    """Where HTTP is spoken, as host:port; None: nowhere."""
    http_insecure: bool = False
    """HTTP in plain text, on loopback only, behind a proxy of this machine; links to parties keep their TLS."""
    tokens: Path | None = None
    """The file of the users' bearer tokens (`fedpredict token`); None: none are taken."""
    token_listen: Address | None = None
    """Where gRPC callers with a token and without a certificate are taken; None: nowhere."""
    http_client_certificates: Literal["required", "optional"] = "required"
    """Whether HTTP callers need a certificate, or a token will do."""
    link_listen: Address | None = None
    """Where participants that dial us may do so over sockets, the fast way; None: over gRPC alone, at `listen`."""
    insecure: bool = False
    """Plain text, on loopback only: nobody's identity is proved."""
    state: str = "sqlite:///state.db"
    """SQLAlchemy URL of the database that holds the pins and the offline tasks; never with a password."""
    state_password_file: Path | None = None
    """A file whose first line is the password of `state`; or the environment holds it."""
    deadline_s: Seconds = 2.0
    """Longest wait for the parties, where neither the caller nor the model is stricter."""
    max_samples: int = Field(default=10_000, ge=1, le=MAX_SAMPLES_PER_CALL)
    """Most sample ids in one call."""
    max_calls_per_stream: int = Field(default=1024, ge=1, le=65_536)
    """Calls that one `PredictStream` may have under way; beyond them it is not read until one is answered."""
    limits: LimitSettings = Field(default_factory=LimitSettings)
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that serve the same ports."""
    poll_s: Seconds = 5.0
    """How often parties are asked for what they hold, and the database for new pins."""
    drain_s: float = Field(default=10.0, ge=0.0, le=600.0)
    """How long calls under way may take when the process stops."""
    keep_versions: int = Field(default=3, ge=1, le=100)
    """Versions of its own part, per model, that stay loaded."""
    tls: TlsSettings | None = None
    warehouse: WarehouseSettings | None = None
    """Where its own part is; needed exactly where a model lists this party."""
    store: StoreSettings = Field(default_factory=StoreSettings)
    """Where its own features stand while they are served."""
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    """How long snapshots of features are kept."""
    freshness: FreshnessSettings = Field(default_factory=dict)
    """By view of its own: how old features may be."""
    realtime: RealtimeSettings = Field(default_factory=dict)
    """By view of its own: where mode realtime finds its raw rows."""
    events: EventSettings = Field(default_factory=EventSettings)
    """Raw events of its own; they are loaded by `fedpredict events`."""
    tasks: InitiatorTaskSettings = Field(default_factory=InitiatorTaskSettings)
    """How its own shares are computed ahead and kept, and how it runs offline tasks."""
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    """What this process does for its own part by itself, and when."""
    leases: LeaseSettings | None = None
    """A database for leases, where neither the warehouse nor `[store]` can keep them; None: `state`."""
    parties: Mapping[PartyId, PartySettings] = Field(default_factory=dict)
    models: Mapping[ModelId, ModelSettings] = Field(default_factory=dict)
    clients: Mapping[PartyId, ClientSettings] = Field(default_factory=dict)
    policy: Path | None = None
    """A file of its own that holds `[clients]`, and nothing else; then there are none here."""
    http: HttpSettings = Field(default_factory=HttpSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)
    """Who asked for what."""
    log: LogSettings = Field(default_factory=LogSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    traces: TracesSettings = Field(default_factory=TracesSettings)

    @property
    def holds_a_part(self) -> bool:
        """Whether some model has a part, or its head, at this party."""
        return any(self.party in model.parties or model.head for model in self.models.values())

    @property
    def task_warehouse(self) -> WarehouseSettings:
        """Where the ids and results of offline tasks are: its own warehouse, or a folder beside the settings."""
        return self.warehouse or WarehouseSettings(path=Path("tasks"))

    @property
    def models_with_head(self) -> tuple[str, ...]:
        """The models whose head this initiator holds, sorted."""
        return tuple(sorted(model_id for model_id, model in self.models.items() if model.head))

    @model_validator(mode="after")
    def _state_has_no_password(self) -> InitiatorSettings:
        check_no_password(self.state, "state", "state_password_file")
        return self

    @model_validator(mode="after")
    def _rules_have_one_place(self) -> InitiatorSettings:
        if self.policy is not None and self.clients:
            raise ValueError("policy: names a file with [clients], so there can be none here")
        return self

    @model_validator(mode="after")
    def _schedule_has_a_part(self) -> InitiatorSettings:
        if self.schedule.jobs and not self.holds_a_part:
            raise ValueError("schedule: no model lists this party, so there is nothing to refresh or score")
        return self

    @model_validator(mode="after")
    def _transport_is_safe(self) -> InitiatorSettings:
        peers = {f"parties.{party}.address": peer.address for party, peer in self.parties.items()}
        addresses = {"listen": self.listen, "link_listen": self.link_listen, "http_listen": self.http_listen, **peers}
        addresses["token_listen"] = self.token_listen
        check_transport(self.tls, {key: each for key, each in addresses.items() if each}, insecure=self.insecure)
        return self

    @model_validator(mode="after")
    def _plain_http_stays_here(self) -> InitiatorSettings:
        if self.http_insecure and (self.http_listen is None or not is_loopback(self.http_listen)):
            raise ValueError(f"http_insecure = true is for loopback only, but http_listen is {self.http_listen}")
        return self

    @model_validator(mode="after")
    def _token_ports_take_tokens(self) -> InitiatorSettings:
        asked = {
            "token_listen": self.token_listen is not None,
            'http_client_certificates = "optional"': self.http_client_certificates == "optional",
        }
        for key in (each for each, is_asked in asked.items() if is_asked):
            if self.tokens is None:
                raise ValueError(f'{key} is for callers with a token: name their file, such as tokens = "tokens.json"')
            if self.insecure:
                raise ValueError(f"{key} is TLS; with insecure = true tokens are taken at every port, on loopback")
        return self

    @model_validator(mode="after")
    def _parties_are_known(self) -> InitiatorSettings:
        if self.party in self.parties:
            raise ValueError(f"parties.{self.party}: this initiator's own party needs no address")
        for model_id, model in self.models.items():
            strangers = sorted(set(model.parties) - {self.party, *self.parties})
            if strangers:
                raise ValueError(f"models.{model_id}.parties: {', '.join(strangers)} is not under [parties]")
            if self.party in model.parties and self.warehouse is None:
                raise ValueError(f"models.{model_id}.parties lists {self.party} itself: [warehouse] is needed")
            if model.head and self.warehouse is None:
                raise ValueError(f"models.{model_id}.head is in this party's warehouse: [warehouse] is needed")
        return self

    @model_validator(mode="after")
    def _masks_hide_something(self) -> InitiatorSettings:
        for model_id, model in self.models.items():
            if model.masked and self.insecure:
                raise ValueError(f"models.{model_id}.masked: needs TLS, as certificates sign the keys of the masks")
            if model.masked and len(set(model.parties) - {self.party}) < 2:
                raise ValueError(
                    f"models.{model_id}.masked: the sum over a single other party is its share, and hides nothing"
                )
            always = sorted(set(model.parties) - {self.party, *model.defaults})
            if model.masked and len(always) < 2:
                raise ValueError(
                    f"models.{model_id}.defaults: of masked shares at least two must be in every sum, and only "
                    f"{', '.join(always) or 'none'} has no constant"
                )
        return self

    @model_validator(mode="after")
    def _fallbacks_are_own_models(self) -> InitiatorSettings:
        for model_id, model in self.models.items():
            if model.fallback_model is None:
                continue
            fallback = self.models.get(model.fallback_model)
            if fallback is None or fallback.parties != (self.party,):
                raise ValueError(
                    f"models.{model_id}.fallback_model: {model.fallback_model} must be a model under [models] whose "
                    f'only party is {self.party}: parties = ["{self.party}"]'
                )
        return self
