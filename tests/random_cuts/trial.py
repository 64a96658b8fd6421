"""A random model of a real library, cut at random, with rows to score and what the library says of them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedpredict.convert.child import read_content
from fedpredict.convert.network_top_cut import split_under_top
from fedpredict.convert.options import Limits, ReadOptions
from fedpredict.convert.sklearn_file import Reading
from fedpredict.convert.split import split_model
from fedpredict.convert.split_trees_cut import split_with_head
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.head import HeadModel
from fedpredict.model.network import NetworkPart
from fedpredict.model.part import Part
from fedpredict.model.partial import PartialModel
from fedpredict.model.steps import StepsPart
from fedpredict.model.trees import TreesPart
from tests.random_cuts.data import UNKNOWN, Random, rows_to_score

Said = tuple[Floats, Floats]
"""What a library says of some rows: raw scores and predictions, one row each; NaN where it gives no number."""
Oracle = Callable[[pd.DataFrame], Said]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """See the module.

    Attributes:
        joint: The model over all features.
        parts: Party -> its part.
        head: What finishes their shares, where they are not added up.
        frame: The rows.
        raw: Shape (n_rows, n_scores): the library's raw scores; NaN where it refuses a row.
        predictions: Shape (n_rows, n_outputs).
        may_refuse: Shape (n_rows,): the rows that lack what was never missing in training, and that its library would
            score as if something stood there.
    """

    joint: PartialModel
    parts: Mapping[str, PartialModel]
    head: HeadModel | None
    frame: pd.DataFrame
    raw: Floats
    predictions: Floats
    may_refuse: Bools


def trial_of(
    random: Random,
    file: bytes,
    trained: pd.DataFrame,
    parties: Mapping[str, Sequence[str]],
    oracle: Oracle,
    *,
    with_head: bool = False,
    complete: Sequence[str] = (),
    unknown: Sequence[str] = (UNKNOWN,),
    **options: Any,
) -> Trial:
    """Return a trial of a model file, read and cut by the product's own code.

    Args:
        random: Where from.
        file: As its user saves the model.
        trained: The features that it was trained on.
        parties: Who holds which of them.
        oracle: The library; raises `ValueError` for rows that it does not take.
        with_head: Whether the initiator gets a head.
        complete: Features without which a sample need not be scored.
        unknown: Texts that training did not know.
        options: Of reading the file.
    """
    given = {"model_id": f"m-{random.integers(2**48):x}", "training_run": "run-1", "party": "joint-model", **options}
    reading = read_content(file, ReadOptions(**given), Limits())
    parts, head = _cut(reading, parties, with_head=with_head)
    read = [name for part in parts.values() for name in part.part.features]
    frame = rows_to_score(random, trained, read, _compared_with(reading.partial.part), unknown=unknown)
    raw, predictions = _asked(oracle, frame)
    return Trial(
        joint=reading.partial,
        parts=parts,
        head=head,
        frame=frame,
        raw=raw,
        predictions=predictions,
        may_refuse=frame[list(complete)].isna().any(axis=1).to_numpy(),
    )


def _cut(
    reading: Reading, parties: Mapping[str, Sequence[str]], *, with_head: bool
) -> tuple[Mapping[str, PartialModel], HeadModel | None]:
    joint = reading.partial
    if not with_head:
        holder = list(parties)[-1] if joint.holds_intercept else None
        return split_model(joint, parties, holder, feature_constants=reading.feature_constants), None
    core = joint.part.core if isinstance(joint.part, StepsPart) else joint.part
    cut = (split_under_top if isinstance(core, NetworkPart) else split_with_head)(joint, parties, "bank")
    return cut.parts, cut.head


def _compared_with(part: Part) -> Mapping[str, Floats]:
    if not isinstance(part, TreesPart):
        return {}
    finite = np.isfinite(part.trees.threshold)
    return {name: part.trees.threshold[(part.trees.feature == at) & finite] for at, name in enumerate(part.features)}


def _asked(oracle: Oracle, frame: pd.DataFrame) -> Said:
    """Return what the library says, row by row where it refuses some."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # that a number overflows, or a category is unknown, is what is tested
        try:
            return oracle(frame)
        except ValueError:
            said = [_asked_alone(oracle, frame.iloc[[at]]) for at in range(len(frame))]
    widths = next(tuple(each.shape[1] for each in one) for one in said if one is not None)
    nothing = tuple(np.full((1, width), np.nan) for width in widths)
    columns = zip(*(nothing if one is None else one for one in said), strict=True)
    raw, predictions = (np.concatenate(each) for each in columns)
    return raw, predictions


def _asked_alone(oracle: Oracle, row: pd.DataFrame) -> Said | None:
    try:
        return oracle(row)
    except ValueError:
        return None


def as_rows(values: Any, n_rows: int) -> Floats:
    """Return what a library gave as (n_rows, n_columns)."""
    return np.asarray(values, dtype=np.float64).reshape(n_rows, -1)


def positive(probabilities: Any) -> Floats:
    """Return probabilities as a binary model gives them: of the second of two classes alone."""
    found = np.asarray(probabilities, dtype=np.float64)
    return found[:, 1:] if found.shape[1] == 2 else found


class UnfitError(Exception):
    """The library makes no model of this data."""


def fitted(model: Any, frame: Any, target: Any) -> Any:
    """Return a fitted estimator; that it did not converge says nothing about what it predicts."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return model.fit(frame, target)
        except (ValueError, np.linalg.LinAlgError) as error:
            raise UnfitError(str(error)) from error


def saved(model: Any) -> bytes:
    """Return a model as a user saves it."""
    return pickle.dumps(model)


def classes_of(random: Random, target: Floats) -> Any:
    """Return two or three classes, as whole numbers or texts, none of them without a sample."""
    cuts = [[0.5], [0.3, 0.7]][int(random.integers(2))]
    places = np.minimum((pd.Series(target).rank(method="first", pct=True).to_numpy() - 1e-9), 1.0)
    found = np.digitize(places, cuts)
    return np.array(["no", "ja", "Ünd"], dtype=object)[found] if random.random() < 0.3 else found
