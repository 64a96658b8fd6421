"""`fedpredict init`: settings that run as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpredict.cli import templates, wiring
from fedpredict.cli.options import PartyConfig
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.errors import InputError
from fedpredict.model.ids import check_party_id
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind

app = typer.Typer(help="Write commented settings that run as they are; nothing is overwritten.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(help="Folder of the party; made where it is missing.")]
PartyName = Annotated[str | None, typer.Option("--party", help="The party's id; default: the folder's name.")]
Listen = Annotated[str, typer.Option("--listen", help="host:port to listen on.")]
HttpListen = Annotated[str, typer.Option("--http-listen", help="host:port to speak HTTP on.")]
CaDirectory = Annotated[
    Path | None,
    typer.Option(
        "--ca", help="The trial CA that signs the certificates; default: `ca` beside the folder, made if missing."
    ),
]
NoCerts = Annotated[
    bool, typer.Option("--no-certs", help="Make no certificates: your federation's CA will sign a request.")
]
TRIAL_CA = "fedpredict trial CA"


@app.command("participant")
def participant(
    directory: Directory,
    *,
    party: PartyName = None,
    initiator: Annotated[str, typer.Option("--initiator", help="The initiator's party, which may ask.")] = "bank",
    listen: Listen = "127.0.0.1:7443",
    ca: CaDirectory = None,
    no_certs: NoCerts = False,
    as_json: JsonFlag = False,
) -> None:
    """Write participant.toml, and certificates for a trial."""
    name = _party(directory, party)
    words = {"party": name, "listen": listen, "link_listen": _next_port(listen), "initiator": check_party_id(initiator)}
    written = _write(directory, {"participant.toml": templates.fill(templates.PARTICIPANT, **words)})
    identities = [Identity(IdentityKind.PARTY, name)]
    _finish(directory, written, identities, ca, no_certs=no_certs, as_json=as_json, next_verb="participant serve")


@app.command("initiator")
def initiator(
    directory: Directory,
    *,
    party: PartyName = None,
    client: Annotated[str, typer.Option("--client", help="Who may ask, such as a risk system.")] = "risk-system",
    listen: Listen = "127.0.0.1:7440",
    http_listen: HttpListen = "127.0.0.1:7480",
    ca: CaDirectory = None,
    no_certs: NoCerts = False,
    as_json: JsonFlag = False,
) -> None:
    """Write initiator.toml and a client.toml for its first client, and certificates for a trial."""
    name = _party(directory, party)
    words = {"party": name, "listen": listen, "http_listen": http_listen, "client": check_party_id(client)}
    written = _write(
        directory,
        {
            "initiator.toml": templates.fill(templates.INITIATOR, **words),
            "client.toml": templates.fill(templates.CLIENT, **words),
        },
    )
    identities = [Identity(IdentityKind.PARTY, name), Identity(IdentityKind.CLIENT, client)]
    _finish(directory, written, identities, ca, no_certs=no_certs, as_json=as_json, next_verb="initiator serve")


@app.command("database")
def database(config: PartyConfig = None, as_json: JsonFlag = False) -> None:
    """Create the database of a Hive warehouse, unless it exists."""
    name = wiring.create_database(config)
    Output(as_json=as_json).result({"database": name}, f"Database {name} is there.")


def _next_port(listen: str) -> str:
    """Return host:port with the port after that of `listen`; port 0, any free one, stays."""
    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise InputError(f"--listen {listen} is not an address: write host:port")
    return f"{host}:{int(port) + 1 if 0 < int(port) < 65535 else 0}"


def _party(directory: Path, party: str | None) -> str:
    return check_party_id(party if party is not None else directory.absolute().name)


def _write(directory: Path, files: dict[str, str]) -> list[Path]:
    paths = {directory / name: text for name, text in files.items()}
    existing = [path for path in paths if path.exists()]
    if existing:
        raise InputError(f"already there: {', '.join(map(str, existing))}; nothing is overwritten: move it, or edit it")
    try:
        # an empty warehouse is a fresh one; a missing folder could be a disk that is not mounted
        (directory / "warehouse").mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror}") from error
    return list(paths)


def _finish(
    directory: Path,
    written: list[Path],
    identities: list[Identity],
    ca: Path | None,
    *,
    no_certs: bool,
    as_json: bool,
    next_verb: str,
) -> None:
    output = Output(as_json=as_json)
    made = [] if no_certs else _issue(ca or directory.absolute().parent / "ca", identities, directory / "certs")
    config = written[0]
    lines = [f"wrote {path}" for path in (*written, *made)]
    if no_certs:
        lines += [f"next: fedpredict certs request {_flag(each)} --out {directory / 'certs'}" for each in identities]
    lines += [f"next: fedpredict doctor --config {config}", f"      fedpredict {next_verb} --config {config}"]
    output.result({"written": written, "certificates": made}, "\n".join(lines))


def _issue(ca_directory: Path, identities: list[Identity], directory: Path) -> list[Path]:
    """Make the certificates that are missing, and the CA if it is; return the new files."""
    ca = certs.ca_files(ca_directory)
    missing = [each for each in identities if not certs.leaf_files(directory, each.name).certificate.exists()]
    made: list[Path] = []
    if missing and not ca.certificate.exists():
        certs.create_ca(ca_directory, TRIAL_CA)
        made.append(ca.certificate)
    return made + [certs.issue(ca, identity, directory).certificate for identity in missing]


def _flag(identity: Identity) -> str:
    return f"--{identity.kind} {identity.name}"
