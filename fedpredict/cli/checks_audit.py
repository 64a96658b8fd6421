"""What `doctor` looks at of who asks: whether audit lines can be written, and go on; and the users' tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from fedpredict.cli import wiring
from fedpredict.cli.checks_local import Checked
from fedpredict.cli.config_file import Loaded
from fedpredict.cli.wiring import LoadedParty
from fedpredict.errors import ConfigError
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.security.audit_file import check_end
from fedpredict.security.audit_keys import is_begun, open_keys
from fedpredict.security.check import Finding, Level
from fedpredict.security.tokens import TokenFile

_SOON = timedelta(days=14)
_FIX = "name a folder that the daemon can write: [audit] path"


def check_audit(loaded: LoadedParty) -> Iterator[Checked]:
    """Yield whether the folder of the audit log can be written, its keys are there, and its chains can go on.

    Nothing is made, and no line is written: a folder that the doctor makes may belong to another user than the daemon.
    """
    if not loaded.settings.audit.enabled:
        fix = "nobody can say later who asked for what: [audit] enabled = true"
        yield "audit", Finding(Level.WARNING, "there is no audit log", fix)
        return
    folder = wiring.audit_folder(loaded)
    try:
        try_write(folder)
    except OSError as error:
        yield "audit", Finding(Level.PROBLEM, f"{folder} cannot be written: {error.strerror or error}", _FIX)
        return
    if not is_begun(folder):
        yield "audit", Finding(Level.OK, f"{folder} can be written; the keys are made at the first start")
        return
    try:
        keys = open_keys(folder)
        chains = sorted(path for path in folder.glob("worker-*") if path.is_dir())
        for chain in chains:
            try_write(chain)
            check_end(chain, f"{loaded.settings.party}/{chain.name}", keys)
    except ConfigError as error:
        yield "audit", Finding(Level.PROBLEM, str(error), "see docs/audit.md; until then the daemon does not start")
    except OSError as error:
        yield "audit", Finding(Level.PROBLEM, f"{error.filename}: {error.strerror or error}", _FIX)
    else:
        yield "audit", Finding(Level.OK, f"{folder} can be written; {len(chains)} chains can go on")


def try_write(folder: Path) -> None:
    """Write to a folder, or to where it would be made, and leave nothing; raise `OSError` where that fails."""
    while not folder.exists():
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.write(b"x")


def check_tokens(loaded: Loaded[InitiatorSettings], now: datetime) -> Iterator[Checked]:
    """Yield whether the file of the users' tokens can be used, and which of them end soon."""
    file = wiring.tokens_file(loaded)
    if file is None:
        return
    try:
        tokens = TokenFile(file).all()
    except ConfigError as error:
        yield "tokens", Finding(Level.PROBLEM, str(error), "until then every token is refused")
        return
    valid = [each for each in tokens if each.state(now) == "valid"]
    yield "tokens", Finding(Level.OK, f"{file}: {len(valid)} of {len(tokens)} tokens are valid")
    for each in valid:
        if each.client not in loaded.settings.clients:
            told = f"token {each.id} stands for {each.client}, who is not under [clients]"
            yield "tokens", Finding(Level.WARNING, told, f"`fedpredict token revoke {each.id}`, or list the client")
        elif each.expires_at - now < _SOON:
            told = f"token {each.id} of {each.client} ends {each.expires_at:%Y-%m-%d %H:%M} UTC"
            yield "tokens", Finding(Level.WARNING, told, f"`fedpredict token create --client {each.client}`")
