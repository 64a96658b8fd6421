"""`fedpredict token`: the bearer tokens of an initiator's users."""

from __future__ import annotations

import getpass
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from fedpredict.cli import wiring
from fedpredict.cli.config_file import Loaded
from fedpredict.cli.options import InitiatorConfig
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.errors import ConfigError, InputError
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.share import Mode
from fedpredict.security.identity import IdentityKind
from fedpredict.security.settings import ALL_MODELS
from fedpredict.security.tokens import Token, TokenFile, TokenLimits

app = typer.Typer(help="Tokens of this initiator's users.", no_args_is_help=True)

TokenId = Annotated[str, typer.Argument(help="The token's id, as `list` shows it; not the token.", metavar="ID")]
_LASTS = re.compile(r"(\d{1,4})([dh])")
_UNITS = {"d": "days", "h": "hours"}
_COLUMNS = (
    "id",
    "client",
    "state",
    "models",
    "modes",
    "calls_per_s",
    "burst",
    "max_rows",
    "expires_at",
    "created_at",
    "created_by",
    "revoked_at",
    "revoked_by",
)


@app.callback()
def _tokens() -> None:
    """Make, list and revoke bearer tokens of this initiator's users; what changes holds at once, in every worker."""


@app.command()
def create(
    config: InitiatorConfig = Path("initiator.toml"),
    *,
    client: Annotated[str, typer.Option(help="Whom it stands for: a name under [clients].")],
    models: Annotated[str, typer.Option(help="Of the client's models: m1,m2; default: all of them.")] = ALL_MODELS,
    modes: Annotated[str, typer.Option(help="What it may ask in; default: every mode.")] = ",".join(Mode),
    expires: Annotated[str, typer.Option(help="How long it is good for: 90d, 12h.")] = "90d",
    calls_per_s: Annotated[
        float | None, typer.Option(help="Calls with it in a second; default: as many as the client.", min=1e-4, max=1e6)
    ] = None,
    burst: Annotated[int | None, typer.Option(help="Calls at once; needs --calls-per-s.", min=1, max=1_000_000)] = None,
    max_rows: Annotated[
        int | None, typer.Option(help="Sample ids in a call and rows of a task; default: as the client.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the token to this new file (0600) instead of showing it.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a token, and show it once: only a hash of it is kept.

    It is allowed what [clients] allows the client, cut down to its own models, modes and limits.
    """
    loaded, file = _open(config)
    listed = loaded.settings.clients.get(client)
    if listed is None or listed.kind is not IdentityKind.CLIENT:
        raise InputError(f"{loaded.path} has no client {client!r}: add [clients.{client}] with its models first")
    if burst is not None and calls_per_s is None:
        raise InputError("--burst: needs --calls-per-s")
    made = file.create(
        client,
        models=_models(models, listed.models),
        modes=_modes(modes),
        lasts=_lasts(expires),
        by=getpass.getuser(),
        limits=TokenLimits(calls_per_s=calls_per_s, burst=burst, max_rows=max_rows),
        out=out,
    )
    output, ends = Output(as_json=as_json), _text(made.kept.expires_at)
    if out is None:
        output.fields({"id": made.kept.id, "token": made.text, "client": client, "expires_at": ends})
        output.note("the token is shown this once: put it into a file that its user alone can read")
        return
    output.fields({"id": made.kept.id, "file": str(out), "client": client, "expires_at": ends})


@app.command("list")
def list_tokens(
    config: InitiatorConfig = Path("initiator.toml"),
    *,
    client: Annotated[str | None, typer.Option(help="Those of one client.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List tokens, the newest last; what was revoked or has expired stays in the list."""
    _, file = _open(config)
    rows = [_row(each) for each in file.all() if client in (None, each.client)]
    Output(as_json=as_json).rows(_COLUMNS, rows, empty="No token yet.")


@app.command()
def show(token_id: TokenId, config: InitiatorConfig = Path("initiator.toml"), as_json: JsonFlag = False) -> None:
    """Show what is kept of a token."""
    _, file = _open(config)
    Output(as_json=as_json).fields(_row(file.find(token_id)))


@app.command()
def revoke(token_id: TokenId, config: InitiatorConfig = Path("initiator.toml"), as_json: JsonFlag = False) -> None:
    """Revoke a token for good: the next call with it is refused, also on a stream that stands."""
    _, file = _open(config)
    Output(as_json=as_json).fields(_row(file.revoke(token_id, by=getpass.getuser())))


def _open(config: Path) -> tuple[Loaded[InitiatorSettings], TokenFile]:
    loaded = wiring.load_initiator(config)
    file = wiring.tokens_file(loaded)
    if file is None:
        raise ConfigError(f'{loaded.path} takes no tokens: write tokens = "tokens.json" above its tables')
    return loaded, TokenFile(file)


def _models(text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    models = tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    if ALL_MODELS in models:
        return (ALL_MODELS,)
    missing = [each for each in models if each not in allowed]
    if missing and ALL_MODELS not in allowed:
        raise InputError(f"--models: the client itself may not ask for {', '.join(missing)}; see [clients]")
    return models


def _modes(text: str) -> tuple[Mode, ...]:
    try:
        return tuple(dict.fromkeys(Mode(each.strip()) for each in text.split(",")))
    except ValueError as error:
        raise InputError(f"--modes {text!r}: write some of {','.join(Mode)}") from error


def _lasts(text: str) -> timedelta:
    found = _LASTS.fullmatch(text.strip())
    if found is None:
        raise InputError(f"--expires {text!r}: write days or hours, such as 90d or 12h")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _row(token: Token) -> dict[str, object]:
    return {
        "id": token.id,
        "client": token.client,
        "state": token.state(datetime.now(UTC)),
        "models": list(token.models),
        "modes": [each.value for each in token.modes],
        "calls_per_s": token.calls_per_s,
        "burst": None if token.pace is None else token.pace.burst,
        "max_rows": token.max_rows,
        "expires_at": _text(token.expires_at),
        "created_at": _text(token.created_at),
        "created_by": token.created_by,
        "revoked_at": _text(token.revoked_at),
        "revoked_by": token.revoked_by,
    }


def _text(at: datetime | None) -> str:
    return "" if at is None else at.astimezone(UTC).isoformat(timespec="seconds")
