"""Random raw tables for the example views, written into a party's warehouse.

python examples/views/raw.py --config participant.toml --people 100000
fedpredict view register examples/views/usage.toml --without-dry-run spark,hive
fedpredict features refresh usage --as-of 2024-03-01T00:00:00Z
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedpredict.cli.wiring import opened_warehouse
from fedpredict.warehouse.base import ARROW_TYPES, Column, ColumnType, TableSchema, Warehouse

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
"""The instant that the events are around: the last two of 62 days come after it."""

Tables = dict[str, pa.Table]


def transactions(people: int, seed: int = 1) -> Tables:
    """Return raw_transactions and dim_merchants of a bank; about twenty transactions an account."""
    random = np.random.default_rng(seed)
    count = 20 * people
    cents = pa.array(np.exp(random.normal(7, 1.5, count)).astype(np.int64) + 1)
    events = {
        "id": _named("t", np.arange(count)),
        "at": _moments(random, count),
        "account": _named("account-", random.integers(people, size=count)),
        "merchant": _with_gaps(random, _named("m", random.integers(510, size=count))),
        "amount": _cents(cents),
        "channel": _with_gaps(random, _chosen(random, ["card", "web", "app"], count)),
    }
    merchants = {
        "merchant": _named("m", np.arange(500)),
        "category": _with_gaps(random, _chosen(random, ["food", "travel", "home", "health"], 500)),
        "opened": _days(random, 500),
    }
    return {"raw_transactions": pa.table(events), "dim_merchants": pa.table(merchants)}


def usage(people: int, seed: int = 2) -> Tables:
    """Return raw_usage and dim_cells of a telecom operator; about thirty events a subscriber."""
    random = np.random.default_rng(seed)
    count = 30 * people
    events = {
        "id": pa.array(np.arange(count)),
        "at": _moments(random, count),
        "subscriber": _named("+49", random.integers(people, size=count)),
        "kind": _chosen(random, ["call", "message", "data"], count),
        "seconds": _with_gaps(random, pa.array(random.integers(0, 4_000, count))),
        "megabytes": _with_gaps(random, pa.array(np.exp(random.normal(1, 2, count)))),
        "cell": _with_gaps(random, _named("cell", random.integers(2_050, size=count))),
    }
    cells = {
        "cell": _named("cell", np.arange(2_000)),
        "region": _with_gaps(random, _chosen(random, ["north", "south", "east", "west", "abroad"], 2_000)),
        "abroad": pa.array(random.random(2_000) < 0.1),
    }
    return {"raw_usage": pa.table(events), "dim_cells": pa.table(cells)}


def watching(people: int, seed: int = 3) -> Tables:
    """Return raw_watching and dim_titles of a video platform; about twenty-five events a viewer."""
    random = np.random.default_rng(seed)
    count = 25 * people
    events = {
        "id": _named("w", np.arange(count)),
        "at": _moments(random, count),
        "viewer": _named("viewer-", random.integers(people, size=count)),
        "title": _with_gaps(random, _named("title", random.integers(1_020, size=count))),
        "seconds": _with_gaps(random, pa.array(random.integers(-10, 9_000, count))),
    }
    titles = {
        "title": _named("title", np.arange(1_000)),
        "genre": _with_gaps(random, _chosen(random, ["drama", "comedy", "sport", "news"], 1_000)),
        "released": _days(random, 1_000),
        "length": _with_gaps(random, pa.array(random.integers(1_200, 9_000, 1_000))),
    }
    return {"raw_watching": pa.table(events), "dim_titles": pa.table(titles)}


def _named(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(numbers), pa.string()), "")


def _chosen(random: np.random.Generator, texts: list[str], count: int) -> pa.Array:
    return pa.array(texts).take(pa.array(random.integers(len(texts), size=count)))


def _with_gaps(random: np.random.Generator, values: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(random.random(len(values)) < 0.03), pa.scalar(None, values.type), values)


def _moments(random: np.random.Generator, count: int) -> pa.Array:
    """Return moments of 62 days; one in a thousand stands at midnight, where windows begin and end."""
    micros = int(AS_OF.timestamp()) * 10**6 + random.integers(-60 * 86400 * 10**6, 2 * 86400 * 10**6, count)
    day = 86400 * 10**6
    micros = np.where(random.random(count) < 0.001, micros // day * day, micros)
    return pa.array(micros).cast(ARROW_TYPES[ColumnType.TIMESTAMP])


def _days(random: np.random.Generator, count: int) -> pa.Array:
    days = pa.array(random.integers(14_000, 19_700, count).astype(np.int32)).cast(pa.date32())
    return _with_gaps(random, days.cast(pa.string()))


def _cents(cents: pa.Array) -> pa.Array:
    """Return amounts as text, the way that the embedded warehouse keeps decimals."""
    whole, part = pc.divide(cents, 100), pc.subtract(cents, pc.multiply(pc.divide(cents, 100), 100))
    return pc.binary_join_element_wise(whole.cast(pa.string()), pc.utf8_lpad(part.cast(pa.string()), 2, "0"), ".")


EXAMPLES: dict[str, Callable[[int], Tables]] = {"transactions": transactions, "usage": usage, "watching": watching}


def write(warehouse: Warehouse, tables: Tables) -> None:
    """Write raw tables, each as one partition."""
    types = {kind: name for name, kind in ARROW_TYPES.items()}
    for name, rows in tables.items():
        columns = tuple(Column(field.name, types[field.type]) for field in rows.schema)
        warehouse.ensure(TableSchema(name, columns, (Column("dt", ColumnType.STRING),)))
        warehouse.replace(name, {"dt": "all"}, rows)


def main() -> None:
    """Write the raw tables of the examples named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--people", type=int, default=1_000)
    parser.add_argument("examples", nargs="*", choices=[[], *EXAMPLES], default=[])
    given = parser.parse_args()
    with opened_warehouse(given.config) as party:
        for name in given.examples or EXAMPLES:
            write(party.warehouse, EXAMPLES[name](given.people))


if __name__ == "__main__":
    main()
