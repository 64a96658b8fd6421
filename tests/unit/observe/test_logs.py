from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from typing_extensions import override

from fedpredict.errors import ConfigError
from fedpredict.model.share import Mode
from fedpredict.observe.logs import WITHHELD, JsonFormatter, TextFormatter, log_context

logger = logging.getLogger("fedpredict.test")


class Lines(logging.Handler):
    """Keeps formatted lines."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def last(self) -> dict[str, object]:
        line = json.loads(self.lines[-1])
        assert isinstance(line, dict)
        return line


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    handler = Lines(getattr(request, "param", JsonFormatter)())
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def fail(message: str) -> None:
    raise ConfigError(message)


as_text = pytest.mark.parametrize("lines", [TextFormatter], indirect=True)


def test_a_line_is_one_json_object_with_its_event_and_fields(lines: Lines) -> None:
    before = datetime.now(UTC)
    logger.info("score.done", extra={"n_samples": 3, "mode": Mode.NEARLINE, "elapsed_s": 0.25, "cached": True})
    line = lines.last()
    assert list(line) == ["time", "level", "event", "logger", "n_samples", "mode", "elapsed_s", "cached"]
    assert line["level"] == "info"
    assert line["event"] == "score.done"
    assert (line["n_samples"], line["mode"], line["elapsed_s"], line["cached"]) == (3, "nearline", 0.25, True)
    assert str(line["time"]).endswith("Z")
    assert abs(datetime.fromisoformat(str(line["time"])) - before).total_seconds() < 60


def test_the_context_is_on_every_line_of_its_block_and_on_no_other(lines: Lines) -> None:
    with log_context(request_id="r-1", party="lab"):
        with log_context(model="credit", party="imaging"):
            logger.info("inner")
        logger.info("outer")
    logger.info("after")
    inner, outer, after = (json.loads(line) for line in lines.lines)
    assert (inner["request_id"], inner["party"], inner["model"]) == ("r-1", "imaging", "credit")
    assert (outer["request_id"], outer["party"]) == ("r-1", "lab")
    assert "model" not in outer
    assert "request_id" not in after


def test_a_context_ends_with_an_error_too(lines: Lines) -> None:
    with pytest.raises(KeyError), log_context(request_id="r-1"):
        raise KeyError
    logger.info("after")
    assert "request_id" not in lines.last()


async def test_requests_that_run_side_by_side_keep_their_own_context(lines: Lines) -> None:
    both = asyncio.Barrier(2)

    async def request(name: str) -> None:
        with log_context(request_id=name):
            await both.wait()
            logger.info("done", extra={"expected": name})

    await asyncio.gather(request("a"), request("b"))
    written = [json.loads(line) for line in lines.lines]
    assert {line["request_id"] for line in written} == {"a", "b"}
    assert all(line["request_id"] == line["expected"] for line in written)


@pytest.mark.parametrize("plural", ["", "s"])
@pytest.mark.parametrize(
    "name",
    ["sample_id", "feature", "weight", "intercept", "score", "partial_score", "value", "share", "prediction"],
)
def test_private_fields_are_withheld_wherever_they_stand(lines: Lines, name: str, plural: str) -> None:
    name += plural
    private = "u-4711"
    logger.info("oops", extra={name: private, "inner": {name: [private]}, "list": [{name: private}]})
    with log_context(**{name: private}):
        logger.info("again")
    assert private not in "".join(lines.lines)
    assert all(json.loads(line)[name] == WITHHELD for line in lines.lines)


def test_bytes_and_arrays_are_named_and_not_shown(lines: Lines) -> None:
    logger.info("oops", extra={"ids": [b"u-4711"], "numbers": np.array([0.123456]), "what": object()})
    line = lines.last()
    assert (line["ids"], line["numbers"], line["what"]) == (["[bytes]"], "[ndarray]", "[object]")
    assert "4711" not in lines.lines[-1]
    assert "0.123456" not in lines.lines[-1]


def test_a_field_never_replaces_what_every_line_has(lines: Lines) -> None:
    logger.info("event", extra={"time": "then", "level": "none"})
    line = lines.last()
    assert line["level"] == "info"
    assert (line["field_time"], line["field_level"]) == ("then", "none")


def test_every_line_is_json_whatever_is_in_it(lines: Lines) -> None:
    class Colour(Enum):
        RED = 1

    logger.info(
        'line\nbreak "quoted" \x00 é',
        extra={"nan": float("nan"), "path": Path("a b"), "colour": Colour.RED, "at": datetime(2026, 1, 2, tzinfo=UTC)},
    )
    (text,) = lines.lines
    assert "\n" not in text
    line = json.loads(text, parse_constant=pytest.fail)
    assert line["event"] == 'line\nbreak "quoted" \x00 é'
    assert (line["nan"], line["path"], line["colour"]) == ("nan", "a b", 1)


def test_an_exception_comes_with_type_message_and_traceback(lines: Lines) -> None:
    try:
        fail("participant.deadline_s is -1")
    except ConfigError:
        logger.exception("start.failed")
    line = lines.last()
    assert line["error"] == "ConfigError: participant.deadline_s is -1"
    assert "test_logs.py" in str(line["traceback"])
    assert "\n" not in lines.lines[-1]


@as_text
def test_text_is_for_people(lines: Lines) -> None:
    with log_context(request_id="r-1"):
        logger.warning("party.slow", extra={"party": "lab", "why": "no answer", "n": 3, "parties": ["a", "b"]})
    (text,) = lines.lines
    assert text.split(" ", 1)[1] == 'warning party.slow request_id=r-1 party=lab why="no answer" n=3 parties=["a", "b"]'


@as_text
def test_a_field_cannot_start_a_line_of_its_own(lines: Lines) -> None:
    logger.info("event", extra={"party": "lab\n2026 error forged=1"})
    (text,) = lines.lines
    assert "\n" not in text
    assert text.endswith(r'party="lab\n2026 error forged=1"')


@pytest.mark.parametrize("lines", [TextFormatter, JsonFormatter], indirect=True)
@pytest.mark.parametrize("control", ["\x1b[2J", "\x9b2J", "\x7f", "\u202e"])
def test_a_field_cannot_steer_the_terminal_that_shows_it(lines: Lines, control: str) -> None:
    logger.info("event", extra={"reason": f"path {control}/x", "paths": [control]})
    (text,) = lines.lines
    assert text.isprintable()


@as_text
def test_text_puts_a_traceback_on_lines_of_its_own(lines: Lines) -> None:
    try:
        fail("wrong")
    except ConfigError:
        logger.exception("start.failed")
    first, *rest = lines.lines[0].splitlines()
    assert first.endswith('start.failed error="ConfigError: wrong"')
    assert rest[0] == "Traceback (most recent call last):"
