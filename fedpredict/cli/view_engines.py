"""The engines that `view register` and `view test` are given beside the party's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, TypeAlias, get_args

import typer

from fedpredict.cli import wiring
from fedpredict.errors import InputError, WarehouseUnavailableError
from fedpredict.features.dry_run import Trials
from fedpredict.tables.script_view import EngineName, ScriptView
from fedpredict.warehouse.base import Warehouse

EngineConfigs: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--engine-config", help="A participant.toml whose warehouse is another engine; repeatable."),
]
WithoutDryRun: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--without-dry-run", help="Targets to register without trying them: spark,hive.", metavar="ENGINE"),
]


@contextmanager
def opened_trials(
    view: ScriptView, own: Warehouse, configs: Sequence[Path], without: Sequence[str]
) -> Iterator[Trials]:
    """Open the engines to try a view on, and close them at the end of the block.

    DuckDB is always there, in memory. What cannot be reached is told by the trials, which know whether it is needed.

    Args:
        view: Whose targets count.
        own: The party's warehouse, open already.
        configs: Settings files of further parties' warehouses.
        without: Names of engines to go on without; commas may part them.

    Raises:
        InputError: A name that is no engine.
        ConfigError: A settings file is wrong.
    """
    known = get_args(EngineName)
    left_out = frozenset(name.strip() for each in without for name in each.split(","))
    unknown = sorted(left_out - set(known))
    if unknown:
        raise InputError(f"--without-dry-run {', '.join(unknown)}: there is {', '.join(known)}")
    engines: list[Warehouse] = []
    unreachable: list[str] = []
    with ExitStack() as stack:
        for path in configs:
            warehouse = stack.enter_context(wiring.opened_warehouse(path)).warehouse
            try:
                name = warehouse.engine.name
            except WarehouseUnavailableError as error:
                unreachable.append(f"the warehouse of {path} cannot be reached ({error})")
                continue
            if name in view.targets:
                engines.append(warehouse)
        if own.engine.name != "duckdb" and "duckdb" in view.targets:
            engines.append(stack.enter_context(_duckdb()))
        yield Trials(engines, left_out, tuple(unreachable))


@contextmanager
def _duckdb() -> Iterator[Warehouse]:
    from fedpredict.warehouse.local import LocalWarehouse  # noqa: PLC0415  as wiring does

    with TemporaryDirectory(prefix="fedpredict-") as folder:
        warehouse = LocalWarehouse(Path(folder))
        try:
            yield warehouse
        finally:
            warehouse.close()
