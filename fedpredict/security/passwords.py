"""Passwords and tokens that this process shows to servers: never in a settings file, but in a file of their own."""

from __future__ import annotations

import re
from pathlib import Path

from fedpredict.errors import ConfigError

AUTHORIZATION = "authorization"
"""The header, and the gRPC metadata key, that bearer tokens travel in: `Bearer <token>`."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,4096}")


def read_password(path: Path, key: str) -> str:
    """Return the first line of a file, without the end of the line.

    Args:
        path: The file.
        key: The setting that names it, for the message.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error}") from error


def read_token(path: Path) -> str:
    """Return the bearer token in a file; raise `ConfigError` where it cannot be read, or holds none."""
    return check_token_text(read_password(path, "token_file").strip())


def check_token_text(text: str) -> str:
    """Return `text` if it can be a bearer token (RFC 6750); else raise `ConfigError`, which does not repeat it."""
    if not _TOKEN.fullmatch(text):
        raise ConfigError("the token is none: write the line that `fedpredict token create` showed, and nothing else")
    return text
