"""Settings -> the leases of a party."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedpredict.cli import wiring
from fedpredict.features.open_leases import open_leases
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.security.passwords import read_password
from fedpredict.state.leases import HeldLease, Leases, hold

LEASES_PASSWORD = "FEDPREDICT_LEASES_PASSWORD"  # noqa: S105  the name of a variable


@contextmanager
def opened_leases(path: Path | None) -> Iterator[Leases]:
    """Open the leases of the party whose settings these are, and close them at the end of the block.

    Raises:
        ConfigError: The file is wrong.
        StateError: The database of the leases is unavailable.
    """
    with opened_loaded_leases(wiring.load_party(path)) as leases:
        yield leases


@contextmanager
def opened_loaded_leases(loaded: wiring.LoadedParty) -> Iterator[Leases]:
    """Open the leases of some settings, as `opened_leases` does."""
    settings = loaded.settings
    leases = open_leases(
        settings.store,
        settings.task_warehouse if isinstance(settings, InitiatorSettings) else settings.warehouse,
        loaded.base,
        settings.party,
        store_password=wiring.environment().get(wiring.REDIS_PASSWORD),
        database=_database(loaded),
    )
    try:
        yield leases
    finally:
        leases.close()


@contextmanager
def held_now(loaded: wiring.LoadedParty, name: str) -> Iterator[HeldLease]:
    """Hold a lease inside the block; nobody else is waited for.

    Raises:
        LeaseHeldError: Somebody else has it.
        ConfigError, StateError, StoreError: The leases cannot be used.
    """
    with opened_loaded_leases(loaded) as leases, hold(leases, name) as held:
        yield held


def _database(loaded: wiring.LoadedParty) -> tuple[str, str | None] | None:
    """Return the URL and the password of the database that may keep leases; None where there is none."""
    settings = loaded.settings
    if settings.leases is not None:
        known, file = wiring.environment().get(LEASES_PASSWORD), settings.leases.password_file
        if known is None and file is not None:
            known = read_password(loaded.base / file, "leases.password_file")
        return settings.leases.url, known
    if isinstance(settings, InitiatorSettings):
        return settings.state, wiring.state_password(settings, loaded.base)
    return None
