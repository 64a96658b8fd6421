"""Cuts a jointly trained network: each party gets the units of its own features, a top model the layers above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedpredict.convert.embedding_form import padded
from fedpredict.convert.families import FAMILIES
from fedpredict.convert.network_cut import inputs_of, layer_of, reaching, unit_owners
from fedpredict.convert.split import columns_of, verification_of
from fedpredict.convert.split_trees_cut import HeadedCut
from fedpredict.convert.steps_cut import cut_steps
from fedpredict.errors import FeatureNamesError, ModelConflictError
from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.combination import Combining, structure_of
from fedpredict.model.dense import Dense
from fedpredict.model.head import HeadModel
from fedpredict.model.network import NetworkPart
from fedpredict.model.part import Family, Part
from fedpredict.model.partial import PartialModel
from fedpredict.model.steps import StepsPart
from fedpredict.model.top_head import TopHead

_Bottoms = dict[str, tuple[Dense, ...]]


def split_under_top(
    joint: PartialModel, parties: Mapping[str, Sequence[str]], head_party: str, *, rows: Floats | None = None
) -> HeadedCut:
    """Return one bottom network per party, and the head with the layers above.

    Where the units of the first hidden layers each depend on one party's features, they are cut off, and the head takes
    the concatenation of what they give; a party that none of them is of, such as one without features, gives a zero. In
    any other network each party gets its rows of the first layer's weights, and the head takes the sum.

    Args:
        joint: The model over all features: a network, or one behind preprocessing.
        parties: Party id -> the names of its features, in the order that its part shall have.
        head_party: The initiator, which gets the head; it need not be one of the parties.
        rows: Shape (n_rows, n_features), columns in the joint model's order: each part gets its columns of them, and
            its embeddings, as verification rows.

    Raises:
        ModelConflictError: The model is no network, or one that was cut before; or a step mixes two parties' features.
        FeatureNamesError: A feature is at no party, at two, twice at one, or not in the model.
        NameRefusedError: A party's name breaks the naming rules.
    """
    part = joint.part
    core = part.core if isinstance(part, StepsPart) else part
    if not isinstance(core, NetworkPart) or core.combination is not None:
        raise ModelConflictError(f"model {joint.model_id} is no joint network: nothing of it can be cut off for a head")
    columns = columns_of(part.features, parties)
    if rows is not None and (rows.ndim != 2 or rows.shape[1] != len(part.features)):
        raise FeatureNamesError(f"rows of shape {rows.shape} for {len(part.features)} features")
    head, bottoms = _behind_steps(part, columns) if isinstance(part, StepsPart) else _cut(core, columns)
    parts: dict[str, PartialModel] = {}
    for party, own in bottoms.items():
        verification = None if rows is None else verification_of(own, rows[:, columns[party]])
        parts[party] = replace(
            joint, party=party, part=own, fit_intercept=False, verification=verification, metadata=dict(joint.metadata)
        )
    return HeadedCut(
        parts,
        HeadModel(
            model_id=joint.model_id,
            training_run=joint.training_run,
            party=head_party,
            kind=joint.kind,
            classes=joint.classes,
            link=joint.link,
            head=head,
            metadata=dict(joint.metadata),
        ),
    )


def _behind_steps(joint: StepsPart, columns: Mapping[str, list[int]]) -> tuple[TopHead, Mapping[str, Part]]:
    """Return as `_cut`, where each party keeps the steps of its own features."""
    heads: list[TopHead] = []

    def cut(core: NetworkPart, read: Mapping[str, list[int]], *_: object) -> Mapping[str, Part]:
        head, parts = _cut(core, read)
        heads.append(head)
        return parts

    form = replace(FAMILIES[Family.NETWORK], cut=cut)
    parts = cut_steps({Family.NETWORK: form}, joint, columns, None, None)
    return heads[0], parts


def _cut(joint: NetworkPart, columns: Mapping[str, list[int]]) -> tuple[TopHead, Mapping[str, Part]]:
    """Return the head, and each party's bottom network."""
    head, bottoms = _head(joint, columns)
    return head, {
        party: _part(joint, chosen, padded(bottoms[party], head.n_scores), head) for party, chosen in columns.items()
    }


