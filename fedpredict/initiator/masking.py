"""Masked sums at the initiator: sessions between the parties' processes, and rounds that all of them take part in.

A session lives in one process of each party, so that the initiator keeps groups of links, one link to each party, and
opens a session for each version of a model in a group. A round is asked of all parties over the links of one group, or
of none; no question of it is ever asked again (ADR 0045).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

from fedpredict.errors import FedPredictError, MaskingRefusedError, PartyRefusedError, PartyUnavailableError
from fedpredict.initiator.fanout import RemoteParty
from fedpredict.initiator.mask_asking import Asked, asked_bucket, asked_share, failed, pass_on
from fedpredict.initiator.mask_consents import KeptConsents
from fedpredict.initiator.mask_session import Opened, Place, Terms, open_session
from fedpredict.model.fixed_point import FixedPoint
from fedpredict.model.manifest import Manifest, manifest_to_json
from fedpredict.model.populations import BucketAnswer, BucketQuery
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.wire.link_caller import LinkCall, LinkCaller, fail_lost
from fedpredict.wire.masked_codec import SESSION_ID_BYTES, RoundRef
from fedpredict.wire.v1 import link_pb2

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""So long a session that could not be opened is not tried again."""
FRESH = 0.8
"""The part of its lifetime that a session is used for."""

_T = TypeVar("_T")
Replies: TypeAlias = "dict[str, asyncio.Future[_T]]"


@dataclass(slots=True, eq=False)
class _Session:
    """A session of a group, for one version of a model; usable once `opened` has a result.

    Attributes:
        session_id: Random.
        opened: Ends when all parties have agreed, or why they have not.
        ends: In the loop's time: when another one is opened.
    """

    session_id: bytes
    opened: asyncio.Task[Opened]
    ends: float

    @property
    def is_open(self) -> bool:
        return self.opened.done() and self.error is None

    @property
    def error(self) -> BaseException | None:
        """Why it was not opened; only once `opened` is done."""
        return asyncio.CancelledError() if self.opened.cancelled() else self.opened.exception()


@dataclass(slots=True, eq=False)
class _Group:
    """One link to each party, and the sessions between the processes at their ends."""

    links: Mapping[str, LinkCaller]
    sessions: dict[str, _Session] = field(default_factory=dict)
    """By `manifest_sha256`."""
    numbers: count[int] = field(default_factory=lambda: count(1))
    """Of rounds: each is used once, in all sessions together, and sent in this order."""

    @property
    def usable(self) -> bool:
        return all(link.usable for link in self.links.values())


