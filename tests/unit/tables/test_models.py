"""Publishing, loading, rolling back and deleting models, on the embedded warehouse."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpredict.errors import FeatureNamesError, ModelNotFoundError, NameRefusedError, TableCorruptError
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link
from fedpredict.model.partial import PartialModel
from fedpredict.tables.digest import params_sha256
from fedpredict.tables.linear import part_to_rows
from fedpredict.tables.models import (
    ModelVersion,
    current_versions,
    delete_model,
    list_versions,
    load_model,
    publish_model,
    rollback,
)
from fedpredict.tables.names import column_names
from fedpredict.tables.schemas import MODELS
from fedpredict.tables.version import version_to_rows
from fedpredict.tables.views import FeatureView, ViewFeature
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.linear_parts import linear

FILE_A, FILE_B = "a" * 64, "b" * 64


def view_of(*names: str, version: int = 1) -> FeatureView:
    features = tuple(ViewFeature(name, column, ColumnType.DOUBLE) for name, column in column_names(names).items())
    return FeatureView("bank", version, features, "id", None)


VIEW = view_of("age", "Net income", "年龄")


def partial_of(
    weight: float = 0.5, model_id: str = "credit", features: tuple[str, ...] = ("Net income", "age")
) -> PartialModel:
    part = LinearPart(features, np.full((len(features), 1), weight), np.array([-1.0]), np.array([0.25]))
    return PartialModel(model_id, "run-1", "bank-a", Kind.BINARY, ("no", "yes"), True, part, metadata={"made": "today"})


def numbers(partial: PartialModel) -> tuple[bytes, bytes | None, bytes]:
    part = partial.part
    intercept = None if part.intercept is None else part.intercept.tobytes()
    return np.ascontiguousarray(linear(part).weights).tobytes(), intercept, linear(part).constant.tobytes()


def parameter_file(root: Path) -> Path:
    return next(root.glob("fp_linear_bank/**/part-0.parquet"))


def test_a_published_model_is_current_and_loads_bit_equal(warehouse: LocalWarehouse) -> None:
    partial = partial_of()

    version, written = publish_model(warehouse, partial, VIEW, FILE_A, lambda _: {"rows": 20, "largest": 1e-17})
    loaded = load_model(warehouse, current_versions(warehouse)["credit"])

    assert written
    assert (version.version, version.kind, version.classes, version.n_scores, version.n_outputs) == (
        1, Kind.BINARY, ("no", "yes"), 1, 1,
    )  # fmt: skip
    assert (version.view, version.view_version, version.party, version.training_run) == ("bank", 1, "bank-a", "run-1")
    assert (version.fit_intercept, version.holds_intercept, version.source_sha256) == (True, True, FILE_A)
    assert version.certificate == {"rows": 20, "largest": 1e-17}
    assert version.features == ("Net income", "age")
    assert len(version.salt) == 32
    assert numbers(loaded) == numbers(partial)
    assert loaded.part.features == partial.part.features
    assert (loaded.model_id, loaded.party, loaded.training_run, loaded.metadata) == (
        "credit", "bank-a", "run-1", {"made": "today"},
    )  # fmt: skip


def test_the_salt_is_random_and_not_shown(warehouse: LocalWarehouse) -> None:
    first, _ = publish_model(warehouse, partial_of(), VIEW, FILE_A)
    second, _ = publish_model(warehouse, partial_of(), VIEW, FILE_B)

    assert first.salt != second.salt
    assert first.params_sha256 != second.params_sha256
    assert first.salt.hex() not in repr(first)
    assert repr(first.salt) not in repr(first)


def test_publishing_the_same_file_again_writes_nothing(warehouse: LocalWarehouse, tmp_path: Path) -> None:
    first, _ = publish_model(warehouse, partial_of(), VIEW, FILE_A)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}

    second, written = publish_model(warehouse, partial_of(), VIEW, FILE_A)

    assert not written
    assert second == first
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")} == before


def test_another_file_is_the_next_version_and_the_old_rows_stay(warehouse: LocalWarehouse) -> None:
    old, _ = publish_model(warehouse, partial_of(0.5), VIEW, FILE_A)

    new, written = publish_model(warehouse, partial_of(0.75), VIEW, FILE_B)

    assert written
    assert new.version == 2
    assert list_versions(warehouse, "credit") == [old, new]
    assert current_versions(warehouse) == {"credit": new}
    assert numbers(load_model(warehouse, old)) == numbers(partial_of(0.5))
    assert numbers(load_model(warehouse, new)) == numbers(partial_of(0.75))


def test_an_older_file_published_again_becomes_current_under_its_old_digest(warehouse: LocalWarehouse) -> None:
    old, _ = publish_model(warehouse, partial_of(0.5), VIEW, FILE_A)
    publish_model(warehouse, partial_of(0.75), VIEW, FILE_B)

    again, written = publish_model(warehouse, partial_of(0.5), VIEW, FILE_A)

    assert written
    assert (again.version, again.params_sha256) == (3, old.params_sha256)


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "null"])
def test_damaged_parameters_are_never_used_and_a_repeated_publish_heals_them(
    warehouse: LocalWarehouse, tmp_path: Path, damage: str
) -> None:
    version, _ = publish_model(warehouse, partial_of(), VIEW, FILE_A)
    file = parameter_file(tmp_path / "warehouse")
    rows = pq.ParquetFile(file).read()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-20])
    else:
        value = 0.5000000000000001 if damage == "changed" else None
        at = rows.column_names.index("w_age")
        pq.write_table(rows.set_column(at, "w_age", pa.array([value], pa.float64())), file)

    with pytest.raises(TableCorruptError, match="convert"):
        load_model(warehouse, version)
    healed, written = publish_model(warehouse, partial_of(), VIEW, FILE_A)

    assert written
    assert healed == version
    assert numbers(load_model(warehouse, healed)) == numbers(partial_of())


def test_a_row_of_models_that_says_something_else_than_was_published_is_found(warehouse: LocalWarehouse) -> None:
    version, _ = publish_model(warehouse, partial_of(), VIEW, FILE_A)

    for forged in (
        replace(version, kind=Kind.LINEAR, link=Link("identity"), classes=()),
        replace(version, classes=("yes", "no")),
        replace(version, training_run="run-2"),
        replace(version, party="other"),
        replace(version, view_version=2),
        replace(version, features=("age", "Net income")[:1]),
        replace(version, salt=bytes(32)),
    ):
        with pytest.raises(TableCorruptError, match="give another digest"):
            load_model(warehouse, forged)


def test_a_damaged_row_of_models_is_named(warehouse: LocalWarehouse) -> None:
    version, _ = publish_model(warehouse, partial_of(), VIEW, FILE_A)
    row = version_to_rows(version)
    key: dict[str, str | int] = {"model_id": "credit", "version": 1}

    for column, value in [("options", "{}"), ("salt", "12"), ("kind", "tree"), ("link", "log"), ("created_at", None),
                          ("n_scores", None), ("classes", '["a"]'), ("params_sha256", "short")]:  # fmt: skip
        at = row.column_names.index(column)
        warehouse.replace(MODELS.name, key, row.set_column(at, column, pa.array([value], row.schema.field(at).type)))
        with pytest.raises(TableCorruptError, match="damaged row for version 1 of credit"):
            list_versions(warehouse)

    warehouse.replace(MODELS.name, key, pa.concat_tables([row, row]))
    with pytest.raises(TableCorruptError, match="more than one row for credit 1"):
        list_versions(warehouse)


def test_parameters_that_nobody_points_to_are_not_seen(warehouse: LocalWarehouse) -> None:
    old, _ = publish_model(warehouse, partial_of(0.5), VIEW, FILE_A)
    orphan = {"model_id": "credit", "params_sha256": "f" * 64}
    warehouse.replace("fp_linear_bank", orphan, part_to_rows(linear(partial_of(9.0).part)))

    assert current_versions(warehouse) == {"credit": old}
    assert numbers(load_model(warehouse, old)) == numbers(partial_of(0.5))


def test_a_rollback_makes_the_version_before_current(warehouse: LocalWarehouse) -> None:
    first, _ = publish_model(warehouse, partial_of(0.5), VIEW, FILE_A)
    second, _ = publish_model(warehouse, partial_of(0.75), VIEW, FILE_B)

    back = rollback(warehouse, "credit")
    forth = rollback(warehouse, "credit", second.version)
    same = rollback(warehouse, "credit", second.version)

    assert (back.version, back.params_sha256) == (3, first.params_sha256)
    assert (forth.version, forth.params_sha256) == (4, second.params_sha256)
    assert same == forth
    assert [each.version for each in list_versions(warehouse, "credit")] == [1, 2, 3, 4]
    assert numbers(load_model(warehouse, forth)) == numbers(partial_of(0.75))


def test_a_rollback_to_nothing_is_refused(warehouse: LocalWarehouse, tmp_path: Path) -> None:
    publish_model(warehouse, partial_of(0.5), VIEW, FILE_A)

    with pytest.raises(ModelNotFoundError, match="no model other"):
        rollback(warehouse, "other")
    with pytest.raises(ModelNotFoundError, match="it has 1"):
        rollback(warehouse, "credit")
    with pytest.raises(ModelNotFoundError, match="it has 1"):
        rollback(warehouse, "credit", 7)

    parameter_file(tmp_path / "warehouse").unlink()
    publish_model(warehouse, partial_of(0.75), VIEW, FILE_B)
    with pytest.raises(TableCorruptError, match="version 1 of model credit"):
        rollback(warehouse, "credit")
    assert current_versions(warehouse)["credit"].version == 2


def test_a_deleted_model_is_gone_with_its_parameters_and_others_stay(warehouse: LocalWarehouse, tmp_path: Path) -> None:
    publish_model(warehouse, partial_of(0.5), VIEW, FILE_A)
    publish_model(warehouse, partial_of(0.75), VIEW, FILE_B)
    publish_model(warehouse, partial_of(model_id="other"), VIEW, FILE_A)
    orphan = {"model_id": "credit", "params_sha256": "f" * 64}
    warehouse.replace("fp_linear_bank", orphan, part_to_rows(linear(partial_of(9.0).part)))

    count = delete_model(warehouse, "credit")

    assert count == 2
    assert list(current_versions(warehouse)) == ["other"]
    assert not list((tmp_path / "warehouse").rglob("model_id=credit"))
    assert delete_model(warehouse, "credit") == 0
    assert publish_model(warehouse, partial_of(0.5), VIEW, FILE_A)[0].version == 1


def test_a_view_that_grows_adds_weights_and_old_models_keep_working(warehouse: LocalWarehouse) -> None:
    old, _ = publish_model(warehouse, partial_of(), VIEW, FILE_A)
    wider = view_of("age", "Net income", "年龄", "debt", version=2)

    new, _ = publish_model(warehouse, partial_of(model_id="risk", features=("debt", "age")), wider, FILE_B)

    assert numbers(load_model(warehouse, old)) == numbers(partial_of())
    assert load_model(warehouse, new).part.features == ("debt", "age")
    rows = warehouse.read("fp_linear_bank", ["w_age", "w_net_income", "w_debt", "model_id"], {}).sort_by("model_id")
    assert rows.to_pylist() == [
        {"w_age": 0.5, "w_net_income": 0.5, "w_debt": None, "model_id": "credit"},
        {"w_age": 0.5, "w_net_income": None, "w_debt": 0.5, "model_id": "risk"},
    ]


def test_a_feature_that_the_view_lacks_or_has_as_text_is_refused(warehouse: LocalWarehouse) -> None:
    with pytest.raises(FeatureNamesError, match="no feature 'debt'") as raised:
        publish_model(warehouse, partial_of(features=("age", "debt")), VIEW, FILE_A)
    text = replace(VIEW, features=(*VIEW.features, ViewFeature("city", "city", ColumnType.STRING)))
    with pytest.raises(FeatureNamesError, match="'city' as text"):
        publish_model(warehouse, partial_of(features=("age", "city")), text, FILE_A)

    assert raised.value.names == ("debt",)


def test_a_model_id_is_checked_before_anything_is_read(warehouse: LocalWarehouse) -> None:
    with pytest.raises(NameRefusedError):
        list_versions(warehouse, "../etc")


def test_a_publisher_that_was_overtaken_takes_the_next_number(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both chose version 1; the other wrote its row over ours before we looked."""
    write = LocalWarehouse.replace
    other: list[ModelVersion] = []

    def overtake(self: LocalWarehouse, table: str, partition: dict[str, str | int], rows: pa.Table) -> None:
        write(self, table, partition, rows)
        if table == MODELS.name and not other:
            mine = list_versions(self, "credit")[0]
            other.append(replace(mine, params_sha256="f" * 64))
            write(self, table, partition, version_to_rows(other[0]))

    monkeypatch.setattr(LocalWarehouse, "replace", overtake)

    version, _ = publish_model(warehouse, partial_of(), VIEW, FILE_A)

    assert version.version == 2
    assert [each.params_sha256 for each in list_versions(warehouse)] == ["f" * 64, version.params_sha256]


