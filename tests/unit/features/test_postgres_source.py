"""What a PostgreSQL that hangs holds up: its own view, and half of the threads at most."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from typing_extensions import override

from fedpredict.errors import StateError
from fedpredict.features import postgres_source
from fedpredict.features.postgres_source import MOST_AT_ONCE, PostgresSource
from fedpredict.scoring.local_party import EXTRACTING_THREADS
from fedpredict.state.outside import OutsideTable
from fedpredict.warehouse.local_engine import MemoryEngine
from tests.raw_transactions import example


class Hanging(OutsideTable):
    """A table that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.answers = threading.Event()

    @override
    def rows(self, *_columns: object, **_where: object) -> Sequence[Sequence[object]]:
        self.asked.release()
        assert self.answers.wait(60)
        return ()


def test_a_server_that_hangs_leaves_threads_to_other_views(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Hanging()
    source = PostgresSource(table, example("transactions")[0].sources["tx"], "account", MemoryEngine())
    monkeypatch.setattr(postgres_source, "WAIT_S", 0.01)
    with ThreadPoolExecutor(EXTRACTING_THREADS) as pool:
        asking = [pool.submit(source.fetch, ["u"], 0) for _ in range(MOST_AT_ONCE)]
        for _ in asking:
            table.asked.acquire()

        with pytest.raises(StateError, match="raw_transactions has 8 questions to answer already"):
            pool.submit(source.fetch, ["u"], 0).result(60)

        table.answers.set()
        assert [each.result(60).num_rows for each in asking] == [0] * MOST_AT_ONCE
        assert pool.submit(source.fetch, ["u"], 0).result(60).num_rows == 0
    assert MOST_AT_ONCE < EXTRACTING_THREADS
