"""Counts that processes share: exact, whoever asks where, and let go by a process that dies."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from fedpredict.errors import ConfigError
from fedpredict.security import rates as module
from fedpredict.security.pace import Pace
from fedpredict.security.rates import STUCK_NS, Rates, shared_rates

PACE = Pace(interval_ns=10**15, burst=500)
ASKING = """
import sys
from contextlib import closing
from pathlib import Path
from fedpredict.security.pace import Pace
from fedpredict.security.rates import Rates
with closing(Rates(Path(sys.argv[1]))) as rates:
    slot = rates.slot("bank")
    sys.stdin.read(1)
    print(sum(rates.take(slot, Pace(10**15, 500), 10**18) == 0 for _ in range(1_000)))
"""
HOLDING = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def start(program: str, path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", program, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_processes_that_ask_at_once_are_given_the_burst_together_and_no_call_more() -> None:
    with shared_rates() as path:
        asking = [start(ASKING, path) for _ in range(3)]

        taken = [int(each.communicate(b"x")[0]) for each in asking]

    assert sum(taken) == 500


def test_somebody_has_the_same_slot_in_every_process_and_nobody_anothers() -> None:
    names = [f"fedpredict://party/p{number}" for number in range(2_000)]
    with shared_rates() as path, closing(Rates(path)) as one, closing(Rates(path)) as other:
        slots = [one.slot(name) for name in names]

        assert [other.slot(name) for name in reversed(names)] == slots[::-1]
        assert len(set(slots)) == len(names)


def test_a_lock_that_is_not_let_go_refuses_and_that_of_a_dead_process_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TRIES", 3)
    with shared_rates() as path, closing(Rates(path)) as rates:
        slot = rates.slot("bank")
        holder = start(HOLDING, path)
        assert holder.stdout is not None
        holder.stdout.readline()

        assert rates.take(slot, PACE, 10**18) == STUCK_NS

        holder.kill()
        holder.communicate()
        assert rates.take(slot, PACE, 10**18) == 0


def test_a_process_alone_counts_each_for_itself() -> None:
    with closing(Rates()) as rates:
        bank, shop, pace = rates.slot("bank"), rates.slot("shop"), Pace(interval_ns=10, burst=1)

        assert [rates.take(slot, pace, 1_000) for slot in (bank, shop, bank)] == [0, 0, 10]


def test_the_file_goes_with_the_daemon() -> None:
    with shared_rates() as path:
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_the_clock_is_one_for_all_processes() -> None:
    before = time.monotonic_ns()
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.monotonic_ns())"], capture_output=True, check=True, text=True
    )

    assert before <= int(told.stdout) <= time.monotonic_ns()


def test_more_callers_than_there_is_room_for_are_refused_and_the_known_ones_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SLOTS", 2)
    with closing(Rates()) as rates:
        slots = [rates.slot(name) for name in ("bank", "shop")]

        with pytest.raises(ConfigError, match="restart it"):
            rates.slot("telco")

        assert [rates.slot(name) for name in ("bank", "shop")] == slots
