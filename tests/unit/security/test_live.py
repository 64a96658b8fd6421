"""What a running process proves and believes while its files change."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedpredict.errors import CertificateError, CertificateRefusedError, ConfigError, UnauthenticatedError
from fedpredict.security import certs, crls
from fedpredict.security.authority import Authority, new_authority, new_key, new_leaf
from fedpredict.security.callers import caller_identity, socket_caller
from fedpredict.security.certs import CaFiles
from fedpredict.security.hello import hello_words
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls, party_tls
from fedpredict.security.sockets import peer_chain
from fedpredict.security.tls import Context, TlsFiles, channel_credentials, server_name
from fedpredict.security.verdicts import check_same
from tests.unit.security.federation import DESK, HOSPITAL, LAB, Certificates, Serve, answer, raw_credentials

MINUTE = timedelta(minutes=1)
NONCE = bytes(range(32))


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Peer:
    """A connection that stands."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def close(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> TlsFiles:
    """The hospital's files, to be changed, with an empty list of denied keys and an empty list of the CA."""
    folder = tmp_path / "hospital"
    shutil.copytree(certificates.hospital.ca.parent, folder)
    mine = certs.leaf_files(folder, "hospital")
    denied, crl = tmp_path / "denied.txt", tmp_path / "ca.crl"
    denied.write_text("")
    crls.revoke(certificates.ca, [], kept=crl)
    return replace(mine, deny=denied, crl=crl)


def pem(files: TlsFiles) -> bytes:
    return files.certificate.read_bytes()


def key_of(files: TlsFiles) -> str:
    return certs.describe(files.certificate).key_fingerprint


def certificate_of(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def serial_of(path: Path) -> str:
    return f"{certificate_of(path).serial_number:X}"


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message == name]


def renew(certificates: Certificates, files: TlsFiles, who: Identity = HOSPITAL, days: int = 90) -> str:
    """Put a new key and certificate in the place of others; return its serial number."""
    made = certs.issue(certificates.ca, who, files.key.parent.parent / "new", days=days, force=True)
    made.key.replace(files.key)
    made.certificate.replace(files.certificate)
    return serial_of(files.certificate)


