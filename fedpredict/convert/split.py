"""Cuts a jointly trained model into one partial model per party, by columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedpredict.convert.labels import shown
from fedpredict.errors import FeatureNamesError, ModelConflictError
from fedpredict.model.arrays import Floats
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel, VerificationRows


def split_model(
    joint: PartialModel,
    parties: Mapping[str, Sequence[str]],
    intercept_party: str | None,
    *,
    rows: Floats | None = None,
    feature_constants: Floats | None = None,
) -> dict[str, PartialModel]:
    """Return one partial model per party; their partial scores add up to the joint model's raw scores.

    Args:
        joint: The model over all features, with its intercept.
        parties: Party id -> the names of its features, in the order that its part shall have.
        intercept_party: Who gets the intercept; None where the model has none.
        rows: Shape (n_rows, n_features), columns in the joint model's order: each part gets its columns of them, and
            its partial scores, as verification rows.
        feature_constants: Shape (n_features, n_scores), as `ReadResult.feature_constants`: what folded preprocessing
            leaves per feature. Each party gets its own features' share. Without it the joint model's constant, if it
            is not zero, goes as a whole to the party with the intercept (so that party's part depends on the scaling
            of the others' features).

    Returns:
        By party id, in the order of `parties`.

    Raises:
        FeatureNamesError: A feature is at no party, at two, twice at one, or not in the model; a party has none.
        ModelConflictError: The intercept's party is missing or none of the parties, or the joint model's intercept
            is not in the file.
        NameRefusedError: A party's name breaks the naming rules.
    """
    columns = _columns(joint.part.features, parties)
    _check_intercept(joint, parties, intercept_party)
    if rows is not None and (rows.ndim != 2 or rows.shape[1] != len(joint.part.features)):
        raise FeatureNamesError(f"rows of shape {rows.shape} for {len(joint.part.features)} features")
    shares = _constants(joint, columns, intercept_party, feature_constants)
    result = {}
    for party, chosen in columns.items():
        intercept = joint.part.intercept if party == intercept_party else None
        features = tuple(joint.part.features[column] for column in chosen)
        part = LinearPart(features, joint.part.weights[chosen], intercept, shares[party])
        verification = None if rows is None else _verification(part, rows[:, chosen])
        result[party] = replace(joint, party=party, part=part, verification=verification, metadata=dict(joint.metadata))
    return result


def _verification(part: LinearPart, rows: Floats) -> VerificationRows:
    return VerificationRows(rows, part.partial_scores(rows))


def _columns(features: Sequence[str], parties: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """Party -> the positions of its features in the joint model; every feature at exactly one party."""
    position = {name: index for index, name in enumerate(features)}
    named = [name for names in parties.values() for name in names]
    unknown = sorted({name for name in named if name not in position})
    twice = sorted({name for name in named if named.count(name) > 1})
    absent = [name for name in features if name not in set(named)]
    empty = sorted(party for party, names in parties.items() if not names)
    problems = [
        f"{what}: {shown(names)}"
        for what, names in (
            ("not a feature of the model", unknown),
            ("named more than once", twice),
            ("at no party", absent),
            ("parties without a feature", empty),
        )
        if names
    ]
    if problems:
        raise FeatureNamesError(
            f"every feature belongs to exactly one party; {'; '.join(problems)}", names=[*unknown, *twice, *absent]
        )
    return {party: [position[name] for name in names] for party, names in parties.items()}


def _check_intercept(joint: PartialModel, parties: Mapping[str, Sequence[str]], intercept_party: str | None) -> None:
    if intercept_party is not None and intercept_party not in parties:
        raise ModelConflictError(
            f"the intercept shall go to {intercept_party!r}, but the parties are {shown(list(parties))}"
        )
    if joint.fit_intercept and not joint.holds_intercept:
        raise ModelConflictError(f"model {joint.model_id} has an intercept, but the file to be cut does not hold it")
    if joint.holds_intercept and intercept_party is None:
        raise ModelConflictError(f"model {joint.model_id} has an intercept: name the party that holds it")
    if not joint.holds_intercept and intercept_party is not None:
        raise ModelConflictError(f"model {joint.model_id} has no intercept: name no party for it")


def _constants(
    joint: PartialModel,
    columns: Mapping[str, list[int]],
    intercept_party: str | None,
    feature_constants: Floats | None,
) -> dict[str, Floats]:
    """Each party's share of the constant, shape (n_scores,)."""
    if feature_constants is not None:
        return {party: feature_constants[chosen].sum(axis=0) for party, chosen in columns.items()}
    holder = intercept_party if intercept_party is not None else next(iter(columns))
    none = np.zeros_like(joint.part.constant)
    return {party: joint.part.constant if party == holder else none for party in columns}
