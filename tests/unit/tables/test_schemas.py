from __future__ import annotations

import pytest

from fedpredict.errors import NameRefusedError
from fedpredict.tables.schemas import MODELS, VIEWS, features_schema, linear_schema
from fedpredict.warehouse.base import Column, ColumnType

FEATURES = (Column("age", ColumnType.DOUBLE), Column("city", ColumnType.STRING), Column("income", ColumnType.DOUBLE))


def test_a_parameter_table_has_one_weight_per_numeric_feature_of_the_view() -> None:
    schema = linear_schema("bank", FEATURES)

    assert schema.name == "fp_linear_bank"
    assert [column.name for column in schema.columns] == ["output", "intercept", "constant", "w_age", "w_income"]
    assert [column.name for column in schema.partitioned_by] == ["model_id", "params_sha256"]


def test_a_feature_table_has_every_feature_with_its_type() -> None:
    schema = features_schema("bank", FEATURES)

    assert schema.name == "fp_features_bank"
    assert [(column.name, column.type.value) for column in schema.columns] == [
        ("sample_id", "string"),
        ("event_time", "timestamp"),
        ("fp_place", "string"),
        ("age", "double"),
        ("city", "string"),
        ("income", "double"),
    ]
    assert [column.name for column in schema.partitioned_by] == ["view_version", "snapshot"]


def test_the_pointers_have_one_partition_per_version_and_per_snapshot() -> None:
    assert [column.name for column in MODELS.partitioned_by] == ["model_id", "version"]
    assert [column.name for column in VIEWS.partitioned_by] == ["view", "view_version", "snapshot"]


@pytest.mark.parametrize("view", ["", "Bank", "1view", 'x"; DROP TABLE y', "v" * 64])
def test_a_view_name_that_breaks_the_rule_makes_no_table(view: str) -> None:
    with pytest.raises(NameRefusedError):
        linear_schema(view, FEATURES)
    with pytest.raises(NameRefusedError):
        features_schema(view, FEATURES)
