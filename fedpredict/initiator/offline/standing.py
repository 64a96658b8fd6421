"""An initiator's standing populations: proposed to participants, changed by new versions, no longer used.

What is written here is brought to the participants by the running initiator (`courier`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fedpredict.errors import InputError
from fedpredict.initiator.offline.failure import VersionGoneError
from fedpredict.initiator.offline.uploads import UPLOAD
from fedpredict.model.buckets import bucket_of_rank
from fedpredict.model.id_sets import are_among
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.offline import PopulationRef
from fedpredict.model.populations import check_population
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import PopulationState
from fedpredict.scoring.id_sort import IdSorter
from fedpredict.scoring.populations import IngestReport, ingest
from fedpredict.tables.deliveries import DELIVERIES, Delivery, accepted_versions, list_deliveries, write_delivery
from fedpredict.tables.populations import (
    PopulationVersion,
    ensure_tables,
    list_versions,
    read_bucket,
    remove_versions,
    write_version,
)
from fedpredict.warehouse.base import Warehouse

CHANGE = "populations"
"""The lease under which versions are made: of two at once, one would be of the other's number, or undo it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What became of the ids of a version.

    Attributes:
        version: The newest version, which is the one before where nothing changed.
        is_new: Whether it was made now.
        taken: What became of the ids that were given.
        changed_buckets: How many buckets the version before does not have.
        parties: Whom the population is for.
    """

    version: PopulationVersion
    is_new: bool
    taken: IngestReport
    changed_buckets: int
    parties: tuple[str, ...]


def standing_versions(warehouse: Warehouse, owner: str, population: str | None = None) -> list[PopulationVersion]:
    """Return the complete versions of an initiator's standing populations, or of one, by name and number."""
    found = list_versions(warehouse, owner=owner, population=population)
    complete = [each for each in found if each.state is not PopulationState.RECEIVING]
    return [each for each in complete if not each.population.startswith(UPLOAD)]


def version_for_task(
    warehouse: Warehouse, owner: str, population: str, number: int, parties: Collection[str]
) -> PopulationVersion | None:
    """Return the version of a population that a task is about; None: it may be about none.

    Args:
        warehouse: The initiator's.
        owner: Its party.
        population: The name.
        number: The version that was asked for; 0: the newest one that all participants answer for, as far as is known.
            Where one of them answers for none, or said nothing yet, that is the newest version.
        parties: The participants that are asked.
    """
    may_be = (PopulationState.PROPOSED, PopulationState.ACCEPTED)
    known = standing_versions(warehouse, owner, population)
    usable = {each.version: each for each in known if each.state in may_be}
    if number or not usable:
        return usable.get(number)
    accepted = accepted_versions(warehouse, owner, population)
    by_all = min((accepted.get(party, 0) for party in parties), default=0)
    return usable.get(by_all, usable[max(usable)])


def check_there(warehouse: Warehouse, about: PopulationRef) -> None:
    """Raise `VersionGoneError` where a task is about a version of a standing population that was removed."""
    if not about.is_standing:
        return
    known = standing_versions(warehouse, about.owner, about.name)
    usable = [each.version for each in known if each.state is PopulationState.PROPOSED]
    if about.version in usable:
        return
    gone = f"version {about.version} of population {about.name} is gone at the initiator"
    if usable:
        raise VersionGoneError(
            f"{gone}: a person was erased from it, or newer ones took its place; submit the task again, for version"
            f" {usable[-1]} or without naming one"
        )
    anew = f"have it proposed anew (`fedpredict population propose {about.name}`), then submit the task again"
    raise VersionGoneError(f"{gone}, and it has no other: {anew}")


def propose(
    warehouse: Warehouse,
    owner: str,
    population: str,
    batches: Iterable[SampleIds],
    *,
    parties: Sequence[str],
    by: str,
    least_buckets: int = 1,
) -> Proposal:
    """Make a population's first version, or its next one after all were revoked.

    Args:
        warehouse: The initiator's.
        owner: Its party.
        population: The name.
        batches: The ids, some at a time.
        parties: Whom it is for; at least one.
        by: Who proposes.
        least_buckets: Into how many buckets it is cut at least; a power of two.

    Raises:
        NameRefusedError: The name breaks the rules, or is one of those that lists have.
        InputError: There is such a population, or it is for nobody.
        EmptyRequestError: There is no sample id.
        WarehouseError: As the warehouse says; nothing of the version is left.
    """
    if check_population(population).startswith(UPLOAD):
        raise InputError(f"population {population}: names that begin with {UPLOAD} are those of lists")
    if not parties:
        raise InputError(f"population {population}: name the parties that it is for")
    _ensure(warehouse)
    before = list_versions(warehouse, owner=owner, population=population)
    if any(each.state is PopulationState.PROPOSED for each in before):
        raise InputError(f"population {population} is there already; change it with `fedpredict population update`")
    number = _next_number(before)
    taken = ingest(warehouse, owner, population, number, batches, changed_by=by, least_buckets=least_buckets)
    add_parties(warehouse, owner, population, parties)
    return _proposal(warehouse, taken, None)


