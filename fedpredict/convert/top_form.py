"""The portable form of a top model: the head of split learning."""

from __future__ import annotations

from collections.abc import Mapping

from fedpredict.convert.embedding_form import MAX_WIDTH, count_from_plain, structure_from_plain
from fedpredict.convert.network_form import layer_to_plain, layers_from_plain
from fedpredict.convert.plain import check_keys
from fedpredict.errors import ModelFileError
from fedpredict.model.combination import Combining
from fedpredict.model.top_head import TopHead

_KEYS = ("structure", "structure_sha256", "parties", "widths", "layers")


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
    check_keys(plain, _KEYS, "head")
    parties, widths = plain.get("parties"), plain.get("widths")
    if not isinstance(parties, list) or not all(isinstance(party, str) for party in parties):
        raise ModelFileError("head.parties is not a list of party ids")
    if not isinstance(widths, list):
        raise ModelFileError("head.widths is not a list of whole numbers, one for each party")
    return TopHead(
        combining=combining,
        structure_sha256=structure_from_plain(plain, combining),
        parties=tuple(parties),
        widths=tuple(count_from_plain(width, "head.widths", MAX_WIDTH) for width in widths),
        layers=layers_from_plain(plain.get("layers")),
    )