def test_a_new_certificate_is_taken_when_its_files_have_settled(
    certificates: Certificates, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    live = LiveTls(files, serves=True)
    before = live.material
    live.look()
    assert live.material is before
    serial = renew(certificates, files)
    live.look()
    assert live.material is before  # the next file may still be on its way
    live.look()
    assert live.material.chain_pem == pem(files)
    assert [vars(each)["serial"] for each in events(caplog, "tls.certificate_taken")] == [serial]
    assert [vars(each)["days_left"] for each in events(caplog, "tls.certificate_taken")] == [89]
    words = hello_words(LAB, "hospital")
    proof = live.prove(*words, nonce=NONCE)
    LiveTls(certificates.lab).check_proof("hospital", *words, nonce=NONCE, proof=proof)
    assert proof[0] == pem(files)


def test_a_proof_must_be_of_the_certificate_that_the_connection_showed(
    certificates: Certificates, files: TlsFiles
) -> None:
    before = certificate_of(files.certificate)
    renew(certificates, files)
    now, authority = certificate_of(files.certificate), certificate_of(files.ca)
    pem_form, der_form = serialization.Encoding.PEM, serialization.Encoding.DER
    proven = now.public_bytes(pem_form)
    for shown in ((), proven, tuple(each.public_bytes(der_form) for each in (now, authority))):
        check_same(proven, shown)
    for shown in (before.public_bytes(pem_form), tuple(each.public_bytes(der_form) for each in (before, authority))):
        with pytest.raises(CertificateError, match="proves another certificate than the connection's"):
            check_same(proven, shown)


def spoil(what: str, certificates: Certificates, files: TlsFiles) -> Path:
    """Put a bad file in the place of a good one; return the one that must be named."""
    if what == "key":
        files.key.write_bytes(certificates.lab.key.read_bytes())
        return files.key
    if what == "ca":
        files.ca.write_bytes(certificates.stranger.ca.read_bytes())
        return files.certificate
    if what == "gone":
        files.key.unlink()
        return files.key
    if what == "expired":
        made = certs.issue(
            certificates.ca, HOSPITAL, files.key.parent.parent / "new", now=datetime.now(UTC) - timedelta(days=830)
        )
    else:
        made = certs.issue(certificates.ca, LAB if what == "another" else DESK, files.key.parent.parent / "new")
    made.key.replace(files.key)
    made.certificate.replace(files.certificate)
    return files.certificate


@pytest.mark.parametrize("what", ["key", "ca", "gone", "expired", "another", "client"])
def test_a_bad_set_leaves_the_old_one_and_is_told_once(
    what: str, certificates: Certificates, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    live = LiveTls(files, serves=True)
    before = live.material
    named = spoil(what, certificates, files)
    for _ in range(5):
        live.look()
    assert live.material is before
    (told,) = events(caplog, "tls.certificate_not_taken")
    assert str(named) in vars(told)["reason"]
    assert live.check(pem(certificates.lab)) == LAB


def test_a_bad_list_leaves_the_old_one_and_is_told_once(
    certificates: Certificates, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    assert files.deny is not None
    files.deny.write_text(key_of(certificates.lab))
    live = LiveTls(files)
    files.deny.write_text("who?")
    for _ in range(3):
        live.look()
    (told,) = events(caplog, "tls.lists_not_taken")
    assert f"{files.deny}: line 1" in vars(told)["reason"]
    with pytest.raises(CertificateRefusedError):
        live.check(pem(certificates.lab))


def test_a_denied_key_is_refused_as_soon_as_it_is_read_and_no_longer_than_it_is_there(
    certificates: Certificates, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    assert files.deny is not None
    live, lab, desk = LiveTls(files), Peer(), Peer()
    assert live.check(pem(certificates.lab)) == LAB
    live.hold(lab, pem(certificates.lab))
    live.hold(desk, pem(certificates.desk))

    files.deny.write_text(f"{key_of(certificates.lab)} # stolen")
    live.look()
    live.sweep()
    live.sweep()

    with pytest.raises(CertificateRefusedError, match=r"party lab, CN=lab,O=fedpredict party .*: its key is denied"):
        live.check(pem(certificates.lab))
    assert len(lab.reasons) == 1
    assert desk.reasons == []
    assert live.check(pem(certificates.desk)) == DESK
    (told,) = events(caplog, "certificate.refused")
    assert vars(told)["serial"] == serial_of(certificates.lab.certificate)
    assert vars(told)["subject"] == "CN=lab,O=fedpredict party"

    files.deny.write_text("")
    live.look()
    assert live.check(pem(certificates.lab)) == LAB


def test_a_revoked_certificate_is_refused_and_another_of_the_same_party_is_not(
    certificates: Certificates, files: TlsFiles, tmp_path: Path
) -> None:
    assert files.crl is not None
    live = LiveTls(files)
    second = certs.issue(certificates.ca, LAB, tmp_path / "second")
    crls.revoke(certificates.ca, [certificates.lab.certificate], kept=files.crl)
    live.look()
    with pytest.raises(CertificateRefusedError, match="revoked by CN=the federation's CA"):
        live.check(pem(certificates.lab))
    assert live.check(pem(second)) == LAB


def test_an_older_list_does_not_take_the_place_of_the_present_one(
    certificates: Certificates, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    assert files.crl is not None
    old = files.crl.read_bytes()
    crls.revoke(certificates.ca, [certificates.lab.certificate], kept=files.crl)
    live = LiveTls(files)
    files.crl.write_bytes(old)
    live.look()
    with pytest.raises(CertificateRefusedError):
        live.check(pem(certificates.lab))
    (told,) = events(caplog, "tls.lists_not_taken")
    assert "older than the one in force" in vars(told)["reason"]


def delta_of(ca: CaFiles) -> bytes:
    """Return a list of changes alone (a delta list) that the CA signed, with a number above all others."""
    key = serialization.load_pem_private_key(ca.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(certificate_of(ca.certificate).subject)
    builder = builder.last_update(now).next_update(now + timedelta(days=9)).add_extension(x509.CRLNumber(99), False)
    builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "bad",
    [
        ("partial", "a partial or indirect list"),
        ("cut off", "not a revocation list"),
        ("empty", "not a revocation list"),
        ("forged", "not signed by a CA of the `ca` file"),
    ],
)
def test_a_list_that_is_partial_cut_off_or_forged_is_not_taken_and_the_one_before_stays(
    bad: tuple[str, str], certificates: Certificates, files: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert files.crl is not None
    what, told = bad
    crls.revoke(certificates.ca, [certificates.lab.certificate], kept=files.crl)
    live = LiveTls(files)
    forger = certs.create_ca(tmp_path / "forger", "the federation's CA")
    crls.revoke(forger, [], kept=tmp_path / "forged.crl")
    whole = files.crl.read_bytes()
    lists = {
        "partial": delta_of(certificates.ca),
        "cut off": whole[: len(whole) // 2],
        "empty": b"",
        "forged": (tmp_path / "forged.crl").read_bytes(),
    }
    files.crl.write_bytes(lists[what])
    for _ in range(3):
        live.look()

    (line,) = events(caplog, "tls.lists_not_taken")
    assert told in vars(line)["reason"]
    with pytest.raises(CertificateRefusedError, match="revoked by CN=the federation's CA"):
        live.check(pem(certificates.lab))
    assert live.check(pem(certificates.desk)) == DESK
    with pytest.raises(CertificateError, match=told):
        LiveTls(files)


@pytest.fixture(params=["the next CA", "the federation's CA"], ids=["another name", "the same name"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> CaFiles:
    """A CA that follows another one; it may have its name."""
    return certs.create_ca(tmp_path / "other", request.param)


def test_lists_of_cas_that_follow_each_other_grow_each_for_itself(
    certificates: Certificates, files: TlsFiles, tmp_path: Path, other: CaFiles
) -> None:
    assert files.crl is not None
    for _ in range(3):
        crls.revoke(certificates.ca, [], kept=files.crl)
    of_old = tmp_path / "old.crl"
    of_old.write_bytes(files.crl.read_bytes())
    files.ca.write_bytes(certificates.ca.certificate.read_bytes() + other.certificate.read_bytes())
    live = LiveTls(files)
    crls.revoke(other, [], kept=tmp_path / "other.crl")  # its number is 1
    crls.revoke(certificates.ca, [certificates.lab.certificate], kept=of_old)
    files.crl.write_bytes(of_old.read_bytes() + (tmp_path / "other.crl").read_bytes())
    live.look()

    with pytest.raises(CertificateRefusedError, match="revoked by"):
        live.check(pem(certificates.lab))
    assert live.check(pem(certs.issue(other, LAB, tmp_path / "lab"))) == LAB


def test_a_list_that_is_over_is_no_matter_of_a_ca_with_another_key(
    certificates: Certificates, files: TlsFiles, tmp_path: Path, other: CaFiles
) -> None:
    assert files.crl is not None
    crls.revoke(certificates.ca, [], kept=files.crl, days=1)
    files.ca.write_bytes(certificates.ca.certificate.read_bytes() + other.certificate.read_bytes())
    clock = Clock()
    live = LiveTls(files, now=clock)
    clock.ahead = timedelta(days=2)
    live.look()

    with pytest.raises(CertificateRefusedError, match="ended at"):
        live.check(pem(certificates.lab))
    assert live.check(pem(certs.issue(other, LAB, tmp_path / "lab"))) == LAB


def test_a_ca_s_list_is_not_left_out_while_the_ca_is_trusted(
    certificates: Certificates,
    files: TlsFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    other: CaFiles,
) -> None:
    assert files.crl is not None
    both = certificates.ca.certificate.read_bytes() + other.certificate.read_bytes()
    files.ca.write_bytes(both)
    crls.revoke(certificates.ca, [certificates.lab.certificate], kept=files.crl)
    live = LiveTls(files)
    crls.revoke(other, [], kept=tmp_path / "other.crl")
    files.crl.write_bytes((tmp_path / "other.crl").read_bytes())
    live.look()
    assert "CN=the federation's CA is missing" in vars(events(caplog, "tls.lists_not_taken")[0])["reason"]
    with pytest.raises(CertificateRefusedError):
        live.check(pem(certificates.lab))


def test_a_list_that_comes_before_its_ca_is_taken_with_it(
    certificates: Certificates, files: TlsFiles, tmp_path: Path
) -> None:
    assert files.crl is not None
    live = LiveTls(files)
    other = certs.create_ca(tmp_path / "other", "the next CA")
    lab = certs.issue(other, LAB, tmp_path / "lab")
    crls.revoke(other, [lab.certificate], kept=tmp_path / "other.crl")
    files.crl.write_bytes(files.crl.read_bytes() + (tmp_path / "other.crl").read_bytes())
    live.look()
    assert len(live.lists.crls) == 1
    files.ca.write_bytes(certificates.ca.certificate.read_bytes() + other.certificate.read_bytes())
    live.look()
    live.look()
    assert len(live.lists.crls) == 2
    with pytest.raises(CertificateRefusedError, match="revoked by CN=the next CA"):
        live.check(pem(lab))


@pytest.mark.parametrize("accepts", [False, True])
def test_when_a_list_is_over_nobody_is_believed_unless_the_settings_say_so(
    accepts: bool, certificates: Certificates, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    clock, peer = Clock(), Peer()
    live = LiveTls(replace(files, accepts_stale_crl=accepts), now=clock)
    live.hold(peer, pem(certificates.lab))
    assert live.check(pem(certificates.lab)) == LAB
    clock.ahead = timedelta(days=crls.CRL_DAYS - 3)
    live.look()
    live.look()
    (told,) = events(caplog, "tls.crl_ends")
    assert vars(told)["crl"] == str(files.crl)
    clock.ahead = timedelta(days=crls.CRL_DAYS) + MINUTE
    live.sweep()
    if accepts:
        assert live.check(pem(certificates.lab)) == LAB
        assert peer.reasons == []
    else:
        with pytest.raises(CertificateRefusedError, match=r"the revocation list of .* ended at"):
            live.check(pem(certificates.lab))
        assert len(peer.reasons) == 1


def test_a_certificate_that_ends_is_refused_on_connections_that_stand(
    certificates: Certificates, files: TlsFiles
) -> None:
    clock, peer = Clock(), Peer()
    live = LiveTls(replace(files, crl=None, deny=None), now=clock)
    live.hold(peer, pem(certificates.expiring))
    assert live.check(pem(certificates.expiring)) == LAB
    clock.ahead = timedelta(days=10) + MINUTE
    with pytest.raises(CertificateRefusedError, match=r"\): expired at .*this machine's clock says"):
        live.check(pem(certificates.expiring))
    live.sweep()
    assert len(peer.reasons) == 1
    clock.ahead = timedelta()
    with pytest.raises(CertificateRefusedError, match="not valid before"):
        live.check(pem(certificates.early))


def test_a_connection_that_is_gone_is_not_held(certificates: Certificates, files: TlsFiles) -> None:
    live, peer = LiveTls(files), Peer()
    live.hold(peer, pem(certificates.lab))
    reasons = peer.reasons
    del peer
    assert files.deny is not None
    files.deny.write_text(key_of(certificates.lab))
    live.look()
    live.sweep()
    assert reasons == []


async def test_everything_is_read_again_when_it_is_asked_for(certificates: Certificates, files: TlsFiles) -> None:
    live, peer = LiveTls(files), Peer()
    live.hold(peer, pem(certificates.lab))
    renew(certificates, files)
    assert files.deny is not None
    files.deny.write_text(key_of(certificates.lab))
    await live.reload()
    assert live.material.chain_pem == pem(files)
    assert len(peer.reasons) == 1


def test_one_s_own_certificate_on_a_list_stops_the_start_and_is_told_later(
    certificates: Certificates, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    live = LiveTls(files)
    assert files.crl is not None
    crls.revoke(certificates.ca, [files.certificate, certificates.lab.certificate], kept=files.crl)
    live.look()
    assert len(events(caplog, "tls.own_certificate_refused")) == 1
    with pytest.raises(CertificateRefusedError):  # the list holds all the same
        live.check(pem(certificates.lab))
    with pytest.raises(CertificateError, match=r"hospital\.pem: .* revoked by .*: ask the CA for a new one"):
        LiveTls(files)


def test_a_certificate_that_ends_soon_is_told_once_a_day(
    certificates: Certificates, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    renew(certificates, files, days=20)
    clock = Clock()
    live = LiveTls(files, now=clock)
    for hours in (0, 1, 25):
        clock.ahead = timedelta(hours=hours)
        live.look()
    assert [vars(each)["days_left"] for each in events(caplog, "tls.certificate_ends")] == [19, 18]


def test_a_ca_whose_key_is_denied_vouches_for_nobody(
    certificates: Certificates, files: TlsFiles, tmp_path: Path, other: CaFiles
) -> None:
    """While two CAs stand side by side, one of them can be left at once, on connections that stand too."""
    lab = certs.issue(other, LAB, tmp_path / "lab")
    files.ca.write_bytes(certificates.ca.certificate.read_bytes() + other.certificate.read_bytes())
    live, peer = LiveTls(files), Peer()
    assert live.check(pem(lab)) == LAB
    live.hold(peer, pem(lab))
    assert files.deny is not None
    files.deny.write_text(certs.describe(other.certificate).key_fingerprint)
    live.look()
    live.sweep()
    assert len(peer.reasons) == 1
    with pytest.raises(CertificateRefusedError, match="no CA that is trusted here vouches"):
        live.check(pem(lab))
    assert live.check(pem(certificates.lab)) == LAB


def test_when_all_cas_would_be_denied_the_list_is_refused(
    certificates: Certificates, files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    live = LiveTls(files)
    assert files.deny is not None
    files.deny.write_text(certs.describe(certificates.ca.certificate).key_fingerprint)
    live.look()
    assert "nobody could be believed" in vars(events(caplog, "tls.lists_not_taken")[0])["reason"]
    assert live.check(pem(certificates.lab)) == LAB


class Between:
    """A CA, one below it, and the laboratory's certificate from that."""

    def __init__(self, folder: Path) -> None:
        now = datetime.now(UTC)
        self.root = new_authority("root", 100, now)
        self.middle = new_authority("middle", 100, now)
        ca_key, subject = self.root.key, self.middle.certificate.subject
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.root.certificate.subject)
        builder = builder.public_key(self.middle.key.public_key()).serial_number(77)
        builder = builder.not_valid_before(now - MINUTE).not_valid_after(now + timedelta(days=90))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        for each in self.middle.certificate.extensions:
            if each.oid != x509.BasicConstraints.oid:
                builder = builder.add_extension(each.value, critical=each.critical)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        self.middle = Authority(builder.sign(ca_key, hashes.SHA256()), self.middle.key)
        root = _with_longer_path(self.root, now)
        self.root = root
        self.lab, self.lab_key = _leaf(self.middle, LAB, now)
        self.bank, bank_key = _leaf(root, Identity(IdentityKind.PARTY, "bank"), now)
        folder.mkdir()
        self.files = certs.leaf_files(folder, "bank")
        self.files.certificate.write_bytes(_text(self.bank))
        self.files.key.write_bytes(bank_key)
        self.files.ca.write_bytes(_text(root.certificate))


async def test_a_channel_with_pins_reaches_these_certificates_and_no_other_of_the_party(
    tmp_path: Path, serve: Serve
) -> None:
    between = Between(tmp_path / "bank")
    files = certs.leaf_files(tmp_path, "lab")
    chain = _text(between.lab, between.middle.certificate)
    files.certificate.write_bytes(chain)
    files.key.write_bytes(between.lab_key)
    files.ca.write_bytes(_text(between.root.certificate))
    address, tls = await serve(raw_credentials(files), answer), LiveTls(between.files)
    sibling = _text(_leaf(between.middle, LAB, datetime.now(UTC))[0], between.middle.certificate)

    async def reaches(*pins: bytes) -> bool:
        options = [("grpc.ssl_target_name_override", server_name("lab"))]
        async with grpc.aio.secure_channel(address, tls.channel_credentials(pins), options) as channel:
            try:
                return bool(await channel.unary_unary("/test/Call", None, None)(b"", timeout=20.0) == b"answer")
            except grpc.aio.AioRpcError as error:
                assert "CERTIFICATE_VERIFY_FAILED" in str(error.details())  # noqa: PT017
                return False

    assert [await reaches(), await reaches(chain), await reaches(sibling, chain)] == [True] * 3
    assert not await reaches(sibling)


def _with_longer_path(root: Authority, now: datetime) -> Authority:
    """Return an authority that may sign another one, which ours may not."""
    name = root.certificate.subject
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(root.key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - MINUTE).not_valid_after(now + timedelta(days=100))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    for each in root.certificate.extensions:
        if each.oid != x509.BasicConstraints.oid:
            builder = builder.add_extension(each.value, critical=each.critical)
    return Authority(builder.sign(root.key, hashes.SHA256()), root.key)


def _leaf(authority: Authority, who: Identity, now: datetime) -> tuple[x509.Certificate, bytes]:
    key = new_key()
    leaf = new_leaf(authority, who, key.public_key(), 50, now)
    plain = serialization.NoEncryption()
    return leaf, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _text(*chain: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)


def _der(*chain: x509.Certificate) -> tuple[bytes, ...]:
    return tuple(each.public_bytes(serialization.Encoding.DER) for each in chain)


@pytest.mark.parametrize("how", ["denied", "revoked"])
def test_a_ca_between_that_is_refused_takes_its_certificates_with_it(how: str, tmp_path: Path) -> None:
    between = Between(tmp_path / "bank")
    deny, crl = tmp_path / "denied.txt", tmp_path / "root.crl"
    deny.write_text("")
    root = certs.CaFiles(tmp_path / "root.pem", tmp_path / "root.key")
    root.certificate.write_bytes(_text(between.root.certificate))
    plain = serialization.NoEncryption()
    key = between.root.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    root.key.write_bytes(key)
    crls.revoke(root, [], kept=crl)
    # gRPC shows the leaf alone: what lies between must be known
    between.files.ca.write_bytes(_text(between.root.certificate, between.middle.certificate))
    live = LiveTls(replace(between.files, deny=deny, crl=crl))
    whole = _der(between.lab, between.middle.certificate, between.root.certificate)
    alone = _text(between.lab)
    assert live.check(whole) == live.check(alone) == LAB
    if how == "denied":
        (tmp_path / "middle.pem").write_bytes(_text(between.middle.certificate))
        deny.write_text(certs.describe(tmp_path / "middle.pem").key_fingerprint)
    else:
        crls.revoke(root, [], [77], kept=crl)
    live.look()
    for presented in (whole, alone):
        with pytest.raises(CertificateRefusedError):
            live.check(presented)


def test_with_lists_a_ca_between_must_be_known_and_the_error_says_where_to_put_it(tmp_path: Path) -> None:
    between, deny = Between(tmp_path / "bank"), tmp_path / "denied.txt"
    deny.write_text("")
    assert LiveTls(between.files).check(_text(between.lab)) == LAB
    with pytest.raises(CertificateRefusedError, match="CN=middle, must stand in the `ca` file"):
        LiveTls(replace(between.files, deny=deny)).check(_text(between.lab))


def test_what_is_no_certificate_of_anybody_proves_nothing(certificates: Certificates, files: TlsFiles) -> None:
    live = LiveTls(files)
    for presented in (b"", (), b"who?", (b"x",), certificates.ca.certificate.read_bytes()):
        with pytest.raises(UnauthenticatedError, match="identity cannot be used"):
            live.check(presented)


def test_plain_text_on_a_socket_is_believed_only_where_there_is_no_tls(files: TlsFiles) -> None:
    assert socket_caller(None, LAB.uri, None) == (LAB, ())
    with pytest.raises(UnauthenticatedError):
        socket_caller(None, LAB.uri, LiveTls(files))
    with pytest.raises(UnauthenticatedError):
        socket_caller(None, "lab", None)


def test_a_daemon_needs_its_own_party_s_certificate(certificates: Certificates) -> None:
    with pytest.raises(ConfigError, match=r"tls\.certificate is of party hospital, and party is lab"):
        party_tls("lab", certificates.hospital, insecure=False)
    for files, insecure in ((certificates.lab, True), (None, False)):
        with pytest.raises(ConfigError, match="insecure = true goes without certificates"):
            party_tls("lab", files, insecure=insecure)
    assert party_tls("lab", None, insecure=True) is None


async def test_a_grpc_server_judges_every_call_and_takes_new_certificates(
    certificates: Certificates, files: TlsFiles, serve: Serve
) -> None:
    live = LiveTls(files, serves=True)

    async def who(_: bytes, context: Context) -> bytes:
        try:
            return str(caller_identity(context, live)).encode()
        except CertificateRefusedError as error:
            return f"refused: {error}".encode()

    address = await serve(live.server_credentials(), who)
    options = [("grpc.ssl_target_name_override", server_name("hospital"))]
    credentials = channel_credentials(certificates.lab)
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        call = channel.unary_unary("/test/Call", None, None)
        assert await call(b"") == b"party lab"
        assert files.deny is not None
        files.deny.write_text(key_of(certificates.lab))
        live.look()
        assert (await call(b"")).startswith(b"refused: the certificate of party lab")
    first = await asyncio.to_thread(served_serial, address, certificates)
    assert first == serial_of(certificates.hospital.certificate)
    serial = renew(certificates, files)
    live.look()
    live.look()
    assert (await asyncio.to_thread(served_serial, address, certificates)) == serial


def served_serial(address: str, certificates: Certificates) -> str:
    """Return the serial number of a server's certificate, as OpenSSL reads it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates.lab.ca)
    context.load_cert_chain(certificates.lab.certificate, certificates.lab.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        name = server_name("hospital")
        with context.wrap_socket(connection, server_hostname=name) as tls:
            certificate = tls.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"]).lstrip("0")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_listener_for_sockets_takes_new_certificates_and_shows_the_whole_chain(
    loop: Callable[[], asyncio.AbstractEventLoop], certificates: Certificates, files: TlsFiles
) -> None:
    live = LiveTls(files, serves=True)
    chains: list[Sequence[bytes]] = []

    async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        chains.append(peer_chain(tls))
        assert tls.version() == "TLSv1.3"
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=live.listening_context())
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        first = await asyncio.to_thread(served_serial, address, certificates)
        assert first == serial_of(certificates.hospital.certificate)
        serial = renew(certificates, files)
        live.look()
        live.look()
        assert await asyncio.to_thread(served_serial, address, certificates) == serial
        server.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
    lab, ca = map(certificate_of, (certificates.lab.certificate, certificates.ca.certificate))
    assert chains == [_der(lab, ca)] * 2
