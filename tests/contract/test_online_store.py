"""The facts that every online store holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedpredict.errors import ModelNotReadyError, TableCorruptError
from fedpredict.features.base import FeatureRows, OnlineStore
from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.model.sample_ids import SampleIds
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature
from fedpredict.warehouse.base import ColumnType

STORES = [
    pytest.param("memory", id="memory"),
    pytest.param("mapped", id="mapped"),
    pytest.param("redis", id="redis", marks=pytest.mark.redis),
]

IDS = ["a", "b", "c", "a" * 8, "a" * 9, "a" * 16, "年" * 85, "a" * 256]

FEATURES = (
    ViewFeature("Age", "age", ColumnType.DOUBLE),
    ViewFeature("city", "city", ColumnType.STRING),
    ViewFeature("income", "income", ColumnType.DOUBLE),
)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineStore]:
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "mapped":
        yield MappedStore(tmp_path / "store")
    else:
        yield from shared_redis(request.getfixturevalue("redis_address"))


def shared_redis(address: str) -> Iterator[OnlineStore]:
    """A store below a prefix of its own, emptied in the end."""
    from fedpredict.features.redis_connection import RedisAddress, RedisConnection
    from fedpredict.features.redis_store import RedisStore

    made = RedisStore(RedisConnection(RedisAddress(url=f"redis://{address}")), f"test:{{{uuid4().hex}}}")
    yield made
    for view, version in made.held:
        made.drop(view, version)
    made.close()


def snapshot_named(name: str = "20260101T000000.000000Z", *, version: int = 1, n_rows: int = 0) -> Snapshot:
    return Snapshot(FeatureView("people", version, FEATURES, "id", "at"), name, n_rows)


def rows_of(*rows: tuple[str | None, int | None, float | None, float | None]) -> pa.Table:
    """Rows of (sample id, event time in microseconds, age, income)."""
    ids, times, ages, incomes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "sample_id": pa.array(ids, pa.string()),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "age": pa.array(ages, pa.float64()),
            "city": pa.array(["Graz"] * len(ids), pa.string()),
            "income": pa.array(incomes, pa.float64()),
        }
    )


def test_a_row_is_found_by_the_bytes_of_its_id(store: OnlineStore) -> None:
    store.publish(snapshot_named(), rows_of(("u1", 10, 30.0, 1e3), ("年", 20, 40.0, 2e3), ("U1", 30, 50.0, 3e3)))
    found = store.lookup("people", 1, ["income", "age"], ["年".encode(), b"u1", b"u1 ", b"u1", b"\xff", b""])
    assert found.found.tolist() == [True, True, False, True, False, False]
    np.testing.assert_array_equal(
        found.values,
        [[2e3, 40.0], [1e3, 30.0], [np.nan, np.nan], [1e3, 30.0], [np.nan, np.nan], [np.nan, np.nan]],
    )
    assert found.event_time.tolist() == [20, 10, 0, 10, 0, 0]
    assert not found.ambiguous.any()


def test_the_latest_row_of_an_id_counts(store: OnlineStore) -> None:
    store.publish(
        snapshot_named(), rows_of(("a", 5, 1.0, 1.0), ("a", 7, 2.0, None), ("b", 9, 8.0, 8.0), ("a", 6, 3, 3))
    )
    found = store.lookup("people", 1, ["age", "income"], [b"a"])
    np.testing.assert_array_equal(found.values, [[2.0, np.nan]])
    assert found.event_time.tolist() == [7]


def test_two_latest_rows_make_an_id_ambiguous(store: OnlineStore) -> None:
    store.publish(
        snapshot_named(),
        rows_of(
            ("a", 7, 1.0, 1.0), ("a", 7, 1.0, 1.0), ("b", 7, 1.0, 1.0), ("c", 6, 1, 1), ("c", 6, 2, 2), ("c", 8, 3, 3)
        ),
    )
    found = store.lookup("people", 1, ["age"], [b"a", b"b", b"c", b"d"])
    assert found.ambiguous.tolist() == [True, False, False, False]
    assert found.found.tolist() == [True, True, True, False]


def test_doubles_come_back_bit_for_bit_and_null_as_nan(store: OnlineStore) -> None:
    numbers = [5e-324, -0.0, 0.1, np.finfo(np.float64).max, np.inf, -np.inf, np.nan, None]
    store.publish(snapshot_named(), rows_of(*((str(i), i, number, 0.0) for i, number in enumerate(numbers))))
    found = store.lookup("people", 1, ["age"], [str(i).encode() for i in range(len(numbers))])
    expected = np.array([np.nan if number is None else number for number in numbers])
    np.testing.assert_array_equal(found.values[:, 0].view(np.int64)[:6], expected.view(np.int64)[:6])
    assert np.isnan(found.values[6:, 0]).all()


def test_a_new_snapshot_replaces_the_whole_one_before(store: OnlineStore) -> None:
    store.publish(snapshot_named("20260101T000000.000000Z"), rows_of(("a", 1, 1.0, 1.0), ("b", 1, 1.0, 1.0)))
    newer = snapshot_named("20260102T000000.000000Z")
    store.publish(newer, rows_of(("a", 0, 2.0, 2.0)))
    assert store.snapshot_of("people", 1) == newer
    found = store.lookup("people", 1, ["age"], [b"a", b"b"])
    assert found.found.tolist() == [True, False]
    assert found.values[0, 0] == 2.0


def test_versions_of_a_view_are_apart(store: OnlineStore) -> None:
    store.publish(snapshot_named(version=1), rows_of(("a", 1, 1.0, 1.0)))
    store.publish(snapshot_named(version=2), rows_of(("a", 1, 2.0, 2.0)))
    assert [store.lookup("people", version, ["age"], [b"a"]).values[0, 0] for version in (1, 2)] == [1.0, 2.0]
    store.drop("people", 1)
    store.drop("people", 1)
    assert store.snapshot_of("people", 1) is None
    assert store.snapshot_of("people", 2) is not None


def test_what_is_not_served_is_not_ready(store: OnlineStore) -> None:
    with pytest.raises(ModelNotReadyError, match="people"):
        store.lookup("people", 1, ["age"], [b"a"])
    store.publish(snapshot_named(), rows_of(("a", 1, 1.0, 1.0)))
    with pytest.raises(ModelNotReadyError, match="height"):
        store.lookup("people", 1, ["age", "height"], [b"a"])


def texts_of(found: FeatureRows, column: str, place: int) -> list[str | None]:
    """The texts that the codes of a column stand for."""
    assert found.texts is not None
    known = [text.decode() for text in found.texts[column].to_pylist()]
    return [None if np.isnan(code) else known[int(code)] for code in found.values[:, place]]


def with_cities(*cities: str | None) -> pa.Table:
    rows = rows_of(*((f"u{place}", 10, float(place), 0.0) for place in range(len(cities))))
    return rows.set_column(rows.column_names.index("city"), "city", pa.array(cities, pa.string()))


@pytest.mark.parametrize("n_asked", [1, 3, 60], ids=["one", "few", "many"])
def test_texts_come_as_positions_in_the_snapshots_own_sorted_texts(store: OnlineStore, n_asked: int) -> None:
    cities = ["Wien", None, "", "Graz", "graz", "Wien", "Gráz", "年", "Gra\u0301z"] * 8
    store.publish(snapshot_named(), with_cities(*cities))
    found = store.lookup("people", 1, ["age", "city"], [f"u{place}".encode() for place in range(n_asked)])
    assert texts_of(found, "city", 1) == cities[:n_asked]
    assert found.values[:, 0].tolist() == list(range(n_asked))
    assert found.texts is not None
    listed = found.texts["city"].to_pylist()
    assert listed == sorted(set(listed))
    again = store.lookup("people", 1, ["age", "city"], [b"u1"])
    assert again.texts is found.texts


def test_only_the_texts_of_the_columns_asked_for_come_along(store: OnlineStore) -> None:
    store.publish(snapshot_named(), with_cities("Wien"))
    assert store.lookup("people", 1, ["age"], [b"u0"]).texts is None
    everything = store.lookup("people", 1, ["age", "city", "income"], [b"u0", b"nobody"])
    assert texts_of(everything, "city", 1) == ["Wien", None]


def test_a_text_column_may_be_empty_throughout_or_have_no_rows(store: OnlineStore) -> None:
    store.publish(snapshot_named(), with_cities(None, None))
    assert texts_of(store.lookup("people", 1, ["city"], [b"u0"]), "city", 0) == [None]
    store.publish(snapshot_named("20260102T000000.000000Z"), rows_of())
    assert texts_of(store.lookup("people", 1, ["city"], [b"u0"]), "city", 0) == [None]


def test_a_snapshot_without_rows_finds_nobody(store: OnlineStore) -> None:
    store.publish(snapshot_named(), rows_of())
    assert store.lookup("people", 1, ["age"], [b"a"]).found.tolist() == [False]


def test_no_ids_and_no_columns_are_answered_in_shape(store: OnlineStore) -> None:
    store.publish(snapshot_named(), rows_of(("a", 1, 1.0, 1.0)))
    assert store.lookup("people", 1, ["age", "income"], []).values.shape == (0, 2)
    assert store.lookup("people", 1, [], [b"a", b"b"]).values.shape == (2, 0)


@pytest.mark.parametrize("row", [(None, 1, 1.0, 1.0), ("b", None, 1.0, 1.0)], ids=["sample_id", "event_time"])
def test_a_row_without_id_or_time_is_refused_and_the_old_snapshot_stays(
    store: OnlineStore, row: tuple[str | None, int | None, float, float]
) -> None:
    store.publish(snapshot_named(), rows_of(("a", 1, 1.0, 1.0)))
    with pytest.raises(TableCorruptError, match="load the features again"):
        store.publish(snapshot_named("20260102T000000.000000Z"), rows_of(("a", 1, 2.0, 2.0), row))
    assert store.lookup("people", 1, ["age"], [b"a"]).values[0, 0] == 1.0


def test_readers_see_one_snapshot_or_the_other(store: OnlineStore) -> None:
    ids = [str(i).encode() for i in range(200)]
    tables = [rows_of(*((each.decode(), number, float(number), 0.0) for each in ids)) for number in (1, 2)]
    store.publish(snapshot_named(), tables[0])
    seen: list[set[float]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(set(store.lookup("people", 1, ["age"], ids).values[:, 0].tolist()))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(50):
        store.publish(snapshot_named(), tables[turn % 2])
    done.set()
    reader.join()
    assert seen
    assert all(each in ({1.0}, {2.0}) for each in seen)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, 3), st.floats(allow_nan=False)), max_size=40))
def test_it_agrees_with_looking_through_all_rows(store: OnlineStore, rows: list[tuple[str, int, float]]) -> None:
    store.publish(snapshot_named(), rows_of(*((each, time, age, 0.0) for each, time, age in rows)))
    for asked in (IDS, IDS * 20):  # a few and many are looked up in different ways
        found = store.lookup("people", 1, ["age"], [each.encode() for each in asked])
        for place, sample_id in enumerate(asked):
            own = [(time, age) for each, time, age in rows if each == sample_id]
            latest = [age for time, age in own if time == max(time for time, _ in own)]
            assert found.found[place] == bool(own)
            assert found.ambiguous[place] == (len(latest) > 1)
            assert found.event_time[place] == max((time for time, _ in own), default=0)
            if len(latest) == 1:
                assert found.values[place, 0] == latest[0]
            elif not own:
                assert np.isnan(found.values[place, 0])


@pytest.mark.parametrize("n_others", [0, 100], ids=["a few", "many"])
def test_what_is_no_sample_id_is_not_found_even_where_a_row_has_it(store: OnlineStore, n_others: int) -> None:
    odd = ["", "a\nb", "x" * 257]
    store.publish(snapshot_named(), rows_of(*((each, 1, 1.0, 1.0) for each in odd), ("good", 2, 2.0, 2.0)))
    asked = [*(each.encode() for each in odd), b"x" * 100_000, *[b"good"] * n_others, b"good"]
    found = store.lookup("people", 1, ["age"], asked)
    assert found.found.tolist() == [False] * 4 + [True] * (n_others + 1)
    np.testing.assert_array_equal(found.values[:, 0], [np.nan] * 4 + [2.0] * (n_others + 1))


def test_columns_come_in_the_order_asked_for_a_few_and_for_many(store: OnlineStore) -> None:
    store.publish(snapshot_named(), rows_of(*((f"u{i}", i, float(i), -float(i)) for i in range(100))))
    for n_ids in (1, 5, 100):
        ids = [f"u{i}".encode() for i in range(n_ids)]
        expected = np.arange(n_ids, dtype=float)
        for columns, signs in ((["age", "income"], [1, -1]), (["income", "age"], [-1, 1]), (["income"], [-1])):
            values = store.lookup("people", 1, columns, SampleIds.of(ids)).values
            np.testing.assert_array_equal(values, expected[:, None] * signs)


def test_a_snapshot_is_read_where_the_store_does_not_hold_it(store: OnlineStore) -> None:
    store.serve(snapshot_named(), lambda: rows_of(("a", 1, 1.0, 1.0)))
    assert store.snapshot_of("people", 1) == snapshot_named()
    assert store.lookup("people", 1, ["age"], [b"a"]).values[0, 0] == 1.0


def test_a_snapshot_that_cannot_be_read_leaves_the_one_before(store: OnlineStore) -> None:
    store.publish(snapshot_named(), rows_of(("a", 1, 1.0, 1.0)))

    def read() -> pa.Table:
        raise TableCorruptError("no rows")

    with pytest.raises(TableCorruptError, match="no rows"):
        store.serve(snapshot_named("20260102T000000.000000Z"), read)
    assert store.snapshot_of("people", 1) == snapshot_named()


def test_it_tells_which_view_versions_it_holds(store: OnlineStore) -> None:
    assert store.held == frozenset()
    for version in (1, 2):
        store.publish(snapshot_named(version=version), rows_of(("a", 1, 1.0, 1.0)))
    assert store.held == {("people", 1), ("people", 2)}
    store.drop("people", 1)
    assert store.held == {("people", 2)}


def test_an_event_time_is_microseconds_since_1970(store: OnlineStore) -> None:
    instant = datetime(2026, 1, 31, 8, 30, tzinfo=UTC)
    store.publish(snapshot_named(), rows_of(("a", int(instant.timestamp() * 1e6), 1.0, 1.0)))
    assert store.lookup("people", 1, ["age"], [b"a"]).event_time[0] == 1_769_848_200_000_000