def _part(joint: NetworkPart, chosen: Sequence[int], layers: tuple[Dense, ...], head: TopHead) -> NetworkPart:
    names = tuple(joint.features[at] for at in chosen)
    return NetworkPart(
        names,
        {name: joint.categories[name] for name in names if name in joint.categories},
        {name: joint.embeddings[name] for name in names if name in joint.embeddings},
        layers,
        None,
        head.combination,
    )


def _head(joint: NetworkPart, columns: Mapping[str, list[int]]) -> tuple[TopHead, _Bottoms]:
    """Return the head, and the layers of each party's bottom network."""
    inputs = {party: inputs_of(joint, chosen) for party, chosen in columns.items()}
    owners = _unmixed(unit_owners(joint, list(inputs.values())))
    if owners:
        combining, (bottoms, top) = Combining.TOP_CONCAT, _concatenated(joint, inputs, owners)
    else:
        combining, (bottoms, top) = Combining.TOP_SUM, _summed(joint, inputs)
    layers = _with_intercept(top, joint.intercept)
    widths = tuple(bottom[-1].n_units for bottom in bottoms.values())
    shape = [f"{party}:{width}" for party, width in zip(columns, widths, strict=True)]
    shape += [f"{layer.n_units}:{layer.activation.value}" for layer in layers]
    return TopHead(combining, structure_of(combining, ",".join(shape)), tuple(columns), widths, layers), bottoms


def _unmixed(owners: list[Bools]) -> list[Bools]:
    """Return the hidden layers before the first of which a unit depends on two parties."""
    mixes = [bool((depends.sum(axis=0) > 1).any()) for depends in owners]
    return owners[: mixes.index(True)] if True in mixes else owners


def _concatenated(
    joint: NetworkPart, inputs: Mapping[str, list[int]], owners: list[Bools]
) -> tuple[_Bottoms, tuple[Dense, ...]]:
    bottoms: _Bottoms = {}
    above = joint.layers[len(owners)]
    rows: list[Floats] = []
    for at, (party, own) in enumerate(inputs.items()):
        layers: list[Dense] = []
        units = np.array(own, dtype=np.intp)
        for number, (layer, depends) in enumerate(zip(joint.layers, owners, strict=False), start=1):
            is_constant = ~depends.any(axis=0)  # every party may compute it, and the first sends it
            below, units = units, np.flatnonzero(depends[at] | is_constant & (number < len(owners) or at == 0))
            layers = [*layers, layer_of(layer, below, units)] if len(units) else []
        rows.append(above.weights[units] if layers else np.zeros((1, above.n_units)))
        bottoms[party] = reaching(layers or [Dense(np.zeros((0, 1)), np.zeros(1))], len(own))
    first = replace(above, weights=np.concatenate(rows))
    return bottoms, (first, *joint.layers[len(owners) + 1 :])


def _summed(joint: NetworkPart, inputs: Mapping[str, list[int]]) -> tuple[_Bottoms, tuple[Dense, ...]]:
    first = joint.layers[0]
    nothing = np.zeros(first.n_units)
    bottoms: _Bottoms = {party: (Dense(first.weights[own], nothing),) for party, own in inputs.items()}
    return bottoms, (replace(first, weights=np.eye(first.n_units)), *joint.layers[1:])


def _with_intercept(layers: tuple[Dense, ...], intercept: Floats | None) -> tuple[Dense, ...]:
    if intercept is None:
        return layers
    last = layers[-1]
    if last.activation is Activation.IDENTITY:
        return (*layers[:-1], replace(last, bias=last.bias + intercept))
    return (*layers, Dense(np.eye(last.n_units), intercept))
