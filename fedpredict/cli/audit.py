"""`fedpredict audit`: who asked this party for what, and whether the log of it is whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fedpredict.cli import wiring
from fedpredict.cli.options import PartyConfig
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.errors import AuditBrokenError, InputError
from fedpredict.security.audit_chain import Checkpoint, calls, is_signed, parse_checkpoint
from fedpredict.security.audit_keys import PUBLIC_KEY, is_begun, read_ids_key, read_public_key
from fedpredict.security.audit_line import hashed_id
from fedpredict.security.audit_verify import verify_chain

_NAMED = 20
"""So many callers are named where the one that was asked for has no call."""

app = typer.Typer(help="See who asked this party for what.", no_args_is_help=True)

Anchors = Annotated[
    list[Path] | None,
    typer.Option(
        "--anchor",
        "--checkpoints",
        help="A file with checkpoints that were kept elsewhere: an anchor's, a syslog's, another party's. Repeatable.",
    ),
]


@app.callback()
def _audit() -> None:
    """See who asked this party for what, and check that the log of it is whole."""


@app.command()
def verify(
    config: PartyConfig = None,
    folder: Annotated[Path | None, typer.Option(help="A copy of the log's folder, with its signing.pub.")] = None,
    key: Annotated[Path | None, typer.Option(help="The public audit key; default: the folder's signing.pub.")] = None,
    anchors: Anchors = None,
    as_json: JsonFlag = False,
) -> None:
    """Check every line of every worker's chain; exit code 9 where one was changed, removed, added or moved.

    That the end of a chain was cut off is seen only with checkpoints that were kept elsewhere: `--anchor`. Who can
    write the folder can put another key beside it: give `--key`, a copy of signing.pub that was kept elsewhere.
    """
    where = folder or wiring.audit_folder(wiring.load_party(config))
    public = read_public_key(key or where / PUBLIC_KEY)
    kept = [checkpoint for path in anchors or () for checkpoint in _checkpoints(path)]
    reports = [verify_chain(chain, public, kept) for chain in _chains(where)]
    rows = [
        {
            "chain": each.chain,
            "lines": each.lines,
            "last": each.last[0],
            "checkpoints": each.checkpoints,
            "unsigned": each.unsigned,
            "anchors": sum(anchor.chain == each.chain for anchor in kept),
            "problems": each.problems,
            "notes": each.notes,
        }
        for each in reports
    ]
    columns = ("chain", "lines", "last", "checkpoints", "unsigned", "anchors", "problems", "notes")
    Output(as_json=as_json).rows(columns, rows, empty="No log yet.")
    problems = [problem for each in reports for problem in each.problems]
    # a syslog has checkpoints of many parties: this party's are those that its key signed
    missing = {each.chain for each in kept if is_signed(each, public)} - {each.chain for each in reports}
    problems += [f"chain {name}, which an anchor knows, is gone" for name in sorted(missing)]
    names = Counter(each.chain for each in reports)
    problems += [f"{n} folders hold the chain {name}" for name, n in names.items() if n > 1]
    if not reports and is_begun(where):
        problems.append(f"{where} has this party's keys and no chain: a daemon that makes them begins one")
    if problems:
        raise AuditBrokenError(f"the audit log is not whole: {'; '.join(problems[:5])}")


@app.command()
def report(
    config: PartyConfig = None,
    *,
    who: Annotated[str | None, typer.Option(help="A caller, such as party bank; default: all.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="First day or instant (UTC), such as 2026-11-01.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Up to this day or instant (UTC), not included.")] = None,
    sample_id: Annotated[str | None, typer.Option(help="Count the calls about this one person alone.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say who asked about how many samples: calls, rows, and different people, by caller, model and method.

    Of calls about more ids than the setting `ids_per_line` the log has no single id: their rows count in
    `large_rows`, and not in `people`. With `--sample-id` these calls cannot be searched, and `large_calls` and
    `large_rows` say how many they were: the person may be in any of them.
    """
    loaded = wiring.load_party(config)
    folder = wiring.audit_folder(loaded)
    first, end = _instant(since, "--from"), _instant(until, "--to")
    wanted = None if sample_id is None else hashed_id(read_ids_key(folder), sample_id.encode())
    if first and end and first >= end:
        raise InputError(f"--to {until} is not after --from {since}: there is nothing between them")
    sums: dict[tuple[str, str, str], _Sum] = {}
    callers: set[str] = set()
    for call in _entries(folder):
        at = str(call.get("t"))
        callers.add(str(call.get("caller")))
        if (who not in (None, call.get("caller"))) or at < first or (end and at >= end):
            continue
        if wanted is not None and wanted not in call.get("ids", ()) and "root" not in call:
            continue
        key = (str(call.get("caller")), str(call.get("model", "")), str(call.get("what")))
        sums.setdefault(key, _Sum()).add(call, is_found=wanted is None or "root" not in call)
    rows = [
        {"caller": caller, "model": model, "what": what, **sums[caller, model, what].row()}
        for caller, model, what in sorted(sums)
    ]
    counts = ("calls", "refused", "rows", "scored", "people", "large_calls", "large_rows")
    columns = ("caller", "model", "what", *counts, "first", "last", "purposes")
    output = Output(as_json=as_json)
    output.rows(columns, rows, empty="No call is in the log for that.")
    if who is not None and who not in callers:
        output.note(f"no caller is {who!r}; in the log are: {', '.join(sorted(callers)[:_NAMED]) or 'none'}")
    large = sum(each.large_calls for each in sums.values())
    if wanted is not None and large:
        n_rows = sum(each.large_rows for each in sums.values())
        output.note(f"{large} calls about {n_rows} rows could not be searched: the log has one hash of all their ids")


