"""Shares as whole numbers modulo 2^64, so that they can be masked and added up without an error of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedpredict.model.arrays import Bools, Floats

Words: TypeAlias = NDArray[np.uint64]
"""Numbers modulo 2^64; a sum of theirs wraps around."""

DEFAULT_SCALE_BITS = 32
MAX_SCALE_BITS = 52
_HALF_RANGE = 2.0**62


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """How shares become words: multiplied by a power of two, and rounded to the nearest whole number.

    The sum of the rounded shares is exact: it never leaves ±2^62. Against the sum of the shares themselves it is off by
    at most `error_bound`, apart from the rounding of the result to float64.

    Attributes:
        scale_bits: The scale is 2 to the power of this; 0 to 52.
        n_parties: How many parties' words are added up.
    """

    scale_bits: int
    n_parties: int
    scale: float = field(init=False)
    limit: float = field(init=False)
    """The largest share, by its absolute value: 2^62 / (n_parties × scale)."""

    def __post_init__(self) -> None:
        if not 0 <= self.scale_bits <= MAX_SCALE_BITS or self.n_parties < 1:
            raise ValueError(f"a scale of 2^{self.scale_bits} for {self.n_parties} parties")
        object.__setattr__(self, "scale", 2.0**self.scale_bits)
        object.__setattr__(self, "limit", _HALF_RANGE / (self.n_parties * self.scale))

    @property
    def error_bound(self) -> float:
        """How far the sum of the rounded shares can be from the sum of the shares: n_parties / (2 × scale).

        >>> FixedPoint(32, 2).error_bound
        2.3283064365386963e-10
        """
        return self.n_parties / (2.0 * self.scale)

    def encode(self, values: Floats) -> tuple[Words, Bools]:
        """Return shares as words, and which samples have one.

        Args:
            values: Shape (n_samples, n_scores); NaN where there is no number.

        Returns:
            Words of the same shape, 0 for a sample of which any number is NaN or beyond `limit`; and, shape
            (n_samples,), whether the sample has its words.
        """
        # mostly all do, and a NaN is no smaller number
        if not values.size or np.maximum.reduce(np.abs(values), axis=None) <= self.limit:
            fits, usable = np.ones(len(values), dtype=np.bool_), values
        else:
            fits = np.logical_and.reduce(np.abs(values) <= self.limit, axis=1)
            usable = np.where(fits[:, None], values, 0.0)
        return np.rint(usable * self.scale).astype(np.int64).view(np.uint64), fits

    def decode(self, words: Words) -> Floats:
        """Return the numbers that a sum of words stands for, of the same shape."""
        return words.view(np.int64).astype(np.float64) / self.scale


def sum_words(words: Sequence[Words]) -> Words:
    """Return the sum modulo 2^64 of arrays of one shape; at least one.

    >>> sum_words([np.array([2**64 - 1], np.uint64), np.array([3], np.uint64)]).tolist()
    [2]
    """
    total = words[0].copy()
    for each in words[1:]:
        total += each  # arrays wrap around without a warning
    return total


@dataclass(slots=True, eq=False)
class MaskedWords:
    """A party's share in a masked sum: of use only together with those of all other parties of the sum.

    Attributes:
        words: Shape (n_samples, n_scores); 0 where the party has no number for the sample.
        checks: Shape (n_models,): the masks of one word more, of each model; over all parties they add up to 0 unless
            the parties' masks are not of the same round.
    """

    words: Words
    checks: Words