class MaskedSums:
    """The sessions of this process, with every set of parties that it asks for masked shares. Used from one thread."""

    def __init__(self, scorers: Mapping[str, PartyScorer]) -> None:
        """Prepare, without a session.

        Args:
            scorers: By party; those in this process mask nothing.
        """
        self._remotes = {party: each for party, each in scorers.items() if isinstance(each, RemoteParty)}
        self._groups: dict[tuple[LinkCaller, ...], _Group] = {}
        self._turn = 0
        self._sending: set[asyncio.Task[None]] = set()
        """The loop itself keeps weak references to tasks only."""
        self._loop = asyncio.get_running_loop()
        self.consents = KeptConsents()

    def of(self, manifest: Manifest, scale_bits: int, may_lack: Collection[str] = ()) -> MaskedSum:
        """Return how shares of a model are asked for and added up.

        Args:
            manifest: The version of the model.
            scale_bits: As in `FixedPoint`.
            may_lack: The parties without which a sum is of use; two others are left at least.
        """
        parties = tuple(party for party in manifest.parties if party in self._remotes)
        return MaskedSum(self, parties, FixedPoint(scale_bits, len(parties)), frozenset(may_lack))

    def ask(
        self, total: MaskedSum, manifests: Sequence[Manifest], asked_of: Mapping[str, Asked[_T]], deadline_s: float
    ) -> Replies[_T]:
        """Ask every party of a sum, in one round.

        Args:
            total: The sum.
            manifests: Of the models that are asked for, in order.
            asked_of: By party, what it is asked.
            deadline_s: How long the caller waits.

        Returns:
            By party, the future of its masked share. Where one party cannot be asked, none is.
        """
        ends = self._loop.time() + deadline_s
        try:
            self.check(total.parties)
            group = self._group(total.parties)
            sessions = [self._session(group, manifest, total) for manifest in manifests]
        except FedPredictError as error:
            return {party: failed(error) for party in asked_of}
        asked = _Round(self, group, manifests, asked_of, ends)
        if all(session.is_open for session in sessions):
            asked.send(sessions)
        else:
            sending = asked.send_when_open(sessions)
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        return asked.replies

    def check(self, parties: Iterable[str]) -> None:
        """Raise `PartyLimitedError` while a party takes no calls: a round without it would be lost on the others."""
        for party in parties:
            self._remotes[party].pacing.check()

    def forget(self, group: _Group, manifest: Manifest) -> None:
        """End a session that a party does not know any more; the next round opens another one."""
        group.sessions.pop(manifest.manifest_sha256, None)

    def remote(self, party: str) -> RemoteParty:
        """Return a party at another organisation."""
        return self._remotes[party]

    def away(self, parties: Iterable[str]) -> set[str]:
        """Return those parties to which there is no link now."""
        pools = {party: self._remotes[party].pool for party in parties}
        return {party for party, pool in pools.items() if not (pool.masking or pool.carriers)}

    def _group(self, parties: tuple[str, ...]) -> _Group:
        """Return the next group of links to these parties; raise `PartyError` where one has none that masks."""
        by_party = [self._links(party) for party in parties]
        ranks = max(map(len, by_party))
        self._turn += 1
        links = tuple([links[self._turn % ranks % len(links)] for links in by_party])
        group = self._groups.get(links)
        if group is None:
            self._groups = {key: each for key, each in self._groups.items() if each.usable}
            group = self._groups[links] = _Group(dict(zip(parties, links, strict=True)))
        return group

    def _links(self, party: str) -> tuple[LinkCaller, ...]:
        pool = self._remotes[party].pool
        if pool.masking:
            return pool.masking
        if pool.carriers:
            raise PartyRefusedError(
                f"party {party} masks no shares (masked_sums is not in its hello): it needs [masked] in its settings, "
                "or a newer release",
                party=party,
            )
        raise PartyUnavailableError(f"party {party}: no link, which masked sums need", party=party)

    def _session(self, group: _Group, manifest: Manifest, total: MaskedSum) -> _Session:
        """Return the session of a model, opened or being opened.

        One that could not be opened a moment ago is returned as it is, and its error is every asker's.
        """
        session = group.sessions.get(manifest.manifest_sha256)
        if session is not None and self._loop.time() < session.ends:
            return session
        session_id = secrets.token_bytes(SESSION_ID_BYTES)
        places = {party: Place(self._remotes[party].who, link) for party, link in group.links.items()}
        lacking = self.consents.of(manifest.manifest_sha256, total.lacking) or ()
        terms = Terms(session_id, manifest_to_json(manifest), total.parties, total.fixed.scale_bits, lacking)
        opening = asyncio.ensure_future(open_session(places, terms))
        session = _Session(session_id, opening, float("inf"))
        group.sessions[manifest.manifest_sha256] = session
        opening.add_done_callback(partial(self._opened, session, manifest, total))
        return session

    def _opened(self, session: _Session, manifest: Manifest, total: MaskedSum, opening: asyncio.Task[Opened]) -> None:
        now = self._loop.time()
        if session.error is not None:
            session.ends = now + RETRY_S
            extra = {"model": manifest.model_id, "reason": str(session.error), "lacking": total.lacking}
            logger.warning("masking.not_opened", extra=extra)
            return
        opened = opening.result()
        session.ends = now + FRESH * opened.lifetime_s
        self.consents.keep(manifest.manifest_sha256, total.parties, opened.consents)
        extra = {"model": manifest.model_id, "manifest": manifest.manifest_sha256, "lacking": total.lacking}
        logger.info("masking.opened", extra=extra)