def _entries(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Give calls, and in the same form those that were only counted while the log could not be written."""
    for line in calls(_chains(folder), ("call", "refused", "lost")):
        if line["kind"] == "call":
            yield line
            continue
        outcome = str(line["kind"])
        for caller, n in line.get("calls", {}).items():
            yield {"t": line.get("t"), "caller": caller, "what": f"({outcome})", "outcome": outcome, "calls": n}


@dataclass(slots=True)
class _Sum:
    """Calls, added up."""

    calls: int = 0
    refused: int = 0
    rows: int = 0
    large_calls: int = 0
    large_rows: int = 0
    scored: int = 0
    people: set[str] = field(default_factory=set)
    purposes: set[str] = field(default_factory=set)
    first: str = ""
    last: str = ""

    def add(self, call: Mapping[str, Any], *, is_found: bool) -> None:
        """Add a call; one that could not be searched counts among the large ones only."""
        n_rows = call.get("rows", 0)
        if "root" in call:
            self.large_calls += 1
            self.large_rows += n_rows
        if not is_found:
            return
        n_calls = call.get("calls", 1)
        self.calls += n_calls
        self.refused += n_calls if call.get("outcome") not in ("ok", "lost") else 0
        self.rows += n_rows
        self.scored += call.get("statuses", {}).get("OK", 0)
        self.people.update(call.get("ids", ()))
        self.purposes.update({str(call["purpose"])} if "purpose" in call else ())
        at = str(call.get("t"))
        self.first, self.last = min(self.first or at, at), max(self.last, at)

    def row(self) -> dict[str, object]:
        """Return it as it is shown."""
        return {
            "calls": self.calls,
            "refused": self.refused,
            "rows": self.rows,
            "scored": self.scored,
            "people": len(self.people),
            "large_calls": self.large_calls,
            "large_rows": self.large_rows,
            "first": self.first,
            "last": self.last,
            "purposes": sorted(self.purposes),
        }


def _chains(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("worker-*") if path.is_dir())


def _checkpoints(path: Path) -> list[Checkpoint]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    found = [checkpoint for line in lines if (checkpoint := parse_checkpoint(line)) is not None]
    if not found:
        raise InputError(f"{path}: holds no checkpoint of an audit log")
    return found


def _instant(text: str | None, option: str) -> str:
    """Return an instant as the log writes it, which sorts by time; empty for None."""
    if text is None:
        return ""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{option} {text!r}: write a day or instant such as 2026-11-01 or 2026-11-01T08:00") from error
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
