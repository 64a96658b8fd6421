"""The command line: every noun and verb, and the edge where errors become one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated

import typer

from fedpredict import __version__
from fedpredict.cli.exits import ExitCode, exit_code
from fedpredict.errors import FedPredictError

DEFECT = (
    "This is a defect of fedpredict: please report it with what `fedpredict --debug ...` prints for the same command."
)

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "app"),
    "certs": ("certs", "app"),
    "features": ("features", "app"),
    "view": ("view", "app"),
    "events": ("events", "app"),
    "model": ("model", "app"),
    "participant": ("serve", "participant"),
    "initiator": ("serve", "initiator"),
    "predict": ("predict", "predict"),
    "models": ("predict", "list_models"),
    "catalogue": ("catalogue", "app"),
    "score": ("score", "score"),
    "task": ("task", "app"),
    "erase": ("erase", "erase_person"),
    "audit": ("audit", "app"),
    "policy": ("policy", "app"),
    "token": ("token", "app"),
    "schedule": ("schedule", "app"),
    "population": ("population", "app"),
    "shares": ("shares", "app"),
    "simulate": ("split", "simulate"),
    "doctor": ("doctor", "doctor"),
    "bench": ("bench", "bench"),
    "top": ("top", "top"),
}
"""Noun, or verb without one -> its module in this package, and the group or function in it."""

_NO_LOG = logging.NullHandler()


@dataclass
class Invocation:
    """What holds for one run of the program, whatever the command.

    Attributes:
        debug: Whether an error shows its traceback.
    """

    debug: bool = False


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedpredict {__version__}")
        raise typer.Exit


def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001  acts through its callback
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take the options that stand before every command."""
    context.obj.debug = debug


def build_app(arguments: list[str]) -> typer.Typer:
    """Return the program; where the first word names a command, with that command alone.

    Importing all of them takes seconds, because they bring every driver; the help and shell completion need all.

    Args:
        arguments: Without the program's name.
    """
    app = typer.Typer(
        rich_markup_mode="markdown",
        name="fedpredict",
        help="Federated prediction: convert partial models, serve parties, ask for predictions.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    word = next((each for each in arguments if not each.startswith("-")), "")
    for name, (module, attribute) in COMMANDS.items():
        if word in (name, "") or word not in COMMANDS:
            found = getattr(import_module(f"fedpredict.cli.{module}"), attribute)
            if isinstance(found, typer.Typer):
                app.add_typer(found, name=name)
            else:
                app.command(name)(found)
    return app


def main() -> None:
    """Run the program and end the process with a documented exit code; the entry point of `fedpredict`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; an error is told in one line on standard error.

    Args:
        arguments: Without the program's name.
    """
    # gRPC's core prints what we say better; it looks once, when it is imported
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # noqa: TID251  set, not read
    logging.getLogger("thrift").setLevel(logging.CRITICAL)  # Hive's driver prints too, of a server that is away
    # without a handler Python prints bare names of events, such as server.unreachable; daemons have one of their own
    logging.getLogger("fedpredict").addHandler(_NO_LOG)
    invocation = Invocation()
    try:
        build_app(arguments)(arguments, prog_name="fedpredict", obj=invocation)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else ExitCode.OK
    except FedPredictError as error:
        _tell(error, invocation, _one_line(error))
        return exit_code(error)
    except Exception as error:  # noqa: BLE001  the edge of the program: whatever is left must become an exit code
        what = f"unexpected {type(error).__name__}: {_one_line(error)}"
        _tell(error, invocation, f"{what}\n{DEFECT}")
        return ExitCode.UNEXPECTED
    return ExitCode.OK


def _tell(error: Exception, invocation: Invocation, text: str) -> None:
    # here alone, because the daemons have no use for it
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if invocation.debug:
        console.print_exception()
    console.print("error:", style="bold red", end=" ")
    console.print(text, markup=False)
    for note in getattr(error, "__notes__", ()):
        console.print(note, markup=False)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
