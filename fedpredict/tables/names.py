"""How a feature's name becomes a column's name: one documented escape, and what it refuses.

- `a`-`z`, `0`-`9` and `_` stay; `A`-`Z` are lower-cased, because Hive keeps no case
- space and `- . / ( ) %` become `_`
- a letter or digit outside ASCII becomes `u` and its code point in hex
- anything else, an empty name, a result longer than 124, and the tables' own column names are refused

Two names that become one column are refused together: nothing is made unique behind the user's back.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedpredict.errors import FeatureNamesError, NameRefusedError

PLACE = "fp_place"
"""The column of a feature table that holds the place of a row's sample id (`model.buckets`)."""

RESERVED = frozenset({"sample_id", "event_time", "view_version", "snapshot", PLACE})
"""Columns that every feature table has."""

MAX_COLUMN_LENGTH = 124
"""Two less than an identifier's limit: a weight's column is `w_` and the feature's."""

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")
_TO_UNDERSCORE = frozenset(" -./()%")


def column_name(feature: str) -> str:
    """Return the column that holds a feature.

    Args:
        feature: The name as the model file and the feature file write it.

    Raises:
        NameRefusedError: The name cannot be escaped; the message names it, and what to change.

    >>> column_name("Mean radius (mm)")
    'mean_radius__mm_'
    >>> column_name("年龄")
    'u5e74u9f84'
    """
    column = "".join(_escape(character, feature) for character in feature)
    if not 1 <= len(column) <= MAX_COLUMN_LENGTH:
        raise NameRefusedError(
            f"feature name {feature[:200]!r} gives a column of {len(column)} characters; 1 to {MAX_COLUMN_LENGTH} are"
            " allowed: rename the feature"
        )
    if column in RESERVED:
        raise NameRefusedError(
            f"feature name {feature!r} gives the column {column}, which every feature table has: rename the feature"
        )
    return column


def _escape(character: str, feature: str) -> str:
    lowered = character.lower() if character.isascii() else character
    if lowered in _PLAIN:
        return lowered
    if character in _TO_UNDERSCORE:
        return "_"
    if not character.isascii() and character.isalnum():
        return f"u{ord(character):x}"
    raise NameRefusedError(
        f"feature name {feature[:200]!r} has the character {character!r}, which cannot stand in a column name: rename"
        " the feature"
    )


def column_names(features: Sequence[str]) -> dict[str, str]:
    """Return feature -> column, in the order given.

    Raises:
        FeatureNamesError: A name is refused, given twice, or becomes the same column as another; `.names` lists all
            of them.
    """
    columns: dict[str, str] = {}
    features_of: dict[str, list[str]] = {}
    problems: list[str] = []
    refused: list[str] = []
    for feature in features:
        try:
            columns[feature] = column_name(feature)
        except NameRefusedError as error:
            problems.append(str(error))
            refused.append(feature)
            continue
        features_of.setdefault(columns[feature], []).append(feature)
    for column, names in features_of.items():
        if len(names) > 1:
            problems.append(f"{' and '.join(map(repr, names))} both become the column {column}: rename one")
            refused.extend(names)
    if problems:
        raise FeatureNamesError("; ".join(problems), names=refused)
    return columns
