"""What a client proves and believes, while its files change."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest

from fedpredict.client import credentials
from fedpredict.client.credentials import Credentials
from fedpredict.errors import CertificateError
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import TlsFiles

DESK = Identity(IdentityKind.CLIENT, "desk")


@pytest.fixture
def ca(tmp_path: Path) -> certs.CaFiles:
    return certs.create_ca(tmp_path / "ca", "test CA")


@pytest.fixture
def files(ca: certs.CaFiles, tmp_path: Path) -> TlsFiles:
    return certs.issue(ca, DESK, tmp_path / "desk")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(credentials, "monotonic", lambda: now[0])
    return now


def renew(ca: certs.CaFiles, files: TlsFiles) -> None:
    certs.issue(ca, DESK, files.key.parent, force=True)


def test_a_new_set_is_taken_when_two_looks_a_second_apart_have_found_it(
    ca: certs.CaFiles, files: TlsFiles, clock: list[float]
) -> None:
    known = Credentials(files)
    before = known.newest
    known.look()
    renew(ca, files)
    taken = []
    for now in (100.9, 101.1, 101.9, 102.2):
        clock[0] = now
        known.look()
        taken.append(known.newest is not before)
    assert taken == [False, False, False, True]


def test_who_is_in_a_hurry_takes_it_at_once_but_looks_once_a_second(
    ca: certs.CaFiles, files: TlsFiles, clock: list[float]
) -> None:
    known = Credentials(files)
    seen = [known.newest]
    for now in (100.0, 100.5, 101.1):
        clock[0] = now
        renew(ca, files)
        known.hurry()
        seen.append(known.newest)
    assert [one is other for one, other in itertools.pairwise(seen)] == [False, True, False]


def test_what_has_not_changed_is_not_read(files: TlsFiles) -> None:
    known = Credentials(files)
    before = known.newest
    known.take_new()
    assert known.newest is before


def test_a_ca_alone_is_followed_too(ca: certs.CaFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "ca.pem"
    file.write_bytes(ca.certificate.read_bytes())
    known = Credentials(file)
    before = known.newest
    file.write_text("no certificate")
    known.take_new()
    assert known.newest is before
    other = certs.create_ca(tmp_path / "other", "another CA")
    file.write_bytes(ca.certificate.read_bytes() + other.certificate.read_bytes())
    known.take_new()
    assert known.newest is not before
    assert [record.message for record in caplog.records] == ["tls.certificate_not_taken", "tls.certificate_taken"]
    assert vars(caplog.records[0])["reason"].startswith(f"{file}: not a certificate")


def test_clients_share_what_follows_the_same_files_for_the_same_caller(ca: certs.CaFiles, tmp_path: Path) -> None:
    files = certs.issue(ca, DESK, tmp_path / "desk")
    keys = [Credentials(files).key]
    renew(ca, files)
    keys.append(Credentials(files).key)
    other = certs.issue(ca, Identity(IdentityKind.CLIENT, "till"), tmp_path / "till")
    files.certificate.write_bytes(other.certificate.read_bytes())
    files.key.write_bytes(other.key.read_bytes())
    keys += [Credentials(files).key, Credentials(files.ca).key]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_files_that_cannot_be_used_are_an_error_at_first(files: TlsFiles) -> None:
    files.key.unlink()
    with pytest.raises(CertificateError, match=r"desk\.key"):
        Credentials(files)
