"""What the mapped store promises beyond the contract: sharing, crashes, damage, permissions, full disks, left files."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from fedpredict.errors import StoreError, TableCorruptError
from fedpredict.features import table_file
from fedpredict.features.mapped import MappedStore
from fedpredict.tables.views import Snapshot
from tests.unit.features.support import FIRST, SECOND, THIRD, numbered, rows_with, snapshot_named

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))


def age(store: MappedStore, sample_id: bytes = b"u1", *, view: str = "people") -> float:
    return float(store.lookup(view, 1, ["age"], [sample_id]).values[0, 0])


def test_it_says_how_large_it_is(folder: Path) -> None:
    store = MappedStore(folder)
    store.publish(snapshot_named(), numbered(10_000))
    (file,) = files(folder)
    n_numbers = 2 + 1 + 1  # features, event time, hash
    assert 8 * n_numbers * 10_000 < store.n_bytes("people", 1) <= file.stat().st_size


def nobody_reads() -> pa.Table:
    raise AssertionError("the warehouse was read")


@contextmanager
def most_bytes_of_a_file(limit: int) -> Iterator[None]:
    """Let no file grow beyond a limit: as a full disk does, writes end halfway, for every user."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_another_process_maps_the_file_and_reads_no_warehouse(folder: Path) -> None:
    MappedStore(folder).publish(snapshot_named(), numbered(age=1.5))
    code = f"""
from pathlib import Path
from fedpredict.features.mapped import MappedStore
from tests.unit.features.test_mapped import age, nobody_reads
from tests.unit.features.support import snapshot_named
store = MappedStore(Path({str(folder)!r}))
store.serve(snapshot_named(), nobody_reads)
print(age(store))
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert other.stdout == "1.5\n"
    assert len(files(folder)) == 1


def test_of_many_that_start_at_once_one_reads(folder: Path) -> None:
    reads: list[int] = []
    stores = [MappedStore(folder) for _ in range(8)]

    def serve(store: MappedStore) -> None:
        def read() -> pa.Table:
            reads.append(1)
            return numbered(age=2.5)

        store.serve(snapshot_named(), read)

    threads = [threading.Thread(target=serve, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(reads) == 1
    assert [age(store) for store in stores] == [2.5] * 8
    assert len(files(folder)) == 1


def test_who_still_maps_a_replaced_file_reads_on(folder: Path) -> None:
    ours, theirs = MappedStore(folder), MappedStore(folder)
    ours.publish(snapshot_named(FIRST), numbered(age=1.0))
    theirs.serve(snapshot_named(FIRST), nobody_reads)
    held = theirs.lookup("people", 1, ["age", "income"], [b"u7"])

    ours.publish(snapshot_named(SECOND), numbered(age=2.0))

    assert [path.name.split(".")[2:4] for path in files(folder)] == [SECOND.split(".")]
    assert (age(ours), age(theirs)) == (2.0, 1.0)
    theirs.serve(snapshot_named(SECOND), nobody_reads)
    assert age(theirs) == 2.0
    # the view of the file that nobody names any more
    assert held.values.tolist() == [[1.0, 7.0]]


def test_a_process_that_lags_behind_removes_no_newer_file(folder: Path) -> None:
    ahead, behind = MappedStore(folder), MappedStore(folder)
    ahead.publish(snapshot_named(SECOND), numbered(age=2.0))
    behind.serve(snapshot_named(FIRST), lambda: numbered(age=1.0))
    third = MappedStore(folder)
    third.serve(snapshot_named(SECOND), nobody_reads)
    assert (age(ahead), age(behind), age(third)) == (2.0, 1.0, 2.0)


def test_every_snapshot_is_a_new_file_and_no_file_is_changed(folder: Path) -> None:
    store = MappedStore(folder)
    store.publish(snapshot_named(), numbered(age=1.0))
    (first,) = files(folder)
    with first.open("rb") as still_open:
        before = still_open.read()
        store.publish(snapshot_named(), numbered(age=2.0))
        still_open.seek(0)
        assert still_open.read() == before
    (second,) = files(folder)
    assert second != first
    assert age(store) == 2.0


def test_only_the_owner_may_read_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        MappedStore(folder / "deep").publish(snapshot_named(), numbered())
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "deep").stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder / "deep").iterdir()} == {0o600}


def test_a_folder_that_others_may_look_into_is_refused_with_the_fix(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    with pytest.raises(StoreError, match=f"chmod 700 {folder}"):
        MappedStore(folder).publish(snapshot_named(), numbered())
    assert files(folder) == []


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _replace_by_text(path: Path) -> None:
    path.write_text("not a table")


@pytest.mark.parametrize("harm", [_flip_a_bit, _truncate, _empty, _replace_by_text])
def test_a_damaged_file_is_told_by_name_and_made_again(
    folder: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    MappedStore(folder).publish(snapshot_named(), numbered(age=1.0))
    (path,) = files(folder)
    harm(path)

    with pytest.raises(TableCorruptError, match=str(path)):
        table_file.open_table(path, snapshot_named(), path.name.split(".")[-2])
    store = MappedStore(folder)
    with caplog.at_level(logging.WARNING):
        store.serve(snapshot_named(), lambda: numbered(age=3.0))

    assert age(store) == 3.0
    assert [(record.message, str(path) in record.__dict__["reason"]) for record in caplog.records] == [
        ("store.file_refused", True)
    ]
    assert len(files(folder)) == 1
    MappedStore(folder).serve(snapshot_named(), nobody_reads)


def _named_for(folder: Path, source: Path, snapshot: Snapshot) -> Path:
    """A whole file under a name that says another snapshot, as by a copy."""
    target = folder / source.name.replace(source.name.split(".")[2], snapshot.snapshot.split(".")[0])
    shutil.copy(source, target)
    return target


def test_a_whole_file_of_another_snapshot_under_this_name_is_not_served(folder: Path) -> None:
    MappedStore(folder).publish(snapshot_named(FIRST), numbered(age=1.0))
    (path,) = files(folder)
    _named_for(folder, path, snapshot_named(SECOND))
    store = MappedStore(folder)
    store.serve(snapshot_named(SECOND), lambda: numbered(age=2.0))
    assert age(store) == 2.0


def test_a_snapshot_of_the_same_name_with_other_features_is_not_taken_for_it(folder: Path) -> None:
    MappedStore(folder).publish(snapshot_named(n_rows=100), numbered(age=1.0))
    store = MappedStore(folder)
    store.serve(snapshot_named(n_rows=101), lambda: numbered(101, age=2.0))
    assert age(store) == 2.0


@pytest.mark.parametrize(
    "content", [pa.table({"a": [1]}), pa.table({"a": [1]}).replace_schema_metadata({"fedpredict.format": "99"})]
)
def test_a_foreign_arrow_file_with_a_right_digest_is_refused(folder: Path, content: pa.Table) -> None:
    folder.mkdir(mode=0o700)
    path = folder / "foreign"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, content.schema) as writer:
        writer.write_table(content)
    with path.open("rb", buffering=0) as file:
        digest = table_file.file_digest(file)
    target = path.rename(folder / f"people.1.{FIRST}.{digest}.arrow")
    with pytest.raises(TableCorruptError, match=str(target)):
        table_file.open_table(target, snapshot_named(), digest)
    store = MappedStore(folder)
    store.serve(snapshot_named(), lambda: numbered(age=4.0))
    assert age(store) == 4.0
    assert not target.exists()


def test_a_full_disk_is_an_error_and_the_served_snapshot_stays(folder: Path) -> None:
    store = MappedStore(folder)
    store.publish(snapshot_named(FIRST), numbered(age=1.0))
    before = files(folder)
    with most_bytes_of_a_file(5_000), pytest.raises(StoreError, match=f"{folder} cannot be used: .*File too large"):
        store.publish(snapshot_named(SECOND), numbered(2000, age=2.0))
    assert store.snapshot_of("people", 1) == snapshot_named(FIRST)
    assert age(store) == 1.0
    assert files(folder) == before
    assert list(folder.glob(".*tmp*")) == []
    store.publish(snapshot_named(SECOND), numbered(age=2.0))
    assert age(store) == 2.0


def test_a_place_where_no_folder_can_be_is_an_error(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(StoreError, match=str(folder)):
        MappedStore(folder / "below").publish(snapshot_named(), numbered())


KILLED = """
import os, sys
from pathlib import Path
from fedpredict.features import mapped, table_file
from tests.unit.features.support import SECOND, numbered, snapshot_named

