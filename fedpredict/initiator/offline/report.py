"""What users are told of a task: counts, how its predictions are distributed, and how that moved since the last one."""

from __future__ import annotations

from fedpredict.model.distribution import scored_warnings, stability_index
from fedpredict.model.offline import HistogramView, OfflineTask, PartyTotals, PartyView, RankBy, TaskInfo
from fedpredict.model.prediction import Origin
from fedpredict.wire.arrow_codec import output_names

_STAND_INS = {
    Origin.DEFAULT_PARTIAL: "predictions with a constant in place of a party's share",
    Origin.FALLBACK_MODEL: "predictions of the fallback model",
}


def info_of(task: OfflineTask, before: OfflineTask | None, *, limit: float) -> TaskInfo:
    """Return a task as its users see it.

    Args:
        task: The task.
        before: The newest one of the same model that was done before, where there is one.
        limit: A stability index above it is a warning; so is a share of ids with predictions that fell by more than a
            quarter.
    """
    new, totals = task.new, task.totals
    histograms = _histograms(task, before)
    rate = totals.ids / task.ran_s if task.ran_s > 0.0 else 0.0
    return TaskInfo(
        task_id=task.task_id,
        model_id=new.manifest.model_id,
        manifest_sha256=new.manifest.manifest_sha256,
        mode=new.mode,
        state=task.state,
        problem=task.problem,
        note=new.note,
        population=str(new.population),
        n_buckets=new.n_buckets,
        buckets_done=task.buckets_done,
        rows=new.rows,
        ids=new.ids,
        duplicates=new.duplicates,
        invalid=new.invalid,
        ids_done=totals.ids,
        scored=totals.scored,
        statuses=totals.statuses,
        parties=tuple(_party(task, party) for party in new.manifest.parties),
        ids_per_s=rate,
        remaining_s=(new.ids - totals.ids) / rate if rate and not task.state.has_ended else 0.0,
        submitted_at=task.submitted_at,
        started_at=task.started_at,
        finished_at=task.finished_at,
        classes=new.manifest.classes,
        histograms=histograms,
        warnings=_warnings(task, before, histograms, limit),
        submitted_by=new.submitted_by,
        rank_by=_rank_by(task),
        combined_by=task.combined_by,
        combined_why=task.combined_why,
        buckets_gathered=task.buckets_gathered,
    )


def _rank_by(task: OfflineTask) -> RankBy | None:
    ranking, manifest = task.new.ranking, task.new.manifest
    if ranking is None:
        return None
    return RankBy(output_names(manifest.classes, manifest.n_outputs)[ranking.output], ranking.top)


def _party(task: OfflineTask, party: str) -> PartyView:
    said = task.totals.parties.get(party, PartyTotals())
    return PartyView(
        party=party,
        statuses=said.statuses,
        buckets_done=task.buckets_done + task.buckets_gathered,
        problem=task.problem if task.problem_party == party else "",
        oldest_event_time=said.oldest_event_time,
        sources=said.sources,
    )


def _histograms(task: OfflineTask, before: OfflineTask | None) -> tuple[HistogramView, ...]:
    comparable = before is not None and before.bins == task.bins
    views = []
    for output, ((first, width), counts) in enumerate(zip(task.bins, task.totals.histograms, strict=False)):
        stability = None
        if before is not None and comparable and output < len(before.totals.histograms):
            stability = stability_index(before.totals.histograms[output], counts)
        views.append(HistogramView(output=output, first=first, width=width, counts=counts, stability=stability))
    return tuple(views)


def _warnings(
    task: OfflineTask, before: OfflineTask | None, histograms: tuple[HistogramView, ...], limit: float
) -> tuple[str, ...]:
    counted = task.totals.origins
    told = [
        f"the predictions of output {each.output} have moved since task {before.task_id}: stability index"
        f" {each.stability:.3f}, limit {limit:g}"
        for each in histograms
        if before is not None and each.stability is not None and each.stability > limit
    ]
    was = None if before is None else (before.totals.scored, before.totals.ids)
    since = "" if before is None else f"task {before.task_id}"
    told += scored_warnings(task.totals.scored, task.totals.ids, was, since)
    told += [f"{what}: {counted[origin]}" for origin, what in _STAND_INS.items() if counted.get(origin)]
    told += [
        f"the shares of party {party} come from {len(said.sources)} states of its data ({'; '.join(said.sources)}),"
        " which the results mix: submit it again, with another key, where that matters"
        for party, said in task.totals.parties.items()
        if len(said.sources) > 1
    ]
    if task.results_removed:
        told.append("the results were removed: they were older than the initiator keeps them (tasks.keep_days)")
    return tuple(told)
