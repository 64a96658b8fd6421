"""The example views over thousands of people: what the embedded engine gives is what pandas counts."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fedpredict.tables.script import compile_script
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_examples import ORACLES, assert_equal, generator
from tests.raw_transactions import AS_OF, Event, Merchant, differences, example, oracle

PEOPLE = 2_000
ALL_PEOPLE = 100_000
PIECES = 20
"""An oracle without pandas takes the people piece by piece, as it has an object for each event."""


@pytest.fixture(scope="module")
def raw() -> ModuleType:
    return generator()


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWarehouse]:
    warehouse = LocalWarehouse(tmp_path_factory.mktemp("examples"))
    yield warehouse
    warehouse.close()


def computed(warehouse: LocalWarehouse, raw: ModuleType, name: str, tables: dict[str, pa.Table]) -> pa.Table:
    """Return what the example's script gives over its raw tables."""
    raw.write(warehouse, tables)
    view, _, text = example(name)
    script = compile_script(view, text, "duckdb")
    return warehouse.run(script.query, script.params(AS_OF))


def assert_as_pandas_counts(warehouse: LocalWarehouse, raw: ModuleType, name: str, people: int) -> None:
    tables = raw.EXAMPLES[name](people)

    found = computed(warehouse, raw, name, tables)

    assert len(found) == people
    assert_equal(found, ORACLES[name](tables), example(name)[0].features)


@pytest.mark.parametrize("name", ORACLES)
def test_a_telecom_operators_usage_and_a_video_platforms_watching(
    warehouse: LocalWarehouse, raw: ModuleType, name: str
) -> None:
    assert_as_pandas_counts(warehouse, raw, name, PEOPLE)


@pytest.mark.further
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ORACLES)
def test_usage_and_watching_of_all_people(warehouse: LocalWarehouse, raw: ModuleType, name: str) -> None:
    assert_as_pandas_counts(warehouse, raw, name, ALL_PEOPLE)


def read(tables: dict[str, pa.Table]) -> tuple[list[Event], list[Merchant]]:
    events = [Event(**row) for row in tables["raw_transactions"].to_pylist()]
    return events, [Merchant(**row) for row in tables["dim_merchants"].to_pylist()]


def test_a_banks_transactions(warehouse: LocalWarehouse, raw: ModuleType) -> None:
    tables = raw.transactions(PEOPLE)

    found = computed(warehouse, raw, "transactions", tables)

    assert differences(found, oracle(*read(tables), AS_OF)) == []


@pytest.mark.further
@pytest.mark.timeout(1200)
def test_transactions_of_all_people(warehouse: LocalWarehouse, raw: ModuleType) -> None:
    tables = raw.transactions(ALL_PEOPLE)

    found = computed(warehouse, raw, "transactions", tables)

    compared = 0
    names = pc.unique(found.column("sample_id"))
    for piece in range(PIECES):
        some = names.take(pa.array(range(piece, len(names), PIECES)))
        events = tables["raw_transactions"]
        events = events.filter(pc.is_in(events.column("account"), value_set=some))
        mine = found.filter(pc.is_in(found.column("sample_id"), value_set=some))
        assert differences(mine, oracle(*read({**tables, "raw_transactions": events}), AS_OF)) == []
        compared += len(mine)
    assert compared == len(found) == len(names) == ALL_PEOPLE