def stop(*_):
    print("here", flush=True)
    sys.stdin.read()  # until killed

where, folder = sys.argv[1], Path(sys.argv[2])
if where == "while writing":
    table_file._write_at = stop
elif where == "before the rename":
    table_file.file_digest = stop
elif where == "after the rename":
    mapped._sync = stop
mapped.MappedStore(folder).publish(snapshot_named(SECOND), numbered(age=2.0))
"""


@pytest.mark.parametrize("where", ["while writing", "before the rename", "after the rename"])
def test_a_killed_writer_leaves_no_harm(folder: Path, where: str) -> None:
    reader = MappedStore(folder)
    reader.publish(snapshot_named(FIRST), numbered(age=1.0))
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, where, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "here\n"
        writer.send_signal(signal.SIGKILL)

    assert age(reader) == 1.0
    reads: list[int] = []

    def read() -> pa.Table:
        reads.append(1)
        return numbered(age=2.0)

    reader.serve(snapshot_named(SECOND), read)

    assert age(reader) == 2.0
    assert len(reads) == (0 if where == "after the rename" else 1)
    assert len(files(folder)) == 1
    assert list(folder.glob(".*tmp*")) == []


def test_a_lock_is_waited_for(folder: Path) -> None:
    store = MappedStore(folder)
    store.publish(snapshot_named(FIRST), numbered(age=1.0))
    begun, done = threading.Event(), threading.Event()

    def serve() -> None:
        begun.set()
        store.serve(snapshot_named(SECOND), lambda: numbered(age=2.0))
        done.set()

    with (folder / ".people.1.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=serve)
        thread.start()
        begun.wait()
        # whoever holds the lock decides when the other may go on
        assert age(store) == 1.0
        assert not done.is_set()
    thread.join()
    assert age(store) == 2.0


def test_files_of_an_earlier_run_are_held_and_can_be_dropped(folder: Path) -> None:
    earlier = MappedStore(folder)
    earlier.publish(snapshot_named(), numbered(age=1.0))
    earlier.publish(snapshot_named(view="shops"), rows_with(["s"], age=5.0))
    (folder / "notes.txt").write_text("not ours")
    later = MappedStore(folder)
    assert later.held == {("people", 1), ("shops", 1)}
    later.drop("people", 1)
    assert later.held == {("shops", 1)}
    assert age(earlier) == 1.0
    assert (folder / "notes.txt").exists()


def test_nothing_is_made_before_there_is_a_snapshot(folder: Path) -> None:
    store = MappedStore(folder)
    store.drop("people", 1)
    assert store.held == frozenset()
    assert not folder.exists()


def test_a_view_without_numbers_and_one_without_rows_are_files_too(folder: Path) -> None:
    store = MappedStore(folder)
    store.publish(snapshot_named(FIRST), numbered().select(["sample_id", "event_time"]))
    assert store.lookup("people", 1, [], [b"u1", b"x"]).found.tolist() == [True, False]
    store.publish(snapshot_named(SECOND), numbered(0))
    assert store.lookup("people", 1, ["age"], [b"u1"] * 100).found.sum() == 0
    again = MappedStore(folder)
    again.serve(snapshot_named(SECOND), nobody_reads)
    again.publish(snapshot_named(THIRD), rows_with(["", "\0"]))
    assert again.lookup("people", 1, ["age"], [b"", b"\0", b"u1"]).found.tolist() == [False] * 3
