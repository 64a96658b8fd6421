"""What `doctor` looks at of the audit log: whether lines could be written, and go on where the last ones end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedpredict.cli import wiring
from fedpredict.cli.checks_local import Checked
from fedpredict.cli.wiring import LoadedParty
from fedpredict.errors import ConfigError
from fedpredict.security.audit_file import check_end
from fedpredict.security.audit_keys import is_begun, open_keys
from fedpredict.security.check import Finding, Level

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
        _try_write(folder)
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
            _try_write(chain)
            check_end(chain, f"{loaded.settings.party}/{chain.name}", keys)
    except ConfigError as error:
        yield "audit", Finding(Level.PROBLEM, str(error), "see docs/audit.md; until then the daemon does not start")
    except OSError as error:
        yield "audit", Finding(Level.PROBLEM, f"{error.filename}: {error.strerror or error}", _FIX)
    else:
        yield "audit", Finding(Level.OK, f"{folder} can be written; {len(chains)} chains can go on")


def _try_write(folder: Path) -> None:
    """Write to a folder, or to where it would be made, and leave nothing."""
    while not folder.exists():
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.write(b"x")
