from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedpredict.errors import CertificateError, UnauthenticatedError
from fedpredict.security import certs
from fedpredict.security.callers import caller_identity
from fedpredict.security.certificate import parse_certificates
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.tls import (
    Context,
    TlsFiles,
    channel_credentials,
    is_loopback,
    read_tls,
    server_name,
    stated_caller,
    stated_identity,
)
from tests.unit.security.federation import (
    DESK,
    HOSPITAL,
    LAB,
    Certificates,
    Serve,
    answer,
    odd_certificate,
    raw_credentials,
)

PLAIN = serialization.NoEncryption()


async def call(
    address: str,
    credentials: grpc.ChannelCredentials | None,
    metadata: tuple[tuple[str, str], ...] = (),
    name: str = server_name("lab"),
) -> bytes:
    options = [("grpc.ssl_target_name_override", name), ("grpc.enable_retries", 0)]
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=options)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=options)
    async with channel:
        reply = await channel.unary_unary("/test/Call", None, None)(b"question", timeout=20, metadata=metadata)
        assert isinstance(reply, bytes)
        return reply


async def refusal(address: str, credentials: grpc.ChannelCredentials | None, name: str = server_name("lab")) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(address, credentials, name=name)
    return raised.value.code().name


def careless(files: TlsFiles) -> grpc.ChannelCredentials:
    """Credentials of a caller that checks nothing at start."""
    return grpc.ssl_channel_credentials(files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes())


def says_who(files: TlsFiles) -> Callable[[bytes, Context], Awaitable[bytes]]:
    tls = LiveTls(files)

    async def say(_: bytes, context: Context) -> bytes:
        return str(caller_identity(context, tls)).encode()

    return say


async def says_who_it_states(_: bytes, context: Context) -> bytes:
    try:
        return str(stated_caller(context)).encode()
    except UnauthenticatedError as error:
        return f"refused: {error}".encode()


@pytest.mark.parametrize(("caller", "expected"), [("hospital", HOSPITAL), ("desk", DESK), ("lab", LAB)])
async def test_a_servicer_sees_the_certificate_s_identity(
    certificates: Certificates, serve: Serve, caller: str, expected: Identity
) -> None:
    address = await serve(LiveTls(certificates.lab, serves=True).server_credentials(), says_who(certificates.lab))
    reply = await call(address, channel_credentials(getattr(certificates, caller)))
    assert reply.decode() == str(expected)


async def test_what_a_caller_states_counts_for_nothing_under_tls(certificates: Certificates, serve: Serve) -> None:
    address = await serve(LiveTls(certificates.lab, serves=True).server_credentials(), says_who(certificates.lab))
    stated = stated_identity(Identity(IdentityKind.PARTY, "bank"))
    assert await call(address, channel_credentials(certificates.desk), stated) == b"client risk-desk"


async def test_without_tls_the_stated_identity_is_all_there_is(serve: Serve) -> None:
    address = await serve(None, says_who_it_states)
    assert await call(address, None, stated_identity(HOSPITAL)) == b"party hospital"
    assert (await call(address, None)).startswith(b"refused: the caller has 0 identities")
    assert (await call(address, None, stated_identity(HOSPITAL) + stated_identity(LAB))).startswith(b"refused: the")
    assert b"cannot be used" in await call(address, None, (("fedpredict-identity", "fedpredict://party/L"),))


async def test_without_tls_a_server_that_wants_certificates_knows_nobody(
    certificates: Certificates, serve: Serve
) -> None:
    tls = LiveTls(certificates.lab)

    async def knows(_: bytes, context: Context) -> bytes:
        with pytest.raises(UnauthenticatedError, match="identity cannot be used"):
            caller_identity(context, tls)
        return b"nobody"

    address = await serve(None, knows)
    assert await call(address, None, stated_identity(HOSPITAL)) == b"nobody"


@pytest.mark.parametrize("server", ["expired", "early", "stranger", "desk"])
async def test_a_caller_refuses_a_server_with_a_bad_certificate(
    certificates: Certificates, serve: Serve, server: str
) -> None:
    address = await serve(raw_credentials(getattr(certificates, server)), answer)
    assert await refusal(address, channel_credentials(certificates.hospital)) == "UNAVAILABLE"


