"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

PartyConfig: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", help="participant.toml or initiator.toml; default: the one in this folder."),
]
ParticipantConfig: TypeAlias = Annotated[Path, typer.Option("--config", help="The participant's settings.")]
InitiatorConfig: TypeAlias = Annotated[Path, typer.Option("--config", help="The initiator's settings.")]
OutFile: TypeAlias = Annotated[Path | None, typer.Option("--out", help="Write results there (.csv or .parquet).")]
ModelArgument: TypeAlias = Annotated[str, typer.Argument(help="The model's id.", metavar="MODEL")]
ModelOption: TypeAlias = Annotated[str, typer.Option("--model", help="The model's id.")]
Wait: TypeAlias = Annotated[
    float,
    typer.Option("--wait", min=0.0, help="Seconds to wait for another process that does the same; else exit code 10."),
]
