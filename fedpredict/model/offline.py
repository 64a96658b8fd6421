"""Offline tasks of an initiator: what is asked for, what is recorded of each bucket, and what people are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from typing_extensions import override

from fedpredict.model.manifest import Manifest
from fedpredict.model.prediction import Origin
from fedpredict.model.share import Mode, SampleStatus

Bins = tuple[tuple[float, float], ...]
"""For each output whose distribution is recorded: where its inner bins begin, and how wide each is."""
Counts = Mapping[SampleStatus, int]
"""Ids by status."""
MAX_SOURCES = 8
"""Snapshots or days of one party that are told of a task, where its buckets come from several."""
_Code = TypeVar("_Code", SampleStatus, Origin)


class OfflineState(StrEnum):
    """Where a task stands."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    """A party is away; the task goes on when it is back."""
    DONE = "done"
    FAILED = "failed"
    """It cannot go on as things are, until somebody has it tried again."""
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """Whether nobody works on it any more."""
        return self in (OfflineState.DONE, OfflineState.FAILED, OfflineState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationRef:
    """The ids of a task, in the tables of populations.

    Attributes:
        owner: The party that names it.
        name: The population; of an uploaded list `upload-<upload id>`.
        version: Its version.
        is_standing: Whether participants have it too, so that no ids travel.
    """

    owner: str
    name: str
    version: int
    is_standing: bool

    @override
    def __str__(self) -> str:
        """Return what people are told."""
        return f"{self.name}@{self.version}" if self.is_standing else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A list of ids that was sent for a task to come.

    Attributes:
        upload_id: Names it.
        population: Its ids, in the tables of populations.
        n_buckets: Into how many buckets they are cut.
        rows: What was sent, before duplicates and what is no sample id were taken out.
        ids: After that.
        duplicates, invalid: What was taken out.
        uploaded_by: The caller, as `str(Identity)`.
        uploaded_at: When, in UTC.
    """

    upload_id: str
    population: PopulationRef
    n_buckets: int
    rows: int
    ids: int
    duplicates: int
    invalid: int
    uploaded_by: str
    uploaded_at: datetime


