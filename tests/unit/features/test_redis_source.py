"""What a Redis that hangs holds up: its own view, and half of the threads at most."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from typing_extensions import override

from fedpredict.errors import ModelNotReadyError
from fedpredict.features import redis_source
from fedpredict.features.redis_connection import RedisAddress, RedisConnection, Word
from fedpredict.features.redis_source import MOST_AT_ONCE, RedisSource
from fedpredict.scoring.local_party import EXTRACTING_THREADS
from tests.raw_transactions import example


class Hanging(RedisConnection):
    """A server that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(RedisAddress(url="redis://127.0.0.1:1"))
        self.asked = threading.Semaphore(0)
        self.may_answer = threading.Event()

    @override
    def answers(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        self.asked.release()
        assert self.may_answer.wait(60)
        return [[] for _ in commands]


def test_a_server_that_hangs_leaves_threads_to_other_views(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Hanging()
    source = RedisSource(server, example("transactions")[0].sources["tx"], "account", prefix="tx:", window=None)
    monkeypatch.setattr(redis_source, "WAIT_S", 0.01)
    with ThreadPoolExecutor(EXTRACTING_THREADS) as pool:
        asking = [pool.submit(source.fetch, ["u"], 0) for _ in range(MOST_AT_ONCE)]
        for _ in asking:
            server.asked.acquire()

        with pytest.raises(ModelNotReadyError, match="has 8 questions of tx: to answer already"):
            pool.submit(source.fetch, ["u"], 0).result(60)

        server.may_answer.set()
        assert [each.result(60).num_rows for each in asking] == [0] * MOST_AT_ONCE
        assert pool.submit(source.fetch, ["u"], 0).result(60).num_rows == 0
    assert MOST_AT_ONCE < EXTRACTING_THREADS
    source.close()
