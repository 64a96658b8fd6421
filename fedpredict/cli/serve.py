"""`fedpredict participant serve` and `fedpredict initiator serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpredict.cli import daemons
from fedpredict.cli.options import InitiatorConfig, ParticipantConfig

participant = typer.Typer(help="Serve a party's partial scores.", no_args_is_help=True)
initiator = typer.Typer(help="Serve predictions.", no_args_is_help=True)


@participant.callback()
def _participant() -> None:
    """Serve a party's partial scores to the initiators that it lists."""


@initiator.callback()
def _initiator() -> None:
    """Serve predictions, asking every party of a model for its partial scores."""


@participant.command("serve")
def serve_participant(config: ParticipantConfig = Path("participant.toml")) -> None:
    """Serve until SIGTERM or Ctrl-C; calls under way are finished first."""
    daemons.serve_participant(config, _say_ready, _say_events)


@initiator.command("serve")
def serve_initiator(
    config: InitiatorConfig = Path("initiator.toml"),
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Answer without partners, marked as such: for integrators.")
    ] = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C; calls under way are finished first."""
    daemons.serve_initiator(config, _say_ready, _say_http, simulate=simulate)


def _say_ready(address: str) -> None:
    typer.echo(f"listening on {address}")


def _say_events(address: str) -> None:
    typer.echo(f"events over HTTP on {address}")


def _say_http(address: str) -> None:
    typer.echo(f"HTTP on {address}, described at /docs")
