"""The asked initiator's own features of some samples, sent with a request instead of looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedpredict.model.arrays import Bools, Floats

MAX_TEXT_BYTES = 4_096
"""Most bytes, as UTF-8, of a text that is sent with a request."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Features of samples that are not in the initiator's store yet.

    They only ever make the initiator's own share: a participant never scores features that a caller sends.

    Attributes:
        names: The features' names, as the view writes them, each once.
        values: Shape (n_samples, n_names), in the order of the sample ids; NaN is a missing value. A text stands in it
            as its position among the texts of its feature.
        texts: For each feature that was sent as text: its different texts, in the order of their positions.
    """

    names: tuple[str, ...]
    values: Floats
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise ValueError(f"inputs of shape {self.values.shape} for {len(self.names)} names")
        if len(set(self.names)) != len(self.names):
            raise ValueError("repeated names of inputs")
        if self.texts and not self.texts.keys() <= set(self.names):
            raise ValueError("texts of no name among the inputs")

    def of(self, rows: slice | Bools) -> Inputs:
        """Return the inputs of some samples, with no more texts than they have."""
        values = self.values[rows]
        if not any(len(texts) > len(values) for texts in self.texts.values()):
            return Inputs(self.names, values, self.texts)
        values, kept = values.copy(), dict(self.texts)
        for name, texts in self.texts.items():
            codes = values[:, self.names.index(name)]  # a view
            there = ~np.isnan(codes)
            used, codes[there] = np.unique(codes[there], return_inverse=True)
            kept[name] = tuple([texts[int(each)] for each in used.tolist()])
        return Inputs(self.names, values, kept)


def inputs_of(numbers: Mapping[str, Floats], cells: Mapping[str, Iterable[str | None]], n_samples: int) -> Inputs:
    """Return columns by name as inputs.

    Args:
        numbers: Shape (n_samples,) each.
        cells: One text for each sample, None where it is missing.
        n_samples: The number of samples.
    """
    values = np.empty((n_samples, len(numbers) + len(cells)), order="F")
    for place, column in enumerate(numbers.values()):
        values[:, place] = column
    texts: dict[str, tuple[str, ...]] = {}
    for place, (name, column_of_texts) in enumerate(cells.items(), len(numbers)):
        known: dict[str, int] = {}
        values[:, place] = [np.nan if each is None else known.setdefault(each, len(known)) for each in column_of_texts]
        texts[name] = tuple(known)
    return Inputs((*numbers, *cells), values, texts)


def joined_inputs(pieces: Sequence[Inputs]) -> Inputs:
    """Return the inputs of runs of samples as those of all; all have the same names, and texts for the same of them."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    values = np.concatenate([piece.values for piece in pieces])
    texts: dict[str, tuple[str, ...]] = {}
    for name in first.texts:
        known: dict[str, int] = {}
        column, start = first.names.index(name), 0
        for piece in pieces:
            places = np.array([*(known.setdefault(each, len(known)) for each in piece.texts[name]), np.nan])
            codes = values[start : start + len(piece.values), column]
            codes[:] = places[np.where(np.isnan(codes), len(places) - 1, codes).astype(np.intp)]
            start += len(piece.values)
        texts[name] = tuple(known)
    return Inputs(first.names, values, texts)


def is_too_long(text: str) -> bool:
    """Return whether a text has more than `MAX_TEXT_BYTES`; raises `UnicodeEncodeError` where it is no UTF-8."""
    return len(text) * 4 > MAX_TEXT_BYTES and len(text.encode()) > MAX_TEXT_BYTES
