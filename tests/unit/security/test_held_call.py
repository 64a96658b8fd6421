"""A call that goes on for long, and whose caller may have it no more."""

from __future__ import annotations

import asyncio

import pytest

from fedpredict.errors import CertificateRefusedError, ModelNotFoundError
from fedpredict.security import held_call
from fedpredict.security.held_call import HeldCall


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_call, "LOOK_S", 0.001)


class Looked:
    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self) -> None:
        self.times -= 1
        if self.times < 0:
            raise ModelNotFoundError("its rule is gone")


async def test_the_block_ends_with_what_the_look_says() -> None:
    held, cleaned_up = HeldCall(Looked(3)), []

    async def call() -> None:
        async with held.within():
            try:
                await asyncio.sleep(30.0)
            finally:
                cleaned_up.append(True)

    with pytest.raises(ModelNotFoundError) as raised:
        await call()
    assert (raised.value, cleaned_up) == (held.refused, [True])


async def test_a_certificate_that_is_refused_ends_it_at_once_and_the_first_reason_stays() -> None:
    held = HeldCall(Looked(1_000_000))

    async def call() -> None:
        async with held.within():
            held.close("denied")
            held.close("revoked")
            await asyncio.sleep(30.0)

    with pytest.raises(CertificateRefusedError, match="denied"):
        await call()


async def test_what_was_closed_before_does_not_begin() -> None:
    held = HeldCall(Looked(1_000_000))
    held.close("denied")
    with pytest.raises(CertificateRefusedError):
        async with held.within():
            pytest.fail("it has begun")


async def test_what_ends_by_itself_is_left_alone_later() -> None:
    held = HeldCall(Looked(1_000_000))
    async with held.within():
        await asyncio.sleep(0)
    held.close("denied")
    await asyncio.sleep(0.01)


async def test_a_caller_that_leaves_and_another_s_time_limit_are_no_refusals() -> None:
    async def call() -> None:
        async with HeldCall(Looked(1_000_000)).within():
            await asyncio.sleep(30.0)

    task = asyncio.create_task(call())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with HeldCall(Looked(1_000_000)).within():
            raise TimeoutError
