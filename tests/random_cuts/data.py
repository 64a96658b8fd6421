"""Random feature tables of the kinds that break scoring, random owners of the features, and rows near the splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedpredict.model.arrays import Floats

PARTIES = ("bank", "clinic", "lab", "shop", "utility")
LEVELS = ("red", "a|b", "", "~1", "ag'e", "back\\slash", "年龄")
"""Texts that some way of writing them could stumble over."""
UNKNOWN = "unknown"
Random = np.random.Generator


def names_of(random: Random, most: int = 6) -> list[str]:
    """Return the names of one to `most` features, odd ones among them."""
    count = int(random.integers(1, most + 1))
    return [f"f{at}" if random.random() < 0.8 else f"f{at} Größe 年" for at in range(count)]


def numbers(random: Random, n_rows: int, names: Sequence[str], *, widest: float, missing: float = 0.0) -> pd.DataFrame:
    """Return columns of numbers of every sort, no magnitude beyond 10 ** `widest`, with a share missing in some."""
    columns: list[Floats] = []
    for _ in names:
        columns.append(_column(random, n_rows, columns, widest))
    frame = pd.DataFrame(dict(zip(names, columns, strict=True)))
    gaps = (random.random(frame.shape) < missing) & (random.random(len(names)) < 0.7)
    return frame.mask(gaps)


def _column(random: Random, n_rows: int, earlier: Sequence[Floats], widest: float) -> Floats:
    normal = random.normal(size=n_rows)
    near = np.round(normal, 1).astype(np.float32)
    large = 10.0**widest
    makes: Sequence[Callable[[], Any]] = (
        lambda: np.full(n_rows, random.choice([0.0, 7.5, 1e-3, -3.0])),
        lambda: random.choice(np.array(earlier)) if len(earlier) else normal,
        lambda: random.integers(-3, 9, n_rows),
        lambda: normal / large,
        lambda: np.clip(normal, -3.0, 3.0) / 4.0 * large,
        lambda: np.sign(normal) * 10.0 ** random.uniform(-widest, widest, n_rows) / 2.0,
        # between two numbers of float32
        lambda: near.astype(float) + np.spacing(near) * random.choice([-0.55, -0.45, 0.0, 0.45, 0.55], n_rows),
        lambda: random.choice([0.0, -0.0, 1.0, normal[0]], n_rows),
        lambda: random.choice([0.1, 0.2, 0.3], n_rows),
        lambda: normal,
    )
    return np.asarray(makes[int(random.integers(len(makes)))](), dtype=np.float64)


def texts(random: Random, n_rows: int, *, missing: float = 0.0) -> pd.Series[Any]:
    """Return a column of texts, not all equally frequent; what is missing is None in one column, NaN in another."""
    weights = random.random(len(LEVELS)) ** 2 + 1e-3
    found = random.choice(np.array(LEVELS, dtype=object), n_rows, p=weights / weights.sum())
    gap = None if random.random() < 0.5 else np.nan
    return pd.Series(np.where(random.random(n_rows) < missing, np.array(gap, dtype=object), found), dtype=object)


def signal(random: Random, frame: pd.DataFrame) -> Floats:
    """Return a target that depends on all columns, also on what is missing."""
    total = random.normal(size=len(frame)) * 0.2
    for name in frame.columns:
        ranks = pd.Series(frame[name]).map(str).rank() if frame[name].dtype == object else frame[name].rank()
        total += random.normal() * ranks.fillna(-20.0).to_numpy() / len(frame)
    return total


def owners(random: Random, names: Sequence[str], *, most: int = 5) -> dict[str, list[str]]:
    """Return who holds which feature, in random order: of one to `most` parties, some perhaps without any."""
    count = int(random.integers(1, most + 1))
    has_idle = most > 1 and random.random() < 0.4  # chance alone leaves few without any
    parties: dict[str, list[str]] = {party: [] for party in PARTIES[: min(count + has_idle, most)]}
    holding = list(parties)
    if has_idle:
        holding.pop(int(random.integers(len(holding))))
    for name in map(str, random.permutation(np.array(names, dtype=object))):
        parties[holding[int(random.integers(len(holding)))]].append(name)
    return parties


def rows_to_score(
    random: Random,
    trained: pd.DataFrame,
    read: Sequence[str],
    near: Mapping[str, Floats],
    *,
    unknown: Sequence[str] = (UNKNOWN,),
    n_rows: int = 36,
) -> pd.DataFrame:
    """Return rows like those of training, and rows with odd cells in what a part reads.

    Args:
        random: Where from.
        trained: What the model was trained on.
        read: The features that some party's part reads: the others stay as they are.
        near: Feature -> numbers that the model compares it with.
        unknown: Texts that training did not know.
        n_rows: How many.
    """
    frame = trained.iloc[random.integers(0, len(trained), n_rows)].reset_index(drop=True)
    for name in read:
        column = frame[name].copy()
        if column.dtype == object:
            gaps = [each for each in trained[name] if not isinstance(each, str)][:1]
            odd: Any = np.array([*(gaps or [None]), *unknown, *trained[name].dropna().unique()], dtype=object)
            changed = random.random(n_rows) < 0.15
        else:
            asked = np.array([*near.get(name, ()), 0.0])
            with np.errstate(over="ignore"):  # beside the largest number is an infinity
                beside = [asked, np.nextafter(asked, np.inf), np.nextafter(asked, -np.inf), *_beside_float32(asked)]
            odd = np.concatenate(beside)
            changed = random.random(n_rows) < 0.4
            column[changed] = random.choice(odd, int(changed.sum()))
            odd = np.array([np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-300, 3.5e38, 1e-40])
            changed = random.random(n_rows) < 0.06
        column[changed] = random.choice(odd, int(changed.sum()))
        frame[name] = column
    return frame


def _beside_float32(asked: Floats) -> list[Floats]:
    """Return numbers that round to a float32 that is asked for, and those that just do not."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = np.spacing(np.abs(asked).astype(np.float32)).astype(np.float64) / 2.0
        found = [asked + half * share for share in (-1.1, -0.9, 0.9, 1.1)]
    return [each[np.isfinite(each)] for each in found]
