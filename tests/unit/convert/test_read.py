"""Reading through the confined process: files of every sort, and what becomes of the process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.convert.portable import to_portable
from fedpredict.convert.read import read_model_file
from fedpredict.convert.split import split_model
from fedpredict.convert.write import write_partial
from fedpredict.errors import (
    ConfigError,
    FeatureNamesError,
    ModelConflictError,
    ModelFileError,
    NameRefusedError,
    UnsupportedModelError,
    VerificationError,
)
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel, VerificationRows
from tests.linear_parts import linear
from tests.unit.convert.support import options_for
from tests.unit.convert.test_unpickle import attacks


def partial(**changes: Any) -> PartialModel:
    part = LinearPart(("a", "b"), np.array([[0.1], [-2.5e-310]]), np.array([-0.0]), np.array([1e308]))
    given: dict[str, Any] = {"part": part, "kind": Kind.LINEAR, "classes": (), "fit_intercept": True}
    return PartialModel(**{"model_id": "m", "training_run": "r", "party": "p", **given, **changes})


def test_a_scikit_learn_file_is_read_by_a_confined_process(tmp_path: Path, small_pickle: bytes) -> None:
    path = tmp_path / "model.whatever"
    path.write_bytes(small_pickle)
    model: LogisticRegression = pickle.loads(small_pickle)

    result = read_model_file(path, options_for(2))

    assert (linear(result.partial.part).weights == model.coef_.T).all()
    assert result.source_sha256 == hashlib.sha256(small_pickle).hexdigest()
    assert result.source.startswith("scikit-learn 1.")
    assert result.feature_constants is not None
    assert result.feature_constants.shape == (2, 1)


@pytest.mark.parametrize("name", ["part.pkl", "part.json"])
def test_a_written_part_reads_back_bit_equal(name: str, tmp_path: Path) -> None:
    rows = VerificationRows(np.array([[1.0, 2.0]]), np.array([[1e308]]))
    path = tmp_path / name

    write_partial(path, partial(verification=rows, metadata={"note": "größer"}))
    result = read_model_file(path)

    assert to_portable(result.partial) == to_portable(partial(verification=rows, metadata={"note": "größer"}))
    assert linear(result.partial.part).weights.tobytes() == linear(partial().part).weights.tobytes()
    assert str(result.partial.part.intercept) == "[-0.]"
    assert result.feature_constants is None
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_pickled_part_is_plain_python(tmp_path: Path) -> None:
    write_partial(tmp_path / "part.pkl", partial())

    assert pickle.loads((tmp_path / "part.pkl").read_bytes()) == to_portable(partial())


def test_a_file_of_a_cut_model_with_rows_is_verified(tmp_path: Path) -> None:
    parts = split_model(partial(), {"x": ["a"], "y": ["b"]}, "x", rows=np.array([[1.0, 2.0], [3.0, 4.0]]))
    write_partial(tmp_path / "y.pkl", parts["y"])

    assert read_model_file(tmp_path / "y.pkl").partial.verification is not None


def test_verification_rows_that_give_other_scores_are_an_error(tmp_path: Path) -> None:
    small = LinearPart(("a", "b"), np.array([[1.0], [2.0]]), np.array([0.0]), np.array([0.0]))
    for off, accepted in ((1e-11, True), (1e-8, False)):
        rows = VerificationRows(np.array([[1.0, 2.0]]), np.array([[5.0 + off]]))
        write_partial(tmp_path / "part.json", partial(part=small, verification=rows))
        if accepted:
            read_model_file(tmp_path / "part.json")
        else:
            with pytest.raises(VerificationError, match=r"part\.json.*off by 1e-08"):
                read_model_file(tmp_path / "part.json")


def test_errors_of_the_reading_process_arrive_with_type_names_and_path(tmp_path: Path, small_pickle: bytes) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(small_pickle)
    with pytest.raises(FeatureNamesError, match=r"model\.pkl.*--features"):
        read_model_file(path, options_for(2, features=None))
    with pytest.raises(FeatureNamesError) as raised:
        read_model_file(path, options_for(2, features=("a", "A")))
    assert raised.value.names == ("a", "A")
    with pytest.raises(ModelConflictError, match="hold none"):
        read_model_file(path, options_for(2, holds_intercept=False))
    with pytest.raises(NameRefusedError, match="party id"):
        read_model_file(path, options_for(2, party="A B"))
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(UnsupportedModelError, match="holds a list"):
        read_model_file(path)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello, I am a text\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    os.mkfifo(tmp_path / "pipe")
    for name, told in (
        ("empty", "empty"),
        ("text", "neither a pickle nor"),
        ("binary", "neither a pickle nor"),
        ("pipe", "device, pipe or socket"),
        ("missing", "no such file"),
        (".", "directory"),
        ("nul\0", "NUL"),
    ):
        with pytest.raises(ModelFileError, match=told):
            read_model_file(tmp_path / name)
    with pytest.raises(ModelFileError, match="device"):
        read_model_file(Path("/dev/zero"))


def test_a_file_of_two_gigabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "large.pkl"
    path.touch()
    os.truncate(path, 2 * 2**30)

    with pytest.raises(ModelFileError, match="2147483648 bytes; the limit is 536870912: make the model smaller"):
        read_model_file(path)


@pytest.mark.parametrize("kind", ["stack_global", "global", "inst", "newobj_ex", "builtins"])
def test_an_attack_runs_nothing(kind: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.pkl", tmp_path / "marker"
    path.write_bytes(attacks(marker)[kind])

    with pytest.raises(UnsupportedModelError, match=r"posix\.system|builtins\.eval"):
        read_model_file(path)
    assert not marker.exists()


def test_a_tuple_five_million_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.pkl"
    path.write_bytes(b"})" + b"\x85" * 5_000_000 + b"Ns.")

    with pytest.raises(ModelFileError, match="1000000 operations"):
        read_model_file(path, limits=Limits(operations=1_000_000))


@pytest.mark.parametrize(
    "changes", [{"weights": {"f\ud800": 1.0}}, {"classes": ["no", "\udfff"]}, {"metadata": {"by": "\ud83d"}}]
)
def test_half_a_character_is_refused_because_no_table_can_hold_it(changes: dict[str, Any], tmp_path: Path) -> None:
    content = {"format": "fedpredict-partial-1", "model_id": "m", "training_run": "r", "party": "bank",
               "kind": "binary", "classes": ["no", "yes"], "weights": {"f": 1.0}, "fit_intercept": False}  # fmt: skip
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content | {"metadata": {"whole": "\U0001f600", "escaped": "\\ud800"}}))
    assert read_model_file(path).partial.metadata["whole"] == "\U0001f600"

    path.write_text(json.dumps(content | changes))

    with pytest.raises(ModelFileError, match="half a character"):
        read_model_file(path)


def test_too_much_memory_is_an_error_here_and_not_a_dead_process(tmp_path: Path) -> None:
    path = tmp_path / "memory.pkl"
    path.write_bytes(b"(" + b"]" * 3_000_000 + b"l.")

    with pytest.raises(ModelFileError, match=r"memory|reading process"):
        read_model_file(path, limits=Limits(memory_bytes=300 * 2**20))


def test_too_much_processor_time_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "slow.pkl"
    path.write_bytes(b"N0" * 40_000_000 + b"N.")

    with pytest.raises(ModelFileError, match="1 seconds of processor time: make the model smaller"):
        read_model_file(path, limits=Limits(cpu_s=1, operations=10**9))


def test_too_long_on_the_clock_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "slow.pkl"
    path.write_bytes(b"N0" * 40_000_000 + b"N.")

    with pytest.raises(ModelFileError, match="longer than 1 seconds and was stopped: make the model smaller"):
        read_model_file(path, limits=Limits(wall_s=1, operations=10**9))


def test_a_process_that_cannot_start_says_why(tmp_path: Path, small_pickle: bytes, monkeypatch: Any) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(small_pickle)
    monkeypatch.setattr("fedpredict.convert.sandbox._START", "raise SystemExit('no numpy here')")

    with pytest.raises(ModelFileError, match="ended with code 1: 'no numpy here'"):
        read_model_file(path)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        ("print('[]')", "no answer"),
        ("print('nonsense')", "no answer"),
        ("print('{}')", "changed while it was read"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ('print(\'{"error": "Unknown", "message": "m"}\')', ": m"),
    ],
)
def test_whatever_the_process_does_the_answer_is_checked(
    start: str, told: str, tmp_path: Path, small_pickle: bytes, monkeypatch: Any
) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(small_pickle)
    monkeypatch.setattr("fedpredict.convert.sandbox._START", start)

    with pytest.raises(ModelFileError, match=told):
        read_model_file(path)


@pytest.mark.parametrize(
    ("answer", "told"), [({}, "no model"), ({"partial": 1}, "no model"), ({"feature_constants": [1]}, "constants")]
)
def test_an_answer_of_another_shape_is_refused(
    answer: dict[str, Any], told: str, tmp_path: Path, small_pickle: bytes, monkeypatch: Any
) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(small_pickle)
    given = {"source_sha256": hashlib.sha256(small_pickle).hexdigest(), "source": "x", **answer}
    if "feature_constants" in answer:
        given["partial"] = to_portable(partial())
    monkeypatch.setattr("fedpredict.convert.sandbox._START", f"print({json.dumps(given)!r})")

    with pytest.raises(ModelFileError, match=told):
        read_model_file(path)


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="cpu_s"):
        Limits(cpu_s=0)


def test_a_reading_is_logged_without_content(tmp_path: Path, caplog: Any) -> None:
    write_partial(tmp_path / "part.json", partial())

    with caplog.at_level(logging.INFO):
        read_model_file(tmp_path / "part.json", ReadOptions())

    records = [record for record in caplog.records if record.name == "fedpredict.convert.read"]
    assert [record.getMessage() for record in records] == ["model_file.read"]
