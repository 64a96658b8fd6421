"""A TLS handshake as gRPC makes it, repeated with the standard library, which says why one fails.

gRPC shows most failures as a socket that closes. Nothing is sent beyond the handshake.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from cryptography import x509

from fedpredict.errors import CertificateError
from fedpredict.security.certificate import parse_der
from fedpredict.security.sockets import peer_chain
from fedpredict.security.tls import TlsFiles

_H2 = "h2"


class Failure(Enum):
    """Where a handshake ended."""

    OWN_FILES = auto()
    BAD_ADDRESS = auto()
    NOTHING_LISTENS = auto()
    NO_ANSWER = auto()
    NOT_TLS = auto()
    NOT_GRPC = auto()
    SELF_SIGNED = auto()
    OTHER_CA = auto()
    EXPIRED = auto()
    NOT_YET_VALID = auto()
    CHAIN_DATES = auto()
    OTHER_NAME = auto()
    OTHER_USE = auto()
    REJECTED = auto()
    OLD_TLS = auto()
    OTHER = auto()


_BY_VERIFY_CODE = {
    2: Failure.OTHER_CA,
    7: Failure.OTHER_CA,
    9: Failure.NOT_YET_VALID,
    10: Failure.EXPIRED,
    18: Failure.SELF_SIGNED,
    19: Failure.OTHER_CA,
    20: Failure.OTHER_CA,
    21: Failure.OTHER_CA,
    26: Failure.OTHER_USE,
    62: Failure.OTHER_NAME,
}
"""OpenSSL's X509_V_ERR_... numbers."""

_BY_ALERT = {
    "CERTIFICATE": Failure.REJECTED,
    "UNKNOWN_CA": Failure.REJECTED,
    "ACCESS_DENIED": Failure.REJECTED,
    "NO_APPLICATION_PROTOCOL": Failure.NOT_GRPC,
    "PROTOCOL_VERSION": Failure.OLD_TLS,
}
"""Words in OpenSSL's names of the alerts by which a server ends a handshake."""

_NOT_TLS = {
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "HTTP_REQUEST",
    "UNEXPECTED_MESSAGE",
    "PACKET_LENGTH_TOO_LONG",
}
"""OpenSSL's reasons where the answer was not a TLS record."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What became of one.

    Attributes:
        failure: Where it ended; None where both sides accepted each other.
        detail: The system's or OpenSSL's own words.
        presented: The server's certificate, good or not; None where it came to none.
        chain: What was verified, from there up to the CA, in DER; empty where nothing was.
    """

    failure: Failure | None
    detail: str = ""
    presented: x509.Certificate | None = None
    chain: tuple[bytes, ...] = ()


def shake_hands(address: str, files: TlsFiles, server_name: str, timeout_s: float) -> Handshake:
    """Return what becomes of a handshake with `host:port`, for a server of that DNS name.

    It blocks: up to `timeout_s` seconds for each of at most two connections (the second one only reads the certificate
    that the first one refused).
    """
    try:
        context = _context(files)
    except (OSError, ValueError) as error:
        return Handshake(Failure.OWN_FILES, str(error))
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        return Handshake(Failure.BAD_ADDRESS, "not host:port")
    try:
        with socket.create_connection((host, int(port)), timeout_s) as connection:
            outcome = _try(connection, context, server_name)
    except (OSError, UnicodeError) as error:
        return Handshake(_unreached(error), str(error))
    if outcome.failure in set(_BY_VERIFY_CODE.values()):
        presented = _presented((host, int(port)), timeout_s)
        return Handshake(_dated(outcome.failure, presented), outcome.detail, presented)
    return outcome


def _dated(failure: Failure | None, presented: x509.Certificate | None) -> Failure | None:
    """Return the failure; where OpenSSL speaks of a date, and the certificate itself is valid, that of its chain."""
    if failure not in {Failure.EXPIRED, Failure.NOT_YET_VALID} or presented is None:
        return failure
    is_valid = presented.not_valid_before_utc <= datetime.now(UTC) <= presented.not_valid_after_utc
    return Failure.CHAIN_DATES if is_valid else failure


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca)
    # An encrypted key must fail, not ask at the terminal.
    context.load_cert_chain(files.certificate, files.key, password="")
    context.set_alpn_protocols([_H2])
    return context


def _unreached(error: Exception) -> Failure:
    if isinstance(error, TimeoutError):
        return Failure.NO_ANSWER
    # UnicodeError: a host that cannot be put into the form of DNS, such as one with an empty label.
    return Failure.BAD_ADDRESS if isinstance(error, socket.gaierror | UnicodeError) else Failure.NOTHING_LISTENS


def _try(connection: socket.socket, context: ssl.SSLContext, server_name: str) -> Handshake:
    try:
        with context.wrap_socket(connection, server_hostname=server_name) as tls:
            return _after_handshake(tls)
    except ssl.SSLCertVerificationError as error:
        return Handshake(_BY_VERIFY_CODE.get(error.verify_code, Failure.OTHER), error.verify_message)
    except ssl.SSLError as error:
        return Handshake(_broken(error), str(error))
    except TimeoutError as error:
        return Handshake(Failure.NO_ANSWER, str(error))
    except OSError as error:
        return Handshake(Failure.NOT_TLS, str(error))


def _after_handshake(tls: ssl.SSLSocket) -> Handshake:
    presented = _certificate_of(tls)
    if tls.selected_alpn_protocol() != _H2:
        return Handshake(Failure.NOT_GRPC, "no HTTP/2 was agreed", presented)
    try:
        # In TLS 1.3 the server reads our certificate after we are done: its verdict is on the first read, where a
        # server that takes us sends its HTTP/2 settings.
        first = tls.recv(1)
    except TimeoutError as error:
        return Handshake(Failure.NO_ANSWER, str(error), presented)
    except OSError as error:
        return Handshake(Failure.REJECTED, str(error), presented)
    return (
        Handshake(None, "", presented, peer_chain(tls))
        if first
        else Handshake(Failure.REJECTED, "connection closed", presented)
    )


def _broken(error: ssl.SSLError) -> Failure:
    # Not error.reason: older versions of the standard library lack the names of newer reasons.
    words = str(error).upper().replace(" ", "_")
    if "_ALERT_" in words:
        return next((failure for word, failure in _BY_ALERT.items() if word in words), Failure.OTHER)
    if "UNSUPPORTED_PROTOCOL" in words:
        return Failure.OLD_TLS
    not_tls = isinstance(error, ssl.SSLEOFError) or any(reason in words for reason in _NOT_TLS)
    return Failure.NOT_TLS if not_tls else Failure.OTHER


def _presented(address: tuple[str, int], timeout_s: float) -> x509.Certificate | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Verified once already, and refused: this connection only reads what was refused, to say it.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([_H2])
    try:
        with (
            socket.create_connection(address, timeout_s) as connection,
            context.wrap_socket(connection) as tls,
        ):
            return _certificate_of(tls)
    except OSError:
        return None


def _certificate_of(tls: ssl.SSLSocket) -> x509.Certificate | None:
    try:
        return parse_der(tls.getpeercert(binary_form=True) or b"", "what the server presented")
    except CertificateError:
        return None
