"""The codes of a snapshot's texts -> those of a part: translated by one look-up per text column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedpredict.errors import ModelNotReadyError
from fedpredict.features.base import FeatureRows
from fedpredict.features.texts import Texts, codes_of
from fedpredict.model.arrays import Floats
from fedpredict.model.part import UNKNOWN_CATEGORY, Part

_UNSEEN: Mapping[str, Texts] = {}


class TextCodes:
    """What a part needs to read text features of any snapshot; calls may come from any thread.

    The table of a snapshot is made when the snapshot is first seen, and kept until another one is.
    """

    def __init__(self, part: Part, columns: Sequence[str]) -> None:
        """Make nothing yet.

        Args:
            part: With text features or without.
            columns: Those of the part's features, in its order.
        """
        self._places = {
            columns[place]: (place, part.categories[name])
            for place, name in enumerate(part.features)
            if name in part.categories
        }
        self._categories = part.categories
        self._known: dict[str, dict[str, float]] = {}
        """Text -> code, of features that came with a request."""
        self._made: tuple[Mapping[str, Texts] | None, list[tuple[int, Floats]]] = (_UNSEEN, [])

    def codes(self, feature: str, texts: Sequence[str]) -> Floats:
        """Return the part's code of each text of a feature, and at the end that of a missing one; (n_texts + 1,)."""
        known = self._known.get(feature)
        if known is None:
            known = self._known[feature] = {text: float(code) for code, text in enumerate(self._categories[feature])}
        return np.array([*(known.get(text, UNKNOWN_CATEGORY) for text in texts), np.nan])

    def translated(self, rows: FeatureRows) -> Floats:
        """Return the values with the part's codes, shape (n_samples, n_columns); a copy.

        Raises:
            ModelNotReadyError: A column that is text is a number for the part, or the other way round.
        """
        values = rows.values.copy()
        for place, table in self.tables(rows.texts):
            codes = values[:, place]
            missing = np.isnan(codes)
            codes[missing] = len(table) - 1
            values[:, place] = table.take(codes.astype(np.intp))
        return values

    def tables(self, texts: Mapping[str, Texts] | None) -> list[tuple[int, Floats]]:
        """Return each text column's place and table: the part's code by the snapshot's, and at its end that of NULL.

        Args:
            texts: As in `FeatureRows`, for the columns of the part.

        Raises:
            ModelNotReadyError: As `translated` says.
        """
        known, tables = self._made
        if texts is not known:
            tables = self._make(texts or {})
            self._made = texts, tables
        return tables

    def _make(self, texts: Mapping[str, Texts]) -> list[tuple[int, Floats]]:
        odd = sorted(texts.keys() ^ self._places.keys())
        if odd:
            kind, other = ("text", "a number") if odd[0] in texts else ("a number", "text")
            raise ModelNotReadyError(
                f"column {odd[0]} is {kind} in the view, and {other} in the model: convert the model for this view, or "
                "load the view as the model needs it"
            )
        return [
            (place, np.append(codes_of(texts[column], categories), np.nan))
            for column, (place, categories) in self._places.items()
        ]
