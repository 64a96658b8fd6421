from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator

import pytest
from typing_extensions import override

from fedpredict.errors import ConfigError
from fedpredict.observe import queued
from fedpredict.observe.logs import JsonFormatter, log_context
from fedpredict.observe.queued import QueuedHandler, dropped_lines, install_logging

logger = logging.getLogger("fedpredict.test")


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("", "fedpredict", "grpc")]
    before = [(each, each.level, list(each.handlers)) for each in loggers]
    yield
    for each, level, handlers in before:
        for handler in set(each.handlers) - set(handlers):
            handler.close()
        each.setLevel(level)
        each.handlers[:] = handlers


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the events on standard error, once all that wait are written; standard output has nothing."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, QueuedHandler):
            handler.close()
    output = capsys.readouterr()
    assert output.out == ""
    return [json.loads(line)["event"] for line in output.err.splitlines()]


class Slow(logging.Handler):
    """A log that takes nothing until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.let = threading.Event()
        self.began = threading.Event()
        self.lines: list[dict[str, object]] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.began.set()
        self.let.wait()
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def slow() -> Iterator[Slow]:
    target = Slow()
    yield target
    target.let.set()


@pytest.mark.usefixtures("untouched_logging")
def test_logging_is_installed_once_and_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    install_logging("debug", json=False)
    install_logging("info", json=True)
    logger.debug("hidden")
    logger.info("shown")
    logging.getLogger("somelibrary").info("hidden too")
    logging.getLogger("somelibrary").warning("library")
    logging.getLogger("grpc._server").error("repeated by the servicer")
    assert written(capsys) == ["shown", "library"]


@pytest.mark.usefixtures("untouched_logging")
def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'loud'; allowed: debug, info, warning, error"):
        install_logging("loud", json=True)
    assert not any(isinstance(each.formatter, JsonFormatter) for each in logging.getLogger().handlers)


@pytest.mark.usefixtures("untouched_logging")
def test_a_log_that_hangs_holds_nobody_up_and_what_it_misses_is_counted_and_told(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued, "MAX_WAITING", 3)
    handler = QueuedHandler(slow)
    logging.getLogger().addHandler(handler)
    logger.error("written 0")
    slow.began.wait()
    for number in range(1, 9):
        logger.error("written %d", number)  # the writer hangs in the first: three wait, five are dropped
    assert dropped_lines() == 5
    slow.let.set()
    handler.close()
    events = [line["event"] for line in slow.lines]
    assert [event for event in events if event != "log.dropped"] == [f"written {number}" for number in range(4)]
    assert [line["n_lines"] for line in slow.lines if line["event"] == "log.dropped"] == [5]


@pytest.mark.usefixtures("untouched_logging")
def test_a_line_keeps_the_fields_of_the_task_that_said_it_and_its_traceback(slow: Slow) -> None:
    slow.let.set()
    handler = QueuedHandler(slow)
    logging.getLogger().addHandler(handler)
    with log_context(request_id="r-1"):
        try:
            install_logging("loud", json=True)
        except ConfigError:
            logger.exception("call.failed", extra={"n_rows": 2})
    handler.close()
    (line,) = slow.lines
    assert (line["request_id"], line["n_rows"]) == ("r-1", 2)
    assert str(line["error"]).startswith("ConfigError: log.level is 'loud'")
    assert "Traceback" in str(line["traceback"])


def test_a_closed_log_has_no_thread(slow: Slow) -> None:
    slow.let.set()
    before = set(threading.enumerate())
    handler = QueuedHandler(slow)
    (thread,) = set(threading.enumerate()) - before
    handler.close()
    handler.close()
    assert not thread.is_alive()
