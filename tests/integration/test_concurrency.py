"""Many predictions at the same time, some of them given up: every answer is its own, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from fedpredict.client import AsyncClient
from fedpredict.model.share import SampleStatus
from fedpredict.security.identity import IdentityKind
from tests.integration.federation import Certificates, Federation, eventually

N_CALLS = 200
IDS = [f"u{number}" for number in range(50)]


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    async with Federation(tmp_path, Certificates(tmp_path / "certificates")) as federation:
        yield federation


async def test_many_calls_at_once_are_each_answered_and_cancelled_ones_leave_nothing(federation: Federation) -> None:
    numbers = {each.encode(): [float(number)] for number, each in enumerate(IDS)}
    await federation.party("lab", numbers, np.array([[2.0]]))
    await federation.party("shop", numbers, np.array([[0.5]]))
    await federation.initiator({"m": {"parties": ["lab", "shop"]}})
    await federation.ready()
    client = AsyncClient(
        federation.address, server_party="bank", tls=federation.certificates.of("desk", IdentityKind.CLIENT)
    )
    async with client:
        # several at once, so that the client's standing stream is open before anything is counted
        await asyncio.gather(*(client.predict("m", IDS) for _ in range(20)))
        at_rest = len(asyncio.all_tasks())

        async def ask(call: int) -> None:
            own = [(call + step) % len(IDS) for step in range(1 + call % 7)]
            predictions = await client.predict("m", [*(IDS[number] for number in own), "nobody"])
            assert predictions.values[:-1, 0].tolist() == [2.5 * number for number in own]
            assert predictions.status[-1] == SampleStatus.NOT_FOUND

        calls = [asyncio.create_task(ask(call)) for call in range(N_CALLS)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        given_up = [call for call in calls[::-3] if call.cancel()]
        await asyncio.gather(*(call for call in calls if call not in given_up))
        await asyncio.gather(*given_up, return_exceptions=True)
        assert given_up
        assert all(call.cancelled() for call in given_up)

        async def is_at_rest() -> bool:
            # the watcher's looks at the parties come and go
            return len(asyncio.all_tasks()) <= at_rest

        await eventually(is_at_rest)
