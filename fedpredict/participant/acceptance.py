"""What becomes of a version of a standing population at the participant: accepted, revoked, and what stays of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime

from fedpredict.errors import InputError
from fedpredict.model.standing import WHY_NOT, PopulationState
from fedpredict.tables import populations as tables
from fedpredict.tables.populations import PopulationVersion
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)


def accept(
    warehouse: Warehouse, owner: str, population: str, number: int | None, by: str, *, keep_versions: int
) -> PopulationVersion:
    """Accept a version, or the newest one that is proposed; return it as it is then. It may be accepted twice.

    Raises:
        InputError: There is no such version, it is not complete, or it was revoked.
        WarehouseError: As the warehouse says.
    """
    versions = _versions(warehouse, owner, population, number)
    proposed = [each for each in versions if each.state is PopulationState.PROPOSED]
    version = proposed[-1] if number is None and proposed else versions[-1]
    if version.state is PopulationState.ACCEPTED:
        return version
    if version.state is not PopulationState.PROPOSED:
        why = WHY_NOT[version.state]
        what = f"version {version.version} of population {population} of {owner} cannot be accepted: {why}"
        if version.state is PopulationState.REVOKED:
            what = f"{what}, for good; accept a version that {owner} makes anew"
        newest = _found(warehouse, owner, population)[-1]
        if newest.version > version.version:
            what = f"{what}; the newest version is {_with_look(newest)}"
        raise InputError(what)
    changed = _changed(warehouse, version, PopulationState.ACCEPTED, by)
    prune(warehouse, changed, keep_versions)
    return changed


def revoke(warehouse: Warehouse, owner: str, population: str, number: int | None, by: str) -> list[PopulationVersion]:
    """Answer for a version, or all of a population, no longer, and remove the ids that no other version has.

    Returns:
        The versions that are revoked now, and were not before.

    Raises:
        InputError: There is no such version.
        WarehouseError: As the warehouse says.
    """
    chosen = _versions(warehouse, owner, population, number)
    live = [each for each in chosen if each.state is not PopulationState.REVOKED]
    revoked = [_changed(warehouse, each, PopulationState.REVOKED, by) for each in live]
    others = tables.list_versions(warehouse, owner=owner, population=population)
    kept = {
        bucket for each in others if each.state is not PopulationState.REVOKED for bucket in enumerate(each.digests)
    }
    gone = {bucket for each in chosen for bucket in enumerate(each.digests)} - kept
    here = tables.known_buckets(warehouse, owner, population)
    tables.remove_buckets(warehouse, owner, population, sorted(gone & here))
    return revoked


def prune(warehouse: Warehouse, accepted: PopulationVersion, keep_versions: int) -> None:
    """Remove what came before a version that is accepted now, but for the newest ones.

    Args:
        warehouse: Where they are.
        accepted: The version.
        keep_versions: How many stay, it included.
    """
    versions = tables.list_versions(warehouse, owner=accepted.owner, population=accepted.population)
    before = [each for each in versions if each.version < accepted.version]
    tables.remove_versions(warehouse, before[: max(0, len(before) - keep_versions + 1)])


def log_change(version: PopulationVersion) -> None:
    """Log what holds of a version from now on."""
    extra = {
        "owner": version.owner,
        "population": version.population,
        "version": version.version,
        "ids": version.n_ids,
        "state": version.state.value,
        "by": version.changed_by,
    }
    logger.info("population.changed", extra=extra)


def _versions(warehouse: Warehouse, owner: str, population: str, number: int | None) -> list[PopulationVersion]:
    found = _found(warehouse, owner, population)
    chosen = [each for each in found if number in (None, each.version)]
    if chosen:
        return chosen
    which = f"population {population}" if number is None else f"version {number} of population {population}"
    if found and number is not None:
        newest = found[-1]
        which = f"{which} of {owner}"
        if number < newest.version:
            which = f"{which}: it went, as a person was erased from it or newer ones took its place"
        raise InputError(
            f"there is no {which}; there is {population} of {owner}, whose newest version is {_with_look(newest)}"
        )
    known = ", ".join(sorted({f"{each.population} of {each.owner}" for each in tables.list_versions(warehouse)}))
    raise InputError(f"there is no {which} of {owner}; there is {known or 'none at all'}")


def _found(warehouse: Warehouse, owner: str, population: str) -> list[PopulationVersion]:
    return tables.list_versions(warehouse, owner=owner, population=population)


def _with_look(version: PopulationVersion) -> str:
    """Return a version's number and state, and how to look at it."""
    command = f"fedpredict population show {version.population} --from {version.owner}"
    return f"{version.version} ({version.state}): look at it with `{command}`"


def _changed(warehouse: Warehouse, version: PopulationVersion, state: PopulationState, by: str) -> PopulationVersion:
    changed = replace(version, state=state, changed_by=by, changed_at=datetime.now(UTC))
    tables.write_version(warehouse, changed)
    log_change(changed)
    return changed
