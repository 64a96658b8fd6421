"""What a script's expressions can name: the sources after FROM and JOIN, the key, and the instant of the question."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from sqlglot import exp

from fedpredict.tables import sql
from fedpredict.tables.script_position import refused
from fedpredict.tables.script_types import TEXT, TIMESTAMP, ScriptType
from fedpredict.tables.script_view import ScriptSource

AS_OF = "as_of"


@dataclass(frozen=True, slots=True)
class Typed:
    """An expression for an engine, and its type."""

    tree: exp.Expr
    type: ScriptType


@dataclass(frozen=True, slots=True)
class Scope:
    """What names mean.

    Attributes:
        engine: Whose functions are used.
        sources: Alias -> source; the first is the one after FROM.
        offsets: Seconds before the instant of the question -> the parameter that is bound to that instant.
        texts: The script's texts -> the parameters that they are bound by: engines escape them differently.
    """

    engine: str
    sources: dict[str, ScriptSource]
    offsets: dict[int, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def events(self) -> tuple[str, ScriptSource]:
        """Alias and source after FROM."""
        return next(iter(self.sources.items()))

    def column(self, node: exp.Column) -> tuple[str, str, ScriptType]:
        """Return a column's alias of its source, name and type.

        Raises:
            ViewRefusedError: There is none of that name, or more than one.
        """
        name, table = node.name.lower(), node.table.lower()
        if table and table not in self.sources:
            raise refused(node, f"no source is called {table} here: {', '.join(self.sources)}")
        owners = [alias for alias in ([table] if table else self.sources) if name in self.sources[alias].columns]
        if not owners:
            known = [each for alias, source in self.sources.items() if table in ("", alias) for each in source.columns]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"declared are {', '.join(known[:20])}"
            raise refused(node, f"no column {name} in {table or 'the sources'}; {hint}")
        if len(owners) > 1:
            raise refused(node, f"column {name} is in {' and in '.join(owners)}: write {owners[0]}.{name}")
        return owners[0], name, self.sources[owners[0]].types[name]

    def instant(self, seconds: int = 0) -> Typed:
        """Return the instant of the question, or one so many seconds before it, as a parameter to bind."""
        name = self.offsets.setdefault(seconds, AS_OF if seconds == 0 else f"{AS_OF}_{seconds}".replace("-", "m"))
        return Typed(exp.Cast(this=exp.Placeholder(this=name), to=TIMESTAMP.sql), TIMESTAMP)

    def text(self, text: str) -> Typed:
        """Return a text of the script as a parameter to bind."""
        name = self.texts.setdefault(text, f"text_{len(self.texts)}")
        return Typed(exp.Cast(this=exp.Placeholder(this=name), to=TEXT.sql), TEXT)


def cast(given: Typed, wanted: ScriptType) -> exp.Expr:
    """Return an expression as another type of the same kind, or the same number in a wider one."""
    if given.type == wanted and not (wanted.is_number and wanted.kind != "double"):
        return given.tree
    return exp.Cast(this=given.tree, to=wanted.sql)


def column_of(alias: str, name: str) -> exp.Column:
    """Return a column of a source, quoted."""
    return sql.column(name, alias)
