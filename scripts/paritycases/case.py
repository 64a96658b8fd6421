"""What a case of `scripts/parity` is, and the data that cases are made of."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import datasets

from fedpredict.model.partial import TOLERANCE

Floats = NDArray[np.float64]
CREDIT = Path(__file__).resolve().parents[3] / "shared" / "data"
"""A real data set that two parties hold; beside the checkout, where it is there."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set.

    Attributes:
        name: For the table.
        frame: The features of all parties, numbers or texts.
        target: Shape (n_rows,), or (n_rows, n_targets).
        is_classes: Whether the target is a class.
        parties: Who holds which features.
    """

    name: str
    frame: pd.DataFrame
    target: NDArray[Any]
    is_classes: bool
    parties: Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model, and what its library says of every row.

    Attributes:
        file: The model file.
        raw: Shape (n_rows, n_scores): the library's raw scores; NaN where it gives none.
        predictions: Shape (n_rows, n_outputs): its predictions; None where they are the raw scores.
    """

    file: bytes
    raw: Floats
    predictions: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model to train and to compare.

    Attributes:
        kind: The family and kind, for the table.
        source: The library and class, for the table.
        data: What it is trained on; `frame` may hold missing values.
        train: Trains it; called once.
        suffix: Of the model file's name.
        tolerance: Relative to the sum of the absolute terms.
        is_split: Whether its trees mix the parties' features, so that shares are leaf masks.
    """

    kind: str
    source: str
    data: Data
    train: Callable[[], Trained]
    suffix: str = ".pkl"
    tolerance: float = TOLERANCE
    is_split: bool = False


def pickled(model: object) -> bytes:
    """Return a model as a user saves it."""
    return pickle.dumps(model)


def as_rows(values: Any, data: Data) -> Floats:
    """Return what a library gave as (n_rows, n_columns)."""
    return np.asarray(values, dtype=np.float64).reshape(len(data.frame), -1)


def positive(probabilities: Any) -> Floats:
    """Return probabilities as a binary model gives them: of the second of two classes alone."""
    found = np.asarray(probabilities, dtype=np.float64)
    return found[:, 1:] if found.shape[1] == 2 else found


def two_parties(names: Sequence[str]) -> dict[str, list[str]]:
    """Return every other feature for each of two parties."""
    return {"alpha": list(names[::2]), "beta": list(names[1::2])}


def all_data() -> Iterator[Data]:
    """Return every data set that scikit-learn brings along, and the credit data where they are."""
    loaders = {
        "iris": (datasets.load_iris, True),
        "wine": (datasets.load_wine, True),
        "breast cancer": (datasets.load_breast_cancer, True),
        "digits": (datasets.load_digits, True),
        "diabetes": (datasets.load_diabetes, False),
        "linnerud": (datasets.load_linnerud, False),
    }
    for name, (load, is_classes) in loaders.items():
        bunch = load(as_frame=True)
        frame = bunch.data.astype(np.float64).rename(columns=lambda each: str(each).replace("_(", " ("))
        yield Data(
            name=name,
            frame=frame,
            target=bunch.target.to_numpy(),
            is_classes=is_classes,
            parties=two_parties(list(frame.columns)),
        )
    if (CREDIT / "default_credit_hetero_guest.csv").exists():
        yield credit()


def credit() -> Data:
    """Return the credit data: 30,000 customers of whom two organisations hold 13 and 10 columns."""
    guest, host = (_read(CREDIT / f"default_credit_hetero_{side}.csv") for side in ("guest", "host"))
    target = guest.pop("y").to_numpy(dtype=np.int64)
    guest.columns, host.columns = ([f"{side}_{name}" for name in each] for side, each in (("g", guest), ("h", host)))
    parties = {"guest": list(guest.columns), "host": list(host.columns)}
    frame = guest.join(host, how="inner")
    return Data(name="credit", frame=frame, target=target, is_classes=True, parties=parties)


def _read(path: Path) -> pd.DataFrame:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    frame = pd.DataFrame(rows).set_index("id")
    return frame.astype(np.float64)


def at_one(data: Data) -> Data:
    """Return the data with all features at one party."""
    return replace(data, parties={"alpha": list(data.frame.columns)})


def with_missing(data: Data, share: float = 0.1) -> Data:
    """Return the data with a share of all numbers missing, always the same ones."""
    gone = np.random.default_rng(7).random(data.frame.shape) < share
    return replace(data, name=f"{data.name}, {share:.0%} missing", frame=data.frame.mask(gone))
