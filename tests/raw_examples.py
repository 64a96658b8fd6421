"""The example views of a telecom operator and a video platform: raw tables, and what pandas counts of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tests.raw_transactions import AS_OF, EXAMPLES

MONTH, WEEK = pd.Timedelta(days=30), pd.Timedelta(days=7)


def generator() -> ModuleType:
    """Return the module beside the examples that makes raw tables, which is in no package."""
    spec = importlib.util.spec_from_file_location("raw", EXAMPLES / "raw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def usage(tables: Mapping[str, pa.Table]) -> pd.DataFrame:
    """Return the features of every subscriber."""
    rows = before(tables, "raw_usage", "dim_cells", "cell")
    index, key = pd.Index(sorted(rows["subscriber"].unique())), "subscriber"
    month, week = rows[rows["at"] >= AS_OF - MONTH], rows[rows["at"] >= AS_OF - WEEK]
    older = rows[(rows["at"] >= AS_OF - 2 * WEEK) & (rows["at"] < AS_OF - WEEK)]
    calls, data, hour = month[month["kind"] == "call"], month[month["kind"] == "data"], month["at"].dt.hour
    last = rows.groupby(key)["at"].max().reindex(index)
    return pd.DataFrame(
        {
            "calls_7d": counted(week[week["kind"] == "call"], key, index),
            "calls_30d": counted(calls, key, index),
            "messages_30d": counted(month[month["kind"] == "message"], key, index),
            "minutes_30d": grouped(calls, key, calls["seconds"], index, "sum").fillna(0) / 60,
            "longest_call_30d": grouped(calls, key, calls["seconds"], index, "max"),
            "megabytes_30d": data[data["megabytes"].notna()].groupby(key)["megabytes"].sum().reindex(index),
            "night_share_30d": counted(month[(hour >= 22) | (hour < 6)], key, index)
            / counted(month, key, index).replace(0, np.nan),
            "abroad_30d": counted(month[month["abroad"].fillna(False).astype(bool)], key, index),
            "regions_30d": grouped(month, key, month["region"], index, "nunique").fillna(0),
            "trend": counted(week, key, index) / counted(older, key, index).replace(0, np.nan),
            "hours_since_last": (AS_OF - last).dt.total_seconds() / 3600,
            "last_region": newest(rows, key, "region", index),
        }
    )


def watching(tables: Mapping[str, pa.Table]) -> pd.DataFrame:
    """Return the features of every viewer."""
    rows = before(tables, "raw_watching", "dim_titles", "title")
    rows = rows[rows["seconds"] > 0]
    index, key = pd.Index(sorted(rows["viewer"].unique())), "viewer"
    month = rows[rows["at"] >= AS_OF - MONTH]
    released = pd.to_datetime(rows["released"], utc=True)
    days = (rows["at"].dt.floor("D") - released).dt.days
    finished = month[month["seconds"] * 10 >= month["length"] * 9]
    columns: dict[str, pd.Series[Any]] = {}
    for genre in ("drama", "comedy", "sport"):
        watched = month[month["genre"] == genre]
        columns[f"{genre}_times_30d"] = counted(watched, key, index)
        columns[f"{genre}_hours_30d"] = grouped(watched, key, watched["seconds"], index, "sum") / 3600
    columns |= {
        "genres_30d": grouped(month, key, month["genre"], index, "nunique").fillna(0),
        "finished_share_30d": counted(finished, key, index)
        / counted(month[month["length"].notna()], key, index).replace(0, np.nan),
        "mean_minutes_30d": grouped(month, key, month["seconds"], index, "mean") / 60,
        "newest_title_days": grouped(rows, key, days, index, "min"),
        "weekend_times_30d": counted(month[month["at"].dt.day_of_week >= 5], key, index),
        "last_genre": newest(rows, key, "genre", index),
    }
    return pd.DataFrame(columns)


ORACLES: dict[str, Callable[[Mapping[str, pa.Table]], pd.DataFrame]] = {"usage": usage, "watching": watching}


def assert_equal(found: pa.Table, wanted: pd.DataFrame, features: Collection[str]) -> None:
    """Compare with what pandas counts, whose missing numbers are NaN; texts are compared as they are."""
    frame = found.to_pandas().set_index("sample_id").sort_index()
    wanted = wanted.sort_index()
    assert list(frame.index) == list(wanted.index)
    assert set(wanted.columns) == set(features)
    for name in wanted.columns:
        if wanted[name].dtype == object or str(wanted[name].dtype).startswith("str"):
            assert frame[name].fillna("-").tolist() == wanted[name].fillna("-").tolist(), name
        else:
            mine, theirs = frame[name].to_numpy(float), wanted[name].to_numpy(float)
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=0, equal_nan=True, err_msg=name)


def grouped(rows: pd.DataFrame, key: str, values: Any, index: Any, how: str) -> pd.Series[Any]:
    """Return an aggregate for every person, missing where there is nothing to gather."""
    return pd.Series(values, index=rows.index).groupby(rows[key]).agg(how).reindex(index)


def counted(rows: pd.DataFrame, key: str, index: Any) -> pd.Series[Any]:
    return rows.groupby(key).size().reindex(index, fill_value=0)


def newest(rows: pd.DataFrame, key: str, value: str, index: Any) -> pd.Series[Any]:
    """Return the value of each person's newest row that has one."""
    known = rows[rows[value].notna()].sort_values(["at", "id"])
    return known.groupby(key)[value].last().reindex(index)


def before(tables: Mapping[str, pa.Table], events: str, dimension: str, on: str) -> pd.DataFrame:
    """Return the events before the instant, with their dimension's columns."""
    rows: pd.DataFrame = tables[events].to_pandas().merge(tables[dimension].to_pandas(), on=on, how="left")
    return rows[rows["at"] < AS_OF]
