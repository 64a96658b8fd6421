"""What the reading process can no longer do, whatever runs in it: a real one tries, and says how it went."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedpredict.convert import syscalls
from fedpredict.convert.options import Limits
from fedpredict.convert.read import read_model_file
from fedpredict.errors import ModelFileError

TRIES = """
import ctypes, json, os, resource, signal, socket, sys, threading
sys.path[:] = json.loads(sys.argv[1])
import numpy
from fedpredict.convert import confine
CHANGES
isolated = confine.confine(2**30, 5)
def fails(action):
    try:
        action()
    except (OSError, RuntimeError, MemoryError) as error:
        return type(error).__name__
    return ""
def write(path, flags):
    os.write(os.open(path, flags, 0o600), b"x")
def open_many():
    opened = []
    try:
        for _ in range(40):
            opened.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for each in opened:
            os.close(each)
libc = ctypes.CDLL(None, use_errno=True)
def fork():
    if libc.fork() == 0:
        libc._exit(0)
    elif ctypes.get_errno():
        raise OSError
tries = {
    "connect": lambda: socket.create_connection(("127.0.0.1", PORT), 1),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT)),
    "local socket": lambda: socket.socketpair(),
    "create": lambda: write("FOLDER/written", os.O_CREAT | os.O_WRONLY),
    "create here": lambda: write("written", os.O_CREAT | os.O_WRONLY),
    "overwrite": lambda: write("FOLDER/victim", os.O_WRONLY),
    "truncate by opening": lambda: os.open("FOLDER/victim", os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda: os.truncate("FOLDER/victim", 0),
    "remove": lambda: os.unlink("FOLDER/victim"),
    "rename": lambda: os.rename("FOLDER/victim", "FOLDER/moved"),
    "link": lambda: os.symlink("/", "FOLDER/linked"),
    "change mode": lambda: os.chmod("FOLDER/victim", 0o777),
    "make a folder": lambda: os.mkdir("FOLDER/made"),
    "many descriptors": open_many,
    "memory": lambda: bytearray(2**31),
    "fork": fork,
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "start a thread": lambda: threading.Thread(target=print).start(),
    "signal": lambda: os.kill(PARENT, 0),
    "raise the limit": lambda: resource.prlimit(0, resource.RLIMIT_FSIZE, (1, 1)),
    "read": lambda: open("FOLDER/victim").read(),
}
told = {
    "failed": {name: fails(action) for name, action in tries.items() if name in NAMES or not NAMES},
    "limits": [resource.getrlimit(each)[0] for each in (resource.RLIMIT_CORE, resource.RLIMIT_AS,
        resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)],
    "environment": sorted(os.environ), "isolated": isolated, "folder": os.getcwd(),
    "there": os.listdir("."), "mode": os.stat(".").st_mode & 0o777,
}
print(json.dumps({"error": "ModelFileError", "message": json.dumps(told)}))
"""
NO_FILTER = "confine.give_up_system_calls = lambda: False"
NO_NAMESPACE = "confine._leave_network = lambda: False"
FILTERED = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "aarch64"}, reason="the filter knows no other processor's system calls"
)


LIMITED = ("connect", "create", "overwrite", "many descriptors", "memory", "read")
"""What is tried where the filter is left out: nothing that would do harm then."""


def told_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: str = "", names: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Run the attempts, or those of some names, in a real reading process, and return what it says."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"N.")
    (tmp_path / "victim").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = TRIES.replace("PORT", str(server.getsockname()[1])).replace("FOLDER", str(tmp_path))
        start = start.replace("CHANGES", changes).replace("NAMES", str(names)).replace("PARENT", str(os.getpid()))
        monkeypatch.setattr("fedpredict.convert.sandbox._START", start)
        with pytest.raises(ModelFileError) as raised:
            read_model_file(path)
    assert (tmp_path / "victim").read_text() == "kept"
    assert not (tmp_path / "written").exists() or (tmp_path / "written").read_bytes() == b""
    told: dict[str, Any] = json.loads(str(raised.value).split(": ", 1)[1])
    return told


@FILTERED
@pytest.mark.parametrize("changes", ["", NO_NAMESPACE], ids=["all", "filter alone"])
def test_nothing_reaches_the_network_another_process_or_a_file(
    changes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = told_by(tmp_path, monkeypatch, changes)

    assert told["isolated"]
    assert [name for name, error in told["failed"].items() if not error] == ["read"]


def test_limits_and_an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_by(tmp_path, monkeypatch)

    assert told["limits"] == [0, 2**30, 5, 0, 32, 0]
    assert set(told["environment"]) <= {
        *("LC_ALL", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TMPDIR")
    }


def test_a_folder_of_its_own_that_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_by(tmp_path, monkeypatch)

    assert "fedpredict-reading-" in told["folder"]
    assert (told["there"], told["mode"]) == ([], 0o700)
    assert not Path(told["folder"]).exists()


def test_where_no_folder_can_be_made_the_file_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedpredict.convert.sandbox.tempfile.TemporaryDirectory", full)

    assert told_by(tmp_path, monkeypatch)["folder"] == "/"


def test_without_namespace_and_filter_it_says_that_the_network_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = told_by(tmp_path, monkeypatch, f"{NO_FILTER}; {NO_NAMESPACE}", LIMITED)

    assert not told["isolated"]
    assert told["failed"]["connect"] == ""
    # what the limits alone still take away
    assert told["failed"]["overwrite"]
    assert told["failed"]["many descriptors"]
    assert told["failed"]["memory"]


def test_the_namespace_alone_takes_the_network_away_where_the_kernel_gives_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = told_by(tmp_path, monkeypatch, NO_FILTER, LIMITED)

    assert bool(told["failed"]["connect"]) is told["isolated"]


def test_a_processor_whose_calls_are_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strange:
        machine = "pdp11"

    monkeypatch.setattr("fedpredict.convert.syscalls.os.uname", Strange)

    assert not syscalls.give_up_system_calls()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the second set of numbers is x86_64's")
def test_the_second_set_of_numbers_leads_nowhere() -> None:
    code = """
import ctypes
from fedpredict.convert.syscalls import give_up_system_calls
libc = ctypes.CDLL(None, use_errno=True)
assert give_up_system_calls()
print(libc.syscall(0x40000000 + 41, 2, 1, 0), ctypes.get_errno())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.split() == ["-1", "1"]


LOOPS = "import json, sys; sys.path[:] = json.loads(sys.argv[1])\nfrom fedpredict.convert.confine import confine\n"


def test_a_process_that_loops_is_ended_by_its_processor_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"N.")
    monkeypatch.setattr("fedpredict.convert.sandbox._START", f"{LOOPS}confine(2**31, 1)\nwhile True: pass")

    with pytest.raises(ModelFileError, match="processor time"):
        read_model_file(path, limits=Limits(cpu_s=1))


def test_a_process_that_sleeps_is_killed_at_its_deadline_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pids = tmp_path / "model.pkl", tmp_path / "pids"
    path.write_bytes(b"N.")
    start = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    monkeypatch.setattr("fedpredict.convert.sandbox._START", start)

    with pytest.raises(ModelFileError, match="longer than 3 seconds"):
        read_model_file(path, limits=Limits(wall_s=3))

    state, ends = Path(f"/proc/{pids.read_text()}/stat"), time.monotonic() + 30.0
    while _runs(state) and time.monotonic() < ends:  # it was told to end, and does when it gets a processor
        time.sleep(0.01)
    assert not _runs(state)


def _runs(state: Path) -> bool:
    try:
        return state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
