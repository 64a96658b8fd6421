from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedpredict.security import certs, crls
from fedpredict.security.authority import Authority, key_pem, new_key, new_leaf
from fedpredict.security.certificate import parse_key
from fedpredict.security.check import Finding, Level, check_files, explain_handshake
from fedpredict.security.identity import Identity
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import TlsFiles, server_name
from tests.unit.security.federation import (
    DESK,
    HOSPITAL,
    LAB,
    NOW,
    Certificates,
    Serve,
    answer,
    odd_certificate,
    raw_credentials,
)


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is not Level.OK]


async def explain(address: str, files: TlsFiles, timeout_s: float = 20.0) -> Finding:
    return await asyncio.to_thread(explain_handshake, address, files, server_name("lab"), timeout_s)


@pytest.mark.parametrize(("owner", "identity"), [("lab", LAB), ("hospital", HOSPITAL), ("desk", DESK)])
def test_good_files_give_good_findings(certificates: Certificates, owner: str, identity: Identity) -> None:
    findings = check_files(getattr(certificates, owner), identity, NOW)
    assert bad(findings) == []
    assert len(findings) == 5
    assert all(finding.fix == "" for finding in findings)


@pytest.mark.parametrize(
    ("owner", "what"),
    [
        ("expired", "expired at"),
        ("early", "not valid before"),
        ("hospital", "belongs to party hospital, but the settings say party lab"),
        ("desk", "belongs to client risk-desk, but the settings say party lab"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said_with_a_fix(certificates: Certificates, owner: str, what: str) -> None:
    problems = bad(check_files(getattr(certificates, owner), LAB, NOW))
    assert {finding.level for finding in problems} == {Level.PROBLEM}
    assert any(what in finding.what for finding in problems)
    assert all(finding.fix for finding in problems)


def test_a_certificate_of_another_ca_is_a_problem(certificates: Certificates) -> None:
    stranger = certificates.stranger
    (problem,) = bad(check_files(TlsFiles(certificates.lab.ca, stranger.certificate, stranger.key), LAB, NOW))
    assert problem.level is Level.PROBLEM
    assert "does not vouch for it" in problem.what


def test_a_certificate_is_renewed_before_its_last_month(certificates: Certificates) -> None:
    (finding,) = bad(check_files(certificates.expiring, LAB, NOW))
    assert finding.level is Level.WARNING
    assert "expires in 10 days" in finding.what
    assert "certs request" in finding.fix


def test_a_ca_that_ends_soon_is_a_warning_too(certificates: Certificates) -> None:
    end = certs.describe(certificates.ca.certificate).not_after
    findings = check_files(certificates.lab, LAB, end - timedelta(days=20))
    assert any(finding.level is Level.WARNING and "ca.pem" in finding.what for finding in findings)


def test_a_key_that_others_can_read_is_a_warning(certificates: Certificates, tmp_path: Path) -> None:
    key = tmp_path / "lab.key"
    shutil.copy(certificates.lab.key, key)
    key.chmod(0o640)
    (finding,) = bad(check_files(TlsFiles(certificates.lab.ca, certificates.lab.certificate, key), LAB, NOW))
    assert (finding.level, finding.fix) == (Level.WARNING, f"chmod 600 {key}")


def test_missing_files_and_foreign_keys_are_named(certificates: Certificates, tmp_path: Path) -> None:
    lab = certificates.lab
    gone = TlsFiles(tmp_path / "ca.pem", lab.certificate, lab.key)
    assert "ca.pem: the CA certificate cannot be read" in bad(check_files(gone, LAB, NOW))[0].what
    other = TlsFiles(lab.ca, lab.certificate, certificates.hospital.key)
    assert "hospital.key: not the key of" in bad(check_files(other, LAB, NOW))[0].what


async def test_a_good_handshake_says_so(certificates: Certificates, serve: Serve) -> None:
    address = await serve(LiveTls(certificates.lab, serves=True).server_credentials(), answer)
    finding = await explain(address, certificates.hospital)
    assert finding == Finding(Level.OK, f"{address} has the certificate of lab.party.fedpredict and takes ours")


async def test_a_peer_s_certificate_that_ends_soon_is_a_warning(certificates: Certificates, serve: Serve) -> None:
    address = await serve(LiveTls(certificates.expiring, serves=True).server_credentials(), answer)
    finding = await explain(address, certificates.hospital)
    assert finding.level is Level.WARNING
    assert "expires in 9 days" in finding.what


@pytest.mark.parametrize(
    ("server", "what", "fix"),
    [
        ("expired", "(party lab) expired at {after}", "renewed over there"),
        ("early", "(party lab) is not valid before {before}", "set the clock (NTP) of this machine"),
        ("stranger", "(party lab) is of another CA: issued by CN=another CA", "compare"),
        ("desk", "(client risk-desk) is not for a server", "kind party"),
        ("hospital", "is not lab.party.fedpredict: it has the certificate of party hospital", "correct the address"),
    ],
)
async def test_a_server_s_bad_certificate_is_explained(
    certificates: Certificates, serve: Serve, server: str, what: str, fix: str
) -> None:
    files: TlsFiles = getattr(certificates, server)
    report = certs.describe(files.certificate)
    address = await serve(raw_credentials(files), answer)
    finding = await explain(address, certificates.hospital)
    assert finding.level is Level.PROBLEM
    after, before = (f"{instant:%Y-%m-%d %H:%M:%S UTC}" for instant in (report.not_after, report.not_before))
    assert what.format(after=after, before=before) in finding.what
    assert address in finding.what
    assert fix in finding.fix


@pytest.mark.parametrize("caller", ["expired", "early", "stranger"])
async def test_a_server_that_refuses_our_certificate_is_told_from_one_that_is_refused(
    certificates: Certificates, serve: Serve, caller: str
) -> None:
    address = await serve(LiveTls(certificates.lab, serves=True).server_credentials(), answer)
    files: TlsFiles = getattr(certificates, caller)
    finding = await explain(address, TlsFiles(certificates.lab.ca, files.certificate, files.key))
    assert finding.level is Level.PROBLEM
    assert finding.what.startswith(f"{address} refuses our certificate, {files.certificate}")
    assert "clocks" in finding.fix


async def test_a_plain_text_server_is_told_from_a_tls_server(certificates: Certificates, serve: Serve) -> None:
    finding = await explain(await serve(None, answer), certificates.hospital)
    assert "does not speak TLS" in finding.what
    assert "insecure" in finding.fix


async def test_a_port_where_nothing_listens_is_said(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    finding = await explain(f"127.0.0.1:{port}", certificates.hospital)
    assert finding.what.startswith(f"nothing listens at 127.0.0.1:{port}")
    assert "start the server" in finding.fix


@pytest.mark.parametrize(
    "address", ["lab", "lab:port", "127.0.0.1:99999", ":7443", "a..b:7443", "no-such-host.invalid:7443"]
)
def test_an_address_that_leads_nowhere_is_said(certificates: Certificates, address: str) -> None:
    finding = explain_handshake(address, certificates.hospital, server_name("lab"), 20.0)
    assert finding.what.startswith(f"{address} leads nowhere")


def test_a_server_that_says_nothing_is_given_up_on(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        finding = explain_handshake(address, certificates.hospital, server_name("lab"), 0.05)
    assert finding.what == f"{address} does not answer in time"


def test_a_host_that_drops_packets_is_given_up_on(certificates: Certificates) -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # Linux drops what comes when the queue of connections is full
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        address = f"127.0.0.1:{full.getsockname()[1]}"
        finding = explain_handshake(address, certificates.hospital, server_name("lab"), 0.05)
    assert finding.what == f"{address} does not answer in time"


async def serving(answer_one: Callable[[socket.socket], None], files: TlsFiles, timeout_s: float = 20.0) -> Finding:
    """What is said of a server that is not gRPC's: `answer_one` gets the only connection that is taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            listener.close()
            with connection:
                answer_one(connection)

        address = f"127.0.0.1:{listener.getsockname()[1]}"
        finding, _ = await asyncio.gather(explain(address, files, timeout_s), asyncio.to_thread(accept))
        return finding


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    return context


async def test_a_port_that_hangs_up_does_not_speak_tls(certificates: Certificates) -> None:
    finding = await serving(lambda connection: None, certificates.hospital)
    assert "does not speak TLS" in finding.what


async def test_a_port_that_resets_does_not_speak_tls(certificates: Certificates) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert "does not speak TLS" in (await serving(reset, certificates.hospital)).what


async def test_a_tls_server_without_http2_is_not_grpc(certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.lab.certificate, certificates.lab.key)

    def greet(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1)

    finding = await serving(greet, certificates.hospital)
    assert "speaks TLS but not gRPC" in finding.what


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_says_why_it_refuses_is_quoted(certificates: Certificates, version: ssl.TLSVersion) -> None:
    context = tls_context(certificates.lab)
    context.maximum_version = version
    context.load_verify_locations(certificates.stranger.ca)
    context.verify_mode = ssl.CERT_REQUIRED

    def refuse(connection: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    finding = await serving(refuse, certificates.hospital)
    assert "refuses our certificate" in finding.what
    assert "unknown ca" in finding.what


@pytest.mark.parametrize(
    ("alert", "what"),
    [
        (40, "no TLS connection with"),
        (120, "speaks TLS but not gRPC"),
        (48, "refuses our certificate"),
        (44, "refuses our certificate"),
        (70, "does not speak TLS 1.2 or newer"),
    ],
    ids=["handshake failure", "no application protocol", "unknown ca", "certificate revoked", "protocol version"],
)
async def test_a_server_s_alert_is_read(certificates: Certificates, alert: int, what: str) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(bytes([21, 3, 3, 0, 2, 2, alert]))

    assert what in (await serving(refuse, certificates.hospital)).what


async def test_a_server_that_falls_silent_after_the_handshake_is_given_up_on(certificates: Certificates) -> None:
    context = tls_context(certificates.lab)

    def hold(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1)

    assert "does not answer in time" in (await serving(hold, certificates.hospital, 0.5)).what


async def test_a_certificate_that_is_not_shown_twice_is_refused_all_the_same(certificates: Certificates) -> None:
    context = tls_context(certificates.stranger)

    def once(connection: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    finding = await serving(once, certificates.hospital)
    assert "(one that cannot be read) is of another CA" in finding.what


async def test_a_certificate_that_cannot_be_read_is_refused_without_a_word_of_it(
    certificates: Certificates, serve: Serve, tmp_path: Path
) -> None:
    files = odd_certificate(certificates, tmp_path, bytes.fromhex("30058103fffefd"))  # an address that is no text
    finding = await explain(await serve(raw_credentials(files), answer), certificates.hospital)
    assert finding.level is Level.PROBLEM
    assert "it has the certificate of one that cannot be read" in finding.what


async def test_a_stranger_without_an_identity_is_described_by_its_subject(
    certificates: Certificates, serve: Serve, tmp_path: Path
) -> None:
    files = odd_certificate(certificates, tmp_path, [x509.DNSName("example.org")])
    finding = await explain(await serve(raw_credentials(files), answer), certificates.hospital)
    assert "it has the certificate of CN=fedpredict://party/hospital" in finding.what


def test_own_files_that_cannot_be_used_are_said_first(certificates: Certificates, tmp_path: Path) -> None:
    lab = certificates.lab
    for files in (
        TlsFiles(tmp_path / "ca.pem", lab.certificate, lab.key),
        TlsFiles(lab.ca, lab.certificate, certificates.hospital.key),
    ):
        finding = explain_handshake("127.0.0.1:1", files, server_name("lab"), 20.0)
        assert finding.what.startswith("our own TLS files cannot be used")


@pytest.mark.parametrize("how", ["denied", "revoked"])
async def test_a_server_that_is_on_a_list_is_a_problem_although_the_handshake_is_good(
    how: str, certificates: Certificates, serve: Serve, tmp_path: Path
) -> None:
    denied, crl = tmp_path / "denied.txt", tmp_path / "ca.crl"
    report = certs.describe(certificates.lab.certificate)
    denied.write_text(report.key_fingerprint if how == "denied" else "")
    crls.revoke(certificates.ca, [certificates.lab.certificate] if how == "revoked" else [], kept=crl)
    address = await serve(LiveTls(certificates.lab, serves=True).server_credentials(), answer)
    finding = await explain(address, replace(certificates.hospital, deny=denied, crl=crl))
    assert finding.level is Level.PROBLEM
    assert finding.what.startswith(f"{address}: the certificate of party lab, CN=lab")
    assert {"denied": "its key is denied here", "revoked": "revoked by CN=the federation's CA"}[how] in finding.what
    assert "new key" in finding.fix


async def test_a_self_signed_certificate_is_told_from_another_ca_s(
    certificates: Certificates, serve: Serve, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab.party.fedpredict")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(5).not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=9))
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("lab.party.fedpredict")]), critical=False)
    own = certs.leaf_files(tmp_path, "lab")
    own.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    own.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    own.ca.write_bytes(certificates.ca.certificate.read_bytes())
    finding = await explain(await serve(raw_credentials(own), answer), certificates.hospital)
    assert "(CN=lab.party.fedpredict) is self-signed: no CA vouches for it" in finding.what
    assert "certs request" in finding.fix


@pytest.mark.parametrize(
    ("days", "accepts", "level", "told"),
    [
        (90, False, Level.OK, "1 certificates revoked by CN=the federation's CA, next list by"),
        (3, False, Level.WARNING, "soon over"),
        (-1, True, Level.WARNING, "over; accepted all the same"),
        (-1, False, Level.PROBLEM, "over; nobody of this CA is believed"),
    ],
)
def test_a_revocation_list_has_a_finding_of_its_own(
    days: int, accepts: bool, level: Level, told: str, *, certificates: Certificates, tmp_path: Path
) -> None:
    crl = tmp_path / "ca.crl"
    made = NOW - timedelta(days=10)
    crls.revoke(certificates.ca, [certificates.hospital.certificate], kept=crl, days=days + 10, now=made)
    files = replace(certificates.lab, crl=crl, accepts_stale_crl=accepts)
    (finding,) = [each for each in check_files(files, LAB, NOW) if str(crl) in each.what]
    assert (finding.level, told in finding.what) == (level, True)
    assert bool(finding.fix) is (level is not Level.OK)


def test_lists_that_cannot_be_read_or_hold_our_own_certificate_are_problems(
    certificates: Certificates, tmp_path: Path
) -> None:
    denied = tmp_path / "denied.txt"
    files = replace(certificates.lab, deny=denied)
    assert "the list of denied keys cannot be read" in bad(check_files(files, LAB, NOW))[0].what
    denied.write_text(certs.describe(certificates.lab.certificate).key_fingerprint)
    (problem,) = bad(check_files(files, LAB, NOW))
    assert problem.what == f"{certificates.lab.certificate}: its key is denied here"
    denied.write_text("")
    assert [each.what for each in check_files(files, LAB, NOW)][-1] == f"{denied} denies 0 keys"


async def test_a_ca_that_expired_is_told_from_a_certificate_that_did(
    certificates: Certificates, serve: Serve, tmp_path: Path
) -> None:
    """The certificate is good; the authority that signed it ended yesterday."""
    ended = certs.create_ca(tmp_path / "ca", "an old CA", days=10, now=NOW - timedelta(days=11))
    authority = Authority(
        x509.load_pem_x509_certificate(ended.certificate.read_bytes()), parse_key(ended.key.read_bytes(), "ca.key")
    )
    key = new_key()
    leaf = new_leaf(authority, LAB, key.public_key(), 5, NOW - timedelta(days=11))
    builder = x509.CertificateBuilder(
        leaf.issuer, leaf.subject, key.public_key(), 9, NOW - timedelta(days=1), NOW + timedelta(days=1)
    )
    for each in leaf.extensions:
        builder = builder.add_extension(each.value, critical=each.critical)
    files = certs.leaf_files(tmp_path, "lab")
    files.certificate.write_bytes(builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(key_pem(key))
    files.ca.write_bytes(ended.certificate.read_bytes())
    address = await serve(raw_credentials(files), answer)
    trusting = TlsFiles(ended.certificate, certificates.hospital.certificate, certificates.hospital.key)
    finding = await explain(address, trusting)
    assert finding.what.startswith(f"a CA's certificate behind the one at {address} (party lab) is not valid now")
    assert "expired" in finding.what
    assert "set the clock" in finding.fix