async def test_a_caller_refuses_another_party_s_server(certificates: Certificates, serve: Serve) -> None:
    address = await serve(LiveTls(certificates.lab, serves=True).server_credentials(), answer)
    credentials = channel_credentials(certificates.hospital)
    assert await refusal(address, credentials, server_name("bank")) == "UNAVAILABLE"


@pytest.mark.parametrize("caller", ["expired", "early", "stranger"])
async def test_a_server_refuses_a_caller_with_a_bad_certificate(
    certificates: Certificates, serve: Serve, caller: str
) -> None:
    files: TlsFiles = getattr(certificates, caller)
    address = await serve(LiveTls(certificates.lab, serves=True).server_credentials(), answer)
    trusting = TlsFiles(certificates.lab.ca, files.certificate, files.key)
    assert await refusal(address, careless(trusting)) == "UNAVAILABLE"


async def test_a_server_refuses_a_caller_without_a_certificate(certificates: Certificates, serve: Serve) -> None:
    address = await serve(LiveTls(certificates.lab, serves=True).server_credentials(), answer)
    assert await refusal(address, grpc.ssl_channel_credentials(certificates.lab.ca.read_bytes())) == "UNAVAILABLE"


async def test_plain_text_gets_nowhere_at_a_tls_port(certificates: Certificates, serve: Serve) -> None:
    address = await serve(LiveTls(certificates.lab, serves=True).server_credentials(), answer)
    assert await refusal(address, None) == "UNAVAILABLE"


@pytest.mark.parametrize(
    "names",
    [
        [x509.DNSName("hospital.party.fedpredict")],
        [x509.DNSName("fedpredict://party/hospital")],
        [x509.UniformResourceIdentifier("https://example.org")],
        [x509.UniformResourceIdentifier(identity.uri) for identity in (HOSPITAL, LAB)],
        [x509.UniformResourceIdentifier("fedpredict://party/Hospital")],
    ],
    ids=["dns only", "dns that looks like one", "another uri", "two identities", "a bad name"],
)
async def test_a_certificate_without_one_identity_is_nobody_s(
    certificates: Certificates, serve: Serve, tmp_path: Path, names: list[x509.GeneralName]
) -> None:
    tls = LiveTls(certificates.lab)

    async def knows(_: bytes, context: Context) -> bytes:
        with pytest.raises(UnauthenticatedError):
            caller_identity(context, tls)
        return b"nobody"

    files = odd_certificate(certificates, tmp_path, names)
    address = await serve(LiveTls(certificates.lab, serves=True).server_credentials(), knows)
    assert await call(address, careless(files)) == b"nobody"
    with pytest.raises(CertificateError):
        read_tls(files)


def test_a_server_is_not_started_with_a_client_s_certificate(certificates: Certificates) -> None:
    with pytest.raises(CertificateError, match=r"belongs to client risk-desk; a server needs a party's"):
        LiveTls(certificates.desk, serves=True)


@pytest.mark.parametrize("load", [LiveTls, channel_credentials])
def test_files_that_do_not_fit_are_refused_at_start(certificates: Certificates, tmp_path: Path, load: object) -> None:
    assert callable(load)
    lab, hospital = certificates.lab, certificates.hospital
    text = tmp_path / "text.pem"
    text.write_text("hello")
    for files, problem in (
        (TlsFiles(tmp_path / "no.pem", lab.certificate, lab.key), r"no\.pem: the CA certificate cannot be read"),
        (TlsFiles(lab.ca, tmp_path / "no.pem", lab.key), r"no\.pem: the certificate cannot be read: No such file"),
        (TlsFiles(lab.ca, lab.certificate, tmp_path), r": the private key cannot be read: Is a directory"),
        (TlsFiles(text, lab.certificate, lab.key), r"text\.pem: not a certificate in PEM"),
        (TlsFiles(lab.ca, text, lab.key), r"text\.pem: not a certificate in PEM"),
        (TlsFiles(lab.ca, lab.certificate, text), r"text\.pem: not a private key in PEM"),
        (TlsFiles(lab.ca, lab.certificate, hospital.key), r"hospital\.key: not the key of .*lab\.pem; "),
        (TlsFiles(lab.ca, lab.key, lab.key), r"lab\.key: not a certificate in PEM"),
        (certificates.expired, r"lab\.pem: expired at .* UTC \(this machine's clock says .*; ask the CA for a new"),
        (certificates.early, r"lab\.pem: not valid before .*set the clock"),
        (
            TlsFiles(lab.ca, certificates.stranger.certificate, certificates.stranger.key),
            r"lab\.pem: the CA does not vouch for it as a client \(issued by CN=another CA\).*use the CA file",
        ),
    ):
        with pytest.raises(CertificateError, match=problem):
            load(files)


