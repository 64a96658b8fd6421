"""Opening a mask session with parties whose answers are in the test's hands."""

from __future__ import annotations

import asyncio

import pytest

from fedpredict.errors import PartyRefusedError
from fedpredict.initiator.greeting import Acquaintance
from fedpredict.initiator.mask_session import SHORTEST_S, Place, Terms, open_session
from fedpredict.wire.link_caller import LinkCaller
from fedpredict.wire.v1 import link_pb2, masking_pb2
from tests.unit.wire.link_support import Hand

TERMS = Terms(b"s" * 32, "{}", ("lab", "shop"), 20)


def answers(party: str, frame: link_pb2.Frame, lifetime_s: int) -> bytes:
    """Return what a party says to a step of opening a session."""
    if frame.HasField("mask_key"):
        told = masking_pb2.MaskKeyReply(key=masking_pb2.MaskKey(party=party))
        return link_pb2.Frame(id=frame.id, mask_key_told=told).SerializeToString()
    taken = masking_pb2.MaskKeysReply(lifetime_s=lifetime_s)
    return link_pb2.Frame(id=frame.id, mask_keys_taken=taken).SerializeToString()


async def opened(**lifetimes_s: int) -> float:
    """Open a session with parties that keep it for so long."""
    hands = {party: Hand() for party in lifetimes_s}
    links = {party: LinkCaller(party, hand, changed=lambda _: None) for party, hand in hands.items()}
    places = {party: Place(Acquaintance(party, None), link) for party, link in links.items()}
    opening = asyncio.ensure_future(open_session(places, TERMS))
    while not opening.done():
        await asyncio.sleep(0)
        for party, hand in hands.items():
            for frame in hand.take():
                links[party].received(answers(party, frame, lifetimes_s[party]))
    return (await opening).lifetime_s


async def test_a_session_lasts_as_long_as_every_party_keeps_it() -> None:
    assert await opened(lab=3600, shop=SHORTEST_S) == SHORTEST_S


@pytest.mark.parametrize("lifetime_s", [0, SHORTEST_S - 1])
async def test_a_session_that_would_be_opened_anew_with_every_question_is_refused(lifetime_s: int) -> None:
    with pytest.raises(PartyRefusedError, match=f"party shop keeps .* for {lifetime_s} s alone") as raised:
        await opened(lab=3600, shop=lifetime_s)
    assert raised.value.party == "shop"
