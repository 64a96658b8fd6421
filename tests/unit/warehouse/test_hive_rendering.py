"""A statement's text for Hive or Spark, made once, and the values that are put into it."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import sqlglot
from sqlglot import exp

from fedpredict.errors import StatementError, WarehouseWriteError
from fedpredict.warehouse.base import Column, ColumnType, Filling, TableSchema
from fedpredict.warehouse.hive_connection import Engine
from fedpredict.warehouse.hive_rendering import RowTexts, text_of

TABLE = TableSchema("target", (Column("x", ColumnType.DOUBLE),), (Column("part", ColumnType.INT),))


def parsed(text: str) -> exp.Select:
    return cast(exp.Select, sqlglot.parse_one(text))


def test_a_text_takes_any_values() -> None:
    text = text_of(parsed("WITH c AS (SELECT :a AS a) SELECT a, :b AS b FROM c, t WHERE b = :b"), Engine.HIVE)

    assert text.tables == (("t", ""),)
    expected = "SELECT `a`, 'it\\u0027s' AS `b` FROM `c`, `t` WHERE `b` = 'it\\u0027s'"
    assert text.bound({"a": 7, "b": "it's"}) == ("WITH `c` AS (SELECT CAST('7' AS BIGINT) AS `a`) ", expected)
    assert text.bound({"a": 7, "b": ":a"})[1] == "SELECT `a`, ':a' AS `b` FROM `c`, `t` WHERE `b` = ':a'"
    assert text.bound({"a": None, "b": 0.5})[0] == "WITH `c` AS (SELECT NULL AS `a`) "


def test_a_missing_value_and_a_servers_setting_are_refused() -> None:
    with pytest.raises(StatementError, match="the statement's parameter b has no value"):
        text_of(parsed("SELECT :a AS a, :b AS b"), Engine.SPARK).bound({"a": 1})
    with pytest.raises(StatementError, match="a setting in its place"):
        text_of(parsed("SELECT '${env:HOME}' AS a"), Engine.SPARK).bound({})


def test_the_text_of_the_statement_before_is_kept() -> None:
    texts, statement = RowTexts(Engine.SPARK), parsed("SELECT y AS x, z FROM t WHERE z = :z")
    filling = Filling({"part": 1}, statement, {"z": 7}, beside=["z"])
    first = texts.of(TABLE, filling)

    assert texts.of(TABLE, replace(filling, partition={"part": 2}, params={"z": 8})) is first
    assert first.query.startswith("SELECT CAST(`x` AS DOUBLE) AS `x`, `z` FROM (SELECT `y` AS `x`, `z` FROM `t` ")
    wider = TableSchema("target", (*TABLE.columns, Column("y", ColumnType.INT)), TABLE.partitioned_by)
    assert "CAST(NULL AS INT) AS `y`, `z` FROM" in texts.of(wider, filling).query
    with pytest.raises(WarehouseWriteError, match="table target has no column z"):
        texts.of(wider, replace(filling, beside=()))
    assert texts.of(wider, Filling({"part": 1}, parsed("SELECT 1.0 AS x"), {})).tables == ()
