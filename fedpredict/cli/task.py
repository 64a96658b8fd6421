"""`fedpredict task`: offline tasks at an initiator; and `task score`, by which a party scores a day's ids ahead."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.csv
import typer

from fedpredict.cli import wiring
from fedpredict.cli.answered import answered
from fedpredict.cli.connect import Ask, asking
from fedpredict.cli.files import check_out
from fedpredict.cli.options import ModelArgument
from fedpredict.cli.output import Advance, JsonFlag, Output
from fedpredict.cli.shares import score
from fedpredict.cli.task_plot import check_plot, save_plot
from fedpredict.client import Client, FileOf, Mode, OfflineState, RankBy, Standing, TableOf, TaskInfo
from fedpredict.client.populations import Population
from fedpredict.errors import InputError, TaskFailedError, TaskNotFoundError
from fedpredict.model.offline import PartyView

app = typer.Typer(
    help="Predictions for whole populations, made in the background by an initiator (and `score`, at a party).",
    no_args_is_help=True,
)
app.command("score")(score)
app.command("answered")(answered)

TaskId = Annotated[str, typer.Argument(help="The task's id.", metavar="ID")]
Plot = Annotated[
    Path | None, typer.Option("--plot", help="Save a picture of the predictions' distribution (.png, .svg or .pdf).")
]
Results = Annotated[Path, typer.Option("--out", help="Write them there (.csv or .parquet).")]
StateOf = Annotated[
    Path | None,
    typer.Option("--state-of", help="The settings of an initiator, whose state database is read.", metavar="FILE"),
]
Wait = Annotated[bool, typer.Option("--wait", help="Return when the task has ended; 6 unless it is done.")]
_LISTED = (
    "task_id",
    "model",
    "mode",
    "state",
    "population",
    "ids",
    "done",
    "scored",
    "submitted_at",
    "note",
    "problem",
)


@app.command("submit")
@asking
def submit(
    model_id: ModelArgument,
    *,
    ask: Ask,
    ids: Annotated[
        Path | None, typer.Option("--ids", help="Sample ids: CSV, Parquet, or .txt with one a line.")
    ] = None,
    column: Annotated[str | None, typer.Option("--column", help="Their column in that file.")] = None,
    population: Annotated[
        str | None, typer.Option("--population", help="A standing population of the initiator's.")
    ] = None,
    version: Annotated[
        int | None, typer.Option("--version", help="Its version; default: the newest accepted by all.", min=1)
    ] = None,
    table: Annotated[
        str | None, typer.Option("--table", help="A table that the settings of the initiator offer.")
    ] = None,
    mode: Annotated[
        Mode, typer.Option("--mode", help="offline: stored shares. nearline: features that were extracted.")
    ] = Mode.OFFLINE,
    idempotency: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same again gives the task that is there.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="For people.")] = "",
    rank: Annotated[bool, typer.Option("--rank", help="Give ranks, by the first output; the largest is 1.")] = False,
    rank_by: Annotated[
        str | None, typer.Option("--rank-by", help="Give ranks by this class or column.", metavar="OUTPUT")
    ] = None,
    rank_top: Annotated[
        int | None, typer.Option("--rank-top", help="Give ranks to the first N alone.", metavar="N", min=1)
    ] = None,
    wait: Wait = False,
    as_json: JsonFlag = False,
) -> None:
    """Begin a task: predictions of a model for a file of ids, a standing population, or a table."""
    output = Output(as_json=as_json)
    asked = _population(ids, column, population, version, table)
    is_ranked = rank or rank_by is not None or rank_top is not None
    ranked = RankBy(rank_by or "", rank_top or 0) if is_ranked else None
    with ask() as (client, _):
        task_id = client.submit(model_id, asked, mode=mode, idempotency_key=idempotency, note=note, rank_by=ranked)
        if wait:
            info = _waited(client, task_id, output)
            output.result(_json(info), _sentence(info))
            _check_done(info)
        else:
            output.result({"task_id": task_id}, f"{task_id}\nFollow it with `fedpredict task show {task_id}`.")


@app.command("list")
@asking
def list_all(
    *,
    ask: Ask,
    model_id: Annotated[str | None, typer.Option("--model", help="Only this model's.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many.", min=1, max=1000)] = 100,
    as_json: JsonFlag = False,
) -> None:
    """List tasks, the newest first; what a party has stored is listed by `fedpredict shares list`."""
    with ask() as (client, timeout_s):
        tasks = client.tasks(model_id, limit=limit, timeout_s=timeout_s)
    rows = [_json(each) if as_json else _row(each) for each in tasks]
    Output(as_json=as_json).rows(_LISTED, rows, empty="No tasks; see `fedpredict task submit`.")


@app.command("show")
@asking
def show(task_id: TaskId, *, ask: Ask, plot: Plot = None, wait: Wait = False, as_json: JsonFlag = False) -> None:
    """Show a task: progress, counts, warnings; a day's stored shares are shown by `fedpredict shares show`."""
    output = Output(as_json=as_json)
    check_plot(plot)
    with ask() as (client, timeout_s), _naming(task_id):
        info = _waited(client, task_id, output) if wait else client.task(task_id, timeout_s=timeout_s)
    output.fields(_json(info) if as_json else _shown(info))
    for warning in info.warnings:
        output.note(f"warning: {warning}")
    if plot is not None:
        report = {"model": info.model_id, "date": f"{info.submitted_at:%Y-%m-%d}", **_histograms(info)}
        save_plot(plot, [report], "prediction")
        output.note(f"The distribution of the predictions is in {plot}.")
    if wait:
        _check_done(info)


