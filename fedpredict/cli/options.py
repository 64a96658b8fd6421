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

Connect: TypeAlias = Annotated[str | None, typer.Option("--server", help="host:port of the initiator.")]
ServerParty: TypeAlias = Annotated[str | None, typer.Option("--server-party", help="The party that runs it.")]
TlsDirectory: TypeAlias = Annotated[
    Path | None, typer.Option("--tls-dir", help="Folder with ca.pem and one NAME.pem and NAME.key.")
]
CaFile: TypeAlias = Annotated[Path | None, typer.Option("--ca", help="The CA's certificate; with --cert and --key.")]
CertFile: TypeAlias = Annotated[Path | None, typer.Option("--cert", help="This caller's certificate.")]
KeyFile: TypeAlias = Annotated[Path | None, typer.Option("--key", help="Its private key.")]
Insecure: TypeAlias = Annotated[bool, typer.Option("--insecure", help="Plain text, on loopback only.")]
IdentityName: TypeAlias = Annotated[
    str | None, typer.Option("--identity", help="With --insecure: this client's name, as the initiator lists it.")
]
TokenFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--token-file", help="A file with this caller's bearer token; else FEDPREDICT_TOKEN. With --ca."),
]
ClientConfig: TypeAlias = Annotated[
    Path | None, typer.Option("--config", help="client.toml: server, server_party and the tls table in one place.")
]
Timeout: TypeAlias = Annotated[float | None, typer.Option("--timeout", help="Seconds for everything.", min=0.001)]
