"""Raw transactions of the example view, random or chosen, and their features in plain Python: an oracle without SQL."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fedpredict.tables.script_view import ScriptView
from fedpredict.warehouse.base import Column, ColumnType, TableSchema, Warehouse

EXAMPLES = Path(__file__).parent.parent / "examples" / "views"
AS_OF = datetime(2024, 3, 1, tzinfo=UTC)  # at midnight after a leap day: windows begin and end with days


class Event(NamedTuple):
    """A raw transaction."""

    id: str | None
    at: datetime | None
    account: str | None
    merchant: str | None
    amount: str | None
    channel: str | None


class Merchant(NamedTuple):
    """A row of the dimension."""

    merchant: str
    category: str | None
    opened: str | None


class Counted(NamedTuple):
    """A transaction that counts, in the order of `last`."""

    at: datetime
    id: str
    money: Decimal
    merchant: str | None
    channel: str | None


Features = dict[str, float | str | None]


def example(name: str) -> tuple[ScriptView, str, str]:
    """Return an example view, its definition's text and its script."""
    definition = (EXAMPLES / f"{name}.toml").read_text()
    return ScriptView.model_validate(tomllib.loads(definition)), definition, (EXAMPLES / f"{name}.sql").read_text()


NAMES = ("transactions", "raw_transactions", "dim_merchants")
"""The view's and its tables'."""


def renamed(definition: str, suffix: str, names: Sequence[str] = NAMES) -> tuple[ScriptView, str]:
    """Return a view of another name over raw tables of other names, so that tests share a server."""
    text = definition
    for name in names:
        text = text.replace(f'"{name}"', f'"{name}{suffix}"')
    return ScriptView.model_validate(tomllib.loads(text)), text


def store(warehouse: Warehouse, events: list[Event], merchants: list[Merchant], suffix: str = "") -> None:
    """Write the raw tables; decimals and dates as text, which the view declares as what they are."""
    for name, kind, rows in (("raw_transactions", Event, events), ("dim_merchants", Merchant, merchants)):
        columns = tuple(
            Column(field, ColumnType.TIMESTAMP if field == "at" else ColumnType.STRING) for field in kind._fields
        )
        schema = TableSchema(f"{name}{suffix}", columns, (Column("dt", ColumnType.STRING),))
        warehouse.ensure(schema)
        content = pa.Table.from_pylist([row._asdict() for row in rows], schema=schema.arrow_schema)
        warehouse.replace(schema.name, {"dt": "all"}, content)


def random_merchants(count: int) -> list[Merchant]:
    """Return merchants of three categories or none, some without a date."""
    categories = ["food", "travel", "home", None]
    return [
        Merchant(f"m{at}", categories[at % 4], None if at % 7 == 6 else f"20{10 + at % 14}-02-{1 + at % 28:02d}")
        for at in range(count)
    ]


def random_events(seed: int, n_accounts: int, n_events: int) -> list[Event]:
    """Return events of the 45 days around `AS_OF`: missing values, ties, instants at edges of windows, and repeats."""
    rng = np.random.default_rng(seed)
    edges = [timedelta(0), timedelta(hours=1), timedelta(days=30), timedelta(days=1), -timedelta(microseconds=1)]
    events = []
    for at in range(n_events):
        micros = timedelta(microseconds=int(rng.integers(-5 * 86400 * 10**6, 40 * 86400 * 10**6)))
        moment = AS_OF - (edges[rng.integers(len(edges))] if rng.random() < 0.1 else micros)
        amount = Decimal(int(rng.integers(-500, 100_000))) / 100
        values = [
            (f"e{at}", 0.01),
            (f"m{rng.integers(45)}", 0.05),
            (f"{amount:.2f}", 0.05),
            (["card", "web", "app"][rng.integers(3)], 0.05),
        ]
        number, merchant, money, channel = (None if rng.random() < share else value for value, share in values)
        given = None if rng.random() < 0.01 else moment
        events.append(Event(number, given, f"a{rng.integers(n_accounts)}", merchant, money, channel))
    return events + [each for each in events if rng.random() < 0.05]  # sent twice


