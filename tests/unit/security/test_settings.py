from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fedpredict.security.settings import TlsSettings
from fedpredict.security.tls import TlsFiles


def test_relative_paths_start_at_the_settings_file() -> None:
    settings = TlsSettings.model_validate({"ca": "certs/ca.pem", "certificate": "lab.pem", "key": "/keys/lab.key"})
    expected = TlsFiles(Path("/etc/fp/certs/ca.pem"), Path("/etc/fp/lab.pem"), Path("/keys/lab.key"))
    assert settings.files(Path("/etc/fp")) == expected


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="cert"):
        TlsSettings.model_validate({"ca": "a", "certificate": "b", "key": "c", "cert": "d"})


def test_lists_of_refused_certificates_are_named_like_the_other_files() -> None:
    named = {"ca": "ca.pem", "certificate": "lab.pem", "key": "lab.key", "crl": "ca.crl", "deny": "/etc/denied.txt"}
    files = TlsSettings.model_validate(named).files(Path("/etc/fp"))
    assert (files.crl, files.deny, files.accepts_stale_crl) == (Path("/etc/fp/ca.crl"), Path("/etc/denied.txt"), False)
    files = TlsSettings.model_validate({**named, "stale_crl": "accept"}).files(Path("/etc/fp"))
    assert files.accepts_stale_crl


def test_what_a_stale_list_counts_for_is_one_of_two() -> None:
    with pytest.raises(ValidationError, match="stale_crl"):
        TlsSettings.model_validate({"ca": "a", "certificate": "b", "key": "c", "stale_crl": "ignore"})
