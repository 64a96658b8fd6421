"""Heads appear, are verified and stay while the warehouse is away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedpredict.errors import WarehouseUnavailableError
from fedpredict.scoring.heads import HeadLoader
from fedpredict.tables.heads import delete_heads, publish_head
from fedpredict.tables.schemas import HEAD_LEAVES
from fedpredict.warehouse.local import LocalWarehouse
from tests.unit.tables.test_heads import FILE_A, FILE_B, NARROW, STRUCTURE, WIDE, head_of


@pytest.fixture
def warehouse(tmp_path: Path) -> LocalWarehouse:
    return LocalWarehouse(tmp_path)


def test_a_warehouse_without_heads_has_none(warehouse: LocalWarehouse) -> None:
    assert HeadLoader(warehouse, "bank", keep=3).refresh().heads == {}


def test_heads_appear_newest_first_as_many_as_are_kept(warehouse: LocalWarehouse) -> None:
    loader = HeadLoader(warehouse, "bank", keep=2)
    digests = [
        publish_head(warehouse, head_of(replace(NARROW, intercept=np.array([base, 0.0]))), str(at) * 64)[0].head_sha256
        for at, base in enumerate((1.0, 2.0, 3.0))
    ]

    shelf = loader.refresh()

    assert [each.head_sha256 for each in shelf.heads["credit"]] == digests[:0:-1]
    assert shelf.version("credit", digests[0]) is None
    found = shelf.version("credit", digests[1])
    assert found is not None
    assert loader.refresh().version("credit", digests[1]) is found
    fitting = shelf.fitting("credit", "run-1", NARROW.combination)
    assert fitting is not None
    assert fitting.head_sha256 == digests[2]
    assert fitting.model.head.combination.structure_sha256 == STRUCTURE


def test_a_damaged_head_is_a_problem_of_its_model_alone(warehouse: LocalWarehouse) -> None:
    damaged, _ = publish_head(warehouse, head_of(), FILE_A)
    publish_head(warehouse, head_of(WIDE, model_id="churn"), FILE_B)
    warehouse.replace(HEAD_LEAVES.name, damaged.partition, HEAD_LEAVES.arrow_schema.empty_table())

    shelf = HeadLoader(warehouse, "bank", keep=3).refresh()

    assert shelf.heads["credit"] == ()
    assert "convert the head again" in shelf.problems["credit"]
    assert len(shelf.heads["churn"]) == 1


def test_another_partys_head_is_refused(warehouse: LocalWarehouse) -> None:
    publish_head(warehouse, head_of(party="shop"), FILE_A)

    shelf = HeadLoader(warehouse, "bank", keep=3).refresh()

    assert shelf.problems == {"credit": "the head is party shop's; this process serves bank"}


def test_what_was_loaded_stays_while_the_warehouse_is_away_and_goes_when_deleted(
    warehouse: LocalWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_head(warehouse, head_of(), FILE_A)
    loader = HeadLoader(warehouse, "bank", keep=3)
    loaded = loader.refresh()

    def away(*_: object) -> None:
        raise WarehouseUnavailableError("away")

    with monkeypatch.context() as patched:
        patched.setattr(LocalWarehouse, "read", away)
        assert loader.refresh() is loaded
    assert loader.shelf is loaded

    delete_heads(warehouse, "credit")
    assert loader.refresh().heads == {}
