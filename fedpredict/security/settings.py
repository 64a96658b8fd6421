"""What the settings files of both daemons share: names, addresses, and the `[tls]` table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedpredict.errors import NameRefusedError
from fedpredict.model.ids import check_address, check_model_id, check_party_id, check_view_name
from fedpredict.security.tls import TlsFiles, is_loopback

ALL_MODELS = "*"


def _name(check: Callable[[str], str]) -> AfterValidator:
    def validate(value: str) -> str:
        try:
            return check(value)
        except NameRefusedError as error:  # pydantic collects ValueErrors, and names the key
            raise ValueError(str(error)) from error

    return AfterValidator(validate)


ModelId: TypeAlias = Annotated[str, _name(check_model_id)]
PartyId: TypeAlias = Annotated[str, _name(check_party_id)]
ViewName: TypeAlias = Annotated[str, _name(check_view_name)]
ModelOrAll: TypeAlias = Annotated[str, _name(lambda value: value if value == ALL_MODELS else check_model_id(value))]
Address: TypeAlias = Annotated[str, _name(check_address)]
Seconds: TypeAlias = Annotated[float, Field(gt=0.0, le=600.0)]


class TlsSettings(BaseModel):
    """Where this end's certificate, its key and the trusted CA are; relative paths start at the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path
    """The authorities' certificates, in PEM."""
    certificate: Path
    """This end's certificate chain, in PEM, leaf first."""
    key: Path
    """This end's private key, in PEM, readable by its owner only."""
    crl: Path | None = None
    """The CAs' revocation lists, in PEM, or one in DER; read again when the file changes."""
    deny: Path | None = None
    """Public keys that are refused, as SHA-256 in hex, one a line; read again when the file changes."""
    stale_crl: Literal["refuse", "accept"] = "refuse"
    """What becomes of a CA's certificates when its revocation list is over and no newer one came."""

    def files(self, base: Path) -> TlsFiles:
        """Return the files, relative paths resolved against `base` (the folder of the settings file)."""
        return TlsFiles(
            base / self.ca,
            base / self.certificate,
            base / self.key,
            crl=base / self.crl if self.crl else None,
            deny=base / self.deny if self.deny else None,
            accepts_stale_crl=self.stale_crl == "accept",
        )


def check_transport(tls: TlsSettings | None, addresses: Mapping[str, str], *, insecure: bool) -> None:
    """Check that plain text stays on this machine, and that everything else has certificates.

    Args:
        tls: The `[tls]` table.
        addresses: The key in the settings -> the address that it holds.
        insecure: What the settings say.

    Raises:
        ValueError: It names the key.
    """
    if not insecure and tls is None:
        raise ValueError("tls: needed (or insecure = true, on loopback, for trials)")
    for key, address in addresses.items():
        if insecure and not is_loopback(address):
            raise ValueError(f"insecure = true is for loopback only, but {key} is {address}")


def check_no_password(url: str, key: str, file_key: str) -> None:
    """Check that the URL of a database holds no password; raise `ValueError`, which names both keys."""
    parts = urlsplit(url)
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise ValueError(f"{key}: holds a password; write it into a file and name that as {file_key}")
