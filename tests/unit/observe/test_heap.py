"""Freed memory goes back to the operating system, and when."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from fedpredict.observe import heap
from fedpredict.observe.heap import (
    GROWN_BYTES,
    MAX_PAUSE,
    STEADY_BYTES,
    HeapKeeper,
    give_back_memory,
    giving_back,
    own_bytes,
)

MB = 1 << 20
ON_GLIBC = hasattr(ctypes.CDLL(None), "mallopt")
glibc = pytest.mark.skipif(not ON_GLIBC, reason="other C libraries have neither of these calls")

COUNT_HEAPS = """
import ctypes, re, sys, threading
from fedpredict.observe.heap import share_heap
if sys.argv[1] == "shared":
    share_heap()
started, told = threading.Barrier(9), threading.Event()
def work():
    kept = [bytearray(1000) for _ in range(100)]  # what is larger than 512 bytes is the C library's to give
    started.wait()
    told.wait()
for _ in range(8):
    threading.Thread(target=work).start()
started.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
told.set()
print(len(re.findall("<heap nr=", open(sys.argv[2]).read())))
"""


class Process:
    """What a process has, as the test says."""

    def __init__(self, has: int = 100 * MB) -> None:
        self.has = has
        self.free = 0
        self.given_back = 0
        self.keeper = HeapKeeper(lambda: self.has, self.give_back)

    def give_back(self) -> None:
        self.given_back += 1
        self.has -= self.free
        self.free = 0

    def looks_at(self, *has: int) -> int:
        """Look once at each, and return how often memory was given back so far."""
        for each in has:
            self.has = each
            self.keeper.look()
        return self.given_back


@glibc
def test_what_is_freed_goes_back_although_something_behind_it_is_kept() -> None:
    before = own_bytes()
    blocks = [bytes(600) for _ in range(100_000)]
    full = own_bytes()
    kept = blocks[-1]
    del blocks

    give_back_memory()

    assert kept
    assert full - before > 30 * MB
    assert own_bytes() - before < 30 * MB


@glibc
@pytest.mark.parametrize(("way", "share"), [("shared", True), ("as it is", False)])
def test_threads_share_one_heap(way: str, share: bool, tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", COUNT_HEAPS, way, str(tmp_path / "heaps.xml")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )

    assert (int(found.stdout) == 1) is share


def test_memory_is_given_back_when_a_process_that_has_grown_grows_no_longer() -> None:
    process = Process(100 * MB)

    assert process.looks_at(120 * MB, 140 * MB) == 0
    process.free = 35 * MB
    assert process.looks_at(140 * MB + STEADY_BYTES // 2) == 1


def test_memory_that_is_needed_is_tried_to_be_given_back_ever_more_seldom() -> None:
    process = Process(100 * MB)
    tries = []
    for look in range(1, 400):
        before = process.given_back
        if process.looks_at(140 * MB) > before:
            tries.append(look)

    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses[:3] == [2, 3, 5]
    assert pauses[-1] == MAX_PAUSE + 1
    assert len(tries) < 15


def test_a_second_burst_does_not_wait_for_the_next_attempt() -> None:
    process = Process(100 * MB)
    process.looks_at(*[140 * MB] * 50)
    before = process.given_back

    assert process.looks_at(160 * MB, 160 * MB) == before + 1


def test_a_process_that_is_small_again_starts_afresh() -> None:
    process = Process(100 * MB)
    process.looks_at(*[140 * MB] * 50, 100 * MB)
    before = process.given_back

    assert process.looks_at(110 * MB, 110 * MB, 110 * MB, 110 * MB) == before + 2


def test_what_a_process_has_shrunk_to_is_what_it_is_compared_with() -> None:
    process = Process(100 * MB)

    assert process.looks_at(80 * MB, 95 * MB, 95 * MB) == 1


def test_a_process_that_grows_little_is_left_alone() -> None:
    process = Process(100 * MB)

    assert process.looks_at(*[100 * MB + GROWN_BYTES] * 3) == 0


async def test_the_loop_looks_again_and_again_until_the_end_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    loop = asyncio.get_running_loop()

    def own() -> int:
        looks.append(loop.time())
        return 0

    monkeypatch.setattr(heap, "LOOK_S", 0.001)
    monkeypatch.setattr(heap, "own_bytes", own)
    with giving_back():
        async with asyncio.timeout(10.0):
            while len(looks) < 4:  # the first of them at the start
                await asyncio.sleep(0)
    n_looks = len(looks)
    await asyncio.sleep(0.01)

    assert len(looks) == n_looks
