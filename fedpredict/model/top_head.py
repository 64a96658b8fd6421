"""The head of split learning: embeddings of all parties -> a top model -> raw scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedpredict.model.arrays import Floats
from fedpredict.model.combination import TOPS, Combination, Combining
from fedpredict.model.dense import Dense, check_chain, run_layers
from fedpredict.model.head import HeadScores
from fedpredict.model.ids import check_party_id


@dataclass(frozen=True, slots=True, eq=False)
class TopHead:
    """Dense layers over the sum or the concatenation of embeddings. Immutable; calls may come from any thread.

    All shares have the width of the widest embedding; what a narrower one has behind its own width is not looked at.

    Attributes:
        combining: `top_sum` or `top_concat`.
        structure_sha256: What names the joint network, which all parties' parts have too.
        parties: Whose embeddings go in; for a concatenation in their order.
        widths: The width of each party's embedding; for a sum all the same.
        layers: In order; the last gives the raw scores.
    """

    combining: Combining
    structure_sha256: str
    parties: tuple[str, ...]
    widths: tuple[int, ...]
    layers: tuple[Dense, ...]
    combination: Combination = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.combining not in TOPS:
            raise ValueError(f"a top model over {self.combining}")
        if not self.parties or len(set(self.parties)) != len(self.parties):
            raise ValueError("a top model without parties, or with one twice")
        for party in self.parties:
            check_party_id(party)
        if len(self.widths) != len(self.parties) or min(self.widths) < 1:
            raise ValueError(f"{len(self.parties)} parties with embeddings of widths {self.widths}")
        is_sum = self.combining is Combining.TOP_SUM
        if is_sum and len(set(self.widths)) > 1:
            raise ValueError(f"embeddings of widths {self.widths} cannot be added up")
        n_inputs = self.widths[0] if is_sum else sum(self.widths)
        if self.layers and self.layers[0].n_inputs != n_inputs:
            raise ValueError(f"layer 1 takes {self.layers[0].n_inputs} inputs, but the embeddings give {n_inputs}")
        check_chain(self.layers, n_inputs)
        combination = Combination(self.combining, self.structure_sha256, self.layers[-1].n_units)
        object.__setattr__(self, "combination", combination)

    @property
    def n_scores(self) -> int:
        """The width of a party's share: of the widest embedding."""
        return max(self.widths)

    @property
    def n_bytes(self) -> int:
        """The memory of all arrays."""
        return sum(layer.n_bytes for layer in self.layers)

    def raw_scores(self, shares: Mapping[str, Floats]) -> HeadScores:
        """Return what the top model gives; NaN or infinite where a sum overflows.

        Args:
            shares: By party, embeddings of shape (n_samples, n_scores), finite.
        """
        own = [shares[party][:, :width] for party, width in zip(self.parties, self.widths, strict=True)]
        if self.combining is Combining.TOP_CONCAT:
            return HeadScores(run_layers(self.layers, np.concatenate(own, axis=1)))
        total = own[0].copy()
        with np.errstate(over="ignore", invalid="ignore"):
            for each in own[1:]:
                total += each
        raw = run_layers(self.layers, total)
        raw[~np.isfinite(total).all(axis=1)] = np.nan  # an activation may have made a number of an infinity
        return HeadScores(raw)
