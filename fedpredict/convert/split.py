"""Cuts a jointly trained model into one partial model per party, by columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedpredict.convert.families import FAMILIES
from fedpredict.convert.labels import shown
from fedpredict.errors import FeatureNamesError, ModelConflictError
from fedpredict.model.arrays import Floats
from fedpredict.model.part import Part
from fedpredict.model.partial import PartialModel, VerificationRows
from fedpredict.model.share import SampleStatus


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
        FeatureNamesError: A feature is at no party, at two, twice at one, or not in the model.
        ModelConflictError: The intercept's party is missing or none of the parties, or the joint model's intercept
            is not in the file.
        NameRefusedError: A party's name breaks the naming rules.
    """
    columns = columns_of(joint.part.features, parties)
    _check_intercept(joint, parties, intercept_party)
    if rows is not None and (rows.ndim != 2 or rows.shape[1] != len(joint.part.features)):
        raise FeatureNamesError(f"rows of shape {rows.shape} for {len(joint.part.features)} features")
    parts = FAMILIES[joint.part.family].cut(joint.part, columns, intercept_party, feature_constants)
    return {
        party: replace(
            joint,
            party=party,
            part=part,
            verification=None if rows is None else verification_of(part, _columns_of(part, joint.part, rows)),
            metadata=dict(joint.metadata),
        )
        for party, part in parts.items()
    }


def _columns_of(part: Part, joint: Part, rows: Floats) -> Floats:
    return rows[:, [joint.features.index(name) for name in part.features]]


def verification_of(part: Part, rows: Floats) -> VerificationRows | None:
    """Return those of the rows that the part can score; None where it can score none."""
    statuses = part.statuses(rows)
    usable = rows if statuses is None else rows[statuses == SampleStatus.OK]
    return VerificationRows(usable, part.partial_scores(usable)) if len(usable) else None


def columns_of(features: Sequence[str], parties: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """Return party -> the positions of its features in the joint model; every feature at exactly one party.

    A party may have none.

    Raises:
        FeatureNamesError: A feature is at no party, at two, twice at one, or not in the model.
    """
    position = {name: index for index, name in enumerate(features)}
    named = [name for names in parties.values() for name in names]
    unknown = sorted({name for name in named if name not in position})
    twice = sorted({name for name in named if named.count(name) > 1})
    absent = [name for name in features if name not in set(named)]
    problems = [
        f"{what}: {shown(names)}"
        for what, names in (
            ("not a feature of the model", unknown),
            ("named more than once", twice),
            ("at no party", absent),
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
