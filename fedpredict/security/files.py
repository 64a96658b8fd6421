"""Files that appear whole, with their permissions from the first moment, and never over another by accident."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fedpredict.errors import CertificateError

PRIVATE = 0o600
PUBLIC = 0o644


def refuse_existing(*paths: Path) -> None:
    """Check that none of the files exists yet.

    Raises:
        CertificateError: The first one that does, and what to do.
    """
    for path in paths:
        if os.path.lexists(path):
            raise CertificateError(f"{path}: exists already and is kept; name another directory, or give --force")


def write_file(path: Path, content: bytes, *, mode: int, force: bool) -> None:
    """Write a file at once: another process sees all of it or nothing.

    Args:
        path: Where; its directory is made, for the owner only, where it is missing.
        content: All of it.
        mode: Its permission bits.
        force: Replace a file of that name.

    Raises:
        CertificateError: It exists and `force` is not given, or the system refuses; nothing was changed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _create(temporary, content, mode)
            if force:
                temporary.replace(path)
            else:
                # Unlike a rename, a link never takes the place of a file that appeared meanwhile.
                path.hardlink_to(temporary)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        refuse_existing(path)
        raise
    except OSError as error:
        raise CertificateError(f"{path}: cannot be written: {error.strerror}") from error


def _create(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
