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
