from __future__ import annotations

import logging
import threading

import pytest

from fedpredict.scoring.poll import Poller


def test_it_calls_at_once_and_again_until_stopped() -> None:
    calls: list[int] = []
    third = threading.Event()

    def refresh() -> None:
        calls.append(len(calls))
        if len(calls) == 3:
            third.set()

    poller = Poller(refresh, 0.001)
    poller.start()
    assert third.wait(30)
    poller.stop()
    assert poller.first.done()
    seen = len(calls)
    poller.stop()
    assert len(calls) == seen


def test_an_error_is_logged_and_the_calls_go_on(caplog: pytest.LogCaptureFixture) -> None:
    again = threading.Event()
    calls: list[int] = []

    def refresh() -> None:
        calls.append(1)
        if len(calls) > 1:
            again.set()
        raise ZeroDivisionError("unexpected")

    caplog.set_level(logging.ERROR)
    poller = Poller(refresh, 0.001)
    poller.start()
    assert again.wait(30)
    poller.stop()
    assert caplog.records[0].message == "poll.failed"
    assert poller.first.result(1) is None


def test_stopping_what_never_started_is_harmless() -> None:
    Poller(lambda: None, 1.0).stop()
