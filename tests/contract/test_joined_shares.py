"""Shares of a task joined, added up, finished and ranked by every warehouse's engine, against sums made here."""

from __future__ import annotations

import dataclasses
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlglot import exp
from typing_extensions import override

from fedpredict.model.links import Link
from fedpredict.model.offline import Ranking
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus, Share
from fedpredict.tables import combining_sql, ranking_sql
from fedpredict.tables.results import RESULTS, UNRANKED, ensure_results, read_results, remove_work
from fedpredict.tables.task_shares import TASK_SHARES, write_task_shares
from fedpredict.warehouse.base import Value, Warehouse
from tests.contract.conftest import Place, cases_by_place

pytestmark = pytest.mark.timeout(300)

STATUSES = [int(each) for each in SampleStatus if each is not SampleStatus.UNSPECIFIED]
WORST_FIRST = [0, 6, 9, 8, 2, 4, 3, 5, 7, 1]
SIZES = (13, 0, 30)
"""Ids of each bucket."""


@dataclass(frozen=True)
class Case:
    """A task: its parties' shares by bucket, and how they are combined."""

    parties: tuple[str, ...]
    link: str
    width: int
    defaults: dict[str, tuple[float, ...]] | None = None

    @override
    def __str__(self) -> str:
        return f"{self.link}-{len(self.parties)}{'-defaults' if self.defaults else ''}"


CASES = [
    Case(("bank",), "logit", 1),
    Case(("shop", "bank"), "identity", 2),
    Case(("telecom", "bank", "shop"), "softmax", 3, {"bank": (0.5, 0.25, -1.0)}),
    Case(("telecom", "bank"), "softmax", 3),
    Case(("telecom", "bank", "shop"), "logit", 1, {"bank": (0.25,), "shop": (-1.5,)}),
    Case(("telecom", "bank"), "softmax", 2, {"telecom": (1.0, -1.0)}),
]


