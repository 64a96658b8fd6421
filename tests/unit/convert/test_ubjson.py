"""The UBJSON reader against documents that XGBoost wrote, and against bytes that nobody should write."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.convert.ubjson import MAX_DEPTH, is_ubjson, parse_ubjson
from fedpredict.errors import ModelFileError

VALUES = 10_000


def as_lists(value: Any) -> Any:
    """Arrays as lists, so that documents compare."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_lists(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("params", [{}, {"booster": "dart"}, {"objective": "multi:softprob", "num_class": 3}])
def test_xgboosts_two_formats_say_the_same(params: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    names = [f"größe {number}" for number in range(4)]
    data = xgb.DMatrix(rng.normal(size=(200, 4)), np.arange(200) % 3, feature_names=names)
    booster = xgb.train({"max_depth": 3, "nthread": 1, **params}, data, 3)

    binary = as_lists(parse_ubjson(bytes(booster.save_raw("ubj")), VALUES))

    text = json.loads(booster.save_raw("json"))
    assert json.dumps(rounded(binary)) == json.dumps(rounded(text))


def rounded(value: Any) -> Any:
    """Every number of a fraction in float32, which both formats mean."""
    if isinstance(value, dict):
        return {key: rounded(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(np.float32(value)) if isinstance(value, int | float) else value


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"{}", {}),
        (b"{U\x01aZ}", {"a": None}),
        (b"{U\x01aTU\x01bF}", {"a": True, "b": False}),
        (b"{#U\x01U\x01ai\xff", {"a": -1}),
        (b"{U\x01aI\xff\x00}", {"a": -256}),
        (b"{U\x01al\x00\x01\x00\x00}", {"a": 65536}),
        (b"{U\x01aL\x00\x00\x00\x01\x00\x00\x00\x00}", {"a": 2**32}),
        (b"{U\x01ad\x3f\x80\x00\x00}", {"a": 1.0}),
        (b"{U\x01aD\x3f\xf0\x00\x00\x00\x00\x00\x00}", {"a": 1.0}),
        (b"{U\x01aSU\x03\xc3\xa9x}", {"a": "éx"}),
        (b"{U\x01a[]}", {"a": []}),
        (b"{U\x01a[U\x01SU\x01x]}", {"a": [1, "x"]}),
        (b"{U\x01a[#U\x02U\x01U\x02}", {"a": [1, 2]}),
        (b"{U\x01a[$l#U\x02\x00\x00\x00\x01\xff\xff\xff\xff}", {"a": [1, -1]}),
        (b"{U\x01a[$d#U\x01\x7f\xc0\x00\x00}", {"a": [float("nan")]}),
        (b"{U\x01a{U\x01b{}}}", {"a": {"b": {}}}),
    ],
)
def test_each_marker_is_read(data: bytes, expected: dict[str, Any]) -> None:
    assert is_ubjson(data) or data == b"{}"
    np.testing.assert_equal(as_lists(parse_ubjson(data, VALUES)), expected)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "cut off"),
        (b"U\x01", "not an object"),
        (b"[]", "not an object"),
        (b"{", "cut off"),
        (b"{U\x01a", "cut off"),
        (b"{U\x01aL\x00", "cut off"),
        (b"{}x", "1 bytes follow"),
        (b"{U\x01aQ}", "unknown marker"),
        (b"{U\x01aN}", "unknown marker"),
        (b"{Sx}", "no length"),
        (b"{i\xff}", "announces more than follows"),
        (b"{L\x7f\xff\xff\xff\xff\xff\xff\xffa", "announces more than follows"),
        (b"{U\x01aSL\x7f\xff\xff\xff\xff\xff\xff\xff", "announces more than follows"),
        (b"{U\x01a[#L\x7f\xff\xff\xff\xff\xff\xff\xff", "announces more than follows"),
        (b"{U\x01a[$D#U\x05" + bytes(8), "cut off"),
        (b"{U\x01a[$Z#U\x02  }", "something else than numbers"),
        (b"{U\x01a[$[#U\x02[][]}", "something else than numbers"),
        (b"{U\x01a[$lU\x02  }", "without their number"),
        (b"{$U#U\x01U\x01a\x01", "one type for all"),
        (b"{U\x01aZU\x01aZ}", "a key twice"),
        (b"{U\x01\xffZ}", "not UTF-8"),
        (b"{U\x01aSU\x01\xff}", "not UTF-8"),
        (b"{U\x01a" * (MAX_DEPTH + 2), "nested more than"),
        (b"{U\x01a" + b"[" * (MAX_DEPTH + 2), "nested more than"),
        (b"{U\x01a[" + b"T" * (VALUES + 1) + b"]}", "more values"),
    ],
)
def test_what_is_damaged_or_made_to_harm_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        parse_ubjson(data, VALUES)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    try:
        found = parse_ubjson(b"{U\x01a" + data, VALUES)
    except ModelFileError:
        return
    assert next(iter(found)) == "a"
