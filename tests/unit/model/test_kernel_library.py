"""The compiled libraries: a missing or foreign one says what to do; the build says what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedpredict.model.kernel import library, loading

SOURCES = ("lines.c", "md5.c", "trees.c")
BUILD = Path(__file__).parents[3] / "hatch_build.py"


def checkout(folder: Path) -> Path:
    """A copy of what the build reads; returns the folder of the kernel in it."""
    (folder / "hatch_build.py").write_bytes(BUILD.read_bytes())
    kernel = folder / "fedpredict/model/kernel"
    kernel.mkdir(parents=True)
    for name in SOURCES:
        (kernel / name).write_bytes((loading.FOLDER / name).read_bytes())
    return kernel


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "hatch_build.py")]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_a_missing_library_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"libtrees\.so is missing: .*hatch_build\.py.*gcc libc6-dev"):
        library.load(tmp_path)


def test_what_is_no_library_names_the_fix(tmp_path: Path) -> None:
    (tmp_path / "libtrees.so").write_bytes(b"of another machine")
    with pytest.raises(ImportError, match=r"cannot be loaded here .*hatch_build\.py"):
        library.load(tmp_path)


def test_a_library_of_another_source_is_refused_until_it_is_built_again(tmp_path: Path) -> None:
    kernel = checkout(tmp_path)
    assert build(tmp_path).returncode == 0
    library.load(kernel)
    loading.load(kernel, "md5", ())
    with (kernel / "trees.c").open("a") as source:
        source.write("\n")
    with pytest.raises(ImportError, match=r"not made from the trees\.c beside it"):
        library.load(kernel)


def test_without_a_compiler_the_build_names_the_packages_and_leaves_nothing(tmp_path: Path) -> None:
    kernel = checkout(tmp_path)
    (tmp_path / "bin").mkdir()
    done = build(tmp_path, PATH=str(tmp_path / "bin"), CC="")
    assert done.returncode == 1
    assert "apt-get install gcc libc6-dev" in done.stderr
    assert sorted(each.name for each in kernel.iterdir()) == list(SOURCES)


def test_a_compiler_that_fails_or_is_not_there_is_named(tmp_path: Path) -> None:
    kernel = checkout(tmp_path)
    for compiler in ("false", "no-such-compiler -m64"):
        done = build(tmp_path, CC=compiler)
        assert done.returncode == 1
        assert compiler in done.stderr
        assert "gcc libc6-dev" in done.stderr
        assert "Traceback" not in done.stderr
    assert sorted(each.name for each in kernel.iterdir()) == list(SOURCES)
