"""Registered views: a definition and its script, one row for each version.

Its texts are never changed; the engines that it was tried on become more.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from pydantic import ValidationError

from fedpredict.errors import TableCorruptError
from fedpredict.tables.schemas import SCRIPTS
from fedpredict.tables.script_view import ScriptView
from fedpredict.tables.views import ViewFeature, list_snapshots
from fedpredict.warehouse.base import Partition, Warehouse


@dataclass(frozen=True, slots=True)
class RegisteredView:
    """A version of a view that a script computes.

    Attributes:
        view: What the definition says.
        version: From 1, counted together with the versions that loaded files made.
        definition: The text of its TOML file.
        script: The text of its SQL file.
        created_at: When it was registered, UTC.
    """

    view: ScriptView
    version: int
    definition: str
    script: str
    created_at: datetime

    @property
    def sha256(self) -> str:
        """The digest of both texts."""
        return script_digest(self.definition, self.script)


def script_digest(definition: str, script: str) -> str:
    """Return the SHA-256 of a view's two texts in lower-case hex: each after its length of 8 bytes, big-endian."""
    digest = hashlib.sha256()
    for text in (definition, script):
        content = text.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def write_script(warehouse: Warehouse, registered: RegisteredView, tried: Sequence[str] = ()) -> None:
    """Write one version of a view, or once more what it was tried on.

    Args:
        warehouse: Where.
        registered: The version.
        tried: The engines that it was tried on.

    Raises:
        WarehouseWriteError: Nothing became visible.
    """
    row = {
        "definition": registered.definition,
        "script": registered.script,
        "script_sha256": registered.sha256,
        "created_at": registered.created_at,
        "tried": ",".join(tried),
    }
    warehouse.ensure(SCRIPTS)
    partition: Partition = {"view": registered.view.name, "view_version": registered.version}
    warehouse.replace(SCRIPTS.name, partition, pa.Table.from_pylist([row], schema=SCRIPTS.arrow_schema))


def list_scripts(warehouse: Warehouse, view: str | None = None) -> list[RegisteredView]:
    """Return the registered versions of a view, or of all, by view and version.

    Raises:
        TableCorruptError: A row does not give its digest.
    """
    columns = ["view", "view_version", "definition", "script", "script_sha256", "created_at"]
    rows = warehouse.read(SCRIPTS.name, columns, {} if view is None else {"view": view}).to_pylist()
    return sorted((_parse(row) for row in rows), key=lambda each: (each.view.name, each.version))


def tried_engines(warehouse: Warehouse, view: str, version: int) -> tuple[str, ...]:
    """Return the engines that a version of a view was tried on, when or after it was registered; empty if unknown."""
    table = warehouse.describe(SCRIPTS.name)
    if table is None or "tried" not in {each.name for each in table.columns}:  # made before it was recorded
        return ()
    rows = warehouse.read(SCRIPTS.name, ["tried"], {"view": view, "view_version": version}).to_pylist()
    return tuple(name for row in rows for name in (row["tried"] or "").split(",") if name)


def versions_of(warehouse: Warehouse, view: str) -> dict[int, dict[str, ViewFeature]]:
    """Return the features of every version of a view by name, however it was made: by scripts or by loaded files."""
    found = {each.view.version: each.view.features for each in list_snapshots(warehouse) if each.view.name == view}
    found |= {each.version: each.view.feature_view(each.version).features for each in list_scripts(warehouse, view)}
    return {version: {each.name: each for each in features} for version, features in sorted(found.items())}


def _parse(row: dict[str, object]) -> RegisteredView:
    definition, script, created_at = str(row["definition"]), str(row["script"]), row["created_at"]
    try:
        view = ScriptView.model_validate(tomllib.loads(definition))
    except (ValidationError, tomllib.TOMLDecodeError):
        view = None
    same = script_digest(definition, script) == row["script_sha256"]
    if view is None or view.name != row["view"] or not same or not isinstance(created_at, datetime):
        raise TableCorruptError(
            f"{SCRIPTS.name} has a damaged row for view {row['view']}, version {row['view_version']}; register it again"
        )
    return RegisteredView(view, int(str(row["view_version"])), definition, script, created_at.astimezone(UTC))
