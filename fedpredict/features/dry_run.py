"""A view's script tried on an engine before the view is registered, and the place in it that the engine refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from sqlglot import exp

from fedpredict.errors import StatementError, ViewRefusedError
from fedpredict.features.view_fixture import few_rows, over_fixture
from fedpredict.tables import sql
from fedpredict.tables.script import compile_script, declared_column, raw_table
from fedpredict.tables.script_position import refused
from fedpredict.tables.script_shape import Shape, parse_shape
from fedpredict.tables.script_view import ScriptSource, ScriptView
from fedpredict.warehouse.base import Warehouse


@dataclass(frozen=True, slots=True)
class Trials:
    """Where a view is tried beside its own warehouse, before it is registered.

    Attributes:
        engines: Open warehouses of further engines; their tables are not looked at.
        without: Targets that the operator goes on without trying.
        unreachable: What was given and cannot be reached, in words for the operator.
        has_outside: Whether events are somewhere else for mode realtime, so that their table may be missing.
    """

    engines: Sequence[Warehouse] = ()
    without: frozenset[str] = frozenset()
    unreachable: tuple[str, ...] = ()
    has_outside: bool = False


def try_everywhere(
    warehouse: Warehouse, view: ScriptView, script: str, as_of: datetime, trials: Trials
) -> tuple[str, ...]:
    """Try a script on every engine of its view's targets.

    Args:
        warehouse: The party's own, where the raw tables are.
        view: The definition.
        script: The text.
        as_of: The instant to ask as of, over the raw tables.
        trials: The further engines.

    Returns:
        The engines that it was tried on, in the order of the targets.

    Raises:
        ViewRefusedError: The own engine is none of the targets; a target has no engine here and is not left out; or
            an engine refuses, with line and column where they can be found.
        WarehouseError: A warehouse cannot be used now.
    """
    own = warehouse.engine.name
    if own not in view.targets:
        raise ViewRefusedError(
            f"view {view.name} is for {', '.join(view.targets)}, and the warehouse is {own}: add it to targets"
        )
    engines = _engines(warehouse, trials)
    missing = [name for name in view.targets if name not in engines and name not in trials.without]
    if missing:
        raise ViewRefusedError(_not_tried(view, missing, trials.unreachable))
    try_raw_tables(warehouse, view, script, as_of, has_outside=trials.has_outside)
    tried = tuple(name for name in view.targets if name in engines and name not in trials.without - {own})
    for name in tried:
        try_few_rows(engines[name], view, script)
    return tried


def try_further(
    warehouse: Warehouse, view: ScriptView, script: str, as_of: datetime, trials: Trials, *, tried: Sequence[str]
) -> tuple[str, ...]:
    """Try a registered script on the engines that are here, and that it was not tried on yet.

    Args:
        warehouse: The party's own.
        view: The definition.
        script: The text.
        as_of: The instant to ask as of, over the raw tables.
        trials: The further engines. A target without one stays untried, unless one that was given cannot be reached.
        tried: What it was tried on.

    Returns:
        All engines that it was tried on, in the order of the targets.

    Raises:
        ViewRefusedError: An engine refuses, with line and column where they can be found; or a settings file was
            given for nothing, as its warehouse cannot be reached.
        WarehouseError: A warehouse cannot be used now.
    """
    own, engines = warehouse.engine.name, _engines(warehouse, trials)
    left = [name for name in view.targets if name not in tried and name not in trials.without - {own}]
    missing = [name for name in left if name not in engines]
    if missing and trials.unreachable:
        raise ViewRefusedError(_not_tried(view, missing, trials.unreachable))
    if own in left:  # it was registered before this was recorded
        try_raw_tables(warehouse, view, script, as_of, has_outside=trials.has_outside)
    now = [name for name in left if name in engines]
    for name in now:
        try_few_rows(engines[name], view, script)
    return tuple(name for name in view.targets if name in (*tried, *now))


def _engines(warehouse: Warehouse, trials: Trials) -> dict[str, Warehouse]:
    """Return the warehouse of each engine that is here; the party's own wins."""
    return {each.engine.name: each for each in (*trials.engines, warehouse)}


def _not_tried(view: ScriptView, missing: Sequence[str], unreachable: Sequence[str]) -> str:
    why = f"{'; '.join(unreachable)}; so" if unreachable else "no warehouse of theirs is given, and"
    names, flag = " and ".join(missing), ",".join(missing)
    return (
        f"view {view.name} has the targets {', '.join(view.targets)}; {why} it cannot be tried on {names}:"
        f" give a settings file of such a warehouse by --engine-config, go on without by --without-dry-run {flag},"
        f" or take {names} out of targets"
    )


def try_raw_tables(
    warehouse: Warehouse, view: ScriptView, script: str, as_of: datetime, *, has_outside: bool = False
) -> None:
    """Run a script's query over the raw tables for no rows: what they lack shows here.

    Args:
        warehouse: Where they are.
        view: The definition.
        script: The text.
        as_of: The instant to ask as of.
        has_outside: Whether the table of events may be missing, because mode realtime finds them somewhere else;
            then dimensions alone are looked at.

    Raises:
        ViewRefusedError: Naming the table or column, else with the engine's words.
    """
    compiled = compile_script(view, script, warehouse.engine.name)
    params = compiled.params(as_of)

    def problem(query: exp.Select) -> StatementError | None:
        return _refusal(lambda: warehouse.run(query.limit(0), params))

    found = problem(compiled.query)
    if found is None:
        return
    shape = parse_shape(view, script)
    sources = dict(shape.sources)
    if has_outside and is_table_missing(warehouse, view, script):
        del sources[next(iter(sources))]
    for alias, source in sources.items():
        missing = _missing(alias, source, shape, problem)
        if missing is not None:
            raise missing from found
    if len(sources) < len(shape.sources):
        return
    raise _told(compiled.query, _Attempt(view, warehouse.engine.name, shape, problem), found) from found


