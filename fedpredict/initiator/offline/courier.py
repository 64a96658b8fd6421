"""Brings an initiator's standing populations to the participants that they are for, and asks what became of them.

A version is told, then the buckets that the participant lacks are sent, then it is told again; all of it may be done
again at any time. So whatever was under way when a process died, or a link was lost, goes on by being begun anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from fedpredict.errors import FedPredictError, PartyTimeoutError, PartyUnavailableError, PopulationRefusedError
from fedpredict.initiator.offline.standing import standing_versions
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import (
    BucketDelta,
    BucketIds,
    PopulationNotice,
    PopulationStanding,
    PopulationState,
    delta_of,
)
from fedpredict.tables.deliveries import ACCEPTANCES, Delivery, list_deliveries, write_acceptance, write_delivery
from fedpredict.tables.populations import PopulationVersion, read_bucket
from fedpredict.warehouse.base import Warehouse
from fedpredict.wire.codec import new_request_id

logger = logging.getLogger(__name__)

WAITING_LOOKS, SETTLED_LOOKS = 3, 12
"""After so many looks a participant is asked again whose operator is to accept; and one that has accepted or refused,
which its operator may change."""
NOTICE_S, PUT_S = 60.0, 300.0
"""How long a participant may take."""
BUCKETS_AT_ONCE = 2
"""Buckets that are on their way to one participant at once."""
MAX_PROBLEM = 500
SHOWN_S = 5.0
"""How often the progress of a long delivery is written down."""


class Recipient(Protocol):
    """A participant, as far as populations go; `RemoteParty` is one."""

    async def notice_population(self, notice: PopulationNotice, *, deadline_s: float) -> PopulationStanding:
        """Tell of a version, or ask after one."""

    async def put_bucket(self, bucket: BucketIds, *, deadline_s: float) -> None:
        """Send the ids of a bucket."""


@dataclass(frozen=True, slots=True)
class _Job:
    """The newest version of a population, all its versions, and how far a participant is."""

    newest: PopulationVersion
    versions: Mapping[int, PopulationVersion]
    before: Delivery


class PopulationCourier:
    """Delivers, for as long as `run` runs; one per initiator suffices, and several do no harm."""

    def __init__(
        self,
        warehouse: Warehouse,
        owner: str,
        recipients: Mapping[str, Recipient],
        *,
        look_s: float,
    ) -> None:
        """Prepare.

        Args:
            warehouse: The initiator's.
            owner: Its party.
            recipients: The other parties.
            look_s: How often it looks for new versions, and asks participants that were away.
        """
        self._warehouse = warehouse
        self._owner = owner
        self._recipients = recipients
        self._look_s = look_s
        self._due: dict[tuple[str, str], tuple[int, float]] = {}
        """By population and party: which version was brought last, and when to ask again."""
        self._noted: dict[tuple[str, str], tuple[object, ...]] = {}
        """By population and party: what the table says."""
        self._accepted: dict[tuple[str, str], int] = {}
        """By population and party: which version it answers for."""
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._told = ""

    async def run(self) -> None:
        """Deliver until cancelled, to every participant at its own pace."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(self._look_s)
        finally:
            for task in self._serving.values():
                task.cancel()
            await asyncio.gather(*self._serving.values(), return_exceptions=True)

    async def _look(self) -> None:
        try:
            jobs = await asyncio.to_thread(self._jobs)
        except FedPredictError as error:
            if str(error) != self._told:
                logger.warning("populations.not_read", extra={"reason": str(error)})
            self._told = str(error)
            return
        self._told = ""
        for party, mine in jobs.items():
            under_way = self._serving.get(party)
            if under_way is None or under_way.done():
                self._serving[party] = asyncio.create_task(self._serve(party, mine))

    def _jobs(self) -> dict[str, list[_Job]]:
        """Return by party what is to be brought or asked now."""
        jobs: dict[str, list[_Job]] = {}
        deliveries = list_deliveries(self._warehouse, self._owner)
        if not deliveries:
            return {}
        known: dict[str, dict[int, PopulationVersion]] = {}
        for version in standing_versions(self._warehouse, self._owner):
            known.setdefault(version.population, {})[version.version] = version
        for delivery in deliveries:
            versions = known.get(delivery.population, {})
            newest = versions[max(versions)] if versions else None
            if newest is not None and newest.state is PopulationState.PROPOSED and self._is_due(delivery, newest):
                jobs.setdefault(delivery.party, []).append(_Job(newest, versions, delivery))
        return jobs

    def _is_due(self, delivery: Delivery, newest: PopulationVersion) -> bool:
        version, at = self._due.get((delivery.population, delivery.party), (0, 0.0))
        return version != newest.version or time.monotonic() >= at

    async def _serve(self, party: str, jobs: list[_Job]) -> None:
        try:
            for job in jobs:
                await self._bring(party, job)
        except FedPredictError as error:
            logger.warning("population.not_noted", extra={"to": party, "reason": str(error)})
        except Exception:  # a defect must not end the deliveries of this process
            logger.exception("population.defect", extra={"to": party})

    async def _bring(self, party: str, job: _Job) -> None:
        key, pause_s = (job.newest.population, party), self._look_s * SETTLED_LOOKS
        self._noted[key] = _said(job.before)
        try:
            delivery = await self._deliver(party, job)
        except FedPredictError as error:
            delivery = self._with_problem(job, str(error))
            if isinstance(error, PartyUnavailableError | PartyTimeoutError):
                pause_s = self._look_s
        except Exception as error:  # a defect: the operator must see it, and other populations go on
            logger.exception("population.defect", extra={"to": party, "population": job.newest.population})
            what = f"unexpected error at this initiator ({type(error).__name__}): its log says more"
            delivery = self._with_problem(job, what)
        if delivery.state is PopulationState.PROPOSED:
            pause_s = self._look_s * WAITING_LOOKS
        self._due[key] = (job.newest.version, time.monotonic() + pause_s)
        await self._note(delivery)

    async def _note(self, delivery: Delivery) -> None:
        """Write down how far a participant is, where that is new."""
        key, said = (delivery.population, delivery.party), _said(delivery)
        if self._noted[key] == said:
            return
        await asyncio.to_thread(write_delivery, self._warehouse, delivery)
        self._noted[key] = said
        extra = {"population": delivery.population, "version": delivery.version, "to": delivery.party}
        more = {"state": str(delivery.state or ""), "lacking": delivery.missing, "problem": delivery.problem}
        logger.info("population.delivery", extra={**extra, **more})

    async def _deliver(self, party: str, job: _Job) -> Delivery:
        recipient, version = self._recipients.get(party), job.newest
        if recipient is None:
            return self._found(job, PopulationStanding(state=None), f"{party} is not under [parties]")
        standing = await self._tell(recipient, version)
        await self._note_accepted(job, standing)
        if standing.state is not PopulationState.RECEIVING:
            return self._found(job, standing)
        await self._note(self._found(job, standing))
        await self._send_all(recipient, job, standing)
        standing = await self._tell(recipient, version)
        await self._note_accepted(job, standing)
        return self._found(job, standing)

    async def _note_accepted(self, job: _Job, standing: PopulationStanding) -> None:
        """Write down which version a participant answers for, where that is new."""
        delivery, said = self._found(job, standing), standing.accepted_version
        key = (delivery.population, delivery.party)
        if self._accepted.get(key) != said:
            await asyncio.to_thread(self._write_accepted, delivery, said)
            self._accepted[key] = said

    def _write_accepted(self, delivery: Delivery, version: int) -> None:
        self._warehouse.ensure(ACCEPTANCES)  # populations of before have no such table
        write_acceptance(self._warehouse, delivery, version)

    async def _send_all(self, recipient: Recipient, job: _Job, standing: PopulationStanding) -> None:
        """Send what a participant lacks: while it takes a bucket, the next is read and on its way."""
        coming, left, shown_at = iter(standing.missing), set(standing.missing), time.monotonic()

        async def send() -> None:
            nonlocal shown_at
            for bucket in coming:
                await self._send(recipient, job, bucket, standing.accepted_version)
                left.discard(bucket)
                if time.monotonic() - shown_at > SHOWN_S:
                    shown_at = time.monotonic()
                    await self._note(self._found(job, replace(standing, missing=tuple(sorted(left)))))

        lanes = [asyncio.create_task(send()) for _ in range(min(BUCKETS_AT_ONCE, len(left)))]
        try:
            await asyncio.gather(*lanes)
        finally:
            for each in lanes:
                each.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _tell(self, recipient: Recipient, version: PopulationVersion) -> PopulationStanding:
        notice = PopulationNotice(
            request_id=new_request_id(),
            population=version.population,
            version=version.version,
            n_ids=version.n_ids,
            digests=version.digests,
        )
        return await recipient.notice_population(notice, deadline_s=NOTICE_S)

    async def _send(self, recipient: Recipient, job: _Job, bucket: int, accepted: int) -> None:
        ids = await asyncio.to_thread(self._read, job.newest, bucket)
        base = job.versions.get(accepted)
        is_whole = base is not None and base.state is PopulationState.PROPOSED  # of a revoked one, buckets may be gone
        if base is not None and is_whole and base.n_buckets == job.newest.n_buckets:
            delta = await asyncio.to_thread(self._delta, base, bucket, ids)
            if len(delta.added.data) + len(delta.removed.data) < len(ids.data) // 2:
                try:
                    await self._put(recipient, job.newest, bucket, delta)
                except PopulationRefusedError as error:  # such as where it no longer has what the delta is of
                    logger.info("population.delta_refused", extra={"bucket": bucket, "reason": error.problem})
                else:
                    return
        await self._put(recipient, job.newest, bucket, ids)

    async def _put(
        self, recipient: Recipient, version: PopulationVersion, bucket: int, content: SampleIds | BucketDelta
    ) -> None:
        put = BucketIds(
            request_id=new_request_id(),
            population=version.population,
            version=version.version,
            bucket=bucket,
            sha256=version.digests[bucket],
            content=content,
        )
        await recipient.put_bucket(put, deadline_s=PUT_S)

    def _read(self, version: PopulationVersion, bucket: int) -> SampleIds:
        return read_bucket(self._warehouse, self._owner, version.population, bucket, version.digests[bucket])

    def _delta(self, base: PopulationVersion, bucket: int, ids: SampleIds) -> BucketDelta:
        return delta_of(base.digests[bucket], self._read(base, bucket), ids)

    def _with_problem(self, job: _Job, problem: str) -> Delivery:
        """Return what is known of a participant that gave no answer, or did not take what it got."""
        told = problem[:MAX_PROBLEM]
        if job.before.version == job.newest.version:
            return replace(job.before, problem=told, changed_at=datetime.now(UTC))
        return self._found(job, PopulationStanding(state=None), told)

    def _found(self, job: _Job, standing: PopulationStanding, problem: str = "") -> Delivery:
        return Delivery(
            owner=self._owner,
            population=job.newest.population,
            party=job.before.party,
            version=job.newest.version,
            state=standing.state,
            missing=len(standing.missing),
            problem=problem,
            changed_at=datetime.now(UTC),
        )


def _said(delivery: Delivery) -> tuple[object, ...]:
    return (delivery.version, delivery.state, delivery.missing, delivery.problem)
