from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from fedpredict.errors import CertificateError, UnauthenticatedError
from fedpredict.security import certs
from fedpredict.security.https import http_identity
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls


def test_a_server_asks_every_caller_for_a_certificate(tmp_path: Path) -> None:
    ca = certs.create_ca(tmp_path / "ca", "test CA")
    files = certs.issue(ca, Identity(IdentityKind.PARTY, "bank"), tmp_path / "bank")
    context = LiveTls(files, serves=True).https_context()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_clients_certificate_serves_nobody(tmp_path: Path) -> None:
    ca = certs.create_ca(tmp_path / "ca", "test CA")
    files = certs.issue(ca, Identity(IdentityKind.CLIENT, "desk"), tmp_path / "desk")

    with pytest.raises(CertificateError, match="a server needs a party's"):
        LiveTls(files, serves=True)


def test_with_tls_only_the_certificate_counts() -> None:
    proved = ("https://elsewhere", "fedpredict://client/desk")

    assert http_identity(proved, "somebody") == Identity(IdentityKind.CLIENT, "desk")


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://elsewhere",),
        ("fedpredict://client/a", "fedpredict://client/b"),
        ("fedpredict://client/A B",),
        ("fedpredict://somebody/a",),
    ],
)
def test_no_identity_or_two_are_nobody(uris: tuple[str, ...]) -> None:
    with pytest.raises(UnauthenticatedError):
        http_identity(uris, "desk")


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (None, Identity(IdentityKind.CLIENT, "local")),
        ("desk", Identity(IdentityKind.CLIENT, "desk")),
        ("fedpredict://party/lab", Identity(IdentityKind.PARTY, "lab")),
    ],
)
def test_without_tls_a_caller_is_who_it_states(stated: str | None, expected: Identity) -> None:
    assert http_identity(None, stated) == expected


@pytest.mark.parametrize("stated", ["A B", "fedpredict://somebody/a", "x" * 64])
def test_a_stated_name_that_is_none_is_nobody(stated: str) -> None:
    with pytest.raises(UnauthenticatedError):
        http_identity(None, stated)
