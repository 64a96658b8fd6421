"""Opening a mask session: the initiator carries the parties' signed public keys to each other (ADR 0045)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedpredict.errors import PartyRefusedError
from fedpredict.initiator.greeting import Acquaintance
from fedpredict.wire import codec
from fedpredict.wire.link_caller import LinkCall, LinkCaller, fail_lost
from fedpredict.wire.v1 import link_pb2, masking_pb2

OPEN_S = 5.0
"""Longest wait for one step of opening a session."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a session lives at one party: the process at the other end of a link."""

    who: Acquaintance
    link: LinkCaller


@dataclass(frozen=True, slots=True)
class Terms:
    """What a session is to be about.

    Attributes:
        session_id: 32 random bytes.
        manifest: The version of the model, as canonical JSON.
        parties: Everyone whose masks are in the sum, sorted.
        scale_bits: As in `FixedPoint`.
        lacking: The consent of each party that is left out.
    """

    session_id: bytes
    manifest: str
    parties: tuple[str, ...]
    scale_bits: int
    lacking: tuple[masking_pb2.MaskConsent, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """What came of opening a session.

    Attributes:
        lifetime_s: How many seconds it lasts.
        consents: By party, those of its parties that let sums lack them.
    """

    lifetime_s: float
    consents: Mapping[str, masking_pb2.MaskConsent]


async def open_session(places: Mapping[str, Place], terms: Terms) -> Opened:
    """Have all parties agree on a session, in two steps.

    Args:
        places: By party, all of them.
        terms: What it is to be about.

    Raises:
        PartyError: A party does not take part, is away, or slow.
    """
    shown = await asyncio.gather(*(_key(place, terms) for place in places.values()))
    others = {party: [each.key for each in shown if each.key.party != party] for party in places}
    lifetimes = await asyncio.gather(*(_keys(place, terms, others[party]) for party, place in places.items()))
    return Opened(float(min(lifetimes)), {each.key.party: each.consent for each in shown if each.HasField("consent")})


async def _key(place: Place, terms: Terms) -> masking_pb2.MaskKeyReply:
    request = masking_pb2.MaskKeyRequest(
        protocol_version=codec.PROTOCOL_VERSION,
        request_id=codec.new_request_id(),
        manifest=terms.manifest,
        session_id=terms.session_id,
        parties=terms.parties,
        scale_bits=terms.scale_bits,
        lacking=terms.lacking,
    )
    shown = (await _ask(place, link_pb2.Frame(mask_key=request))).mask_key_told
    party = place.who.party
    if shown.key.party != party:
        raise PartyRefusedError(f"party {party} showed the key of another party", party=party)
    return shown


async def _keys(place: Place, terms: Terms, keys: Sequence[masking_pb2.MaskKey]) -> int:
    request = masking_pb2.MaskKeysRequest(
        protocol_version=codec.PROTOCOL_VERSION,
        request_id=codec.new_request_id(),
        session_id=terms.session_id,
        keys=keys,
    )
    return (await _ask(place, link_pb2.Frame(mask_keys=request))).mask_keys_taken.lifetime_s


async def _ask(place: Place, frame: link_pb2.Frame) -> link_pb2.Frame:
    who = place.who

    def answered(call: LinkCall[link_pb2.Frame], frame: link_pb2.Frame) -> None:
        if frame.HasField("failure"):
            call.fail(who.no_share(frame.failure))
        else:
            call.set_result(frame)

    def lost(call: LinkCall[link_pb2.Frame], reason: str) -> None:
        fail_lost(call, reason, who.party)

    call = LinkCall(frame, asyncio.get_running_loop().time() + OPEN_S, answered, lost)
    place.link.start(call)
    return await call
