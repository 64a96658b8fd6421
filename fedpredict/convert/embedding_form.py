"""The portable form of what makes a network's scores an embedding, which a head's top model takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedpredict.convert.plain import optional_text
from fedpredict.errors import FedPredictError, ModelFileError
from fedpredict.model.activations import Activation, activate
from fedpredict.model.combination import TOPS, Combination, Combining, structure_of
from fedpredict.model.dense import Dense
from fedpredict.model.ids import check_digest
from fedpredict.model.kinds import MAX_CLASSES

EMBEDDING_KEYS = ("combining", "structure", "structure_sha256", "n_outputs", "n_scores")
"""Keys of a network whose scores are an embedding."""

MAX_WIDTH = 10_000
"""Numbers in an embedding."""


def combination_to_plain(combination: Combination | None) -> dict[str, object]:
    """Return the keys of a part; none where its scores are added up."""
    if combination is None:
        return {}
    return {
        "combining": combination.combining.value,
        "structure_sha256": combination.structure_sha256,
        "n_outputs": combination.n_outputs,
    }


def combination_from_plain(content: Mapping[str, object]) -> Combination | None:
    """Return what a network must have in common with its head; None where it says no `combining`.

    Raises:
        ModelFileError: The keys do not fit together.
    """
    said = [key for key in EMBEDDING_KEYS if key in content]
    if "combining" not in said:
        if said:
            raise ModelFileError(f"the network says {said[0]}, which is for a head, but no combining")
        return None
    combining, known = content["combining"], [each.value for each in TOPS]
    if combining not in known:
        raise ModelFileError(f"the network's combining is none of {', '.join(known)}")
    n_outputs = count_from_plain(content.get("n_outputs", 1), "n_outputs", MAX_CLASSES)
    return Combination(Combining(str(combining)), structure_from_plain(content, Combining(str(combining))), n_outputs)


def embedding_layers(layers: tuple[Dense, ...], content: Mapping[str, object]) -> tuple[Dense, ...]:
    """Return layers that give `n_scores` numbers, where that is more than the network has: zeros behind its own.

    Raises:
        ModelFileError: It is less, or no number.
    """
    if content.get("n_scores") is None:
        return layers
    width, own = count_from_plain(content["n_scores"], "n_scores", MAX_WIDTH), layers[-1].n_units
    if width < own:
        raise ModelFileError(f"n_scores is {width}, but the network's embedding has {own} numbers")
    return padded(layers, width)


def padded(layers: tuple[Dense, ...], width: int) -> tuple[Dense, ...]:
    """Return layers that give `width` numbers: zeros behind their own."""
    last, own = layers[-1], layers[-1].n_units
    if width == own:
        return layers
    if last.activation is Activation.SOFTMAX or activate(last.activation, np.zeros((1, 1)), last.slope).any():
        layers, last = (*layers, Dense(np.eye(own), np.zeros(own))), Dense(np.eye(own), np.zeros(own))
    more = width - own
    wide = replace(last, weights=np.pad(last.weights, ((0, 0), (0, more))), bias=np.pad(last.bias, (0, more)))
    return (*layers[:-1], wide)


def structure_from_plain(content: Mapping[str, object], combining: Combining) -> str:
    """Return the digest of `structure`, a text, or `structure_sha256`, which is one.

    Raises:
        ModelFileError: Neither is there, both are, or it is none.
    """
    text, digest = optional_text(content, "structure"), optional_text(content, "structure_sha256")
    if (text is None) == (digest is None):
        raise ModelFileError(
            f"{combining} needs structure: a text that names the joint network, the same in all parts and the head (or"
            " structure_sha256, its digest)"
        )
    try:
        if digest is None:
            return structure_of(combining, text or "")
        return check_digest(digest)
    except FedPredictError as error:
        raise ModelFileError(f"structure_sha256: {error}") from error
    except UnicodeEncodeError as error:
        raise ModelFileError("structure holds half a character (a lone surrogate)") from error


def count_from_plain(value: object, what: str, largest: int) -> int:
    """Return a whole number from 1; raise `ModelFileError` for anything else."""
    if type(value) is not int or not 1 <= value <= largest:
        raise ModelFileError(f"{what} is not a whole number from 1 to {largest}")
    return value
