"""Publishing models and snapshots: the same facts on the embedded engine, Spark and Hive."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sqlglot import exp
from typing_extensions import override

from fedpredict.errors import FeatureNamesError, NameRefusedError
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel
from fedpredict.tables.models import (
    current_versions,
    delete_model,
    list_versions,
    load_model,
    publish_model,
    rollback,
)
from fedpredict.tables.names import column_names
from fedpredict.tables.views import (
    FeatureView,
    ViewFeature,
    latest_snapshot,
    publish_snapshot,
    read_snapshot_rows,
    snapshot_name,
)
from fedpredict.warehouse.base import ColumnType, EngineInfo, Partition, TableSchema, Value, Warehouse
from tests.contract.conftest import cases_by_place
from tests.linear_parts import linear

pytestmark = pytest.mark.timeout(300)  # Hive's first INSERT in a session alone takes up to 35 s

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
EXTREMES = np.array([[0.1, -0.0], [5e-324, 1.7976931348623157e308], [-1e-300, 1 / 3], [2.2250738585072009e-308, 0.0]])
LINKS = [Link("log"), Link("power", 0.1)]
NAMES = ("age", "Net income (EUR)", "年龄", "order")


def view_of(name: str, features: Sequence[str], version: int = 1) -> FeatureView:
    columns = column_names(features)
    return FeatureView(
        name, version, tuple(ViewFeature(each, columns[each], ColumnType.DOUBLE) for each in features), "id", "seen"
    )


def partial_of(model_id: str, number: float, features: Sequence[str]) -> PartialModel:
    """Return a part all of whose numbers are `number`."""
    part = LinearPart(tuple(features), np.full((len(features), 1), number), np.array([number]), np.array([number]))
    metadata = {"note": 'it\'s "100%" \\ 年'}
    return PartialModel(model_id, "run 1 'of' \"2\"", "lab", Kind.BINARY, ("no", "y'es"), True, part, metadata=metadata)


def number_of(warehouse: Warehouse, model_id: str) -> float | None:
    """Return what the current version is made of, or None; fail on a mixture."""
    version = current_versions(warehouse).get(model_id)
    if version is None:
        return None
    part = load_model(warehouse, version).part
    numbers = {*linear(part).weights.ravel().tolist(), *linear(part).offset.tolist()}
    number = float(linear(part).weights[0, 0])
    assert numbers == {number, 2 * number}
    return number


class Interrupted(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


class Interruptible(Warehouse):
    """A warehouse for a process that ends before its writing call number `at`."""

    def __init__(self, inner: Warehouse, at: int) -> None:
        self._inner, self._left = inner, at

    def _step(self) -> None:
        if self._left == 0:
            raise Interrupted
        self._left -= 1

    @property
    @override
    def engine(self) -> EngineInfo:
        return self._inner.engine

    @override
    def ensure(self, schema: TableSchema) -> None:
        self._step()
        self._inner.ensure(schema)

    @override
    def replace(self, table: str, partition: Partition, rows: pa.Table) -> None:
        self._step()
        self._inner.replace(table, partition, rows)

    @override
    def replace_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> int:
        self._step()
        return self._inner.replace_from(table, partition, statement, params)

    @override
    def replace_each_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> None:
        self._step()
        self._inner.replace_each_from(table, partition, statement, params)

    @override
    def describe(self, table: str) -> TableSchema | None:
        return self._inner.describe(table)

    @override
    def read(self, table: str, columns: Sequence[str], where: Partition) -> pa.Table:
        return self._inner.read(table, columns, where)

    @override
    def run(self, statement: exp.Expression, params: Mapping[str, Value]) -> pa.Table:
        return self._inner.run(statement, params)

    @override
    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def name() -> str:
    """A name for a view and its models that no other test has."""
    return f"v_{uuid.uuid4().hex}"


def test_a_published_part_comes_back_bit_equal(warehouse: Warehouse, name: str) -> None:
    part = LinearPart(NAMES, EXTREMES, None, np.array([-0.0, 4.9e-320]))
    partial = PartialModel(name, "run-1", "lab", Kind.LINEAR, (), False, part, metadata={"note": 'it\'s "100%" \\ 年'})

    version, written = publish_model(warehouse, partial, view_of(name, NAMES), "a" * 64, lambda _: {"rows": 3})
    found = current_versions(warehouse)[name]
    loaded = load_model(warehouse, found)

    assert written
    assert found == version
    assert found.metadata == partial.metadata
    assert found.certificate == {"rows": 3}
    assert loaded.part.features == NAMES
    assert linear(loaded.part).weights.tobytes() == EXTREMES.tobytes()
    assert linear(loaded.part).constant.tobytes() == linear(part).constant.tobytes()
    assert loaded.part.intercept is None


def test_a_view_that_grows_gets_columns_and_old_models_keep_working(warehouse: Warehouse, name: str) -> None:
    publish_model(warehouse, partial_of(f"{name}-old", 1.5, ["age", "order"]), view_of(name, NAMES), "a" * 64)

    wider = view_of(name, [*NAMES, "debt"], version=2)
    publish_model(warehouse, partial_of(f"{name}-new", 2.5, ["debt", "age"]), wider, "b" * 64)
    publish_model(warehouse, partial_of(f"{name}-old", 3.5, ["age", "debt"]), wider, "c" * 64)

    first, second = list_versions(warehouse, f"{name}-old")
    assert linear(load_model(warehouse, first).part).weights.tolist() == [[1.5], [1.5]]
    assert load_model(warehouse, second).part.features == ("age", "debt")
    assert number_of(warehouse, f"{name}-new") == 2.5
    assert number_of(warehouse, f"{name}-old") == 3.5


@pytest.mark.parametrize(("place", "at"), cases_by_place(range(4), [3]), indirect=["place"])
def test_an_interrupted_publish_leaves_the_old_version_and_repeating_heals(
    warehouse: Warehouse, name: str, at: int
) -> None:
    view, wider = view_of(name, NAMES), view_of(name, [*NAMES, "debt"], version=2)
    publish_model(warehouse, partial_of(name, 1.5, ["age"]), view, "a" * 64)
    new = partial_of(name, 2.5, ["debt", "age"])

    with pytest.raises(Interrupted):
        publish_model(Interruptible(warehouse, at), new, wider, "b" * 64)
    between = number_of(warehouse, name)
    _, written = publish_model(warehouse, new, wider, "b" * 64)

    assert between == 1.5
    assert written
    assert number_of(warehouse, name) == 2.5
    assert [version.version for version in list_versions(warehouse, name)] == [1, 2]


def test_the_same_file_again_writes_nothing_and_lost_parameters_are_healed(warehouse: Warehouse, name: str) -> None:
    view, partial = view_of(name, NAMES), partial_of(name, 1.5, NAMES)
    version, _ = publish_model(warehouse, partial, view, "a" * 64)

    again = publish_model(Interruptible(warehouse, 2), partial, view, "a" * 64)  # two calls of ensure, no write
    none = (
        warehouse.read(version.parameter_tables[0], ["output"], version.partition)
        .slice(0, 0)
        .cast(pa.schema([("output", pa.int32())]))
    )
    warehouse.replace(version.parameter_tables[0], version.partition, none)
    healed = publish_model(warehouse, partial, view, "a" * 64)

    assert again == (version, False)
    assert healed == (version, True)
    assert number_of(warehouse, name) == 1.5


def test_a_rollback_and_a_deletion_are_seen_at_once(warehouse: Warehouse, name: str) -> None:
    view = view_of(name, NAMES)
    for number, source in ((1.5, "a"), (2.5, "b")):
        publish_model(warehouse, partial_of(name, number, NAMES), view, source * 64)

    back = rollback(warehouse, name)
    between = number_of(warehouse, name)
    count = delete_model(warehouse, name)

    assert (back.version, between) == (3, 1.5)
    assert count == 3
    assert number_of(warehouse, name) is None
    assert warehouse.read(back.parameter_tables[0], ["output"], {"model_id": name}).num_rows == 0


@pytest.mark.parametrize(("place", "at"), cases_by_place(range(4), [3]), indirect=["place"])
def test_an_interrupted_snapshot_is_not_seen_and_repeating_heals(warehouse: Warehouse, name: str, at: int) -> None:
    def rows(number: float) -> pa.Table:
        moments = pa.array([NOON] * 2, pa.timestamp("us", tz="UTC"))
        return pa.table({"sample_id": ["x", "年'\""], "event_time": moments, "age": [number, None]})

    view = view_of(name, ["age"])
    old, new = snapshot_name(NOON), snapshot_name(NOON + timedelta(days=1))
    publish_snapshot(warehouse, view, old, rows(1.5))

    with pytest.raises(Interrupted):
        publish_snapshot(Interruptible(warehouse, at), view, new, rows(2.5))
    between = latest_snapshot(warehouse, name)
    published = publish_snapshot(warehouse, view, new, rows(2.5))

    assert between is not None
    assert between.snapshot == old
    assert latest_snapshot(warehouse, name) == published
    found = read_snapshot_rows(warehouse, published, ["sample_id", "event_time", "age"]).sort_by("sample_id")
    assert found.to_pylist() == [
        {"sample_id": "x", "event_time": NOON, "age": 2.5},
        {"sample_id": "年'\"", "event_time": NOON, "age": None},
    ]


def test_names_that_could_be_sql_never_reach_the_engine(embedded: Warehouse, name: str) -> None:
    evil = 'x"; DROP TABLE fp_models'

    with pytest.raises(NameRefusedError):
        list_versions(embedded, evil)
    with pytest.raises(NameRefusedError):
        latest_snapshot(embedded, evil)
    with pytest.raises(NameRefusedError):
        delete_model(embedded, evil)
    with pytest.raises(FeatureNamesError):
        view_of(name, [evil])
    with pytest.raises(NameRefusedError):
        view_of(evil, ["age"])


@pytest.mark.parametrize(("place", "link"), cases_by_place(LINKS, LINKS[1:]), indirect=["place"])
def test_a_link_comes_back_with_its_parameter_bit_equal(warehouse: Warehouse, link: Link) -> None:
    name = f"m-{uuid.uuid4().hex}"
    view = view_of(f"v{uuid.uuid4().hex[:12]}", NAMES)
    part = LinearPart(NAMES, EXTREMES[:, :1], None, np.zeros(1))
    partial = PartialModel(name, "run-1", "lab", Kind.LINEAR, (), False, part, link=link)

    publish_model(warehouse, partial, view, "a" * 64)

    version = current_versions(warehouse)[name]
    assert version.link == link
    assert load_model(warehouse, version).link == link
