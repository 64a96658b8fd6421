"""Sets of categories as one text that SQL can test for membership, whatever characters the categories have.

A set is its members between bars: `|red|blue|`, and `|` where it is empty. In a member `~` is written `~0` and `|` is
written `~1`. So a value is in a set exactly where the bar, the escaped value and the bar stand in the set's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedpredict.errors import TableCorruptError

BAR = "|"
ESCAPES = (("~", "~0"), (BAR, "~1"))
"""What is replaced by what in a member, in this order."""
UNKNOWN = "|~|"
"""Stands in no set, because no escaped member holds a lone `~`."""


def set_text(members: Sequence[str]) -> str:
    """Return the text of a set.

    >>> set_text(["red", "a|b", ""]), set_text([])
    ('|red|a~1b||', '|')
    """
    return BAR + "".join(_escaped(member) + BAR for member in members)


def members_of(text: str) -> list[str]:
    """Return the members that `set_text` wrote, in their order.

    Raises:
        TableCorruptError: It wrote no such text.

    >>> members_of("|red|a~1b||")
    ['red', 'a|b', '']
    """
    members = [member.replace("~1", BAR).replace("~0", "~") for member in text[1:-1].split(BAR)] if text != BAR else []
    if set_text(members) != text:
        raise TableCorruptError(f"{text[:100]!a} is no set of categories")
    return members


def codes_of_set(text: str, code_of: Mapping[str, int] | None) -> tuple[int, ...]:
    """Return the codes of a set's members, in their order.

    Args:
        text: As `set_text` writes it.
        code_of: Of texts; None where the members are whole numbers.

    Raises:
        TableCorruptError: A member has no code, or one that is too large.
    """
    members = members_of(text)
    try:
        codes = [int(member) if code_of is None else code_of[member] for member in members]
    except (KeyError, ValueError) as error:
        raise TableCorruptError(f"the set of categories {text[:100]!a} has one that is not known") from error
    if any(code >= 2**31 for code in codes):
        raise TableCorruptError(f"the set of categories {text[:100]!a} has a number that is too large")
    return tuple(codes)


def _escaped(member: str) -> str:
    for character, escape in ESCAPES:
        member = member.replace(character, escape)
    return member
