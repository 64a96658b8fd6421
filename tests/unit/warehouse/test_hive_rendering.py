"""A statement's text for Hive or Spark, made once, and the values that are put into it."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp
from typing_extensions import override

from fedpredict.errors import StatementError, WarehouseWriteError
from fedpredict.tables.erasure import CopiedFrom, copies_left, copy_without, partitions_with
from fedpredict.tables.results import RESULTS
from fedpredict.tables.results_erasure import blank_copy
from fedpredict.warehouse.base import Column, ColumnType, Filling, Partition, TableSchema, Value
from fedpredict.warehouse.hive_connection import Engine
from fedpredict.warehouse.hive_rendering import RowTexts, rendered, text_of
from fedpredict.warehouse.local import LocalWarehouse

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


class Asked(LocalWarehouse):
    """Keeps the statements that it is given, which name nothing that is here."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.statements: list[tuple[exp.Expression, Mapping[str, Value]]] = []

    @override
    def run(self, statement: exp.Expression, params: Mapping[str, Value]) -> pa.Table:
        self.statements.append((statement, params))
        return pa.table({})

    @override
    def replace_from(
        self, table: str, partition: Partition, statement: exp.Expression, params: Mapping[str, Value]
    ) -> int:
        self.statements.append((statement, params))
        return 0


@pytest.mark.parametrize("engine", list(Engine))
@pytest.mark.parametrize("who", ["${env:HOME}", "$${system:user.name}", "a${hiveconf:x}'b", "$", "{", "$\\{"])
def test_whoever_is_erased_has_no_setting_in_their_literal(tmp_path: Path, who: str, engine: Engine) -> None:
    """Servers replace `${...}` in a text before they read it; in the literal the sign stands as an escape."""
    warehouse = Asked(tmp_path)
    partitions_with(warehouse, RESULTS, who)
    copy_without(warehouse, TABLE, {"part": 1}, who, "x")
    blank_copy(warehouse, "t", 0, who, with_rank=False)
    copies_left(warehouse, CopiedFrom(TABLE.name, "x"), who)
    texts = ["".join(rendered(cast(exp.Query, each), params, engine)) for each, params in warehouse.statements]

    about = [text for text in texts if re.search(r"\\u0024|'\{'", text)]
    assert len(about) == 4
    assert not any("$" in text for text in texts)
    for text in about:
        literals = [ast.literal_eval(each) for each in re.findall(r"'(?:[^'\\]|\\.)*'", text)]
        assert who in literals  # both servers read \uXXXX as Python does
