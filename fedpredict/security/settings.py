"""The `[tls]` table of every settings file."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fedpredict.security.tls import TlsFiles


class TlsSettings(BaseModel):
    """Where this end's certificate, its key and the trusted CA are; relative paths start at the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path
    """The authorities' certificates, in PEM."""
    certificate: Path
    """This end's certificate chain, in PEM, leaf first."""
    key: Path
    """This end's private key, in PEM, readable by its owner only."""

    def files(self, base: Path) -> TlsFiles:
        """Return the files, relative paths resolved against `base` (the folder of the settings file)."""
        return TlsFiles(base / self.ca, base / self.certificate, base / self.key)
