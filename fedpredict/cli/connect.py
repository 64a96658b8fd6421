"""Options and `client.toml` -> a connected client."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeAlias

from fedpredict.cli import options as options_of
from fedpredict.cli import wiring
from fedpredict.cli.client_settings import ClientFileSettings
from fedpredict.cli.config_file import Loaded
from fedpredict.client import Client, Identity, IdentityKind, TlsFiles
from fedpredict.errors import ConfigError, ServerUnavailableError
from fedpredict.security.check import Level, explain_handshake
from fedpredict.security.passwords import check_token_text, read_token
from fedpredict.security.tls import server_name

DEFAULT_FILE = Path("client.toml")
_EXPLAIN_S = 3.0
NO_SERVER = "which server? name it with --server host:port, or in client.toml (--config)"


@dataclass(frozen=True, slots=True)
class Connection:
    """What the command line says about the server; None or False: as the file says."""

    server: str | None
    server_party: str | None
    tls_dir: Path | None
    ca: Path | None
    cert: Path | None
    key: Path | None
    insecure: bool
    identity: str | None
    timeout_s: float | None
    token_file: Path | None = None


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the options that say which server is asked, and as whom.

    Args:
        command: Its first argument, `ask`, opens a client as `open_client` does.
    """
    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "ask"]

    @wraps(command)
    def run(config: Path | None = None, **values: Any) -> None:
        connection = Connection(**{name: values.pop(name) for name in _OPTIONS})
        command(ask=partial(open_client, config, connection), **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, keyword, default=False if kind is options_of.Insecure else None, annotation=kind)
        for name, kind in {**_OPTIONS, "config": options_of.ClientConfig}.items()
    ]
    positional = [each for each in own if each.kind is not keyword]
    named = [each for each in own if each.kind is keyword]
    parameters = [*positional, *named, *options]
    # of a wrapped function, no type declares it
    setattr(run, "__signature__", inspect.Signature(parameters))  # noqa: B010
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


Ask: TypeAlias = "Callable[[], AbstractContextManager[tuple[Client, float]]]"
"""Opens a client; gives it with the timeout in seconds."""

_OPTIONS: dict[str, Any] = {
    "server": options_of.Connect,
    "server_party": options_of.ServerParty,
    "tls_dir": options_of.TlsDirectory,
    "ca": options_of.CaFile,
    "cert": options_of.CertFile,
    "key": options_of.KeyFile,
    "insecure": options_of.Insecure,
    "identity": options_of.IdentityName,
    "timeout_s": options_of.Timeout,
    "token_file": options_of.TokenFile,
}


@contextmanager
def open_client(config: Path | None, connection: Connection) -> Iterator[tuple[Client, float]]:
    """Open a client, and close it at the end of the block; gives it with the timeout in seconds.

    Args:
        config: A `client.toml`; None: the one in this folder, if there is one.
        connection: Options, which win over the file.

    Raises:
        ConfigError: No server is named, or the options do not fit together.
        CertificateError: A file is missing or cannot be used.
    """
    resolved = resolve(config, connection)
    if resolved.server is None:
        raise ConfigError(NO_SERVER)
    with Client(
        resolved.server,
        server_party=resolved.server_party,
        tls=resolved.tls,
        insecure=resolved.insecure,
        identity=resolved.identity,
        token=resolved.token,
        ca=resolved.ca,
    ) as client:
        try:
            yield client, resolved.timeout_s
        except ServerUnavailableError as error:
            _explain(error, resolved)
            raise


def _explain(error: ServerUnavailableError, resolved: Resolved) -> None:
    """Note what becomes of a handshake with the server: gRPC does not say why one fails."""
    if resolved.tls is None or resolved.server is None or resolved.server_party is None:
        return
    found = explain_handshake(resolved.server, resolved.tls, server_name(resolved.server_party), _EXPLAIN_S)
    if found.level is Level.PROBLEM:
        error.add_note(f"{found.what}: {found.fix}")


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a command's calls go, and as whom: its options over its file."""

    server: str | None
    server_party: str | None
    tls: TlsFiles | None
    insecure: bool
    identity: Identity | None
    timeout_s: float
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None


def resolve(config: Path | None, connection: Connection) -> Resolved:
    """Return what a `client.toml` and the options together say; arguments and errors are those of `open_client`."""
    if config is None and DEFAULT_FILE.exists():
        config = DEFAULT_FILE
    loaded = wiring.load_client(config)
    settings = loaded.settings
    tls, token, ca = _tls(loaded, connection), _token(loaded, connection), _ca(loaded, connection)
    identity = connection.identity or settings.identity
    return Resolved(
        connection.server or settings.server,
        connection.server_party or settings.server_party,
        tls,
        tls is None and ca is None and (connection.insecure or settings.insecure),
        Identity(IdentityKind.CLIENT, identity) if identity else None,
        connection.timeout_s or settings.timeout_s,
        token,
        ca if tls is None and token is not None else None,
    )


def _token(loaded: Loaded[ClientFileSettings], connection: Connection) -> str | None:
    """Return the caller's token: of the command's file, the environment, or `client.toml`'s file."""
    if connection.token_file is not None:
        return read_token(connection.token_file)
    known = wiring.environment().get(wiring.TOKEN)
    if known:
        return check_token_text(known.strip())
    file = loaded.settings.token_file
    return None if file is None else read_token(loaded.base / file)


def _ca(loaded: Loaded[ClientFileSettings], connection: Connection) -> Path | None:
    if connection.insecure:
        return None
    file = loaded.settings.ca
    return connection.ca or (None if file is None else loaded.base / file)


def _tls(loaded: Loaded[ClientFileSettings], connection: Connection) -> TlsFiles | None:
    given = (connection.ca, connection.cert, connection.key)
    if connection.insecure:
        return None
    if connection.tls_dir is not None:
        return _files_in(connection.tls_dir)
    if given == (connection.ca, None, None) and _token(loaded, connection) is not None:
        return None
    if any(given):
        if connection.ca is None or connection.cert is None or connection.key is None:
            raise ConfigError("--ca, --cert and --key go together; give all three, or --tls-dir")
        files = TlsFiles(connection.ca, connection.cert, connection.key)
        wiring.check_existing(files)
        return files
    return wiring.tls_files(loaded)


def _files_in(directory: Path) -> TlsFiles:
    keys = sorted(directory.glob("*.key"))
    if len(keys) != 1:
        raise ConfigError(
            f"--tls-dir {directory} holds {len(keys)} private keys; it needs ca.pem and exactly one NAME.pem with its "
            "NAME.key (see `fedpredict certs`), or name the files with --ca, --cert and --key"
        )
    files = TlsFiles(directory / "ca.pem", keys[0].with_suffix(".pem"), keys[0])
    wiring.check_existing(files)
    return files
