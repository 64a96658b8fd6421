from __future__ import annotations

from pathlib import Path

import pytest

from fedpredict.errors import ConfigError
from fedpredict.warehouse.hive_settings import HiveSettings


def test_the_defaults_fit_together() -> None:
    assert HiveSettings().address == "127.0.0.1:10000"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"host": ""}, "warehouse.host"),
        ({"port": 0}, "warehouse.port"),
        ({"port": 65536}, "warehouse.port"),
        ({"database": "x`; DROP"}, "warehouse.database"),
        ({"auth": "LDAP"}, "warehouse.auth"),
        ({"transport": "udp"}, "warehouse.transport"),
        ({"auth": "ldap", "username": "u"}, "needs warehouse.username and a password"),
        ({"auth": "custom", "password": "p"}, "warehouse.username"),
        ({"password": "p"}, "a password means nothing with warehouse.auth none"),
        ({"auth": "kerberos"}, "warehouse.kerberos_service_name"),
        ({"kerberos_service_name": "hive"}, "warehouse.kerberos_service_name"),
        ({"auth": "kerberos", "kerberos_service_name": "hive", "transport": "http"}, "warehouse.transport"),
        ({"tls_ca": Path("ca.pem")}, "warehouse.tls"),
        ({"tls_verify": False}, "warehouse.tls"),
        ({"tls": True, "tls_ca": Path("/no/such/ca.pem")}, "/no/such/ca.pem"),
        ({"tls": True, "tls_verify": False, "host": "hive.example.org"}, "warehouse.tls_verify"),
        ({"tls": True, "tls_verify": False, "host": "10.0.0.1"}, "warehouse.tls_verify"),
        ({"staging": "relative/folder"}, "warehouse.staging"),
        ({"max_inline_values": 0}, "warehouse.max_inline_values"),
        ({"connect_timeout_s": 0}, "warehouse.connect_timeout_s"),
    ],
)
def test_a_setting_that_cannot_be_is_named(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        HiveSettings(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_verification_may_be_off_on_loopback(host: str) -> None:
    assert not HiveSettings(host=host, tls=True, tls_verify=False).tls_verify


def test_the_password_is_not_shown() -> None:
    assert "hush" not in repr(HiveSettings(auth="ldap", username="u", password="hush"))  # noqa: S106
