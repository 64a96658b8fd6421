"""Fuzzing: a target is fed seeds and mutations of them, in a process of its own, and whatever escapes is told.

`python -m tests.fuzz.engine TARGET` runs one; see CONTRIBUTING.md. A target's function raises `FedPredictError` (or
nothing) for every input; anything else, an input that takes too long, or the end of the process is a finding, and its
input is kept and printed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fedpredict.errors import FedPredictError
from tests.fuzz.mutate import mutated

CORPUS = Path(__file__).parent / "corpus"
"""Folder of a target -> inputs that once were findings; the seeds are made by the targets themselves."""

MAX_INPUT_BYTES = 64 * 1024
SLOW_CPU_S = 20
"""Seconds of processor time that no input of that size may take."""
MEMORY_BYTES = 6 * 2**30
_LENGTH_BYTES = 8
_ROOT = Path(__file__).parents[2]


class SlowError(BaseException):
    """An input took too much processor time."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        seeds: Good inputs, and bad ones of note.
        run: Takes one input; raises `FedPredictError` where it is refused.
        words: Bytes that inputs of this kind are made of.
    """

    seeds: Sequence[bytes]
    run: Callable[[bytes], object]
    words: Sequence[bytes] = ()


def corpus(name: str, target: Target) -> list[bytes]:
    """Return the seeds and the earlier findings of a target."""
    return [*target.seeds, *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]


def check(target: Target, data: bytes) -> None:
    """Run one input; what the documented errors are is no finding."""
    signal.setitimer(signal.ITIMER_PROF, SLOW_CPU_S)
    try:
        target.run(data)
    except FedPredictError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def inputs(name: str, target: Target, seed: int) -> Iterator[bytes]:
    """Give the corpus, then mutations without end; the same ones for the same seed."""
    found = corpus(name, target)
    yield from found
    source = random.Random(seed)
    while True:
        yield mutated(source, found, target.words)[:MAX_INPUT_BYTES]


def run_here(name: str, target: Target, seconds: float, seed: int, current: Path) -> int:
    """Feed a target for some seconds, with each input written to `current` before it is used; return how many."""
    signal.signal(signal.SIGPROF, _slow)
    current.write_bytes(bytes(_LENGTH_BYTES + MAX_INPUT_BYTES))
    n_inputs = 0
    with current.open("r+b") as file, mmap.mmap(file.fileno(), 0) as kept:
        ends, first = time.monotonic() + seconds, len(corpus(name, target))  # these, however slow the machine is
        for data in inputs(name, target, seed):
            kept[: _LENGTH_BYTES + len(data)] = len(data).to_bytes(_LENGTH_BYTES, "little") + data
            check(target, data)
            n_inputs += 1
            if n_inputs >= first and time.monotonic() >= ends:
                return n_inputs
    return n_inputs


def run_guided(name: str, seconds: float, current: Path) -> None:
    """Feed a target by atheris, which looks at what the code does; ends this process."""
    import atheris

    from tests.fuzz.targets import TARGETS

    with atheris.instrument_imports(include=["fedpredict"]):
        target = TARGETS[name]()
    signal.signal(signal.SIGPROF, _slow)
    folder = current.parent / "seeds"
    folder.mkdir(exist_ok=True)
    for data in corpus(name, target):
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    artifact = f"-exact_artifact_path={current.with_suffix('.found')}"
    limits = [f"-max_total_time={int(seconds)}", f"-max_len={MAX_INPUT_BYTES}", "-rss_limit_mb=6000", "-timeout=60"]
    atheris.Setup([name, *limits, artifact, str(folder)], lambda data: check(target, data))
    atheris.Fuzz()


def _slow(_signal: int, _frame: FrameType | None) -> None:
    raise SlowError(f"more than {SLOW_CPU_S} seconds of processor time")


def fuzz(name: str, folder: Path, *, seconds: float, seed: int = 0, guided: bool = False) -> str:
    """Fuzz a target in a process of its own; return what was found, empty where it is nothing.

    Args:
        name: Of `TARGETS`.
        folder: For the input at work; a finding stays there.
        seconds: How long.
        seed: Of the mutations.
        guided: Whether atheris chooses the inputs; it must be installed.
    """
    current = folder / "current"
    words = [name, "--seconds", str(seconds), "--seed", str(seed), "--current", str(current)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.engine", *words, *(["--guided"] if guided else [])],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=_ROOT,
        env={**os.environ, "TMPDIR": str(folder)},  # what targets write goes with the test's folder
        timeout=seconds + 600,
    )
    if done.returncode == 0:
        return ""
    data = _left(current)
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    shown = base64.b64encode(data).decode() if len(data) <= 2000 else f"{len(data)} bytes"
    return (
        f"{name} ended with {done.returncode}:\n{done.stderr[-4000:]}\ninput: {shown}\nkept in {path}; repeat it by\n"
        f"python -m tests.fuzz.engine {name} --input {path}\nand once it is mended put it into {CORPUS / name}"
    )


def _left(current: Path) -> bytes:
    found = current.with_suffix(".found")
    if found.exists():
        return found.read_bytes()
    data = current.read_bytes() if current.exists() else bytes(_LENGTH_BYTES)
    return data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")]


def main() -> None:
    """Run one target, or one input of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--current", type=Path, default=Path(tempfile.gettempdir()) / "fedpredict-fuzz-current")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--guided", action="store_true")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    if given.guided:
        run_guided(given.target, given.seconds, given.current)
    from tests.fuzz.targets import TARGETS

    target = TARGETS[given.target]()
    if given.input is not None:
        signal.signal(signal.SIGPROF, _slow)
        check(target, given.input.read_bytes())
        return
    n_inputs = run_here(given.target, target, given.seconds, given.seed, given.current)
    sys.stderr.write(f"{given.target}: {n_inputs} inputs\n")


if __name__ == "__main__":
    main()
