"""How the shares of all parties become raw scores, where they are not simply added up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from typing_extensions import override

from fedpredict.model.ids import check_digest


class Combining(StrEnum):
    """What a head does with shares. The names are those of the tables, the messages and the files."""

    LEAF_MASKS = "leaf_masks"
    """A share says for each tree which leaves a party's splits still allow; the head sums the leaves left by all."""
    TOP_SUM = "top_sum"
    """A share is an embedding; the head runs a top model over the sum of all parties'."""
    TOP_CONCAT = "top_concat"
    """A share is an embedding; the head runs a top model over all parties', one after the other."""


TOPS = (Combining.TOP_SUM, Combining.TOP_CONCAT)
"""Those whose shares are embeddings."""


@dataclass(frozen=True, slots=True)
class Combination:
    """What parts of one model must have in common so that a head can finish their shares.

    Attributes:
        combining: What the head does.
        structure_sha256: The digest (hex) of what is common to all parts and the head.
        n_outputs: The number of raw scores per sample.
    """

    combining: Combining
    structure_sha256: str
    n_outputs: int

    def __post_init__(self) -> None:
        check_digest(self.structure_sha256)
        if self.n_outputs < 1:
            raise ValueError(f"a model with {self.n_outputs} outputs")

    @override
    def __str__(self) -> str:
        """Return what people are told."""
        return f"{self.combining} of structure {self.structure_sha256[:12]} for {self.n_outputs} outputs"


def combination_of(part: object) -> Combination | None:
    """Return what a part must have in common with a head; None where shares are added up."""
    found = getattr(part, "combination", None)
    return found if isinstance(found, Combination) else None


def structure_of(combining: Combining, text: str) -> str:
    """Return the `structure_sha256` of networks whose joint architecture a text names.

    >>> structure_of(Combining.TOP_SUM, "a") == structure_of(Combining.TOP_CONCAT, "a")
    False
    """
    return hashlib.sha256(f"{combining.value}\n{text}".encode()).hexdigest()
