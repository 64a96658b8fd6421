"""Strangers cannot fill a daemon's own log, over gRPC or HTTP; everybody else has a line each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedpredict.errors import CertificateRefusedError, ModelNotFoundError, TokenRefusedError, UnauthenticatedError
from fedpredict.http.application import log_refusal
from fedpredict.model.few import STRANGERS_PER_S
from fedpredict.wire.handlers import log_failure


@pytest.mark.parametrize("log", [log_failure, log_refusal])
def test_strangers_have_few_lines_and_the_rest_is_a_number(
    log: Callable[[BaseException], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "fedpredict")
    now = [1e6]
    monkeypatch.setattr("fedpredict.model.few.monotonic", lambda: now[0])
    strangers = [TokenRefusedError("bad"), UnauthenticatedError("who?"), CertificateRefusedError("revoked")]
    for number in range(300):
        log(strangers[number % 3])
    assert len(caplog.records) == STRANGERS_PER_S
    for _ in range(300):
        log(ModelNotFoundError("no such model"))
    assert len(caplog.records) == STRANGERS_PER_S + 300
    now[0] += 1.0
    log(strangers[0])
    log(strangers[0])
    told = [getattr(record, "left_out", 0) for record in caplog.records[-2:]]
    assert told == [300 - STRANGERS_PER_S, 0]
