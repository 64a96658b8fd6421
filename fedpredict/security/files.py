"""Files that have their permissions from the first moment, and never take the place of another by accident."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from fedpredict.errors import CertificateError

PRIVATE = 0o600
PUBLIC = 0o644
SECRET_BYTES = 32


def refuse_existing(*paths: Path) -> None:
    """Check that none of the files exists yet.

    Raises:
        CertificateError: The first one that does, and what to do.
    """
    for path in paths:
        if os.path.lexists(path):
            raise _kept(path)


def write_file(path: Path, content: bytes, *, mode: int, force: bool) -> None:
    """Write a file to the disk, whole or not at all.

    Args:
        path: Where; its directory is made, for the owner only, where it is missing.
        content: All of it.
        mode: Its permission bits.
        force: Replace a file of that name, in one step.

    Raises:
        CertificateError: It exists and `force` is not given, or the system refuses; what was there is as it was.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if force:
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            _create(temporary, content, mode)
            temporary.replace(path)
        else:
            _create(path, content, mode)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be written: {error.strerror}") from error


def open_secret(path: Path) -> bytes:
    """Return the `SECRET_BYTES` random bytes in a file of its owner's; who comes first makes it, whole.

    Raises:
        CertificateError: It cannot be made, or holds something else.
        OSError: It cannot be read, or others may read it.
    """
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        write_file(temporary, secrets.token_bytes(SECRET_BYTES), mode=PRIVATE, force=False)
        try:
            with suppress(FileExistsError):  # of several processes one is the first
                os.link(temporary, path)
        finally:
            temporary.unlink()
    secret = read_private(path)
    if len(secret) != SECRET_BYTES:
        raise CertificateError(f"{path}: a key of another kind")
    return secret


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk; raise `OSError` where that fails."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path) -> bytes:
    """Return what is in a file that only its owner may read; raise `PermissionError` where others may, too."""
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"others may read {path}: chmod 600 {path}")
    return path.read_bytes()


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise _kept(path) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        path.unlink()
        raise


def _kept(path: Path) -> CertificateError:
    return CertificateError(
        f"{path}: exists already and is kept; name another one, take it away, or give --force where the command has it"
    )
