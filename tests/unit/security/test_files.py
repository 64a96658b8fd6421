from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedpredict.errors import CertificateError
from fedpredict.security.files import PRIVATE, SECRET_BYTES, open_secret, refuse_existing, write_file


def test_a_private_file_is_readable_by_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_file(tmp_path / "new" / "x.key", b"secret", mode=PRIVATE, force=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "x.key").stat().st_mode) == 0o600


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    (tmp_path / "x.key").write_bytes(b"first")
    with pytest.raises(CertificateError, match=r"x\.key: exists already"):
        write_file(tmp_path / "x.key", b"second", mode=PRIVATE, force=False)
    assert (tmp_path / "x.key").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["x.key"]


def test_a_replaced_file_gets_the_new_permissions(tmp_path: Path) -> None:
    (tmp_path / "x.key").write_bytes(b"first")
    (tmp_path / "x.key").chmod(0o644)
    write_file(tmp_path / "x.key", b"second", mode=PRIVATE, force=True)
    assert (tmp_path / "x.key").read_bytes() == b"second"
    assert stat.S_IMODE((tmp_path / "x.key").stat().st_mode) == 0o600


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CertificateError, match=r"x\.key: cannot be written"):
        write_file(tmp_path / "file" / "x.key", b"secret", mode=PRIVATE, force=False)


def test_a_broken_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "x.key").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CertificateError, match="--force"):
        refuse_existing(tmp_path / "x.key")


@pytest.mark.parametrize("force", [True, False])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CertificateError, match="No space left on device"):
        write_file(tmp_path / "x.key", b"secret", mode=PRIVATE, force=force)
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_made_once_by_whoever_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ids.key"
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(open_secret, [path] * 32))
    assert made == {path.read_bytes()}
    assert len(path.read_bytes()) == SECRET_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == PRIVATE
    assert [each.name for each in path.parent.iterdir()] == ["ids.key"]
    assert open_secret(tmp_path / "other.key") not in made


def test_a_secret_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids.key"
    secret = open_secret(path)
    path.chmod(0o640)
    with pytest.raises(PermissionError, match=f"chmod 600 {path}"):
        open_secret(path)
    path.write_bytes(secret[1:])
    path.chmod(0o600)
    with pytest.raises(CertificateError, match="a key of another kind"):
        open_secret(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CertificateError, match="cannot be written"):
        open_secret(tmp_path / "file" / "ids.key")
