"""Passwords and TLS against Apache Hive's own HiveServer2: one server with an LDAP login, on both transports."""

from __future__ import annotations

import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from typing_extensions import override

from fedpredict.errors import ConfigError, WarehouseUnavailableError
from fedpredict.warehouse.hive import HiveWarehouse
from fedpredict.warehouse.hive_settings import HiveSettings
from scripts.freeports import free_ports

pytestmark = [pytest.mark.hive, pytest.mark.timeout(400)]
ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "right pass%word"  # noqa: S105


@dataclass(frozen=True)
class Authority:
    """A CA of the test's own."""

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.name}.pem"
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path


def sign(name: str, key: ec.EllipticCurvePrivateKey, issuer: Authority | None) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    signing = issuer.key if issuer else key
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
    )
    if issuer:
        address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        builder = builder.add_extension(address, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(signing, hashes.SHA256())


def new_authority(name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(name, key, sign(name, key, None))


def write_keystore(path: Path, authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = sign("hiveserver2", key, authority)
    secret = serialization.BestAvailableEncryption(b"changeit")
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"server", key, certificate, None, secret))


class Directory(socketserver.StreamRequestHandler):
    """As much of LDAP as a login takes: a simple bind succeeds for one name and password; anything else is unread."""

    @override
    def handle(self) -> None:
        while (message := self.element())[0] == 0x30:
            identifier, rest = split(message[1])
            operation, _ = split(rest)
            if operation[0] != 0x60:  # no bind request: the client leaves
                return
            _, rest = split(operation[1])  # the protocol's version
            name, rest = split(rest)
            secret, _ = split(rest)
            is_right = (name[1].decode(), secret[1].decode()) == ("uid=fedpredict,ou=people", PASSWORD)
            code = 0 if is_right else 49  # success, invalid credentials
            answer = tag(0x61, tag(0x0A, bytes([code])) + tag(0x04, b"") + tag(0x04, b""))
            self.wfile.write(tag(0x30, tag(0x02, identifier[1]) + answer))

    def element(self) -> tuple[int, bytes]:
        """Return the next message: its tag and content; tag 0 when the client has left."""
        head = self.rfile.read(2)
        if len(head) < 2:
            return 0, b""
        length = head[1]
        if length & 0x80:
            length = int.from_bytes(self.rfile.read(length & 0x7F), "big")
        return head[0], self.rfile.read(length)


def tag(number: int, content: bytes) -> bytes:
    return bytes([number, len(content)]) + content


def split(data: bytes) -> tuple[tuple[int, bytes], bytes]:
    """Return the first element of BER data as (tag, content), and what follows it; all lengths here are short."""
    end = 2 + data[1]
    return (data[0], data[2:end]), data[end:]


@pytest.fixture(scope="module")
def directory() -> Iterator[int]:
    """The port of a directory that knows one user."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Directory) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, directory: int) -> Iterator[dict[str, HiveSettings]]:
    """Settings for both transports of one server, with the right CA, user and password."""
    folder = tmp_path_factory.mktemp("secure")
    authority = new_authority("right-ca")
    new_authority("wrong-ca").write(folder)
    write_keystore(folder / "server.p12", authority)
    http_port = free_ports(1)[0]
    options = {
        "hive.server2.transport.mode": "all",
        "hive.server2.thrift.http.port": str(http_port),
        "hive.server2.authentication": "LDAP",
        "hive.server2.authentication.ldap.url": f"ldap://127.0.0.1:{directory}",
        "hive.server2.authentication.ldap.userDNPattern": "uid=%s,ou=people",
        "hive.server2.use.SSL": "true",
        "hive.server2.keystore.path": str(folder / "server.p12"),
        "hive.server2.keystore.password": "changeit",
        "hive.server2.keystore.type": "PKCS12",
    }
    command = [sys.executable, str(ROOT / "scripts/services")]
    up = [*command, "up", "hive", "--state", str(folder), "--port", "0"]
    up += [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    started = subprocess.run(up, check=False, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    right = HiveSettings(
        port=int(started.stdout.rpartition(":")[2]),
        auth="ldap",
        username="fedpredict",
        password=PASSWORD,
        tls=True,
        tls_ca=authority.write(folder),
    )
    yield {"binary": right, "http": replace(right, transport="http", port=http_port)}
    subprocess.run([*command, "down", "hive", "--state", str(folder)], check=True, capture_output=True)


@pytest.fixture(params=["binary", "http"])
def right(request: pytest.FixtureRequest, server: dict[str, HiveSettings]) -> HiveSettings:
    return server[request.param]


def tables(settings: HiveSettings) -> int:
    """Log in, and return how many rows a table that does not exist has."""
    warehouse = HiveWarehouse(settings)
    try:
        return int(warehouse.read("no_such_table", ["x"], {}).num_rows)
    finally:
        warehouse.close()


def test_user_password_and_a_verified_certificate_open_a_session(right: HiveSettings) -> None:
    assert tables(right) == 0


def test_a_wrong_password_is_named_as_that_and_not_repeated(right: HiveSettings) -> None:
    with pytest.raises(WarehouseUnavailableError, match="refused the login of fedpredict") as raised:
        tables(replace(right, password="wrong secret"))  # noqa: S106

    assert "wrong secret" not in str(raised.value)


def test_a_certificate_of_another_ca_is_refused(right: HiveSettings) -> None:
    assert right.tls_ca is not None

    with pytest.raises(WarehouseUnavailableError, match=r"not trusted.*warehouse\.tls_ca"):
        tables(replace(right, tls_ca=right.tls_ca.with_name("wrong-ca.pem")))


def test_without_a_ca_the_machines_own_ones_are_taken_and_refuse(right: HiveSettings) -> None:
    with pytest.raises(WarehouseUnavailableError, match="not trusted"):
        tables(replace(right, tls_ca=None))


def test_a_certificate_for_another_host_is_refused(right: HiveSettings) -> None:
    with pytest.raises(WarehouseUnavailableError, match=r"not trusted.*localhost"):
        tables(replace(right, host="localhost"))


def test_verifying_nothing_is_possible_on_loopback_only(right: HiveSettings) -> None:
    assert tables(replace(right, tls_ca=None, tls_verify=False)) == 0

    with pytest.raises(ConfigError, match="tls_verify"):
        replace(right, host="hive.example.org", tls_ca=None, tls_verify=False)


def test_a_client_without_tls_gets_no_session(right: HiveSettings) -> None:
    with pytest.raises(WarehouseUnavailableError, match=f"{right.port}"):
        tables(replace(right, tls=False, tls_ca=None, connect_timeout_s=10))
