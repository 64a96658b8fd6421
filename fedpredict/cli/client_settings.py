"""The `client.toml` of people who ask from the command line."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fedpredict.security.settings import TlsSettings


class ClientFileSettings(BaseModel):
    """The whole file. Relative paths are relative to it; options of the command line win over it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: str | None = None
    """host:port of the initiator."""
    server_party: str | None = None
    """The party that runs it, as its certificate says."""
    insecure: bool = False
    """Plain text, on loopback only."""
    identity: str | None = None
    """Without TLS: the name of this client, as the initiator's [clients] lists it; default: local."""
    token_file: Path | None = None
    """A file whose first line is this caller's bearer token; or the environment holds it (FEDPREDICT_TOKEN)."""
    ca: Path | None = None
    """With a token, instead of `[tls]`: the CA that the initiator is held to."""
    timeout_s: float = Field(default=30.0, gt=0.0)
    """For a whole prediction."""
    tls: TlsSettings | None = None
