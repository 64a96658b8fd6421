"""A party's part of a network: its bottom network as arrays, features -> partial scores (ADR 0024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats, Statuses
from fedpredict.model.combination import TOPS, Combination
from fedpredict.model.dense import Dense, absolute_terms, check_chain, run_layers
from fedpredict.model.part import Family, statuses_of_numbers
from fedpredict.model.share import SampleStatus, all_ok_statuses

_NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The vectors that stand for the categories of a feature.

    Attributes:
        vectors: Shape (n_categories, width): by the code of a text, or by the number itself where the feature is a
            number. A number is a category if it is an integer from 0 to n_categories - 1.
        unknown: Shape (width,): what stands for any other text or finite number; None where such a sample is
            FEATURE_INVALID.
    """

    vectors: Floats
    unknown: Floats | None = None
    table: Floats = field(init=False, repr=False)
    """The vectors, which are a view of it, and behind them the unknown one (zeros where there is none)."""

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not self.vectors.size:
            raise ValueError(f"an embedding of shape {self.vectors.shape}")
        if self.unknown is not None and self.unknown.shape != (self.width,):
            raise ValueError(f"an unknown category's vector of {self.unknown.shape}, the others have {self.width}")
        if not np.isfinite(self.vectors).all() or not (self.unknown is None or np.isfinite(self.unknown).all()):
            raise ValueError("an embedding holds NaN or an infinity")
        table = np.vstack([self.vectors, np.zeros(self.width) if self.unknown is None else self.unknown])
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "vectors", table[:-1])

    @property
    def width(self) -> int:
        """The numbers in a vector."""
        return int(self.vectors.shape[1])

    def codes(self, values: Floats) -> NDArray[np.int64]:
        """Return the category of each value, shape (n_samples,); -1 where it is none."""
        with np.errstate(invalid="ignore"):
            known = (values >= 0.0) & (values < len(self.vectors)) & (values == np.floor(values))
        return np.where(known, np.where(known, values, 0.0).astype(np.int64), _NONE)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkPart:
    """Dense layers over one party's features.

    What goes into the first layer: for each feature in order its number, or the vector of its category.

    Attributes:
        features: The feature names, in the order of the columns.
        categories: For each text feature, its texts in the order of their codes.
        embeddings: For each categorical feature, text or number, its vectors; of every text feature.
        layers: In order; the last gives the scores, its bias included.
        intercept: Shape (n_scores,): what the joint model adds to the sum of all parties' networks, beside their own
            biases; None where another party holds it, or the model has none.
        combination: What the part must have in common with the head that its scores, an embedding, go into; None where
            all parties' scores are added up.
    """

    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    embeddings: Mapping[str, Embedding]
    layers: tuple[Dense, ...]
    intercept: Floats | None
    combination: Combination | None = None
    _placed: tuple[tuple[int, Embedding], ...] = field(init=False, repr=False)
    """Column and embedding of each categorical feature, in the order of the columns."""

    def __post_init__(self) -> None:
        if len(set(self.features)) != len(self.features):
            raise ValueError("repeated feature names")
        if set(self.embeddings) - set(self.features) or set(self.categories) - set(self.embeddings):
            raise ValueError("an embedding of a feature that there is not, or a text feature without one")
        for name, texts in self.categories.items():
            if len(set(texts)) != len(texts) or len(texts) != len(self.embeddings[name].vectors):
                raise ValueError(
                    f"feature {name!a} has {len(self.embeddings[name].vectors)} vectors for its categories"
                )
        check_chain(self.layers, sum(self.widths))
        self._check_scores()
        places = ((self.features.index(name), each) for name, each in self.embeddings.items())
        object.__setattr__(self, "_placed", tuple(sorted(places, key=lambda place: place[0])))

    def _check_scores(self) -> None:
        if self.combination is not None and (self.intercept is not None or self.combination.combining not in TOPS):
            raise ValueError(f"a network with an intercept, or without an embedding, for {self.combination.combining}")
        if self.intercept is not None:
            if self.intercept.shape != (self.n_scores,):
                raise ValueError(f"an intercept of shape {self.intercept.shape} for {self.n_scores} outputs")
            if not np.isfinite(self.intercept).all():
                raise ValueError("an intercept is NaN or infinite")

    @property
    def family(self) -> Family:
        """A network."""
        return Family.NETWORK

    @property
    def widths(self) -> tuple[int, ...]:
        """How many inputs of the first layer each feature gives."""
        return tuple(self.embeddings[name].width if name in self.embeddings else 1 for name in self.features)

    @property
    def n_scores(self) -> int:
        """The number of partial scores per sample."""
        return self.layers[-1].n_units

    @property
    def n_bytes(self) -> int:
        """The memory of all arrays."""
        own = 0 if self.intercept is None else self.intercept.nbytes
        return own + sum(each.n_bytes for each in self.layers) + sum(each.table.nbytes for _, each in self._placed)

    def partial_scores(self, features: Floats) -> Floats:
        """Return what the last layer gives, and the intercept; as `Part.partial_scores`."""
        scores = run_layers(self.layers, self._inputs(features))
        return scores if self.intercept is None else scores + self.intercept

    def magnitudes(self, features: Floats) -> Floats:
        """Return the sum of the absolute terms of the last layer and the intercept, as `Part.magnitudes`.

        What rounding does in the hidden layers is not in it: where they cancel large terms, scores of two orders of
        summation may differ by more of it than 1e-9.
        """
        terms = absolute_terms(self.layers, self._inputs(features))
        return terms if self.intercept is None else terms + np.abs(self.intercept)

    def statuses(self, features: Floats) -> Statuses | None:
        """Return why samples cannot be scored, as `Part.statuses`.

        Every feature must be there, and finite; a category without a vector is invalid.
        """
        status = statuses_of_numbers(features)
        for column, embedding in self._placed:
            values = features[:, column]
            if embedding.unknown is None and (strange := (embedding.codes(values) == _NONE) & ~np.isnan(values)).any():
                status = all_ok_statuses(len(features)) if status is None else status
                status[strange] = SampleStatus.FEATURE_INVALID
        return status

    def scores_and_statuses(self, features: Floats) -> tuple[Floats, Statuses | None]:
        """Return scores and statuses, as `Part.scores_and_statuses`."""
        return self.partial_scores(features), self.statuses(features)

    def _inputs(self, features: Floats) -> Floats:
        """Return what goes into the first layer, shape (n_samples, sum of `widths`)."""
        if features.ndim != 2 or features.shape[1] != len(self.features):
            raise ValueError(f"features of shape {features.shape} for {len(self.features)} features")
        if not self._placed:
            return features
        pieces, start = [], 0
        for column, embedding in self._placed:
            codes = embedding.codes(features[:, column])
            pieces += [features[:, start:column], embedding.table[codes]]  # -1 is the last row, that of the unknown
            start = column + 1
        return np.hstack([*pieces, features[:, start:]])


def input_mask(part: NetworkPart, chosen: list[int]) -> Bools:
    """Return which inputs of the first layer some features (by position) give, shape (n_inputs,)."""
    of_feature = np.repeat(np.arange(len(part.features)), part.widths)
    return np.isin(of_feature, chosen)
