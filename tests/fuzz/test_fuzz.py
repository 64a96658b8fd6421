"""Every parser of what comes from outside takes whatever comes: an answer, or an error of the documented tree.

Here for some seconds each; in the further suite for a minute each, or for FEDPREDICT_FUZZ_S seconds, and from
FEDPREDICT_FUZZ_SEED on.
"""

from __future__ import annotations

import importlib.util
import os
import random
import secrets
import signal
from pathlib import Path

import pytest

from fedpredict.errors import ConfigError
from tests.fuzz.engine import CORPUS, MAX_INPUT_BYTES, Target, check, fuzz, run_here
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

SHORT_S = 3.0
LONG_S = float(os.environ.get("FEDPREDICT_FUZZ_S", "60"))
SEED = os.environ.get("FEDPREDICT_FUZZ_SEED", "1")
"""A number, or "random": what the suite finds should be of the change that it runs for, so it has always the same."""


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_whatever_comes_is_taken_or_refused(name: str, tmp_path: Path) -> None:
    found = fuzz(name, tmp_path, seconds=SHORT_S)

    assert not found, found


@pytest.mark.further
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_whatever_comes_is_taken_or_refused_for_long(name: str, tmp_path: Path) -> None:
    guided = importlib.util.find_spec("atheris") is not None

    found = fuzz(
        name, tmp_path, seconds=LONG_S, seed=secrets.randbits(32) if SEED == "random" else int(SEED), guided=guided
    )

    assert not found, found


def test_the_corpus_is_of_targets_that_there_are() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= set(TARGETS)


def test_the_whole_corpus_is_replayed_however_slow_the_machine_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus" / "some").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "corpus" / "some" / f"found-{number}").write_bytes(b"found %d" % number)
    monkeypatch.setattr("tests.fuzz.engine.CORPUS", tmp_path / "corpus")
    fed: list[bytes] = []
    before = signal.getsignal(signal.SIGPROF)

    try:
        assert run_here("some", Target([b"seed"], fed.append), 0.0, 0, tmp_path / "current") == 4
    finally:
        signal.signal(signal.SIGPROF, before)

    assert fed == [b"seed", b"found 0", b"found 1", b"found 2"]


def test_mutations_are_the_same_for_the_same_seed() -> None:
    made = [[mutated(random.Random(seed), [b"some", b"thing"], [b"word"]) for seed in range(200)] for _ in range(2)]

    assert made[0] == made[1]
    assert len(set(made[0])) > 150


def test_a_documented_error_is_no_finding_and_any_other_is() -> None:
    def refuses(_: bytes) -> None:
        raise ConfigError("no")

    def breaks(data: bytes) -> None:
        raise KeyError(data)

    check(Target([], refuses), b"x")
    with pytest.raises(KeyError):
        check(Target([], breaks), b"x")


def test_what_is_found_is_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"x" * 100
    (tmp_path / "current").write_bytes(len(data).to_bytes(8, "little") + data + bytes(MAX_INPUT_BYTES))
    monkeypatch.setattr("tests.fuzz.engine.sys.executable", "/bin/false")

    told = fuzz("pickles", tmp_path, seconds=0.0)

    assert "eHh4" in told
    [kept] = tmp_path.glob("pickles-*")
    assert kept.read_bytes() == data
    assert f"--input {kept}" in told