def is_table_missing(warehouse: Warehouse, view: ScriptView, script: str) -> bool:
    """Return whether the warehouse lacks the table of a view's events, so that no snapshot can be computed."""
    source = next(iter(parse_shape(view, script).sources.values()))
    one = exp.Select(expressions=[sql.named(sql.number(1), "n")]).from_(raw_table(source), copy=False)
    return _refusal(lambda: warehouse.run(one.limit(0), {})) is not None


def try_few_rows(warehouse: Warehouse, view: ScriptView, script: str) -> None:
    """Run a script's query over a few made-up rows that are part of the statement, so that no raw table is needed.

    Rows, and not `LIMIT 0` or EXPLAIN: an engine answers those from its plan alone, and Hive and Spark find out only
    while they compute that a function cannot do with a value. One of the rows is all NULL.

    Raises:
        ViewRefusedError: The engine refuses, with line and column where one output or the WHERE is at fault.
    """
    compiled = compile_script(view, script, warehouse.engine.name)
    fixture = few_rows(view)

    def problem(query: exp.Select) -> StatementError | None:
        statement, params = over_fixture(view, query, compiled.params(fixture.as_of), fixture)
        return _refusal(lambda: warehouse.run(statement, params))

    found = problem(compiled.query)
    if found is not None:
        attempt = _Attempt(view, warehouse.engine.name, parse_shape(view, script), problem)
        raise _told(compiled.query, attempt, found) from found


_Problem: TypeAlias = Callable[[exp.Select], StatementError | None]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A script on an engine; `problem` is what the engine says against a query."""

    view: ScriptView
    engine: str
    shape: Shape
    problem: _Problem


def _refusal(run: Callable[[], object]) -> StatementError | None:
    try:
        run()
    except StatementError as error:
        return error
    return None


def _missing(alias: str, source: ScriptSource, shape: Shape, problem: _Problem) -> ViewRefusedError | None:
    """Return what a raw table lacks, if it does: the table itself, or a column, where the script uses it."""
    table = raw_table(source)

    def reading(names: Sequence[str]) -> exp.Select:
        # an alias of their own: some engines take the column's for the column where there is none
        columns = [sql.named(declared_column(name, source.types[name]), f"fp_{at}") for at, name in enumerate(names)]
        return exp.Select(expressions=[sql.named(sql.number(1), "n"), *columns]).from_(table, copy=False)

    found = problem(reading([]))
    if found is not None:
        return ViewRefusedError(
            f"the raw table {source.table} of [sources.{alias}] cannot be read: {_in_a_line(found)}"
        )
    name = _at_fault(list(source.types), lambda names: problem(reading(names)) is not None)
    if name is None:
        return None
    words = _in_a_line(problem(reading([name])) or StatementError("read this time"))
    message = f"column {name} of the raw table {source.table} cannot be read; compare [sources]: {words}"
    used = [node for node in _nodes(shape) if node.name.lower() == name and node.table.lower() in ("", alias)]
    return refused(used[0], message) if used else ViewRefusedError(message)


def _nodes(shape: Shape) -> Iterator[exp.Column]:
    for part in (*shape.outputs.values(), *([shape.where] if shape.where is not None else [])):
        yield from part.find_all(exp.Column)


def _told(query: exp.Select, attempt: _Attempt, found: StatementError) -> ViewRefusedError:
    """Return the error of a query that an engine refuses, at the output or the WHERE that it refuses by itself.

    Engines tell places of the statement that was made of the script, if any: so parts of it are tried instead.
    """
    engine, view, shape = attempt.engine, attempt.view, attempt.shape
    features = [each.column for each in view.feature_view(1).features]
    name = _at_fault(features, lambda names: attempt.problem(_only(query, names)) is not None)
    if name is not None:
        words = attempt.problem(_only(query, [name])) or found
        return refused(
            shape.outputs[name], f"{engine} does not compute {name} of view {view.name}: {_in_a_line(words)}"
        )
    bare = _only(query, [])
    is_where = attempt.problem(bare) is not None and attempt.problem(_without_where(bare)) is None
    if shape.where is not None and is_where:
        return refused(shape.where, f"{engine} does not compute the WHERE of view {view.name}: {_in_a_line(found)}")
    return ViewRefusedError(f"view {view.name} does not run on {engine}: {_in_a_line(found)}")


def _in_a_line(error: StatementError) -> str:
    return " ".join(str(error).split())


def _at_fault(names: Sequence[str], refuses: Callable[[Sequence[str]], bool]) -> str | None:
    """Return one name that is refused by itself, while none at all is not; None where there is no such name."""
    if not names or refuses([]):
        return None
    left = list(names)
    while len(left) > 1:
        half = left[: len(left) // 2]
        left = half if refuses(half) else left[len(left) // 2 :]
    return left[0] if refuses(left) else None


def _only(query: exp.Select, features: Sequence[str]) -> exp.Select:
    """Return a script's query with the sample id, its time, and some features."""
    wanted = {"sample_id", "event_time", *features}
    made = query.copy()
    for each in (made, _inner(made)):
        each.set("expressions", [column for column in each.expressions if column.alias_or_name in wanted])
    return made


def _without_where(query: exp.Select) -> exp.Select:
    made = query.copy()
    _inner(made).set("where", None)
    return made


def _inner(query: exp.Select) -> exp.Select:
    found = query.args["from_"].this.this
    assert isinstance(found, exp.Select)  # noqa: S101  as `compile_script` makes it
    return found