def test_a_thousand_models_live_in_one_table(warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what a disk confirms is not the point here
    first, _ = publish_model(warehouse, partial_of(), VIEW, FILE_A)
    for number in range(999):
        partial = partial_of(float(number), model_id=f"m{number}")
        digest = params_sha256(partial, VIEW.name, VIEW.version, first.salt)
        version = replace(first, model_id=partial.model_id, params_sha256=digest)
        warehouse.replace(version.parameter_tables[0], version.partition, part_to_rows(linear(partial.part)))
        warehouse.replace(MODELS.name, {"model_id": version.model_id, "version": 1}, version_to_rows(version))

    new, written = publish_model(warehouse, partial_of(2.0, model_id="m777"), VIEW, FILE_B)
    current = current_versions(warehouse)

    assert written
    assert len(current) == 1000
    assert current["m777"] == new
    assert linear(load_model(warehouse, new).part).weights.tolist() == [[2.0], [2.0]]
    assert linear(load_model(warehouse, current["m778"]).part).weights.tolist() == [[778.0], [778.0]]


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_part_comes_back_bit_equal(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(["age", "Net income", "年龄"]), min_size=1, unique=True))
    n_scores = data.draw(st.integers(1, 4))
    vectors = st.lists(finite, min_size=n_scores, max_size=n_scores).map(np.array)
    weights = np.array([data.draw(vectors) for _ in names])
    part = LinearPart(tuple(names), weights, data.draw(st.none() | vectors), data.draw(vectors))
    partial = PartialModel("m", "run", "lab", Kind.LINEAR, (), part.intercept is not None, part)

    with tempfile.TemporaryDirectory() as folder:
        warehouse = LocalWarehouse(Path(folder) / "w")
        version, _ = publish_model(warehouse, partial, VIEW, FILE_A)
        loaded = load_model(warehouse, list_versions(warehouse, "m")[0])

    assert loaded.part.features == part.features
    assert numbers(loaded) == numbers(partial)
    assert version.holds_intercept == (part.intercept is not None)