def test_keys_that_grpc_or_a_daemon_cannot_use_are_refused(certificates: Certificates, tmp_path: Path) -> None:
    key = tmp_path / "x.key"
    files = TlsFiles(certificates.lab.ca, certificates.lab.certificate, key)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, PLAIN))
    with pytest.raises(CertificateError, match=r"x\.key: not a P-256 key"):
        read_tls(files)
    locked = serialization.BestAvailableEncryption(b"password")
    key.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, locked))
    with pytest.raises(CertificateError, match=r"x\.key: the key is encrypted; keep it plain"):
        read_tls(files)


def test_material_is_checked_for_the_moment_it_is_asked_for(certificates: Certificates) -> None:
    (leaf,) = parse_certificates(certificates.lab.certificate.read_bytes(), "lab")
    assert read_tls(certificates.lab, leaf.not_valid_after_utc).identity == LAB
    with pytest.raises(CertificateError, match="expired"):
        read_tls(certificates.lab, leaf.not_valid_after_utc + timedelta(seconds=1))


def test_private_keys_are_not_in_a_repr(certificates: Certificates) -> None:
    assert "PRIVATE" not in repr(read_tls(certificates.lab))


def test_two_certificate_authorities_may_stand_side_by_side(certificates: Certificates, tmp_path: Path) -> None:
    """So that a federation moves to a new CA without a day on which nobody trusts anybody."""
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.lab.ca.read_bytes() + certificates.stranger.ca.read_bytes())
    for files in (certificates.lab, certificates.stranger):
        assert read_tls(TlsFiles(both, files.certificate, files.key)).identity == LAB


def test_a_key_of_a_new_request_does_not_fit_the_old_certificate(certificates: Certificates, tmp_path: Path) -> None:
    made = certs.create_request(LAB, tmp_path)
    with pytest.raises(CertificateError, match="not the key of"):
        read_tls(TlsFiles(certificates.lab.ca, certificates.lab.certificate, made.key))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:7443", True),
        ("127.8.9.1:7443", True),
        ("localhost:7443", True),
        ("[::1]:7443", True),
        ("0.0.0.0:7443", False),
        ("[::]:7443", False),
        ("10.0.0.1:7443", False),
        ("localhost.example.org:7443", False),
        ("127.0.0.1.example.org:7443", False),
        ("lab:7443", False),
        (":7443", False),
        ("", False),
    ],
)
def test_only_loopback_is_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_the_network_reads_the_name_of_the_dialled_party_and_nothing_that_is_said(certificates: Certificates) -> None:
    """The name of whom a party dials stands bare in its first message (SNI); certificates and what follows do not."""
    ends = [ssl.MemoryBIO() for _ in range(4)]
    to_lab, at_lab, to_hospital, at_hospital = ends
    hospital = (
        LiveTls(certificates.hospital)
        .dialling_context()
        .wrap_bio(at_hospital, to_lab, server_side=False, server_hostname=server_name("lab"))
    )
    lab = LiveTls(certificates.lab).listening_context().wrap_bio(at_lab, to_hospital, server_side=True)
    seen: dict[str, bytes] = {"to lab": b"", "to hospital": b""}

    def carry() -> None:
        for name, source, target in (("to lab", to_lab, at_lab), ("to hospital", to_hospital, at_hospital)):
            data = source.read()
            seen[name] += data
            target.write(data)

    for end in (hospital, lab, hospital, lab):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
        carry()
    hospital.write(b"sample-17 of model credit")
    carry()
    assert lab.read() == b"sample-17 of model credit"
    lab.write(b"a share")
    carry()
    assert hospital.read() == b"a share"

    assert seen["to lab"].count(b"lab.party.fedpredict") == 1
    everything = b"".join(seen.values())
    for hidden in (b"sample-17", b"credit", b"a share", b"hospital", b"fedpredict://"):
        assert hidden not in everything
