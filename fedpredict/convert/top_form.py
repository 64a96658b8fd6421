"""The portable form of a top model: the head of split learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedpredict.convert.embedding_form import MAX_WIDTH, count_from_plain, structure_from_plain
from fedpredict.convert.network_form import layer_to_plain, layers_from_plain
from fedpredict.convert.plain import check_keys
from fedpredict.errors import ModelFileError
from fedpredict.model.combination import Combining
from fedpredict.model.dense import Dense
from fedpredict.model.top_head import TopHead

BELOW_KEYS = ("structure", "structure_sha256", "parties", "widths")
"""Keys of what is below a top model."""


@dataclass(frozen=True, slots=True)
class Below:
    """What is below a top model: whose embeddings it takes.

    Attributes:
        combining: Whether it takes their sum or their concatenation.
        structure_sha256: What names the joint network.
        parties: All of the model, for a concatenation in its order.
        widths: Of each party's embedding.
    """

    combining: Combining
    structure_sha256: str
    parties: tuple[str, ...]
    widths: tuple[int, ...]

    @property
    def n_numbers(self) -> int:
        """How many numbers the top model takes."""
        return sum(self.widths if self.combining is Combining.TOP_CONCAT else self.widths[:1])

    def head(self, layers: tuple[Dense, ...]) -> TopHead:
        """Return the head of layers; raise `ValueError` where parties, widths and layers do not fit together."""
        return TopHead(self.combining, self.structure_sha256, self.parties, self.widths, layers)


def below_from_plain(plain: Mapping[str, object], combining: Combining, what: str) -> Below:
    """Return what the values of `BELOW_KEYS` say; others are not looked at.

    Args:
        plain: With these keys.
        combining: Said elsewhere.
        what: Goes before the key in messages, such as "head.".

    Raises:
        ModelFileError: A key is missing, or of the wrong type.
    """
    parties, widths = plain.get("parties"), plain.get("widths")
    if not isinstance(parties, list) or not all(isinstance(party, str) for party in parties):
        raise ModelFileError(f"{what}parties is not a list of party ids")
    if not isinstance(widths, list):
        raise ModelFileError(f"{what}widths is not a list of whole numbers, one for each party")
    return Below(
        combining=combining,
        structure_sha256=structure_from_plain(plain, combining),
        parties=tuple(parties),
        widths=tuple(count_from_plain(width, f"{what}widths", MAX_WIDTH) for width in widths),
    )


def top_to_plain(head: TopHead) -> dict[str, object]:
    """Return what stands under `head` in a portable head."""
    return {
        "structure_sha256": head.structure_sha256,
        "parties": list(head.parties),
        "widths": list(head.widths),
        "layers": [layer_to_plain(layer) for layer in head.layers],
    }


def top_from_plain(plain: Mapping[str, object], combining: Combining) -> TopHead:
    """Return the head; the inverse of `top_to_plain`.

    Raises:
        ModelFileError: A key is unknown or missing, or of the wrong type.
        NameRefusedError: A party id breaks the naming rules.
        ValueError: Parties, widths and layers do not fit together.
    """
    check_keys(plain, (*BELOW_KEYS, "layers"), "head")
    return below_from_plain(plain, combining, "head.").head(layers_from_plain(plain.get("layers")))
