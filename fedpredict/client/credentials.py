"""What a client proves and believes: its files, read again when they have changed, by the calls that need them."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from pathlib import Path
from time import monotonic

import grpc

from fedpredict.errors import CertificateError
from fedpredict.security.certificate import stamp
from fedpredict.security.followed import Followed
from fedpredict.security.tls import TlsFiles, TlsMaterial, authority_credentials, channel_credentials, read_tls

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""The least time between two looks at the files; as in a daemon, what is new is taken when two looks find the same."""


class Credentials:
    """A caller's CA, certificate and key, or its CA alone, beside a token. No thread and no task: who calls looks.

    Attributes:
        newest: What new channels are made with: another object once it was renewed.
    """

    def __init__(self, files: TlsFiles | Path) -> None:
        """Read the files.

        Args:
            files: The caller's; or the CA, of a caller without a certificate.

        Raises:
            CertificateError: They cannot be used.
        """
        self._files = files
        paths = (files,) if isinstance(files, Path) else (files.ca, files.certificate, files.key)
        self._followed = Followed(paths, settles=True)
        self._followed.take()
        self.newest, self._material = self._read()
        self._looks_at = self._hurries_at = 0.0

    @property
    def key(self) -> Hashable:
        """Equal for those that follow the same files as the same caller."""
        return tuple(self._followed.paths), self._material and self._material.identity

    def look(self) -> None:
        """Take a new set of files that has settled; returns at once where somebody has looked a moment ago."""
        now = monotonic()
        if now >= self._looks_at:
            self._looks_at = now + LOOK_S
            if self._followed.has_changed():
                self._take()

    def hurry(self) -> None:
        """Take a new set of files as it is: a call failed with the old one. Not twice in a moment, as in `look`."""
        now = monotonic()
        if now >= self._hurries_at:
            self._hurries_at = now + LOOK_S
            self.take_new()

    def take_new(self) -> None:
        """Take a new set of files as it is, now."""
        if self._followed.has_changed(at_once=True):
            self._take()

    def _take(self) -> None:
        """Read the files; what cannot be used is logged, and leaves the old in force."""
        self._followed.take()
        try:
            newest, material = self._read()
            self._check_identity(material)
        except CertificateError as error:
            logger.warning("tls.certificate_not_taken", extra={"reason": str(error), **self._told()})
            return
        self.newest, self._material = newest, material
        logger.info("tls.certificate_taken", extra=self._told())

    def _read(self) -> tuple[grpc.ChannelCredentials, TlsMaterial | None]:
        if isinstance(self._files, Path):
            return authority_credentials(self._files), None
        material = read_tls(self._files)
        return channel_credentials(material), material

    def _check_identity(self, material: TlsMaterial | None) -> None:
        known = self._material
        if known is not None and material is not None and material.identity != known.identity:
            raise CertificateError(
                f"{self._followed.paths[1]}: belongs to {material.identity}, and this client is {known.identity}; "
                "a client of its own is needed for another caller"
            )

    def _told(self) -> dict[str, str]:
        """Return what the log says of what is in force."""
        if self._material is None:
            return {"ca": str(self._files)}
        leaf = self._material.chain[0]
        return {
            "certificate": str(self._followed.paths[1]),
            "serial": f"{leaf.serial_number:X}",
            "in_force_until": stamp(leaf.not_valid_after_utc),
        }
