"""Where in a script something stands, for messages."""

from __future__ import annotations

from sqlglot import exp

from fedpredict.errors import ViewRefusedError


def refused(node: exp.Expr, message: str) -> ViewRefusedError:
    """Return the error for a part of a script: line and column of its first word that is known, then the message."""
    at: exp.Expr | None = node
    while at is not None:
        places = [each.meta for each in at.walk() if "line" in each.meta]
        if places:
            first = min(places, key=lambda meta: int(meta["start"]))
            # the parser keeps the column of a word's last character
            column = int(first["col"]) - (int(first["end"]) - int(first["start"]))
            return ViewRefusedError(f"line {first['line']}, column {column}: {message}")
        at = at.parent
    return ViewRefusedError(f"line 1, column 1: {message}")
