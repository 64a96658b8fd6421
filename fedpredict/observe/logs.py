"""Log lines: an event name and fields, as JSON or text, with what must never be in a log kept out.

The code says `logger.info("score.done", extra={"samples": 3})`; request, party and model come from `log_context`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath

from typing_extensions import override

WITHHELD = "[withheld]"
PRIVATE_FIELDS = frozenset(
    f"{name}{plural}"
    for name in (
        "sample_id",
        "feature",
        "weight",
        "intercept",
        "score",
        "partial_score",
        "value",
        "share",
        "prediction",
    )
    for plural in ("", "s")
)
"""Fields that are never written, at any depth: their content is replaced by `WITHHELD`. Counts are named `n_...`."""

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_CONTEXT = "_log_context"
_NOT_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", _CONTEXT}
_context: ContextVar[Mapping[str, object] | None] = ContextVar("fedpredict_log_context", default=None)


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Put `fields` on every log line of this thread or task, and of tasks that it starts, until the block ends."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def add_log_context(**fields: object) -> None:
    """Put `fields` on every further log line of this task, and of tasks that it starts.

    For servicers: a call is a task of its own, and the line about its failure is written when their blocks have ended.
    """
    _context.set({**(_context.get() or {}), **fields})


def with_context(record: logging.LogRecord) -> logging.LogRecord:
    """Return `record` with the fields of this task kept in it, for a formatter that runs elsewhere."""
    vars(record)[_CONTEXT] = _context.get()
    return record


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, event, logger, then the fields."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        return _json(line_of(record))


class TextFormatter(logging.Formatter):
    """Time, level, event and `field=value` for people; a traceback follows on lines of its own."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, and its traceback."""
        line = line_of(record)
        traceback = line.pop("traceback", None)
        time, level, event = (line.pop(name) for name in ("time", "level", "event"))
        line.pop("logger")
        fields = [f"{name}={_as_text(value)}" for name, value in line.items()]
        text = " ".join([str(time), f"{level!s:<7}", _as_text(event, spaces=True), *fields])
        return text if traceback is None else f"{text}\n{traceback}"


def line_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what is written for a record: names of fields to values that JSON can hold."""
    line: dict[str, object] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "event": record.getMessage(),
        "logger": record.name,
    }
    extra = {name: value for name, value in vars(record).items() if name not in _NOT_FIELDS}
    context = vars(record).get(_CONTEXT) or _context.get() or {}
    for name, value in {**context, **extra}.items():
        line[f"field_{name}" if name in line else name] = _shown(name, value)
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        line["error"] = f"{type(error).__name__}: {error}"
        line["traceback"] = logging.Formatter().formatException(record.exc_info)
    return line


def _shown(name: str, value: object) -> object:
    if name in PRIVATE_FIELDS:
        return WITHHELD
    if isinstance(value, Mapping):
        return {str(key): _shown(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown("", inner) for inner in value]
    return _scalar(value.value if isinstance(value, Enum) else value)


def _scalar(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, PurePath | BaseException | datetime):
        return str(value)
    # Bytes are sample ids and arrays are numbers: of anything else only the type is said.
    return f"[{type(value).__name__}]"


def _as_text(value: object, *, spaces: bool = False) -> str:
    text = value if isinstance(value, str) else _json(value)
    plain = text.isprintable() and '"' not in text and (spaces or not (" " in text or "=" in text or text == ""))
    return text if plain or not isinstance(value, str) else _json(text)


def _json(value: object) -> str:
    """Return JSON that a terminal shows as it is: JSON itself escapes but half of the control characters."""
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return text if text.isprintable() else json.dumps(value, separators=(", ", ": "))
