"""Constructor arguments, and a failed call told from the client's side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedpredict.client import AsyncClient, Client, TlsFiles
from fedpredict.client.connection import Deadline
from fedpredict.errors import CertificateError, ConfigError, DeadlineExceededError, InputError, NameRefusedError

TLS = TlsFiles(Path("ca.pem"), Path("me.pem"), Path("me.key"))


@pytest.mark.parametrize("cls", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("address", "arguments", "told"),
    [
        ("localhost", {"insecure": True}, "write host:port"),
        ("localhost:http", {"insecure": True}, "write host:port"),
        ("127.0.0.1:7440", {}, "needs tls .* and server_party"),
        ("127.0.0.1:7440", {"tls": TLS}, "needs tls .* and server_party"),
        ("127.0.0.1:7440", {"server_party": "bank"}, "needs tls .* and server_party"),
        ("bank.example:7440", {"insecure": True}, "loopback only"),
        ("127.0.0.1:7440", {"insecure": True, "tls": TLS}, "drop one"),
        ("127.0.0.1:7440", {"insecure": True, "chunk_size": 0}, "chunk_size is 0"),
    ],
)
def test_arguments_that_do_not_fit_say_what_to_pass(
    cls: type[Client], address: str, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        cls(address, **arguments)


def test_a_party_that_breaks_the_rules_is_refused() -> None:
    with pytest.raises(NameRefusedError):
        Client("127.0.0.1:7440", server_party="Not A Party", tls=TLS)


def test_missing_certificates_are_named(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "me.pem", tmp_path / "me.key")

    with pytest.raises(CertificateError, match=r"ca\.pem"):
        Client("127.0.0.1:7440", server_party="bank", tls=files)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf"), None, "5"])
def test_a_timeout_is_a_number_of_seconds_above_zero(timeout_s: Any) -> None:
    with pytest.raises(InputError, match="timeout_s"):
        Deadline(timeout_s)


@pytest.mark.parametrize("timeout_s", [1e7, 1e10, 10**400])
def test_a_timeout_beyond_what_a_call_can_say_is_as_long_as_one_can(timeout_s: float) -> None:
    remaining_ms = Deadline(timeout_s).remaining_s() * 1000

    assert 2**31 < remaining_ms < 2**32


def test_a_deadline_that_passed_is_an_error() -> None:
    deadline = Deadline(1e-9)

    with pytest.raises(DeadlineExceededError):
        deadline.remaining_s()


def test_closing_twice_is_harmless() -> None:
    client = Client("127.0.0.1:7440", insecure=True)
    client.close()
    client.close()
