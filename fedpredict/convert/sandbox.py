"""Runs the reading of a model file in a process of its own, and says what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import fedpredict
from fedpredict.convert.options import SMALLER, Limits, ReadOptions
from fedpredict.errors import (
    FeatureNamesError,
    FedPredictError,
    ModelConflictError,
    ModelFileError,
    NameRefusedError,
    UnsupportedModelError,
)

_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from fedpredict.convert.child import main; main()"
"""Isolated mode ignores PYTHONPATH and the working directory: the child imports from where this process does."""

_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""All that the child knows of the environment. One thread, because every thread reserves address space, and because
only a process of one thread may leave the network."""

_ERRORS: dict[str, type[FedPredictError]] = {
    error.__name__: error for error in (ModelFileError, UnsupportedModelError, ModelConflictError, NameRefusedError)
}


def run_child(descriptor: int, options: ReadOptions, limits: Limits) -> dict[str, object]:
    """Return the child's answer for the model file behind an open descriptor.

    Args:
        descriptor: Of a regular file, at its first byte.
        options: What the operator adds.
        limits: What reading may cost.

    Returns:
        `source`, `source_sha256`, `network_isolated`; and `partial` (portable) with `feature_constants`, or
        `head` (portable).

    Raises:
        ConversionError: What the child refused the file for, or that it ended without an answer.
        NameRefusedError: A model id or party id breaks the naming rules.
    """
    request = json.dumps({"descriptor": descriptor, "options": asdict(options), "limits": asdict(limits)}).encode()
    with _own_folder() as folder, _started(descriptor, folder) as child:
        try:
            output, complaint = child.communicate(request, timeout=limits.wall_s)
        except subprocess.TimeoutExpired as error:
            raise ModelFileError(
                f"reading the file took longer than {limits.wall_s} seconds and was stopped: {SMALLER}"
            ) from error
        finally:
            _kill(child)
    if child.returncode != 0:
        raise ModelFileError(_end_of(child.returncode, complaint, limits))
    return _checked(output)


@contextlib.contextmanager
def _own_folder() -> Iterator[str]:
    """A temporary directory of the child's own, which goes with it; "/", nobody's, where a full disk has room for none.

    The child cannot write into it either. It is there so that a name without a path is no file of anybody's.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="fedpredict-reading-", ignore_cleanup_errors=True)
    except OSError:
        yield "/"
        return
    with folder as name:
        yield name


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child, if it is still there, with all that it may have started."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)


def _started(descriptor: int, folder: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", "-B", "-c", _START, json.dumps(_import_path())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(descriptor,),
        cwd=folder,
        env=_ENVIRONMENT | {"TMPDIR": folder},
        start_new_session=True,
    )


def _import_path() -> list[str]:
    """Where this process imports from, absolute, with the package's own folder first."""
    home = str(Path(fedpredict.__file__).resolve().parent.parent)
    return [home, *(str(Path(entry).resolve()) for entry in sys.path if entry and entry != home)]


def _end_of(code: int, complaint: bytes, limits: Limits) -> str:
    """Why there is no answer: a signal, or the interpreter did not start (then its last line says why)."""
    if code >= 0:
        lines = complaint.decode("utf-8", "replace").strip().splitlines()
        return f"the reading process ended with code {code}: {ascii(lines[-1][:200]) if lines else 'no message'}"
    if -code == signal.SIGXCPU:
        return f"reading the file takes more than {limits.cpu_s} seconds of processor time: {SMALLER}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    return f"the reading process was ended by {name} (out of memory, or a file made to attack)"


def _checked(output: bytes) -> dict[str, object]:
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise ModelFileError("the reading process gave no answer") from error
    if not isinstance(answer, dict):
        raise ModelFileError("the reading process gave no answer")
    if "error" in answer:
        raise _error(answer)
    return answer


def _error(answer: dict[str, object]) -> FedPredictError:
    message, names = str(answer.get("message", "")), answer.get("names")
    if answer["error"] == FeatureNamesError.__name__:
        return FeatureNamesError(message, names=[str(name) for name in names] if isinstance(names, list) else [])
    return _ERRORS.get(str(answer["error"]), ModelFileError)(message)
