"""`fedpredict task answered`: what a participant answered to the offline tasks of initiators."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fedpredict.cli import wiring
from fedpredict.cli.options import PartyConfig
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.tables.answered import list_answered
from fedpredict.tables.shares import parse_day

_SHOWN = ("answered_at", "caller", "task_id", "model_id", "bucket", "n_buckets", "n_rows", "n_scored", "elapsed_s")


def answered(
    *,
    task_id: Annotated[str | None, typer.Option("--task", help="Of this task of an initiator alone.")] = None,
    day: Annotated[str | None, typer.Option("--date", help="Of one day (UTC), like 2026-11-26; default: all.")] = None,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """List what this participant answered to offline tasks, oldest first; the newest seconds may be lacking."""
    with wiring.opened_warehouse(config) as party:
        records = list_answered(party.warehouse, None if day is None else parse_day(day))
    rows = [
        {**asdict(each), "elapsed_s": round(each.elapsed_s, 3)} for each in records if task_id in (None, each.task_id)
    ]
    Output(as_json=as_json).rows(_SHOWN, rows, empty="Nothing yet: no bucket of an offline task was answered.")