def shares_of(case: Case, seed: int) -> list[tuple[list[bytes], dict[str, Share]]]:
    """Return for each bucket its ids, and random shares with every status, ties, and numbers beyond all bounds."""
    random = np.random.default_rng(seed)
    buckets = []
    for bucket, size in enumerate(SIZES):
        ids = sorted({f"id {bucket} é {random.integers(10**9)}".encode() for _ in range(size)})
        shares = {}
        for party in case.parties:
            values = random.choice([0.0, -0.0, 0.5, 1.0, -2.0, 30.0, 1.0 / 3.0], (len(ids), case.width))
            values[: len(ids) // 4] = random.normal(size=(len(ids) // 4, case.width)) * 10.0
            status = np.where(random.random(len(ids)) < 0.75, 1, random.choice(STATUSES, len(ids))).astype(np.uint8)
            if ids:
                values[-1], status[-1] = 1.7e308, 1  # two of them are infinite
                values[-2], status[-2] = -800.0, 1  # exp(800) is infinite
            values[status != 1] = np.nan
            shares[party] = Share(values, status)
        buckets.append((ids, shares))
    return buckets


def expected(case: Case, shares: dict[str, Share], row: int) -> tuple[int, int, list[float] | None]:
    """Return status, origin and prediction of a row, one number at a time."""
    given = {party: (int(share.status[row]), [float(x) for x in share.values[row]]) for party, share in shares.items()}
    someone, stood_in = any(status == 1 for status, _ in given.values()), False
    for party, constant in (case.defaults or {}).items():
        if someone and given[party][0] not in (1, 6):
            given[party], stood_in = (1, list(constant)), True
    status = min((each for each, _ in given.values()), key=WORST_FIRST.index)
    if status != 1:
        return status, 0, None
    raw = [sum((given[party][1][at] for party in sorted(given)), 0.0) for at in range(case.width)]
    if not all(map(math.isfinite, raw)):
        return 7, 0, None
    if case.link == "logit":
        raw = [0.0 if each < -709.7 else 1.0 / (1.0 + math.exp(-each)) for each in raw]
    elif case.link == "softmax":
        exponentials = [math.exp(each - max(raw)) for each in raw]
        raw = [each / math.fsum(exponentials) for each in exponentials]
    return 1, 2 if stood_in else 1, raw


def written(warehouse: Warehouse, case: Case, seed: int) -> tuple[str, list[tuple[list[bytes], dict[str, Share]]]]:
    task_id, buckets = f"t-{uuid.uuid4().hex}", shares_of(case, seed)
    warehouse.ensure(TASK_SHARES)
    ensure_results(warehouse)
    for bucket, (ids, shares) in enumerate(buckets):
        write_task_shares(warehouse, task_id, bucket, SampleIds.of(ids), shares)
    return task_id, buckets


def query_of(task_id: str, case: Case) -> tuple[exp.Select, dict[str, Value]]:
    return combining_sql.combined_query(task_id, case.parties, case.width, Link(case.link), defaults=case.defaults)


@pytest.fixture
def warehouse(request: pytest.FixtureRequest, places: Callable[[str], Place], tmp_path: Path) -> Iterator[Warehouse]:
    """Warehouses as a task has them: a server with a folder for what goes there, by which it is fast."""
    place = places(request.param)
    if place.settings is None:
        yield place.warehouse
        return
    from fedpredict.warehouse.hive import HiveWarehouse

    staged = HiveWarehouse(dataclasses.replace(place.settings, staging=str(tmp_path)))
    yield staged
    staged.close()


def everywhere(cases: Sequence[Any], on_servers: Sequence[Any]) -> pytest.MarkDecorator:
    """Ask for every case in process, and for some on each server, whose statements take seconds."""
    return pytest.mark.parametrize(("warehouse", "case"), cases_by_place(cases, on_servers), indirect=["warehouse"])


@everywhere(CASES, [CASES[2]])
def test_shares_joined_and_ranked_give_what_their_sums_give(warehouse: Warehouse, case: Case) -> None:
    task_id, buckets = written(warehouse, case, seed=len(case.parties))
    warehouse.replace_each_from(UNRANKED.name, {"task_id": task_id}, *query_of(task_id, case))

    warehouse.replace_each_from(
        RESULTS.name, {"task_id": task_id}, *ranking_sql.ranked_query(task_id, Ranking(case.width - 1))
    )

    oracle = [(at, each, expected(case, shares, row)) for at, (ids, shares) in enumerate(buckets)
              for row, each in enumerate(ids)]  # fmt: skip
    ordered = sorted((-values[-1], each) for _, each, (_, _, values) in oracle if values is not None)
    ranks = {sample_id: rank for rank, (_, sample_id) in enumerate(ordered, 1)}
    assert len({number for number, _ in ordered}) < len(ordered)  # there are ties
    rows = [
        row
        for bucket, (ids, _) in enumerate(buckets)
        for row in read_results(warehouse, task_id, bucket, len(ids), "", with_rank=True).to_pylist()
    ]
    assert [row["sample_id"].encode() for row in rows] == [each for _, each, _ in oracle]
    assert [(row["status"], row["origin"]) for row in rows] == [each[:2] for _, _, each in oracle]
    for row, (_, _, (_, _, numbers)) in zip(rows, oracle, strict=True):
        assert row["predictions"] == (None if numbers is None else pytest.approx(numbers, rel=1e-12, abs=0.0))
    # of numbers that are equal but for rounding the oracle may have another order than the engine
    by_engine = sorted((-row["predictions"][-1], row["sample_id"].encode()) for row in rows if row["predictions"])
    assert {row["sample_id"].encode(): row["rank"] for row in rows if row["rank"] is not None} == {
        sample_id: rank for rank, (_, sample_id) in enumerate(by_engine, 1)
    }
    assert len(by_engine) == len(ranks)
    check_counts(warehouse, task_id, [(at, *each) for at, _, each in oracle], case.width - 1)


def check_counts(
    warehouse: Warehouse, task_id: str, oracle: list[tuple[int, int, int, list[float] | None]], output: int
) -> None:
    """Compare what the engine counts of results with what is in them."""
    counts = warehouse.run(*ranking_sql.counts_query(task_id, RESULTS.name)).to_pylist()
    kinds = {each[:3] for each in oracle}
    assert {(row["bucket"], row["status"], row["origin"]): row["n"] for row in counts} == {
        kind: sum(each[:3] == kind for each in oracle) for kind in kinds
    }
    bins = warehouse.run(*ranking_sql.histogram_query(task_id, RESULTS.name, output, (0.25, 1.0 / 64.0))).to_pylist()
    places = [(bucket, place_of(values[output])) for bucket, _, _, values in oracle if values is not None]
    assert {(row["bucket"], row["fp_bin"]): row["n"] for row in bins} == {
        place: places.count(place) for place in set(places)
    }


@everywhere([0, 7], [])
def test_only_the_first_have_ranks_and_come_by_them(warehouse: Warehouse, case: int) -> None:
    task_id, buckets = written(warehouse, CASES[1], seed=5)
    warehouse.replace_each_from(UNRANKED.name, {"task_id": task_id}, *query_of(task_id, CASES[1]))

    warehouse.replace_each_from(
        RESULTS.name, {"task_id": task_id}, *ranking_sql.ranked_query(task_id, Ranking(1, top=case))
    )

    predicted = [(expected(CASES[1], shares, row)[2], each) for ids, shares in buckets for row, each in enumerate(ids)]
    ordered = sorted((-values[1], each) for values, each in predicted if values is not None)
    ranks = {sample_id: rank for rank, (_, sample_id) in enumerate(ordered, 1) if not case or rank <= case}
    found = {
        row["sample_id"].encode(): row["rank"]
        for bucket, (ids, _) in enumerate(buckets)
        for row in read_results(warehouse, task_id, bucket, len(ids), "", with_rank=True).to_pylist()
    }
    assert found == {sample_id: ranks.get(sample_id) for ids, _ in buckets for sample_id in ids}
    rows = warehouse.run(*ranking_sql.top_query(task_id, 2, 4)).sort_by("rank").to_pylist()
    assert [row["sample_id"].encode() for row in rows] == [each for each, rank in ranks.items() if 2 <= rank <= 4]


@everywhere(["none"], [])
def test_results_without_any_number_have_no_ranks(warehouse: Warehouse, case: str) -> None:
    task_id, ids = f"t-{case}-{uuid.uuid4().hex}", [b"u1", b"u2"]
    warehouse.ensure(TASK_SHARES)
    ensure_results(warehouse)
    nothing = Share(np.full((2, 1), np.nan), np.array([2, 5], dtype=np.uint8))
    write_task_shares(warehouse, task_id, 0, SampleIds.of(ids), {"bank": nothing})
    query, params = combining_sql.combined_query(task_id, ["bank"], 1, Link("logit"))
    warehouse.replace_each_from(UNRANKED.name, {"task_id": task_id}, query, params)

    query, params = ranking_sql.ranked_query(task_id, Ranking(0))
    warehouse.replace_each_from(RESULTS.name, {"task_id": task_id}, query, params)

    rows = read_results(warehouse, task_id, 0, 2, "", with_rank=True).to_pylist()
    assert [(row["status"], row["rank"]) for row in rows] == [(2, None), (5, None)]


@everywhere(["moments"], [])
def test_moments_are_those_of_the_predictions_and_work_can_be_removed(warehouse: Warehouse, case: str) -> None:
    task_id, buckets = written(warehouse, CASES[1], seed=9)
    warehouse.replace_each_from(RESULTS.name, {"task_id": task_id}, *query_of(task_id, CASES[1]))

    row = warehouse.run(*ranking_sql.moments_query(task_id, RESULTS.name, 2)).to_pylist()[0]

    predicted = [expected(CASES[1], shares, row)[2] for ids, shares in buckets for row in range(len(ids))]
    numbers = np.array([each for each in predicted if each is not None])
    assert case == "moments"
    assert [row["mean_0"], row["mean_1"]] == pytest.approx(numbers.mean(axis=0).tolist(), rel=1e-12)
    assert [row["deviation_0"], row["deviation_1"]] == pytest.approx(numbers.std(axis=0).tolist(), rel=1e-12)
    remove_work(warehouse, task_id, len(SIZES))
    assert warehouse.read(TASK_SHARES.name, ["status"], {"task_id": task_id}).num_rows == 0


def place_of(number: float) -> int:
    """Return the bin of a number between 0.25 and 0.75, both of which are in."""
    if number < 0.25:
        return 0
    return 33 if number > 0.75 else min(32, int((number - 0.25) * 64.0) + 1)
