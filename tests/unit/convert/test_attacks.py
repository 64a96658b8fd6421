"""Files made to attack: nothing in them is ever called, and each gets an error that names what is wrong.

A process of its own reads all of them, with a hook that the interpreter tells of whatever it does: imports, opened
files, started processes, compiled code, found classes. No list of bad names is looked for: nothing at all may happen.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.convert.read import read_model_file
from fedpredict.errors import ConversionError, ModelFileError, UnsupportedModelError
from tests.linear_parts import linear
from tests.unit.convert.attack_pickles import ALL, CONTAINED, FIRING, popped
from tests.unit.convert.support import options_for

ROOT = Path(__file__).parents[3]

READS = """
import json, pathlib, sys, warnings
from fedpredict.convert.child import read_either
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.errors import FedPredictError
from tests.unit.convert.attack_pickles import ALL

canaries = pathlib.Path(sys.argv[1])
files = {name: attack.payload(str(canaries / name)) for name, attack in ALL.items()}
limits = Limits(operations=100_000, unpacked_bytes=2**22, array_bytes=2**22)
warnings.simplefilter("error")
happened = []
armed = False

def hook(event, arguments):
    if armed:
        happened.append(event)

def read(data):
    try:
        read_either(data, ReadOptions(), limits)
    except FedPredictError as error:
        return type(error).__name__, str(error)
    except BaseException as error:
        return "ESCAPED " + type(error).__name__, str(error)
    return "READ", ""

for name in ("global_reduce", "torch", "gzip"):  # what is imported at the first use is imported now
    read(files[name])
sys.addaudithook(hook)
told = {}
for name, data in files.items():
    happened.clear()
    armed = True
    outcome = read(data)
    armed = False
    told[name] = [*outcome, sorted(set(happened))]
armed = True
eval("1")
armed = False
told["the hook works"] = ["", "", sorted(set(happened))]
print(json.dumps(told))
"""

FIRES = """
import json, os, pathlib, sys
import numpy, joblib, sklearn.linear_model._logistic
from tests.unit.convert.attack_pickles import FIRING, loads_with_everything
canaries = pathlib.Path(sys.argv[1])
told = {}
for name, attack in FIRING.items():
    canary = canaries / name
    try:
        loads_with_everything(attack.payload(str(canary)))
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"
for name in [*FIRING]:
    if name == "popen":
        import time
        for _ in range(3000):
            if (canaries / name).exists():
                break
            time.sleep(0.01)
print(json.dumps(told))
"""


def told_by(script: str, canaries: Path) -> dict[str, Any]:
    found = subprocess.run(
        [sys.executable, "-c", script, str(canaries)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    told: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canaries")


@pytest.fixture(scope="module")
def told(canaries: Path) -> dict[str, Any]:
    return told_by(READS, canaries)


@pytest.mark.parametrize("name", sorted(ALL))
def test_nothing_is_called_and_the_error_names_what_is_wrong(name: str, told: dict[str, Any], canaries: Path) -> None:
    error, message, happened = told[name]

    assert error in {"ModelFileError", "UnsupportedModelError", "ModelConflictError", "FeatureNamesError"}, message
    assert happened == []
    assert not (canaries / name).exists()
    assert ALL[name].told
    assert re.search(ALL[name].told, message), message
    assert len(message) < 1000


def test_the_hook_would_have_seen_it(told: dict[str, Any]) -> None:
    assert set(told["the hook works"][2]) >= {"compile", "exec"}


def test_python_itself_runs_them_all(tmp_path: Path) -> None:
    told = told_by(FIRES, tmp_path)

    assert [name for name in FIRING if not (tmp_path / name).exists()] == [], told


@pytest.mark.parametrize("name", ["build_setstate", "memo_overwritten", "joblib_xz", "torch", "loads_of_loads"])
def test_nor_by_the_process_that_reads_for_commands(name: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "model.pkl", tmp_path / "canary"
    path.write_bytes(ALL[name].payload(str(canary)))

    with pytest.raises((ModelFileError, UnsupportedModelError), match=ALL[name].told):
        read_model_file(path)
    assert not canary.exists()


def test_a_call_that_is_thrown_away_leaves_the_model_as_it_is(tmp_path: Path, small_pickle: bytes) -> None:
    canary = tmp_path / "canary"

    reading = read_content(popped(str(canary), small_pickle), options_for(2), Limits())

    sound = read_content(small_pickle, options_for(2), Limits())
    assert (linear(reading.partial.part).weights == linear(sound.partial.part).weights).all()
    assert not canary.exists()


@pytest.mark.parametrize("name", sorted({*FIRING, *CONTAINED} - {name for name in CONTAINED if name.endswith("bomb")}))
def test_cut_at_any_byte_they_are_refused(name: str, tmp_path: Path) -> None:
    data = ALL[name].payload(str(tmp_path / "canary"))
    limits = Limits(operations=100_000, unpacked_bytes=2**22, array_bytes=2**22)

    for length in range(min(len(data), 600)):
        with pytest.raises(ConversionError):
            read_content(data[:length], options_for(2), limits)
    assert not (tmp_path / "canary").exists()