def test_a_part_of_2000_features_comes_back_bit_equal(warehouse: LocalWarehouse) -> None:
    names = tuple(f"f{number}" for number in range(2000))
    weights = np.random.default_rng(1).normal(size=(2000, 3))
    part = LinearPart(names, weights, None, np.zeros(3))
    partial = PartialModel("wide", "run", "lab", Kind.LINEAR, (), False, part)

    version, _ = publish_model(warehouse, partial, view_of(*names), FILE_A)

    assert numbers(load_model(warehouse, version)) == numbers(partial)


@pytest.mark.parametrize(
    ("link", "parameter"),
    [("logit", None), ("log", 1.0), ("power", None), ("power", 0.0), ("loglog", None), (None, None)],
)
def test_a_row_with_a_link_that_the_kind_cannot_have_is_damaged(
    warehouse: LocalWarehouse, link: str | None, parameter: float | None
) -> None:
    part = LinearPart(("age",), np.ones((1, 1)), None, np.zeros(1))
    version, _ = publish_model(warehouse, PartialModel("m", "run", "lab", Kind.LINEAR, (), False, part), VIEW, FILE_A)
    row = version_to_rows(version).to_pylist()[0] | {"link": link, "link_parameter": parameter}
    warehouse.replace(
        MODELS.name, {"model_id": "m", "version": 1}, pa.Table.from_pylist([row], schema=MODELS.arrow_schema)
    )

    with pytest.raises(TableCorruptError, match=r"damaged row for version 1 of m \(.*link"):
        list_versions(warehouse, "m")


def test_a_link_that_was_changed_in_the_table_is_found_by_the_digest(warehouse: LocalWarehouse) -> None:
    part = LinearPart(("age",), np.ones((1, 1)), None, np.zeros(1))
    version, _ = publish_model(warehouse, PartialModel("m", "run", "lab", Kind.LINEAR, (), False, part), VIEW, FILE_A)

    with pytest.raises(TableCorruptError, match="another digest"):
        load_model(warehouse, replace(version, link=Link("log")))
