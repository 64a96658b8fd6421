"""Compiles the kernels (trees, hashes): a hatchling hook, and `python hatch_build.py` for a checkout on PYTHONPATH."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # by hand, where nothing is packaged
    BuildHookInterface = object

FOLDER = "fedpredict/model/kernel"
LIBRARIES = {"libtrees.so": "trees.c", "libmd5.so": "md5.c", "liblines.so": "lines.c"}
"""Each is made of one source."""
# No flags for the machine at hand, because wheels travel; no contraction and no fast mathematics, because sums must be
# those of the training libraries.
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=default", "-Wall", "-Wextra")


class BuildError(Exception):
    """A kernel cannot be compiled; the message says what to install."""


class KernelHook(BuildHookInterface):
    """Puts the compiled kernels into wheels, and into the source tree for editable installations."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tag the wheel for this platform."""
        root = Path(self.root)
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        try:
            if version == "editable":
                compile_kernels(root, root / FOLDER)
                return
            self._folder = tempfile.TemporaryDirectory()  # a source tree may be read-only, or another machine's
            made = Path(self._folder.name)
            compile_kernels(root, made)
        except BuildError as error:
            self.app.abort(str(error))
        for name in LIBRARIES:
            build_data["force_include"][str(made / name)] = f"{FOLDER}/{name}"


def compile_kernels(root: Path, folder: Path) -> None:
    """Compile the kernels' sources under `root` into `folder`, each whole or not at all.

    Raises:
        BuildError: There is no compiler, or it fails.
    """
    for name, source in LIBRARIES.items():
        _compile(root / FOLDER / source, folder / name)


def _compile(source: Path, library: Path) -> None:
    """Compile one source into a library.

    Raises:
        BuildError: There is no compiler, or it fails.
    """
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [*_compiler(), *FLAGS, f'-DFP_SOURCE="{digest}"', str(source), "-o", str(made), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            failure = done.stderr if done.returncode else None
        except OSError as error:
            failure = str(error)
        if failure is not None:
            raise BuildError(
                f"fedpredict's kernel {source.name} does not compile; it needs a C compiler and the C library's "
                f"headers (on Debian: apt-get install gcc libc6-dev).\n{shlex.join(command)}\n{failure}"
            )
        made.replace(library)


def _compiler() -> list[str]:
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc"):
        if shutil.which(name):
            return [name]
    raise BuildError(
        "fedpredict's kernels need a C compiler, and there is none: install one and the C library's headers "
        "(on Debian: apt-get install gcc libc6-dev), or name yours in CC"
    )


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    try:
        compile_kernels(here, here / FOLDER)
    except BuildError as error:
        sys.exit(str(error))