@app.command("results")
@asking
def results(
    task_id: TaskId,
    *,
    ask: Ask,
    out: Results,
    top: Annotated[
        int | None, typer.Option("--top", help="Only the first N by rank, in that order.", metavar="N", min=1)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a task's results into a file, which appears when it is whole; of a running task it waits for the rest."""
    output = Output(as_json=as_json)
    check_out(out)
    with ask() as (client, _), _naming(task_id):
        if out.suffix.lower() == ".parquet":
            n_rows = client.results_to_parquet(task_id, out, top=top or 0)
        else:
            n_rows = _to_csv(client, task_id, out, top or 0)
    output.result({"out": out, "rows": n_rows}, f"{n_rows} results are in {out}")


@app.command("cancel")
@asking
def cancel(task_id: TaskId, *, ask: Ask, as_json: JsonFlag = False) -> None:
    """End a task; what is done of it stays, and one that has ended stays as it is."""
    with ask() as (client, timeout_s), _naming(task_id):
        info = client.cancel(task_id, timeout_s=timeout_s)
    Output(as_json=as_json).result(_json(info), _sentence(info))


@app.command("retry")
@asking
def retry(task_id: TaskId, *, ask: Ask, as_json: JsonFlag = False) -> None:
    """Go on with a task that failed; others stay as they are."""
    with ask() as (client, timeout_s), _naming(task_id):
        info = client.retry(task_id, timeout_s=timeout_s)
    Output(as_json=as_json).result(_json(info), _sentence(info))


@app.command("logs")
@asking
def logs(task_id: TaskId, *, ask: Ask, state_of: StateOf = None, as_json: JsonFlag = False) -> None:
    """Show what happened to a task: of errors their names; with --state-of, for operators, all of their words."""
    if state_of is None:
        with ask() as (client, timeout_s), _naming(task_id):
            events = client.task_history(task_id, timeout_s=timeout_s)
    else:
        store = wiring.open_tasks(wiring.load_initiator(state_of))
        try:
            events = store.events(task_id)
        finally:
            store.close()
    rows = [{"at": each.at, "what": each.what, "detail": each.detail} for each in events]
    Output(as_json=as_json).rows(("at", "what", "detail"), rows, empty="Nothing happened.")


@contextmanager
def _naming(task_id: str) -> Iterator[None]:
    """Name the task that the server does not know, or knows for others alone; the server's answer names nothing."""
    try:
        yield
    except TaskNotFoundError as error:
        raise TaskNotFoundError(
            f"no task {task_id} of a model that you may ask for; see `fedpredict task list`"
        ) from error


def _population(
    ids: Path | None, column: str | None, population: str | None, version: int | None, table: str | None
) -> Population:
    if [ids is None, population is None, table is None].count(False) != 1:
        raise InputError("whose predictions? Name one of --ids FILE, --population NAME and --table NAME")
    if column is not None and ids is None:
        raise InputError("--column is of the file that --ids names")
    if version is not None and population is None:
        raise InputError("--version is of the population that --population names")
    if ids is not None:
        return FileOf(ids, column)
    return TableOf(table) if table is not None else Standing(population or "", version)


def _waited(client: Client, task_id: str, output: Output) -> TaskInfo:
    with output.progress(f"task {task_id}") as advance:
        return client.wait(task_id, on_progress=lambda info: _advance(info, advance))


def _advance(info: TaskInfo, advance: Advance) -> None:
    advance(info.buckets_done, info.n_buckets)


def _check_done(info: TaskInfo) -> None:
    if info.state is not OfflineState.DONE:
        told = f"task {info.task_id} is {info.state}: {info.problem or 'there are results of some buckets only'}"
        raise TaskFailedError(told, state=info.state, problem=info.problem)


def _to_csv(client: Client, task_id: str, out: Path, top: int) -> int:
    # a name of its own: two may fetch into one file
    partial, n_rows, writer = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part"), 0, None
    try:
        for batch in client.results(task_id, top=top):
            if writer is None:
                writer = pa.csv.CSVWriter(partial, batch.schema)
            writer.write(batch)
            n_rows += batch.num_rows
        if writer is not None:
            writer.close()
            partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return n_rows


def _sentence(info: TaskInfo) -> str:
    told = f"task {info.task_id} is {info.state}: {info.buckets_done} of {info.n_buckets} buckets, {info.scored} scored"
    return f"{told}; {info.problem}" if info.problem else told


def _row(info: TaskInfo) -> dict[str, object]:
    done = f"{info.buckets_done} of {info.n_buckets}"
    return {**_json(info), "done": done}


def _shown(info: TaskInfo) -> dict[str, object]:
    """Return what a person reads of a task."""
    counts = {status.name.lower(): count for status, count in info.statuses.items()}
    parties = [_party(each, info.n_buckets) for each in info.parties]
    moved = [f"{each.stability:.3f}" for each in info.histograms if each.stability is not None]
    return {
        **{key: value for key, value in _row(info).items() if key not in ("histograms", "parties", "statuses")},
        "statuses": [f"{count} {name}" for name, count in counts.items()],
        "parties": parties,
        "stability": moved,
    }


def _party(party: PartyView, n_buckets: int) -> str:
    counts = [f"{count} {status.name.lower()}" for status, count in party.statuses.items()]
    told = ", ".join([f"{party.buckets_done} of {n_buckets} buckets", *counts])
    return f"{party.party}: {told} ({'; '.join(party.sources)})" if party.sources else f"{party.party}: {told}"


def _json(info: TaskInfo) -> dict[str, object]:
    return {
        "task_id": info.task_id,
        "model": info.model_id,
        "manifest": info.manifest_sha256,
        "mode": info.mode,
        "state": info.state,
        "problem": info.problem,
        "note": info.note,
        "population": info.population,
        "buckets": info.n_buckets,
        "buckets_done": info.buckets_done,
        "rows": info.rows,
        "ids": info.ids,
        "duplicates": info.duplicates,
        "invalid": info.invalid,
        "ids_done": info.ids_done,
        "scored": info.scored,
        "statuses": _counts(info.statuses),
        "parties": [
            {
                "party": each.party,
                "statuses": _counts(each.statuses),
                "problem": each.problem,
                "oldest_event_time_us": each.oldest_event_time,
                "buckets_done": each.buckets_done,
                "sources": each.sources,
            }
            for each in info.parties
        ],
        "ids_per_s": round(info.ids_per_s, 1),
        "remaining_s": round(info.remaining_s, 1),
        "submitted_at": info.submitted_at,
        "started_at": info.started_at,
        "finished_at": info.finished_at,
        "submitted_by": info.submitted_by,
        "rank_by": None if info.rank_by is None else info.rank_by.output,
        "rank_top": None if info.rank_by is None else info.rank_by.top,
        "combined_by": info.combined_by,
        "combined_why": info.combined_why,
        "buckets_gathered": info.buckets_gathered,
        **_histograms(info),
        "warnings": info.warnings,
    }


def _counts(counts: Any) -> dict[str, int]:
    return {status.name.lower(): count for status, count in counts.items()}


def _histograms(info: TaskInfo) -> dict[str, Any]:
    found = [
        {
            "output": each.output,
            "first": each.first,
            "width": each.width,
            "counts": each.counts,
            "stability": each.stability,
        }
        for each in info.histograms
    ]
    return {"histograms": found}
