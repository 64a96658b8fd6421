"""`fedpredict top`: servers, models, parties and stores as they do now, from their metrics ports."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live

from fedpredict.cli import wiring
from fedpredict.cli.options import PartyConfig
from fedpredict.cli.output import PIPE_WIDTH, JsonFlag, Output
from fedpredict.cli.top_read import Look, Window, look_at, url_of
from fedpredict.cli.top_sum import summed
from fedpredict.cli.top_view import view
from fedpredict.errors import ConfigError


def top(
    config: PartyConfig = None,
    ports: Annotated[
        list[str] | None, typer.Option("--metrics", help="A metrics port, HOST:PORT; may be given again.")
    ] = None,
    every_s: Annotated[float, typer.Option("--every", help="Seconds between two looks.", min=0.1, max=600.0)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print, and end.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show requests, latencies, rounds, parties and stores, live; Ctrl-C ends it."""
    urls = [url_of(each) for each in ports] if ports else _of_settings(config)
    if once or as_json or not sys.stdout.isatty():
        _once(urls, every_s, Output(as_json=as_json))
    else:
        _live(urls, every_s)


def _of_settings(config: Path | None) -> list[str]:
    """Return the ports of every worker of the process that some settings are for."""
    loaded = wiring.load_party(config)
    listen = loaded.settings.metrics.listen
    if listen is None:
        raise ConfigError(f"{loaded.path} opens no metrics port: set [metrics] listen, or name one with --metrics")
    host, _, port = listen.rpartition(":")
    return [url_of(f"{host}:{int(port) + worker}") for worker in range(loaded.settings.workers)]


def _once(urls: Sequence[str], every_s: float, output: Output) -> None:
    before = look_at(urls)
    time.sleep(every_s)
    tables = summed(_windows(before, look_at(urls)))
    if output.as_json:
        output.fields(dict(tables))
        return
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    console.print(view(tables, f"over {every_s:g} s", console.width))


def _live(urls: Sequence[str], every_s: float) -> None:
    console = Console(highlight=False)
    before = look_at(urls)
    with Live(_shown(before, before, every_s, console.width), console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every_s)
                now = look_at(urls)
                live.update(_shown(before, now, every_s, console.width), refresh=True)
                before = now
        except KeyboardInterrupt:
            return


def _shown(before: Sequence[Look], now: Sequence[Look], every_s: float, width: int) -> RenderableType:
    clock = datetime.now(UTC).strftime("%H:%M:%S")
    return view(summed(_windows(before, now)), f"{clock} UTC, every {every_s:g} s, Ctrl-C ends", width)


def _windows(before: Sequence[Look], now: Sequence[Look]) -> list[Window]:
    return [Window(*pair) for pair in zip(before, now, strict=True)]