@dataclass(frozen=True, slots=True)
class RankBy:
    """What a user asks results to be ranked by: the largest first, from 1, of equal ones the smaller id first.

    Attributes:
        output: A class label, or the name of the output's column; empty: the first output.
        top: Only so many have a rank; 0: all that have a prediction.
    """

    output: str = ""
    top: int = 0


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the results of a task are ranked by: an output, counted from 0; `top` is as in `RankBy`."""

    output: int
    top: int = 0


class CombinedBy(StrEnum):
    """What makes predictions of the shares of a task."""

    UNDECIDED = ""
    """Nobody has begun with it."""
    NUMPY = "numpy"
    """The initiator itself, bucket by bucket."""
    ENGINE = "engine"
    """The engine of its warehouse, all buckets in one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task as it is submitted.

    Attributes:
        manifest: The version of the model; its parties are asked.
        mode: Nearline or offline.
        population: Whose ids.
        asked_for: How they were named: `table NAME`, `population NAME@VERSION`, or `ids DIGEST` of a list, which is
            over those of its buckets. Where a key is used again it must be the same.
        n_buckets: Into how many buckets they are cut.
        rows: What was asked for, before duplicates and what is no sample id were taken out.
        ids: After that.
        duplicates, invalid: What was taken out.
        idempotency_key: The same again, of the same caller, gives the task that is there; empty: none.
        note: For people.
        submitted_by: The caller, as `str(Identity)`.
        ranking: By what its results are ranked; None: they are not.
    """

    manifest: Manifest
    mode: Mode
    population: PopulationRef
    asked_for: str
    n_buckets: int
    rows: int
    ids: int
    duplicates: int
    invalid: int
    idempotency_key: str
    note: str
    submitted_by: str
    ranking: Ranking | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyTotals:
    """What one party said of the ids that are done.

    Attributes:
        statuses: Its ids by status.
        oldest_event_time: Of the features it used, in microseconds UTC; None when it used none.
        sources: Which snapshots, or days, its shares come from: the first `MAX_SOURCES` by name, as far as known.
    """

    statuses: Counts = field(default_factory=dict)
    oldest_event_time: int | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What is known of buckets that are done: of one, or of all together.

    Attributes:
        ids: In them.
        statuses: The samples by status.
        origins: Those with a prediction by where it comes from.
        parties: By party.
        histograms: For each output with bins the predictions by bin: below, the inner ones, above.
    """

    ids: int = 0
    statuses: Counts = field(default_factory=dict)
    origins: Mapping[Origin, int] = field(default_factory=dict)
    parties: Mapping[str, PartyTotals] = field(default_factory=dict)
    histograms: tuple[tuple[int, ...], ...] = ()

    @property
    def scored(self) -> int:
        """How many have a prediction."""
        return self.statuses.get(SampleStatus.OK, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketDone:
    """The record of a bucket whose results are stored.

    Attributes:
        bucket: Which.
        totals: What became of its ids.
        results_sha256: Over its results, in hex; see `tables.results`.
        seconds: How long it took.
        finished_at: When it was done.
    """

    bucket: int
    totals: Totals
    results_sha256: str
    seconds: float
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineTask:
    """A task as it is recorded.

    Attributes:
        task_id: Names it.
        new: As it was submitted.
        state: Where it stands.
        problem: Why it waits or failed, in words that are public; empty otherwise.
        problem_party: Whose problem it is; empty where it is no party's.
        buckets_done: How many of its buckets are recorded.
        totals: Of those.
        bins: Of the histograms; empty until the first bucket is combined.
        ran_s: Seconds that it ran, as far as buckets came of it.
        submitted_at, started_at, finished_at: When; None: not yet.
        results_removed: Whether its results were removed when they were old.
        combined_by: What makes predictions of its shares.
        combined_why: Why that is not the engine, where the settings ask for it.
        buckets_gathered: For the engine: buckets whose shares are all stored, beside those that are done.
    """

    task_id: str
    new: NewTask
    state: OfflineState
    problem: str = ""
    problem_party: str = ""
    buckets_done: int = 0
    totals: Totals = field(default_factory=Totals)
    bins: Bins = ()
    ran_s: float = 0.0
    submitted_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    results_removed: bool = False
    combined_by: CombinedBy = CombinedBy.UNDECIDED
    combined_why: str = ""
    buckets_gathered: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramView:
    """The distribution of one output's predictions.

    Attributes:
        output: Which.
        first, width: Where the first inner bin begins, and how wide each is.
        counts: Below, the inner bins, above.
        stability: The population stability index against the task before; None where there is none to compare with.
    """

    output: int
    first: float
    width: float
    counts: tuple[int, ...]
    stability: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyView:
    """One party's side of a task.

    Attributes:
        party: Which.
        statuses, oldest_event_time, sources: As in `PartyTotals`.
        buckets_done: Buckets whose shares of it are kept: those that are done, and those gathered for an engine.
        problem: Why nothing comes from it now.
    """

    party: str
    statuses: Counts
    buckets_done: int
    problem: str
    oldest_event_time: int | None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """An offline task as its users see it.

    Attributes:
        task_id: Names it.
        model_id: The model.
        manifest_sha256: The version that it was begun with, in hex.
        mode: Nearline or offline.
        state: Where it stands.
        problem: Why it waits or failed; empty otherwise.
        note: What its submitter wrote.
        population: Whose ids, for people.
        n_buckets, buckets_done: Into how many buckets the ids are cut, and how many of them are done.
        rows: What was asked for.
        ids: Of them, without `duplicates` (beyond the first) and what is `invalid` (no sample id).
        ids_done: Ids in the buckets that are done.
        scored: Of these, the ones with a prediction.
        statuses: Of these, by status.
        parties: In the manifest's order.
        ids_per_s, remaining_s: The rate while it ran, and what the rest takes at that rate; 0.0: not known.
        submitted_at, started_at, finished_at: In UTC; None: not yet.
        classes: Class labels; empty for a regression.
        histograms: Of each output, how its predictions are distributed.
        warnings: Things to look at.
        submitted_by: Who did it.
        rank_by: By which output's column its results are ranked; None: they are not.
        combined_by, combined_why, buckets_gathered: As in `OfflineTask`.
    """

    task_id: str
    model_id: str
    manifest_sha256: str
    mode: Mode
    state: OfflineState
    problem: str
    note: str
    population: str
    n_buckets: int
    buckets_done: int
    rows: int
    ids: int
    duplicates: int
    invalid: int
    ids_done: int
    scored: int
    statuses: Counts
    parties: tuple[PartyView, ...]
    ids_per_s: float
    remaining_s: float
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    classes: tuple[str, ...]
    histograms: tuple[HistogramView, ...]
    warnings: tuple[str, ...]
    submitted_by: str
    rank_by: RankBy | None = None
    combined_by: CombinedBy = CombinedBy.UNDECIDED
    combined_why: str = ""
    buckets_gathered: int = 0


def add_counts(*counts: Mapping[_Code, int]) -> dict[_Code, int]:
    """Return the sums by status, or by origin.

    >>> add_counts({SampleStatus.OK: 1}, {SampleStatus.OK: 2, SampleStatus.STALE: 1}) == {
    ...     SampleStatus.OK: 3, SampleStatus.STALE: 1}
    True
    """
    total: dict[_Code, int] = {}
    for each in counts:
        for code, count in each.items():
            total[code] = total.get(code, 0) + count
    return total


def add_totals(one: Totals, other: Totals) -> Totals:
    """Return what is known of two sets of buckets together."""
    parties = {}
    for party in {**one.parties, **other.parties}:
        both = [each.parties[party] for each in (one, other) if party in each.parties]
        times = [each.oldest_event_time for each in both if each.oldest_event_time is not None]
        parties[party] = PartyTotals(
            statuses=add_counts(*(each.statuses for each in both)),
            oldest_event_time=min(times, default=None),
            sources=tuple(sorted({source for each in both for source in each.sources})[:MAX_SOURCES]),
        )
    histograms = [
        tuple(a + b for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in zip(one.histograms, other.histograms, strict=False)
    ]
    return Totals(
        ids=one.ids + other.ids,
        statuses=add_counts(one.statuses, other.statuses),
        origins=add_counts(one.origins, other.origins),
        parties=parties,
        histograms=tuple(histograms) or one.histograms or other.histograms,
    )
