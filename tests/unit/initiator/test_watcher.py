"""What a worker takes over of pins while others pin, and while it reads them from a slow database."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest
from typing_extensions import override

from fedpredict.errors import ModelNotReadyError
from fedpredict.initiator.catalogue import Catalogue
from fedpredict.initiator.settings import ModelSettings
from fedpredict.initiator.watcher import Watcher
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest, PartDescription, build_manifest
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.state.base import Offer, Pin, PinStore
from fedpredict.state.sql import open_pin_store

LAB = PartDescription(
    party="lab",
    model_id="m",
    params_sha256="a" * 64,
    training_run="run-1",
    kind=Kind.LINEAR,
    link=own_link(Kind.LINEAR),
    classes=(),
    n_scores=1,
    holds_intercept=False,
    fit_intercept=False,
)
PINNED = build_manifest({"lab": LAB})
LONG_S = 60.0
"""Nothing in these tests waits for the next regular look."""


class WatchedStore(PinStore):
    """A real store that says when pins were read, and can be slow to hand over what it read first."""

    def __init__(self, store: PinStore) -> None:
        self.n_read = 0
        self.slow = threading.Event()
        self.slow.set()
        self._store = store

    @override
    def pins(self) -> Mapping[str, tuple[Pin, ...]]:
        found = self._store.pins()
        self.n_read += 1
        if self.n_read == 1:
            assert self.slow.wait(LONG_S)
        return found

    @override
    def pin(self, manifest: Manifest, *, by: str, replaces: str | None) -> Pin:
        return self._store.pin(manifest, by=by, replaces=replaces)

    @override
    def offer(self, model_id: str, manifest: Manifest | None, problem: str = "") -> Offer:
        return self._store.offer(model_id, manifest, problem)

    @override
    def offers(self) -> Mapping[str, Offer]:
        return self._store.offers()

    @override
    def close(self) -> None:
        self._store.close()


class Lab(PartyScorer):
    """Describes its part, once what has to come before has come."""

    def __init__(self, before: Callable[[], Awaitable[object]]) -> None:
        self._before = before

    @property
    @override
    def party(self) -> str:
        return "lab"

    @override
    async def describe(self, model_id: str, *, deadline_s: float) -> PartDescription:
        await self._before()
        return LAB

    @override
    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:
        raise ModelNotReadyError(query.model_id)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WatchedStore]:
    opened = WatchedStore(open_pin_store("sqlite:///state.db", tmp_path, None))
    yield opened
    opened.close()


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue({"m": ModelSettings(parties=("lab",))})


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not found():
            await asyncio.sleep(0.005)


async def test_what_was_read_before_a_pin_never_takes_it_back(store: WatchedStore, catalogue: Catalogue) -> None:
    watcher = Watcher(catalogue, {}, store, poll_s=LONG_S)
    store.slow.clear()
    first = asyncio.create_task(watcher.read_pins())
    await until(lambda: store.n_read == 1)
    store.pin(PINNED, by="another", replaces=None)

    second = asyncio.create_task(watcher.read_pins())
    await asyncio.wait({second}, timeout=0.1)  # it may be waiting for the first, or not
    store.slow.set()
    await asyncio.gather(first, second)

    assert catalogue.pin_of("m") == PINNED


async def test_a_pin_of_a_worker_beside_this_one_is_taken_over_at_once(
    store: WatchedStore, catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    async def pinned_meanwhile() -> None:
        await until(lambda: store.n_read == 2)  # at the start, and as a regular look: the next of these is far off
        store.pin(PINNED, by="another", replaces=None)

    watcher = Watcher(catalogue, {"lab": Lab(pinned_meanwhile)}, store, poll_s=LONG_S)
    with caplog.at_level(logging.WARNING):
        async with watcher.running():
            await until(lambda: catalogue.pin_of("m") is not None)

    assert catalogue.answerable("m") == PINNED
    assert caplog.records == []