@dataclass(frozen=True, slots=True, eq=False)
class MaskedSum:
    """How the shares of a model are added up without being seen.

    Attributes:
        sums: Has the sessions.
        parties: Whose shares are masked: every party of the model but this initiator and those of `lacking`, sorted.
        fixed: How shares become words.
        may_lack: The parties without which a sum is of use.
        lacking: Those that are left out, by their consent.
    """

    sums: MaskedSums
    parties: tuple[str, ...]
    fixed: FixedPoint
    may_lack: frozenset[str] = frozenset()
    lacking: tuple[str, ...] = ()

    def present(self, manifest: Manifest) -> MaskedSum:
        """Return the sum without the parties that are away now, if it may lack them; else this one."""
        if not self.may_lack:
            return self
        return self.without(self.sums.away(self.parties), manifest) or self

    def without(self, away: Collection[str], manifest: Manifest) -> MaskedSum | None:
        """Return the sum without parties that are away; None where it may not lack them all, or lacks them already.

        Whether the other parties consent as well shows when they are asked.

        Args:
            away: Which.
            manifest: The version of the model that is asked for.
        """
        lacking = tuple(sorted({*self.lacking, *away}))
        if lacking == self.lacking or not self.may_lack.issuperset(lacking):
            return None
        if self.sums.consents.of(manifest.manifest_sha256, lacking) is None:
            return None
        parties = tuple(party for party in self.parties if party not in lacking)
        fixed = FixedPoint(self.fixed.scale_bits, len(parties))
        return replace(self, parties=parties, fixed=fixed, lacking=lacking)

    def ask(
        self, manifests: Sequence[Manifest], queries: Mapping[str, ScoreQuery], deadline_s: float
    ) -> Replies[PartyReply]:
        """Ask for shares, in one round; see `MaskedSums.ask`.

        Args:
            manifests: Of the models that are asked for, in order.
            queries: By party.
            deadline_s: How long the caller waits.
        """
        asked_of = {party: asked_share(self.sums.remote(party).who, queries[party]) for party in self.parties}
        return self.sums.ask(self, manifests, asked_of, deadline_s)

    def ask_bucket(
        self, manifest: Manifest, queries: Mapping[str, BucketQuery], deadline_s: float
    ) -> Replies[BucketAnswer]:
        """Ask for shares of rows of a bucket, in one round; see `MaskedSums.ask`.

        Args:
            manifest: Of the model.
            queries: By party.
            deadline_s: How long the caller waits.
        """
        asked_of = {party: asked_bucket(self.sums.remote(party).who, queries[party]) for party in self.parties}
        return self.sums.ask(self, (manifest,), asked_of, deadline_s)


class _Round(Generic[_T]):
    """The questions of one round: sent in one go, over the links of one group."""

    def __init__(
        self,
        sums: MaskedSums,
        group: _Group,
        manifests: Sequence[Manifest],
        asked_of: Mapping[str, Asked[_T]],
        ends: float,
    ) -> None:
        self._sums = sums
        self._group = group
        self._manifests = manifests
        self._asked_of = asked_of
        self._ends = ends
        self.replies: Replies[_T] = {}

    def send(self, sessions: Sequence[_Session]) -> None:
        """Ask all parties now: nothing can come between, so that each gets the rounds in the same order."""
        number = next(self._group.numbers)
        rounds = [RoundRef(session.session_id, number) for session in sessions]
        for party, asked in self._asked_of.items():
            answered = partial(self._answered, asked)
            frame = link_pb2.Frame()
            asked.fill(frame, rounds)
            call: LinkCall[_T] = LinkCall(frame, self._ends, answered, partial(self._lost, party))
            self.replies[party] = call
            self._group.links[party].start(call)

    def send_when_open(self, sessions: Sequence[_Session]) -> asyncio.Task[None]:
        """Ask all parties when the sessions are open; where one is not opened, its error is every party's."""
        waiting: Replies[_T] = {party: asyncio.get_running_loop().create_future() for party in self._asked_of}
        self.replies = dict(waiting)
        return asyncio.ensure_future(self._send_later(sessions, waiting))

    async def _send_later(self, sessions: Sequence[_Session], waiting: Replies[_T]) -> None:
        await asyncio.wait([session.opened for session in sessions])
        if all(future.done() for future in waiting.values()):
            return  # nobody waits any more
        error = next((each for session in sessions if (each := session.error) is not None), None)
        if error is None:
            try:
                self._sums.check(self._asked_of)  # another round may have been told to come back later
                self.send(sessions)
            except FedPredictError as limited:
                error = limited
        for party, future in waiting.items():
            pass_on(self.replies[party] if error is None else failed(error), future)

    def _answered(self, asked: Asked[_T], call: LinkCall[_T], frame: link_pb2.Frame) -> None:
        if frame.HasField("failure"):
            error = asked.who.no_share(frame.failure)
            self._sums.remote(asked.who.party).pacing.note(error)
            self._forget(error)
            call.fail(error)
            return
        try:
            reply = asked.read(frame)
        except FedPredictError as error:
            call.fail(error)
            return
        if isinstance(reply, PartyReply):  # of a bucket there is one model, which has a share or not
            for place, failure in reply.failures.items():
                self._forget(failure, self._manifests[place : place + 1])
        call.set_result(reply)

    def _forget(self, error: FedPredictError, manifests: Sequence[Manifest] = ()) -> None:
        # anything else that a party refuses, such as a mode, it refuses in a new session as well
        if isinstance(error.__cause__, MaskingRefusedError):
            for manifest in manifests or self._manifests:
                self._sums.forget(self._group, manifest)

    @staticmethod
    def _lost(party: str, call: LinkCall[Any], reason: str) -> None:
        # never sent again: its round's number is used up, and the other parties' masks are of this round
        fail_lost(call, reason, party)
