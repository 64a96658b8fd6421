"""A participant's end of masked sums: which models it masks, its sessions, and the words that leave (ADR 0045)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedpredict.errors import (
    FedPredictError,
    ManifestMismatchError,
    MaskingRefusedError,
    ModelNotFoundError,
    ProtocolError,
)
from fedpredict.model.arrays import Statuses
from fedpredict.model.fixed_point import MaskedWords
from fedpredict.model.ids import check_model_id
from fedpredict.model.manifest import Manifest, PartDescription, manifest_from_json
from fedpredict.model.populations import BucketQuery
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import ModelRef, PartyReply, ScoreQuery
from fedpredict.model.several import rows_of_models
from fedpredict.model.share import Share
from fedpredict.observe.logs import add_log_context
from fedpredict.participant.audited import CallAudit
from fedpredict.participant.mask_consents import Lack, consent_to_wire, consents_from_wire, may_lack
from fedpredict.participant.mask_sessions import HeldSession, HeldSessions
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.settings import MaskedSettings
from fedpredict.security.callers import hold
from fedpredict.security.entrance import Entrance
from fedpredict.security.identity import Identity
from fedpredict.security.live import LiveTls, as_live
from fedpredict.security.mask_consent import ConsentTerms, SignedConsent
from fedpredict.security.masking import MaskSession, MaskTerms, SignedKey, pair_key, rows_digest, sign_key, verify_key
from fedpredict.security.policy import Needs
from fedpredict.security.tls import TlsFiles
from fedpredict.wire import codec, masked_codec
from fedpredict.wire.masked_codec import RoundRef
from fedpredict.wire.v1 import link_pb2, masking_pb2

logger = logging.getLogger(__name__)

Describe: TypeAlias = Callable[[str, str], PartDescription]
"""(model id, this party's digest) -> its part; raises `ManifestMismatchError` for one that is not loaded."""

MAX_MANIFEST = 1024 * 1024
"""In characters: 10,000 classes of 100 fit."""


class Masking:
    """Masks the shares of the models under `[masked]`, and lets none of them leave without."""

    def __init__(
        self,
        party: str,
        settings: Mapping[str, MaskedSettings],
        policy: CallerPolicy,
        tls: TlsFiles | LiveTls | None,
        describe: Describe,
        *,
        audit: CallAudit | None = None,
        now: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare, without a session.

        Args:
            party: This party.
            settings: By model id, with whose masks.
            policy: Who may ask for what.
            tls: What public keys are signed with, and held to; None in plain text, where nothing is masked.
            describe: Tells what a part is that is loaded.
            audit: Writes calls down; default: nothing does.
            now: The monotonic clock, in seconds.
            clock: Seconds since 1970, for consents.
        """
        self._clock = clock
        self._party = party
        self._settings = settings
        self._policy = policy
        self._tls = as_live(tls)
        self._describe = describe
        self._audit = audit or CallAudit(None)
        self._entrance = Entrance(policy, self._audit)
        self._held = HeldSessions(now)

    @property
    def models(self) -> Collection[str]:
        """The models whose shares leave masked, or not at all."""
        return self._settings.keys()

    @property
    def offered(self) -> bool:
        """Whether there is any."""
        return bool(self._settings) and self._tls is not None

    async def answer(self, frame: link_pb2.Frame, caller: Identity, link: object) -> link_pb2.Frame:
        """Answer a frame that is a step of opening a session, on a link that the session ends with."""
        if frame.HasField("mask_key"):
            return link_pb2.Frame(mask_key_told=await self.key(frame.mask_key, caller, link))
        return link_pb2.Frame(mask_keys_taken=await self.keys(frame.mask_keys, caller))

    def end(self, link: object) -> None:
        """End the sessions that were opened on a link, which is gone."""
        self._held.end(link)

    async def key(
        self, request: masking_pb2.MaskKeyRequest, caller: Identity, link: object
    ) -> masking_pb2.MaskKeyReply:
        """Begin a session, which ends with the link: make a key pair, and show the public key, signed.

        Raises:
            ModelNotFoundError: No such model, or not this caller's.
            MaskingRefusedError: The session is not one that this party's settings name, or lacks a party that has not
                consented to it.
        """
        with self._entrance.refusals("MaskKey", caller, Needs.RULE):
            codec.check_protocol_version(request.protocol_version)
            request_id, manifest = codec.check_request_id(request.request_id), _manifest(request.manifest)
        model_id = manifest.model_id
        add_log_context(request_id=request_id, model=model_id)
        try:
            self._audit.check()
            self._policy.look_up(caller, model_id)
            terms = self._terms(request, manifest, caller)
            key, consent = await self._begin(terms, self._lack(request, terms, model_id), manifest, link)
        except BaseException as error:
            self._audit.other("MaskKey", caller, request_id, model_id, error)
            raise
        self._audit.other("MaskKey", caller, request_id, model_id, None)
        await self._audit.safe()
        return masking_pb2.MaskKeyReply(request_id=request_id, key=_key_to_wire(key), consent=consent_to_wire(consent))

    async def keys(self, request: masking_pb2.MaskKeysRequest, caller: Identity) -> masking_pb2.MaskKeysReply:
        """Go on with a session: take the others' public keys, and derive a key for each.

        Raises:
            MaskingRefusedError: There is no such session of this caller that waits for keys; or they are not those of
                the session's parties, each signed by its own party, whose certificate is good here.
        """
        with self._entrance.refusals("MaskKeys", caller, Needs.RULE):
            codec.check_protocol_version(request.protocol_version)
            request_id = codec.check_request_id(request.request_id)
        model_id = ""
        try:
            self._audit.check()
            self._policy.admit(caller, Needs.RULE)
            held, private_key = self._held.waiting(masked_codec.session_id_from_wire(request.session_id), caller)
            model_id = held.version.model_id
            add_log_context(request_id=request_id, model=model_id)
            others = {each.party: _key_from_wire(each) for each in request.keys}
            held.session = await asyncio.to_thread(self._agree, held.terms, private_key, others)
            for other in others.values():
                hold(self._tls, held, other.chain_pem)
        except BaseException as error:
            self._audit.other("MaskKeys", caller, request_id, model_id, error)
            raise
        self._audit.other("MaskKeys", caller, request_id, model_id, None)
        await self._audit.safe()
        logger.info("masking.agreed", extra={"parties": held.terms.parties})
        return masking_pb2.MaskKeysReply(request_id=request_id, lifetime_s=held.lifetime_s)

    @property
    def _live(self) -> LiveTls:
        if self._tls is None:
            raise MaskingRefusedError("masked sums need TLS: keys are signed", problem="this party has no certificate")
        return self._tls

    def _terms(self, request: masking_pb2.MaskKeyRequest, manifest: Manifest, caller: Identity) -> MaskTerms:
        """Return what a session is to be about; raise `MaskingRefusedError` where the settings say otherwise."""
        parties, model_id = masked_codec.check_names(request.parties), manifest.model_id
        wanted = self._settings.get(model_id)
        if wanted is None:
            raise MaskingRefusedError(
                f"{caller} wants masked sums of model {model_id}, which is not under [masked]",
                problem="this party masks no shares of this model",
            )
        self._check_part(manifest)
        whole = {self._party, *wanted.parties} == set(manifest.parties) - {caller.name}
        if not (whole and may_lack(self._party, wanted, parties)):
            raise MaskingRefusedError(
                f"{caller} wants a masked sum of {', '.join(parties)} for a model of {', '.join(manifest.parties)}; "
                f"masked.{model_id}.parties says {', '.join(sorted(wanted.parties))}, "
                f"may_lack says {', '.join(wanted.may_lack) or 'nobody'}",
                problem="the sum is of other parties than this party's settings name",
            )
        if request.scale_bits != wanted.scale_bits:
            raise MaskingRefusedError(
                f"{caller} wants scale_bits = {request.scale_bits}; masked.{model_id} says {wanted.scale_bits}",
                problem=f"the scale must be 2^{wanted.scale_bits}",
            )
        return MaskTerms(
            session_id=masked_codec.session_id_from_wire(request.session_id),
            manifest_sha256=manifest.manifest_sha256,
            initiator=caller.name,
            parties=parties,
            scale_bits=wanted.scale_bits,
        )

    def _check_part(self, manifest: Manifest) -> None:
        """Raise unless this party's part is in the manifest, is of its training run, and is added to the others.

        An initiator could make a manifest up, and learn by the difference of two sums what two versions of one party's
        part differ in; parts of one run are one version each.
        """
        part = self._describe(manifest.model_id, dict(manifest.digests).get(self._party, ""))
        if part.combination is not None:
            raise MaskingRefusedError(
                f"model {manifest.model_id}: its shares are {part.combination}, and are not added up",
                problem="shares of this model are not added up",
            )
        if part.training_run != manifest.training_run or manifest.combination is not None:
            raise ManifestMismatchError(
                f"model {manifest.model_id}: the manifest is of training run {manifest.training_run[:100]!r}, and the "
                f"part with the digest in it is of {part.training_run!r}"
            )

    def _lack(self, request: masking_pb2.MaskKeyRequest, terms: MaskTerms, model_id: str) -> Lack:
        """Return whom the sum lacks; raise `MaskingRefusedError` unless a consent of each comes with the request."""
        wanted = self._settings[model_id]
        everyone = {self._party, *wanted.parties}
        return Lack(
            terms=ConsentTerms(
                manifest_sha256=terms.manifest_sha256, initiator=terms.initiator, parties=tuple(sorted(everyone))
            ),
            consents=consents_from_wire(request.lacking, everyone.difference(terms.parties)),
            gives=self._party in wanted.may_lack,
        )

    async def _begin(
        self, terms: MaskTerms, lack: Lack, manifest: Manifest, link: object
    ) -> tuple[SignedKey, SignedConsent | None]:
        live, private_key, now = self._live, X25519PrivateKey.generate(), self._clock()
        version = ModelRef(manifest.model_id, manifest.manifest_sha256, manifest.digest_of(self._party))
        lifetime_s = await asyncio.to_thread(lack.check, live, now)
        held = HeldSession(terms.initiator, version, terms, link, private_key, lifetime_s=lifetime_s)
        self._held.begin(held)
        if lack.consents:
            lacking = [consent.party for consent in lack.consents]
            logger.info("masking.smaller", extra={"parties": terms.parties, "lacking": lacking})
        for consent in lack.consents:
            live.hold(held, consent.chain_pem)
        public_key = private_key.public_key().public_bytes_raw()

        def signed() -> tuple[SignedKey, SignedConsent | None]:
            return sign_key(live, terms, public_key), lack.own(live, now)

        return await asyncio.to_thread(signed)

    def _agree(self, terms: MaskTerms, private_key: X25519PrivateKey, others: Mapping[str, SignedKey]) -> MaskSession:
        if set(others) != set(terms.parties) - {self._party}:
            raise MaskingRefusedError(
                f"keys of {', '.join(sorted(others)) or 'nobody'} for a sum of {', '.join(terms.parties)}",
                problem="keys of other parties than the sum's",
            )
        for other in others.values():
            verify_key(self._live, terms, other)
        keys = {
            party: pair_key(private_key, self._party, party, other.public_key, terms) for party, other in others.items()
        }
        return MaskSession(terms, self._party, keys)

    def admit(
        self, caller: Identity, model: ModelRef | ScoreQuery | BucketQuery, place: RoundRef | None
    ) -> MaskSession | None:
        """Return the session that a question for shares belongs to, and use its round up; None: nothing is masked.

        Args:
            caller: Who asks.
            model: What for.
            place: Its place in a session; None where it asks for shares without masks.

        Raises:
            MaskingRefusedError: Shares of the model leave masked alone; or there is no such session of this caller and
                version; or the round is not higher than those before it.
        """
        if place is None:
            if model.model_id in self._settings:
                told = f"{caller} asked for bare shares of model {model.model_id}, which is under [masked]"
                raise MaskingRefusedError(told, problem="shares of this model are given masked alone")
            return None
        agreed, session = self._held.agreed(place.session_id, caller)
        asked = (model.model_id, model.manifest_sha256, model.params_sha256)
        if asked != (agreed.model_id, agreed.manifest_sha256, agreed.params_sha256):
            told = f"{caller} asked for model {model.model_id} in a mask session of another version or model"
            raise MaskingRefusedError(told, problem="no such session")
        session.begin(place.round_number)
        return session

    def masked(
        self, query: ScoreQuery, reply: PartyReply, sessions: Sequence[MaskSession | None], rounds: Sequence[RoundRef]
    ) -> PartyReply:
        """Return a reply whose share is masked words; reasons are left out, as they tell of the share.

        Args:
            query: The question.
            reply: The answer without masks.
            sessions: Of each model; None where the caller has none, and so no share.
            rounds: Of each model.
        """
        ids, values = SampleIds.of(query.sample_ids), reply.share.values
        if not query.further and sessions[0] is not None:
            digest = rows_digest(query.mode, query.epoch, ids)
            lone, status = sessions[0].mask(values, reply.share.status, rounds[0].round_number, digest)
            return _covered(reply, status, lone)
        status = reply.share.status.copy()
        words, checks = np.zeros(values.shape, dtype=np.uint64), np.zeros(len(rounds), dtype=np.uint64)
        for place, (session, ref, rows) in enumerate(zip(sessions, rounds, rows_of_models(query), strict=True)):
            if session is None:
                continue
            digest = rows_digest(query.mode, query.epoch, ids.cut(rows.start, rows.stop))
            own, status[rows] = session.mask(values[rows], status[rows], ref.round_number, digest)
            words[rows], checks[place] = own.words, own.checks[0]
        return _covered(reply, status, MaskedWords(words, checks))

    @staticmethod
    def masked_bucket(
        query: BucketQuery, ids: SampleIds, reply: PartyReply, session: MaskSession, place: RoundRef
    ) -> PartyReply:
        """Return a reply whose share of rows of a bucket is masked words.

        Args:
            query: The question.
            ids: The rows' ids.
            reply: The answer without masks.
            session: The model's, in which the round was begun.
            place: The round.
        """
        digest = rows_digest(query.mode, query.epoch, ids)
        masked, status = session.mask(reply.share.values, reply.share.status, place.round_number, digest)
        return _covered(reply, status, masked)


def _covered(reply: PartyReply, status: Statuses, masked: MaskedWords) -> PartyReply:
    """Return a reply with masked words in the place of its numbers, and nothing else that tells of them."""
    return PartyReply(
        share=Share(np.empty((len(status), 0)), status),
        oldest_event_time=reply.oldest_event_time,
        elapsed_s=reply.elapsed_s,
        segment_event_times=reply.segment_event_times,
        failures=reply.failures,
        masked=masked,
        sources=reply.sources,
    )


def no_masking(policy: CallerPolicy) -> Masking:
    """Return what masks the shares of no model."""
    return Masking("", {}, policy, None, _no_part)


def _no_part(model_id: str, params_sha256: str) -> PartDescription:
    raise ModelNotFoundError(f"model {model_id} has no masked part {params_sha256[:12]}")


def _manifest(text: str) -> Manifest:
    if len(text) > MAX_MANIFEST:
        raise ProtocolError(f"a manifest of {len(text)} characters; at most {MAX_MANIFEST}")
    try:
        manifest = manifest_from_json(text)
        check_model_id(manifest.model_id)
    except (ValueError, FedPredictError) as error:
        raise ProtocolError(f"a manifest that is none: {error}") from error
    return manifest


def _key_to_wire(key: SignedKey) -> masking_pb2.MaskKey:
    return masking_pb2.MaskKey(
        party=key.party, public_key=key.public_key, certificate_chain=key.chain_pem, signature=key.signature
    )


def _key_from_wire(message: masking_pb2.MaskKey) -> SignedKey:
    # what is in it is checked against the signature, and that against the party's certificate
    return SignedKey(message.party, message.public_key, message.certificate_chain, message.signature)
