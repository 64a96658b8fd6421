"""Erasing a person from the populations that initiators named to a participant: what is used no longer goes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from fedpredict.model.standing import PopulationState
from fedpredict.scoring.erase import ERASE, bucket_of, check_sample_id, erased_buckets, rows_in
from fedpredict.scoring.erased import Erased
from fedpredict.state.leases import Alone
from fedpredict.tables.erasure import Where
from fedpredict.tables.populations import (
    POPULATION_IDS,
    PopulationVersion,
    list_versions,
    remove_buckets,
    remove_versions,
)
from fedpredict.warehouse.base import Warehouse

TASKS_END = timedelta(days=1)
"""So long after a version was accepted, tasks about the one before may still be under way."""


def erase_from_named(
    alone: Alone, warehouse: Warehouse, sample_id: str, *, now: datetime, keep: bool = False, own: str | None = None
) -> list[Erased]:
    """Remove a person from versions that are used no longer, and say what was where.

    The version that the participant answers for, and what came after it, stay: their ids stand under digests that both
    ends know, and only the initiator can make a version without the person.

    Args:
        alone: How this process comes to be the only one that erases.
        warehouse: The participant's.
        sample_id: Whose.
        now: In UTC.
        keep: Change nothing, and say what is there.
        own: An initiator whose populations are its own: they are left out.

    Raises:
        InputError: That is no sample id.
        LeaseHeldError: Somebody else erases.
        WarehouseError: As the warehouse says; what was done stays done.
    """
    check_sample_id(sample_id)
    with alone.hold(ERASE):
        where = [each for each in rows_in(warehouse, POPULATION_IDS, sample_id) if each[0]["owner"] != own]
        found: list[Erased] = []
        for owner, population in sorted({(str(each["owner"]), str(each["population"])) for each, _ in where}):
            of_it = [each for each in where if (each[0]["owner"], each[0]["population"]) == (owner, population)]
            found += _from_population(warehouse, owner, population, of_it, now=now, keep=keep)
        return found


def _from_population(
    warehouse: Warehouse, owner: str, population: str, where: Sequence[Where], *, now: datetime, keep: bool
) -> list[Erased]:
    buckets = {bucket_of(each) for each in where}
    versions = list_versions(warehouse, owner=owner, population=population)
    holding = [each for each in versions if buckets & set(enumerate(each.digests))]
    live = [each for each in holding if each.state is not PopulationState.REVOKED]
    whys = {each.version: _why_used(each, versions, holding, now) for each in live}
    kept = {
        bucket: whys[each.version]
        for each in live
        if whys[each.version]
        for bucket in buckets & set(enumerate(each.digests))
    }
    if not keep:
        remove_versions(warehouse, [each for each in live if not whys[each.version]])
        remove_buckets(warehouse, owner, population, sorted(buckets - kept.keys()))
    return erased_buckets(where, kept, keep=keep)


def _why_used(
    version: PopulationVersion,
    versions: Sequence[PopulationVersion],
    holding: Sequence[PopulationVersion],
    now: datetime,
) -> str:
    """Return why a version stays, and what ends that; empty where nobody uses it any more."""
    owner, name, number = version.owner, version.population, version.version
    accepted = [each for each in versions if each.state is PopulationState.ACCEPTED]
    newest = accepted[-1] if accepted else None
    revoke = f"`fedpredict population revoke {name} --from {owner}"
    if newest is None or number >= newest.version or newest in holding:
        return (
            f"the initiator {owner} names them: it makes a version without them (`fedpredict erase` there), accept that"
            f" (`fedpredict population accept {name} --from {owner}`) and repeat a day later; or {revoke}`"
        )
    until = newest.changed_at + TASKS_END
    if version.state is PopulationState.ACCEPTED and until > now:
        when = f"{until:%Y-%m-%d %H:%M} UTC"
        return f"tasks of {owner} about it may be under way: repeat after {when}, or {revoke} --version {number}`"
    return ""
