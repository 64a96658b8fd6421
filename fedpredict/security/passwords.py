"""Passwords of servers that this process logs in to: never in a settings file, but in a file of their own."""

from __future__ import annotations

from pathlib import Path

from fedpredict.errors import ConfigError


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
