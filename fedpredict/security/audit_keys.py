"""The audit log's keys: one that hides sample ids, and one that signs; a party's own, made when they are missing."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from fedpredict.errors import CertificateError, ConfigError
from fedpredict.security.files import PRIVATE, PUBLIC, read_private, write_file

IDS_KEY, SIGNING_KEY, PUBLIC_KEY = "ids.key", "signing.key", "signing.pub"
_ID_BYTES = 32
_KEYS = (IDS_KEY, PUBLIC_KEY, SIGNING_KEY)


@dataclass(frozen=True, slots=True)
class AuditKeys:
    """Both.

    Attributes:
        ids: Hides sample ids: 32 bytes.
        signing: Signs checkpoints.
    """

    ids: bytes
    signing: Ed25519PrivateKey


def open_keys(folder: Path) -> AuditKeys:
    """Return the keys in a party's folder; who comes first makes them, where nothing of a log is there yet.

    Raises:
        ConfigError: A file is missing, cannot be read or made, or holds no such key, or others may read it.
    """
    try:
        if not (folder / SIGNING_KEY).exists():
            _make(folder)
        _check_complete(folder)
        ids = read_private(folder / IDS_KEY)
        signing = load_pem_private_key(read_private(folder / SIGNING_KEY), None)
    except (OSError, ValueError) as error:
        told = f"audit: the keys in {folder} cannot be used: {error}; [audit] path names a folder that can be written"
        raise ConfigError(told) from error
    if not isinstance(signing, Ed25519PrivateKey) or len(ids) != _ID_BYTES:
        raise ConfigError(f"audit: {folder} holds keys of another kind")
    return AuditKeys(ids, signing)


def is_begun(folder: Path) -> bool:
    """Return whether a party's folder has a key, or a chain."""
    return any((folder / name).exists() for name in _KEYS) or any(folder.glob("worker-*"))


def read_ids_key(folder: Path) -> bytes:
    """Return the key that hides sample ids; none is ever made.

    Raises:
        ConfigError: It is missing, or cannot be read.
    """
    try:
        ids = read_private(folder / IDS_KEY)
    except OSError as error:
        raise ConfigError(f"audit: {folder / IDS_KEY} cannot be read: {error}") from error
    if len(ids) != _ID_BYTES:
        raise ConfigError(f"audit: {folder / IDS_KEY} is a key of another kind")
    return ids


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Return the key that checkpoints are verified with.

    Raises:
        ConfigError: The file cannot be read, or holds no such key.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no public audit key: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: a key of another kind")
    return key


def _make(folder: Path) -> None:
    """Write the keys, where none is there and no chain that other keys belong to; several processes may try at once."""
    signing = Ed25519PrivateKey.generate()
    private = signing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = signing.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    lock = _locked(folder)
    try:
        if is_begun(folder):
            _check_complete(folder)
            return
        write_file(folder / IDS_KEY, secrets.token_bytes(_ID_BYTES), mode=PRIVATE, force=False)
        write_file(folder / PUBLIC_KEY, public, mode=PUBLIC, force=False)
        write_file(folder / SIGNING_KEY, private, mode=PRIVATE, force=False)
    except CertificateError as error:
        raise ConfigError(f"audit: {error}") from error
    finally:
        os.close(lock)


def _check_complete(folder: Path) -> None:
    """Raise `ConfigError` where a key is missing: a new one would not fit the others, or the lines that are there."""
    missing = [name for name in _KEYS if not (folder / name).exists()]
    if missing:
        raise ConfigError(
            f"audit: {folder} has no {', '.join(missing)}, but other parts of an audit log; bring it back from a copy, "
            "or move the whole folder away and keep it: then a new log begins, with new keys"
        )


def _locked(folder: Path) -> int:
    import fcntl  # noqa: PLC0415

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor
