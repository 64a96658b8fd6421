"""Where words of a script stand that its parser does not place: what is never closed, and CURRENT_TIMESTAMP."""

from __future__ import annotations

import sqlglot
from sqlglot import TokenType, exp

_ENDS = {"'": "'", '"': '"', "`": "`", "/*": "*/", "--": "\n"}


def unclosed(text: str) -> tuple[int, int, str] | None:
    r"""Return line, column (from 1) and the first characters of a quotation or comment without an end, or None.

    >>> unclosed("SELECT 'it''s' -- isn't\n, 'a")
    (2, 3, "'")
    """
    at = 0
    while at < len(text):
        opened = next((each for each in _ENDS if text.startswith(each, at)), None)
        if opened is None:
            at += 1
            continue
        end = text.find(_ENDS[opened], at + len(opened))
        if end < 0:
            line_start = text.rfind("\n", 0, at) + 1
            return None if opened == "--" else (text.count("\n", 0, at) + 1, at - line_start + 1, opened)
        at = end + len(_ENDS[opened])
    return None


def stray_comma(text: str) -> tuple[int, int] | None:
    """Return line and column of the first comma that has nothing before or after it, which the parser allows.

    >>> stray_comma("SELECT a,, b FROM x"), stray_comma("SELECT a, FROM x"), stray_comma("SELECT a, f(b, c) FROM x")
    ((1, 10), (1, 9), None)
    """
    tokens = sqlglot.tokenize(text)
    comma = TokenType.COMMA
    for before, at, after in zip((None, *tokens), tokens, (*tokens[1:], None), strict=False):
        if at.token_type is not comma:
            continue
        if before is None or before.token_type in (comma, TokenType.SELECT, TokenType.L_PAREN):
            return at.line, at.col
        if after is None or after.token_type in (TokenType.FROM, TokenType.R_PAREN, TokenType.WHERE):
            return at.line, at.col
    return None


def place_words(tree: exp.Expr, text: str) -> None:
    """Give functions that are written without brackets the place of the first such word in the script."""
    bare = [node for node in tree.find_all(exp.Func) if "line" not in node.meta and not list(node.iter_expressions())]
    if not bare:
        return
    for token in reversed(sqlglot.tokenize(text)):
        for node in bare:
            if token.text.upper() == node.sql_name():
                node.meta.update(line=token.line, col=token.col, start=token.start, end=token.end)
