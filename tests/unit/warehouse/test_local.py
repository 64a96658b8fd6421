"""What only the embedded warehouse promises: its files, other processes, and clear words about disks."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from sqlglot import exp

from fedpredict.errors import (
    NameRefusedError,
    StatementError,
    TableCorruptError,
    WarehouseUnavailableError,
    WarehouseWriteError,
)
from fedpredict.warehouse.base import Column, ColumnType, TableSchema, Value
from fedpredict.warehouse.local import LocalWarehouse

DOUBLE, STRING, INT = ColumnType.DOUBLE, ColumnType.STRING, ColumnType.INT
TABLE = TableSchema("t", (Column("x", DOUBLE),), (Column("part", STRING), Column("version", INT)))
HERE: dict[str, str | int] = {"part": "a", "version": 1}


def doubles(*values: float | None) -> pa.Table:
    return pa.table({"x": pa.array(values, pa.float64())})


def query(text: str) -> exp.Expression:
    parsed = sqlglot.parse_one(text, dialect="duckdb")
    assert isinstance(parsed, exp.Expression)
    return parsed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "warehouse"


@pytest.fixture
def warehouse(root: Path) -> Iterator[LocalWarehouse]:
    warehouse = LocalWarehouse(root)
    warehouse.ensure(TABLE)
    yield warehouse
    warehouse.close()


def test_a_partition_is_one_parquet_file_in_hives_layout(warehouse: LocalWarehouse, root: Path) -> None:
    warehouse.replace("t", HERE, doubles(0.5, None))

    visible = [file for file in root.rglob("*") if file.is_file() and file.name[0] not in "._"]

    assert visible == [root / "t/part=a/version=1/part-0.parquet"]
    assert pq.ParquetFile(visible[0]).read().to_pydict() == {"x": [0.5, None]}


def test_few_rows_and_many_are_written_alike(
    warehouse: LocalWarehouse, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = doubles(*map(float, range(1000)))
    warehouse.replace("t", HERE, few)
    monkeypatch.setattr("fedpredict.warehouse.local._ENCODED_BYTES", few.nbytes - 1)
    warehouse.replace("t", {**HERE, "version": 2}, few)

    files = [(root / f"t/part=a/version={number}/part-0.parquet").read_bytes() for number in (1, 2)]
    assert files[0] == files[1]
    assert warehouse.read("t", ["x"], HERE).to_pydict() == few.to_pydict()


def test_no_unfinished_file_and_no_empty_folder_stays(warehouse: LocalWarehouse, root: Path) -> None:
    warehouse.replace("t", HERE, doubles(0.5))
    warehouse.replace("t", HERE, doubles())

    assert sorted(path.name for path in (root / "t").iterdir()) == [".lock", "_schema.json"]


def test_what_a_killed_writer_left_is_removed_by_the_next(warehouse: LocalWarehouse, root: Path) -> None:
    (root / "t/.tmp-left").write_bytes(b"half")

    warehouse.replace("t", HERE, doubles(0.5))

    assert not list((root / "t").glob(".tmp-*"))


def test_a_folder_that_lacks_its_file_has_no_rows(warehouse: LocalWarehouse, root: Path) -> None:
    (root / "t/part=b/version=7").mkdir(parents=True)
    (root / "t/part=b/version=strange").mkdir()

    assert warehouse.read("t", ["x", "version"], {}).num_rows == 0
    assert warehouse.run(query("SELECT x FROM t"), {}).num_rows == 0


def test_a_filter_on_all_partition_columns_opens_no_other_file(warehouse: LocalWarehouse, root: Path) -> None:
    warehouse.replace("t", HERE, doubles(0.5))
    warehouse.replace("t", {"part": "b", "version": 1}, doubles(1.5))
    (root / "t/part=b/version=1/part-0.parquet").write_bytes(b"no parquet at all")
    params: dict[str, Value] = {"part": "a", "version": 1}

    statements = [
        "SELECT x FROM t WHERE part = $part AND version = $version",
        "SELECT u.x FROM t AS u WHERE u.part = 'a' AND u.version = 1",
        "WITH one AS (SELECT x FROM t WHERE part = $part) SELECT x FROM one",
        "SELECT u.x FROM t AS u LEFT JOIN (SELECT x FROM t WHERE part = $part) v ON u.x = v.x WHERE u.part = $part",
    ]

    assert warehouse.read("t", ["x"], HERE).to_pydict() == {"x": [0.5]}
    for text in statements:
        assert warehouse.run(query(text), params).column("x").to_pylist() == [0.5], text


def test_only_conditions_that_every_row_must_meet_leave_partitions_out(warehouse: LocalWarehouse) -> None:
    for number, part in enumerate("abc"):
        warehouse.replace("t", {"part": part, "version": number}, doubles(float(number)))

    def found(text: str, **params: str | int) -> list[float]:
        return sorted(warehouse.run(query(text), params).column("x").to_pylist())

    assert found("SELECT x FROM t WHERE part = 'a' OR version = 2") == [0.0, 2.0]
    assert found("SELECT x FROM t WHERE NOT part = 'a'") == [1.0, 2.0]
    assert found("SELECT x FROM t WHERE part = 'a' AND part = 'b'") == []
    assert found("SELECT u.x FROM t u LEFT JOIN t v ON u.part = 'a' AND v.part = 'b'") == [0.0, 1.0, 2.0]
    assert found("SELECT u.x FROM t u JOIN t v ON u.version = v.version + 1 WHERE v.part = 'a'") == [1.0]
    assert found("SELECT x FROM t WHERE part = $part", part="../../etc") == []
    assert found("SELECT x FROM t WHERE version = $version", version="2") == [2.0]


def test_columns_that_were_added_are_null_in_older_rows(warehouse: LocalWarehouse) -> None:
    warehouse.replace("t", HERE, doubles(0.5))

    warehouse.ensure(TableSchema("t", (Column("y", STRING), Column("x", DOUBLE)), TABLE.partitioned_by))
    warehouse.replace("t", {"part": "b", "version": 1}, pa.table({"y": ["new"]}))

    rows = warehouse.read("t", ["part", "x", "y"], {}).sort_by("part").to_pylist()
    assert rows == [{"part": "a", "x": 0.5, "y": None}, {"part": "b", "x": None, "y": "new"}]
    assert warehouse.run(query("SELECT count(x) n, count(y) m FROM t"), {}).to_pylist() == [{"n": 1, "m": 1}]


def test_a_table_keeps_its_columns_when_an_older_program_ensures_fewer(warehouse: LocalWarehouse) -> None:
    warehouse.ensure(TableSchema("t", (Column("y", STRING),), TABLE.partitioned_by))

    warehouse.ensure(TABLE)

    assert warehouse.read("t", ["x", "y"], {}).column_names == ["x", "y"]


def test_a_column_of_another_type_is_refused(warehouse: LocalWarehouse) -> None:
    with pytest.raises(WarehouseWriteError, match=r"t\.x is double and cannot become string"):
        warehouse.ensure(TableSchema("t", (Column("x", STRING),), TABLE.partitioned_by))
    with pytest.raises(WarehouseWriteError, match="partitioned by other columns"):
        warehouse.ensure(TableSchema("t", TABLE.columns, (Column("part", STRING),)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pa.table({"z": [1.0]}), "no column z"),
        (pa.table({"x": [1]}), r"x \(int64\)"),
        (pa.table([[1.0], [2.0]], names=["x", "x"]), "a column twice"),
    ],
)
def test_rows_that_do_not_fit_the_table_are_refused(warehouse: LocalWarehouse, rows: pa.Table, message: str) -> None:
    warehouse.replace("t", HERE, doubles(0.5))

    with pytest.raises(WarehouseWriteError, match=message):
        warehouse.replace("t", HERE, rows)

    assert warehouse.read("t", ["x"], HERE).to_pydict() == {"x": [0.5]}


@pytest.mark.parametrize(
    "partition",
    [{"part": ".."}, {"part": "a/b", "version": 1}, {"part": "a", "version": "1"}, {"part": "a", "version": True}],
)
def test_a_partition_that_is_none_of_the_table_is_refused(
    warehouse: LocalWarehouse, partition: dict[str, str | int]
) -> None:
    with pytest.raises(NameRefusedError):
        warehouse.replace("t", partition, doubles(0.5))


def test_a_filter_on_something_else_than_a_partition_is_refused(warehouse: LocalWarehouse) -> None:
    with pytest.raises(NameRefusedError, match="not partitioned by x"):
        warehouse.read("t", ["x"], {"x": 1})


def test_a_statement_reaches_nothing_but_the_tables(warehouse: LocalWarehouse, root: Path) -> None:
    warehouse.replace("t", HERE, doubles(0.5))
    file = root / "t/part=a/version=1/part-0.parquet"

    for text in (f"SELECT * FROM read_parquet('{file}')", f"SELECT * FROM '{file}'", "SELECT x FROM doubles"):
        with pytest.raises((StatementError, NameRefusedError)):
            warehouse.run(query(text), {})
    with pytest.raises(StatementError, match="only a query"):
        warehouse.run(query("DROP TABLE t"), {})
    with pytest.raises(StatementError, match="no value for part"):
        warehouse.run(query("SELECT x FROM t WHERE part = $part"), {})


def test_a_warehouse_that_was_never_made_is_unavailable_and_says_what_to_do(root: Path) -> None:
    warehouse = LocalWarehouse(root)

    with pytest.raises(WarehouseUnavailableError, match=r"does not exist; mount the disk"):
        warehouse.read("t", ["x"], {})
    with pytest.raises(WarehouseUnavailableError, match="does not exist; mount the disk"):
        warehouse.run(query("SELECT x FROM t"), {})
    assert not root.exists()


def test_a_warehouse_below_a_folder_that_is_away_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(WarehouseUnavailableError, match="away does not exist; mount the disk"):
        LocalWarehouse(tmp_path / "away/warehouse").ensure(TABLE)


def test_a_warehouse_that_goes_away_is_unavailable_until_it_comes_back(warehouse: LocalWarehouse, root: Path) -> None:
    warehouse.replace("t", HERE, doubles(0.5))

    root.rename(root.with_name("elsewhere"))
    with pytest.raises(WarehouseUnavailableError, match=str(root)):
        warehouse.read("t", ["x"], {})
    with pytest.raises(WarehouseUnavailableError, match=str(root)):
        warehouse.replace("t", HERE, doubles(1.5))
    root.with_name("elsewhere").rename(root)

    assert warehouse.read("t", ["x"], {}).to_pydict() == {"x": [0.5]}


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_truncated_file_is_named(warehouse: LocalWarehouse, root: Path, keep: int) -> None:
    warehouse.replace("t", HERE, doubles(*range(1000)))
    file = root / "t/part=a/version=1/part-0.parquet"
    file.write_bytes(file.read_bytes()[:keep])

    with pytest.raises(TableCorruptError, match=r"part=a/version=1/part-0\.parquet"):
        warehouse.read("t", ["x"], {})
    with pytest.raises(StatementError, match=r"part=a/version=1/part-0\.parquet"):
        warehouse.run(query("SELECT sum(x) FROM t"), {})


def test_a_flipped_bit_in_the_data_is_found(warehouse: LocalWarehouse, root: Path) -> None:
    warehouse.replace("t", HERE, doubles(*(math.sin(number) for number in range(100))))
    file = root / "t/part=a/version=1/part-0.parquet"
    damaged = bytearray(file.read_bytes())
    damaged[200] ^= 1
    file.write_bytes(damaged)

    with pytest.raises(TableCorruptError, match="damaged"):
        warehouse.read("t", ["x"], {})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"columns": [{"name": "X", "type": "int"}], "partitioned_by": []}'])
def test_a_damaged_schema_is_named(warehouse: LocalWarehouse, root: Path, text: str) -> None:
    (root / "t/_schema.json").write_text(text)

    with pytest.raises(TableCorruptError, match=r"t/_schema\.json"):
        warehouse.read("t", ["x"], {})


def test_a_full_disk_leaves_the_old_rows_and_names_the_file(warehouse: LocalWarehouse, root: Path) -> None:
    """A limit on the size of files stands for the disk: it works for every user and ends a write halfway as well."""
    warehouse.replace("t", HERE, doubles(0.5))
    before = sorted(root.rglob("*"))

    told = run_child(
        root,
        """
        import resource, signal, random
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            rows = pa.table({"x": [random.random() for _ in range(10_000)]})
            warehouse.replace("t", {"part": "a", "version": 1}, rows)
        except WarehouseWriteError as error:
            print(error)
        """,
    )

    assert str(root / "t/part=a/version=1/part-0.parquet") in told
    assert "nothing of it became visible; free some space there and repeat" in told
    assert warehouse.read("t", ["x"], {}).to_pydict() == {"x": [0.5]}
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("number", "fix"), [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"), (errno.EIO, "remove the")]
)
def test_a_disk_that_does_not_take_the_bytes_is_told_as_such(
    warehouse: LocalWarehouse, root: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str
) -> None:
    warehouse.replace("t", HERE, doubles(0.5))

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(WarehouseWriteError, match=f"{os.strerror(number)}; nothing of it became visible; {fix}"):
            warehouse.replace("t", HERE, doubles(1.5))

    assert warehouse.read("t", ["x"], {}).to_pydict() == {"x": [0.5]}
    assert not list((root / "t").glob(".tmp-*"))


def test_a_rename_that_the_disk_does_not_confirm_is_no_promise(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.replace("t", HERE, doubles(0.5))
    confirm = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "the disk is gone")
        confirm(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)

    with pytest.raises(WarehouseUnavailableError, match="did not confirm"):
        warehouse.replace("t", HERE, doubles(1.5))


def test_a_folder_without_permission_is_told_as_such(warehouse: LocalWarehouse, root: Path) -> None:
    warehouse.replace("t", HERE, doubles(0.5))
    (root / "t").chmod(0o555)

    told = run_child(
        root,
        """
        try:
            warehouse.replace("t", {"part": "a", "version": 1}, pa.table({"x": [1.5]}))
        except WarehouseWriteError as error:
            print(error)
        """,
        # root may write everywhere, unless this right is taken from it
        *(["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []),
    )
    (root / "t").chmod(0o755)

    assert f"cannot write {root}/t" in told
    assert "Permission denied; nothing of it became visible; give this process permission" in told
    assert warehouse.read("t", ["x"], {}).to_pydict() == {"x": [0.5]}


def run_child(root: Path, body: str, *prefix: str) -> str:
    """Run lines in another process, with a `warehouse` of its own on the same folder; return what they print."""
    lines = [line[8:] for line in body.splitlines()]
    head = [
        "from pathlib import Path",
        "import pyarrow as pa",
        "from fedpredict.errors import *",
        "from fedpredict.warehouse.local import LocalWarehouse",
        f"warehouse = LocalWarehouse(Path({str(root)!r}))",
    ]
    done = subprocess.run(
        [*prefix, sys.executable, "-c", "\n".join(head + lines)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_writers_in_two_processes_wait_for_each_other_and_readers_do_not(warehouse: LocalWarehouse, root: Path) -> None:
    warehouse.replace("t", HERE, doubles(0.5))
    with (root / "t/.lock").open("rb") as lock:
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import fcntl, signal; fcntl.flock(0, fcntl.LOCK_EX); print(1, flush=True); signal.pause()",
            ],
            stdin=lock,
            stdout=subprocess.PIPE,
        )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"1\n"
    writer = threading.Thread(target=warehouse.replace, args=("t", HERE, doubles(1.5)))
    writer.start()

    seen = warehouse.read("t", ["x"], HERE).to_pydict()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    writer.join(30)

    assert seen == {"x": [0.5]}
    assert warehouse.read("t", ["x"], HERE).to_pydict() == {"x": [1.5]}


def test_threads_read_and_query_one_warehouse_at_the_same_time(warehouse: LocalWarehouse) -> None:
    for version in range(20):
        warehouse.replace("t", {"part": "a", "version": version}, doubles(*[float(version)] * 10))
    wrong: list[object] = []

    def work() -> None:
        for version in range(20):
            rows = warehouse.run(query("SELECT sum(x) s FROM t WHERE version = $v"), {"v": version}).to_pylist()
            wrong.extend(row for row in rows if row["s"] != 10.0 * version)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_partitions_that_are_removed_meanwhile_are_read_or_left_out(warehouse: LocalWarehouse) -> None:
    for version in range(60):
        warehouse.replace("t", {"part": "a", "version": version}, doubles(1.0))

    def remove() -> None:
        for version in range(60):
            warehouse.replace("t", {"part": "a", "version": version}, doubles())

    remover = threading.Thread(target=remove)
    remover.start()
    counts = [warehouse.read("t", ["x"], {}).num_rows]
    while counts[-1]:
        counts.append(warehouse.read("t", ["x"], {}).num_rows)
        counts.append(warehouse.run(query("SELECT count(*) n FROM t"), {}).column("n")[0].as_py())
    remover.join()

    assert counts == sorted(counts, reverse=True)


def test_the_root_may_have_any_name(tmp_path: Path) -> None:
    root = tmp_path / "part=z" / "[odd]*? 年'\""
    root.parent.mkdir()
    warehouse = LocalWarehouse(root)
    warehouse.ensure(TABLE)
    warehouse.replace("t", HERE, doubles(0.5))

    assert warehouse.read("t", ["x", "part"], {}).to_pydict() == {"x": [0.5], "part": ["a"]}
    assert warehouse.run(query("SELECT x, part FROM t"), {}).to_pydict() == {"x": [0.5], "part": ["a"]}


def test_times_are_utc_wherever_the_process_runs(root: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", f"""
import datetime, json
from pathlib import Path
import pyarrow as pa, sqlglot
from fedpredict.warehouse.base import *
from fedpredict.warehouse.local import LocalWarehouse
warehouse = LocalWarehouse(Path({str(root)!r}))
warehouse.ensure(TableSchema("t", (Column("at", ColumnType.TIMESTAMP),), ()))
noon = datetime.datetime(2026, 3, 29, 12, tzinfo=datetime.UTC)
warehouse.replace("t", {{}}, pa.table({{"at": pa.array([noon], pa.timestamp("us", tz="UTC"))}}))
result = warehouse.run(sqlglot.parse_one("SELECT at, CAST(at AS TEXT) AS said FROM t"), {{}})
print(json.dumps([str(result.schema.field("at").type), result.column("said")[0].as_py()]))
"""],
        capture_output=True, text=True, check=True, env={**os.environ, "TZ": "Asia/Kathmandu"},
    ).stdout  # fmt: skip

    assert json.loads(told) == ["timestamp[us, tz=UTC]", "2026-03-29 12:00:00+00"]


def test_closing_twice_is_harmless_and_a_later_query_opens_the_engine_again(warehouse: LocalWarehouse) -> None:
    warehouse.replace("t", HERE, doubles(0.5))
    warehouse.run(query("SELECT x FROM t"), {})

    warehouse.close()
    warehouse.close()

    assert warehouse.run(query("SELECT x FROM t"), {}).to_pydict() == {"x": [0.5]}