def update(
    warehouse: Warehouse,
    owner: str,
    population: str,
    batches: Iterable[SampleIds],
    *,
    by: str,
    removed: Iterable[SampleIds] | None = None,
) -> Proposal:
    """Make the next version of a population; where it would be the same, none is made.

    Args:
        warehouse: The initiator's.
        owner: Its party.
        population: The name.
        batches: All ids of the next version; or, with `removed`, those that are added.
        by: Who changes it.
        removed: Ids that are no longer in it, unless they are added; None: `batches` is all there is.

    Raises:
        InputError: There is no such population.
        EmptyRequestError: Nothing would be left.
        WarehouseError: As the warehouse says; nothing of the version is left.
    """
    _ensure(warehouse)
    newest = newest_of(warehouse, owner, population)
    given = batches if removed is None else _changed(warehouse, newest, batches, removed)
    number = _next_number(list_versions(warehouse, owner=owner, population=population))
    least = newest.n_buckets
    taken = ingest(warehouse, owner, population, number, given, changed_by=by, least_buckets=least)
    if taken.version.digests == newest.digests:
        remove_versions(warehouse, [taken.version])
        return replace(_proposal(warehouse, taken, newest), version=newest, is_new=False)
    return _proposal(warehouse, taken, newest)


def revoke(warehouse: Warehouse, owner: str, population: str, by: str) -> list[PopulationVersion]:
    """Use a population no longer: no task may be about it, and nothing more goes to participants.

    Returns:
        The versions that are revoked now, and were not before.

    Raises:
        InputError: There is no such population.
        WarehouseError: As the warehouse says.
    """
    newest_of(warehouse, owner, population, also_revoked=True)
    now, revoked = datetime.now(UTC), []
    for version in standing_versions(warehouse, owner, population):
        if version.state is not PopulationState.REVOKED:
            changed = replace(version, state=PopulationState.REVOKED, changed_by=by, changed_at=now)
            write_version(warehouse, changed)
            revoked.append(changed)
    return revoked


def add_parties(warehouse: Warehouse, owner: str, population: str, parties: Sequence[str]) -> None:
    """Have a population brought to parties, those included that get it already."""
    there = {each.party for each in list_deliveries(warehouse, owner, population)}
    for party in parties:
        if party not in there:
            delivery = Delivery(
                owner=owner,
                population=population,
                party=party,
                version=0,
                state=None,
                missing=0,
                problem="",
                changed_at=datetime.now(UTC),
            )
            write_delivery(warehouse, delivery)


def newest_of(warehouse: Warehouse, owner: str, population: str, *, also_revoked: bool = False) -> PopulationVersion:
    """Return the newest version of a standing population; raise `InputError` where there is none."""
    versions = standing_versions(warehouse, owner, population)
    usable = [each for each in versions if also_revoked or each.state is PopulationState.PROPOSED]
    if usable:
        return usable[-1]
    if versions:
        raise InputError(f"population {population} was revoked; propose it anew")
    names = sorted({each.population for each in standing_versions(warehouse, owner)})
    raise InputError(f"there is no population {population}; there is {', '.join(names) or 'none at all'}")


def _ensure(warehouse: Warehouse) -> None:
    ensure_tables(warehouse)
    warehouse.ensure(DELIVERIES)


def _next_number(versions: Sequence[PopulationVersion]) -> int:
    """Return a number that no version has, also none that was not written to its end: its row says what to remove."""
    return max((each.version for each in versions), default=0) + 1


def _changed(
    warehouse: Warehouse, newest: PopulationVersion, added: Iterable[SampleIds], removed: Iterable[SampleIds]
) -> Iterator[SampleIds]:
    """Give the ids that are added, then those of a version but for the removed ones."""
    yield from added
    with IdSorter() as gone:
        for batch in removed:
            gone.add(batch.select(valid_sample_ids(batch)))
        gone.sort()
        leaving = gone.buckets(newest.n_buckets)
        bucket, ids = next(leaving, (-1, SampleIds.of(())))
        for rank in range(newest.n_buckets):
            at = bucket_of_rank(rank, newest.n_buckets)
            kept = read_bucket(warehouse, newest.owner, newest.population, at, newest.digests[at])
            if bucket == at:
                kept = kept.select(~are_among(kept, ids))
                bucket, ids = next(leaving, (-1, ids))
            yield kept


def _proposal(warehouse: Warehouse, taken: IngestReport, before: PopulationVersion | None) -> Proposal:
    version = taken.version
    known = set(enumerate(before.digests)) if before else set()
    deliveries = list_deliveries(warehouse, version.owner, version.population)
    return Proposal(
        version=version,
        is_new=True,
        taken=taken,
        changed_buckets=len(set(enumerate(version.digests)) - known),
        parties=tuple(each.party for each in deliveries),
    )