def revisions(events: list[Event], seed: int) -> list[Event]:
    """Return some of the events again, of the same id and account and with other values, some at another time."""
    rng = np.random.default_rng(seed)
    return [
        each._replace(
            amount=f"{rng.integers(1, 99)}.50", at=each.at and each.at + timedelta(hours=int(rng.integers(3)))
        )
        for each in events
        if rng.random() < 0.1
    ]


def oracle(events: list[Event], merchants: list[Merchant], as_of: datetime) -> dict[str, Features]:
    """Return account -> feature -> value, with Python's own decimals and dates."""
    dimension = {each.merchant: each for each in merchants}
    accounts: dict[str, list[Counted]] = {}
    for each in counted_once([each for each in events if each.at is not None and each.at < as_of]):
        money = Decimal(each.amount or 0)
        if each.at is not None and money > 0 and each.account is not None:
            counted = Counted(each.at, each.id or "", money, each.merchant, each.channel)
            accounts.setdefault(each.account, []).append(counted)
    return {account: _features(rows, dimension, as_of) for account, rows in accounts.items()}


def counted_once(events: list[Event]) -> list[Event]:
    """Return each id of an account once: its newest event, of these that of the largest values (NULL: smallest)."""
    chosen: dict[tuple[object, ...], Event] = {}
    for place, each in enumerate(events):
        name = (each.account, each.id, place if each.id is None else None)
        chosen[name] = max(chosen.get(name, each), each, key=_rank)
    return list(chosen.values())


def _rank(event: Event) -> tuple[object, ...]:
    money = None if event.amount is None else Decimal(event.amount)
    values = (event.at, event.merchant, money, event.channel)
    return tuple((1, value) if value is not None else (0,) for value in values)


def _features(rows: list[Counted], dimension: dict[str, Merchant], as_of: datetime) -> Features:
    begin = as_of - timedelta(days=30)
    month = [each for each in rows if each.at >= begin]
    spent = sum((each.money for each in month), Decimal(0))
    met = [(each, dimension[each.merchant]) for each in rows if each.merchant in dimension]
    food = sum((each.money for each, other in met if each.at >= begin and other.category == "food"), Decimal(0))
    ages = [(each.at.date() - date.fromisoformat(other.opened)).days for each, other in met if other.opened]
    channels = [(each.at, each.id, each.channel) for each in rows if each.channel is not None]
    last = max(each.at for each in rows)
    return {
        "n_1h": float(sum(each.at >= as_of - timedelta(hours=1) for each in rows)),
        "n_30d": float(len(month)),
        "spent_30d": float(spent),
        "mean_30d": float(spent) / len(month) if month else None,
        "largest_30d": float(max(each.money for each in month)) if month else None,
        "food_share_30d": float(food) / float(spent) if spent else None,
        "merchants_30d": float(len({each.merchant for each in month} - {None})),
        "weekend_30d": float(sum(each.at.isoweekday() >= 6 for each in month)),
        "night_30d": float(sum(each.at.hour < 6 for each in month)),
        "days_since_last": float((as_of.date() - last.date()).days),
        "seconds_since_last": (as_of - last) / timedelta(seconds=1),
        "last_channel": max(channels)[2] if channels else None,
        "last_amount": float(max((each.at, each.id, each.money) for each in rows)[2]),
        "newest_merchant_days": float(min(ages)) if ages else None,
    }


def differences(rows: pa.Table, wanted: dict[str, Features]) -> list[str]:
    """Return what differs: accounts, texts, NULLs, or numbers by more than 1e-12 of themselves."""
    found = {row["sample_id"]: row for row in rows.to_pylist()}
    told = sorted(set(found) ^ set(wanted))
    for account, features in wanted.items():
        for name, value in features.items():
            other = found.get(account, {}).get(name)
            close = isinstance(value, float) and isinstance(other, float) and math.isclose(value, other, rel_tol=1e-12)
            if not close and value != other:
                told.append(f"{account} {name}: {other!r}, not {value!r}")
    return told
