"""Erasing a person from the lists and standing populations of an initiator.

The ids of a bucket stand under a digest that both ends know, and that names them in tasks: they are never written
anew. What has the person is replaced by a new version, or removed as a whole, when nobody needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fedpredict.errors import EmptyRequestError
from fedpredict.initiator.offline import standing
from fedpredict.initiator.offline.retention import UNUSED_UPLOAD, why_needed
from fedpredict.initiator.offline.uploads import UPLOAD
from fedpredict.model.offline import OfflineTask
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import PopulationState
from fedpredict.scoring.erase import Bucket, bucket_of, erased_buckets
from fedpredict.scoring.erased import Erased
from fedpredict.state.task_base import TaskStore
from fedpredict.tables.deliveries import accepted_versions, list_deliveries
from fedpredict.tables.erasure import Where
from fedpredict.tables.populations import (
    PopulationVersion,
    list_versions,
    remove_buckets,
    remove_versions,
)
from fedpredict.warehouse.base import Warehouse

JUST_SENT = timedelta(minutes=10)
"""For so long the sender of a list may be about to submit a task about it."""


@dataclass(frozen=True, slots=True)
class PopulationErasure:
    """Takes a person out of an initiator's populations.

    Attributes:
        store: Tasks, which need populations.
        warehouse: Where they are.
        owner: The initiator's party.
        sample_id: Whose.
        by: Who makes new versions.
        now: In UTC.
        keep: Change nothing, and say what is there.
        damaged: By task, of those that are to be made again: what is to be done.
    """

    store: TaskStore
    warehouse: Warehouse
    owner: str
    sample_id: str
    by: str
    now: datetime
    keep: bool
    damaged: Mapping[str, str]

    def erase(self, where: Sequence[Where]) -> list[Erased]:
        """Remove the person, and say what was where.

        Args:
            where: The buckets of this owner in `fp_population_ids` that have the person.

        Raises:
            WarehouseError, StateError: As they say; what was done stays done.
        """
        found: list[Erased] = []
        for population in sorted({str(partition["population"]) for partition, _ in where}):
            of_it = [each for each in where if each[0]["population"] == population]
            buckets = {bucket_of(each) for each in of_it}
            whys = self._list(population) if population.startswith(UPLOAD) else self._standing(population, buckets)
            kept = {bucket: why for version, why in whys for bucket in buckets & set(enumerate(version.digests))}
            if not self.keep:
                remove_buckets(self.warehouse, self.owner, population, sorted(buckets - kept.keys()))
            found += erased_buckets(of_it, kept, keep=self.keep)
        return found

    def _list(self, population: str) -> list[tuple[PopulationVersion, str]]:
        """Remove a list as a whole; return what of it stays, and why."""
        tasks, versions = self.store.about(self.owner, population), self._versions(population)
        why = next(filter(None, map(self._why_needed, tasks)), "")
        for version in versions:
            is_coming = version.state is PopulationState.RECEIVING
            if not why and not tasks and version.changed_at > self.now - (UNUSED_UPLOAD if is_coming else JUST_SENT):
                minutes = JUST_SENT.total_seconds() / 60
                told = f"it was just sent, for a task that may come: repeat in {minutes:.0f} minutes"
                why = "it is being sent: repeat when it is there" if is_coming else told
        if not why and not self.keep:
            if self.store.withdraw_upload(population.removeprefix(UPLOAD)):
                remove_versions(self.warehouse, versions)
                return []
            why = "a task about it was begun meanwhile: repeat"
        return [(version, why) for version in versions] if why else []

    def _standing(self, population: str, buckets: set[Bucket]) -> list[tuple[PopulationVersion, str]]:
        """Make a version without the person, remove those that nobody uses; return what stays, and why."""
        versions = self._versions(population)
        usable = [each for each in versions if each.state is PopulationState.PROPOSED]
        holding = [each for each in versions if buckets & set(enumerate(each.digests))]
        whys = self._why_used(population, {each.version for each in usable})
        if usable and usable[-1] in holding:
            whys[usable[-1].version] = self._next_version(population)
        stays, gone = [], []
        for version in holding:
            # one at a time is written, the newest: another was left by a removal, or a writer, that was killed
            is_coming = version.state is PopulationState.RECEIVING and version is versions[-1]
            why = "it is being written: repeat when it is there" if is_coming else whys.get(version.version, "")
            if why:
                stays.append((version, why))
            elif version is not versions[-1]:  # the last one stays, for the number of the next; its buckets go
                gone.append(version)
        if not self.keep:
            remove_versions(self.warehouse, gone)
        return stays

    def _next_version(self, population: str) -> str:
        """Make a population's next version, without the person; return why the one before stays."""
        if self.keep:
            return "a version without them is made, and this one goes once every party has accepted that"
        leaving = [SampleIds.of([self.sample_id.encode()])]
        try:
            made = standing.update(self.warehouse, self.owner, population, (), removed=leaving, by=self.by).version
        except EmptyRequestError:
            return f"nobody else is in it: `fedpredict population revoke {population}`, then repeat"
        return f"version {made.version} is made without them; {self._accepting(population)}"

    def _why_used(self, population: str, usable: Collection[int]) -> dict[int, str]:
        """Return the versions that tasks need, or may because a participant answers for them, and what ends that."""
        whys: dict[int, str] = {}
        accepted = accepted_versions(self.warehouse, self.owner, population)
        told = {each.party for each in list_deliveries(self.warehouse, self.owner, population) if each.version}
        for party in sorted(told - accepted.keys()):  # told before there were such records, or not reached since
            why = (
                f"party {party} did not say yet which version it answers for: repeat when the running initiator has"
                f" reached it (`fedpredict population list`), or `fedpredict population revoke {population}` first"
            )
            whys |= dict.fromkeys(usable, why)
        for party, version in accepted.items():
            if version in usable:
                whys[version] = f"party {party} answers for it; {self._accepting(population)}"
        for task in self.store.about(self.owner, population):
            why = self._why_needed(task)
            if why:
                whys[task.new.population.version] = why
        return whys

    def _why_needed(self, task: OfflineTask) -> str:
        return why_needed(task) or self.damaged.get(task.task_id, "")

    def _accepting(self, population: str) -> str:
        command = f"`fedpredict population accept {population} --from {self.owner}`"
        return f"it goes once every party has accepted the newest ({command} there): repeat then"

    def _versions(self, population: str) -> list[PopulationVersion]:
        return list_versions(self.warehouse, owner=self.owner, population=population)
