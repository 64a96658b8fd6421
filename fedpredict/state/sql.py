"""The pin store in any database that SQLAlchemy reaches; SQLite in a file by default."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from typing_extensions import override

from fedpredict.errors import InputError, StateError
from fedpredict.model.manifest import Manifest, manifest_from_json, manifest_to_json
from fedpredict.state.base import Offer, Pin, PinStore
from fedpredict.state.engine import Database, open_engine

SCHEMA_VERSION = 1

_METADATA = sa.MetaData()
_PINS = sa.Table(
    "fedpredict_pins",
    _METADATA,
    sa.Column("model_id", sa.String(100), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("pinned_by", sa.String(200), nullable=False),
    sa.Column("pinned_at", sa.String(40), nullable=False),
)
_OFFERS = sa.Table(
    "fedpredict_offers",
    _METADATA,
    sa.Column("model_id", sa.String(100), primary_key=True),
    sa.Column("manifest", sa.Text, nullable=True),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Column("offered_at", sa.String(40), nullable=False),
)
_COMPONENT = "pins"


def open_pin_store(url: str, base: Path = Path(), password: str | None = None) -> SqlPinStore:
    """Open the store, and make its tables where there are none.

    Args:
        url: An SQLAlchemy URL; the path of an SQLite file may be relative.
        base: What a relative path is relative to.
        password: For a database that asks for one.

    Raises:
        ConfigError: The URL cannot be used, or its driver is not installed.
        StateError: The database is unavailable, or of another version of fedpredict.
    """
    return SqlPinStore(Database(open_engine(url, base, password), _COMPONENT, SCHEMA_VERSION, _METADATA))


class SqlPinStore(PinStore):
    """Pins and offers in two small tables; every call is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def pin(self, manifest: Manifest, *, by: str, replaces: str | None) -> Pin:
        """Append to the history, unless somebody else did since `replaces` was read."""
        if not 1 <= len(by) <= 200 or not by.isprintable():
            raise InputError("who pins is named by 1 to 200 printable characters")
        pin = Pin(manifest=manifest, pinned_by=by, pinned_at=datetime.now(UTC))
        newest = sa.select(_PINS).where(_PINS.c.model_id == manifest.model_id).order_by(_PINS.c.number.desc()).limit(1)
        with self._database.transaction() as connection:
            current = connection.execute(newest).one_or_none()
            if (current.manifest_sha256 if current else None) != replaces:
                raise _overtaken(manifest.model_id, current)
            row = {
                "model_id": manifest.model_id,
                "number": current.number + 1 if current else 1,
                "manifest_sha256": manifest.manifest_sha256,
                "manifest": manifest_to_json(manifest),
                "pinned_by": by,
                "pinned_at": pin.pinned_at.isoformat(),
            }
            try:
                connection.execute(sa.insert(_PINS).values(row))
            except IntegrityError as error:
                raise _overtaken(manifest.model_id, None) from error
        return pin

    @override
    def pins(self) -> Mapping[str, tuple[Pin, ...]]:
        """Return each model's history, newest first."""
        statement = sa.select(_PINS).order_by(_PINS.c.model_id, _PINS.c.number.desc())
        with self._database.transaction() as connection:
            rows = connection.execute(statement).all()
        histories: dict[str, tuple[Pin, ...]] = {}
        for row in rows:
            histories[row.model_id] = (*histories.get(row.model_id, ()), self._pin(row))
        return histories

    @override
    def offer(self, model_id: str, manifest: Manifest | None, problem: str = "") -> Offer:
        """Replace the model's offer where it differs."""
        if (manifest is None) == (not problem):
            raise ValueError("an offer is a manifest, or a problem")
        text = manifest_to_json(manifest) if manifest else None
        where = _OFFERS.c.model_id == model_id
        now = datetime.now(UTC)
        with self._database.transaction() as connection:
            current = connection.execute(sa.select(_OFFERS).where(where)).one_or_none()
            if current is not None and (current.manifest, current.problem) == (text, problem):
                return self._offer(current)
            connection.execute(sa.delete(_OFFERS).where(where))
            row = {"model_id": model_id, "manifest": text, "problem": problem, "offered_at": now.isoformat()}
            connection.execute(sa.insert(_OFFERS).values(row))
        return Offer(model_id=model_id, manifest=manifest, problem=problem, offered_at=now)

    @override
    def offers(self) -> Mapping[str, Offer]:
        """Return the newest offer of each model."""
        with self._database.transaction() as connection:
            rows = connection.execute(sa.select(_OFFERS)).all()
        return {row.model_id: self._offer(row) for row in rows}

    @override
    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def _pin(self, row: sa.Row[Any]) -> Pin:
        manifest = self._manifest(row.manifest)
        if manifest.manifest_sha256 != row.manifest_sha256:
            raise self._database.damaged(f"the pin of model {row.model_id} is not the manifest {row.manifest_sha256}")
        return Pin(manifest=manifest, pinned_by=row.pinned_by, pinned_at=self._instant(row.pinned_at))

    def _offer(self, row: sa.Row[Any]) -> Offer:
        return Offer(
            model_id=row.model_id,
            manifest=None if row.manifest is None else self._manifest(row.manifest),
            problem=row.problem,
            offered_at=self._instant(row.offered_at),
        )

    def _manifest(self, text: str) -> Manifest:
        try:
            return manifest_from_json(text)
        except ValueError as error:
            raise self._database.damaged(str(error)) from error

    def _instant(self, text: str) -> datetime:
        try:
            return datetime.fromisoformat(text)
        except (TypeError, ValueError) as error:
            raise self._database.damaged(str(error)) from error


def _overtaken(model_id: str, current: sa.Row[Any] | None) -> StateError:
    what = f"{current.manifest_sha256} (by {current.pinned_by})" if current else "another manifest"
    return StateError(f"model {model_id}: {what} is pinned by now; look at it before you pin again")
