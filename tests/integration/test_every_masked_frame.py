"""What bad input gets from the frames of masked sums, one bad field at a time: they are no RPCs, and need a session."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import time

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.message import DecodeError, Message

from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest, manifest_to_json
from fedpredict.participant import methods
from fedpredict.security.audit_chain import calls
from fedpredict.security.live import LiveTls
from fedpredict.security.mask_consent import ConsentTerms, sign_consent
from fedpredict.security.masking import MaskTerms, sign_key
from fedpredict.wire.v1 import link_pb2, masking_pb2
from tests.integration.federation import Certificates
from tests.integration.spoiling import spoiled
from tests.integration.test_every_rpc import FRAMES, OK, WAYS, Daemons, Frames, Outcome, bucket, problem_of, score

EVERYBODY, SUMMED = ("lab", "post", "shop"), ("lab", "post")
SETTINGS = {"m": {"parties": ["post", "shop"], "may_lack": ["shop"]}}
MASKED = ("mask_key", "mask_keys", "masked_score", "masked_bucket")
ANSWERED = {"mask_key": "MaskKey", "mask_keys": "MaskKeys", "masked_score": "Score",
            "masked_bucket": "ScoreBucket"}  # fmt: skip
"""Frame -> what the audit log calls it."""
OPTIONAL = r"(score|bucket)\.remaining_ms: .*|score\.traceparent: .*|score\.model_rows: .*"
"""What may be bad and is answered all the same, as without masks."""


@pytest.fixture
async def daemons(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Daemons]:
    world = Daemons(tmp_path, certificates)
    async with world.stack:
        await world.start(masked=SETTINGS)
        yield world


@dataclass
class Session:
    """A mask session of the bank with the laboratory, in which the test plays the post office; the shop is left out."""

    daemons: Daemons
    post: LiveTls
    shop: LiveTls
    session_id: bytes

    @property
    def manifest(self) -> Manifest:
        return Manifest(
            model_id="m", training_run="run-1", kind=Kind.LINEAR, link=own_link(Kind.LINEAR), classes=(), n_scores=1,
            fit_intercept=False, intercept_party=None,
            digests=(("lab", self.daemons.version.params_sha256), ("post", "5d" * 32), ("shop", "5e" * 32)),
        )  # fmt: skip

    @property
    def round(self) -> masking_pb2.MaskRound:
        return masking_pb2.MaskRound(session_id=self.session_id, round=1)

    def mask_key(self) -> Message:
        terms = ConsentTerms(manifest_sha256=self.manifest.manifest_sha256, initiator="bank", parties=EVERYBODY)
        consent = sign_consent(self.shop, terms, int(time()) + 3600)
        return masking_pb2.MaskKeyRequest(
            protocol_version=1, request_id="r-1", manifest=manifest_to_json(self.manifest),
            session_id=self.session_id, parties=SUMMED, scale_bits=32,
            lacking=[masking_pb2.MaskConsent(
                party="shop", valid_until=consent.valid_until, certificate_chain=consent.chain_pem,
                signature=consent.signature,
            )],
        )  # fmt: skip

    def mask_keys(self) -> Message:
        terms = MaskTerms(
            session_id=self.session_id, manifest_sha256=self.manifest.manifest_sha256, initiator="bank",
            parties=SUMMED, scale_bits=32,
        )  # fmt: skip
        key = sign_key(self.post, terms, X25519PrivateKey.generate().public_key().public_bytes_raw())
        return masking_pb2.MaskKeysRequest(
            protocol_version=1, request_id="r-1", session_id=self.session_id,
            keys=[masking_pb2.MaskKey(party="post", public_key=key.public_key, certificate_chain=key.chain_pem,
                                      signature=key.signature)],
        )  # fmt: skip

    def masked_score(self) -> Message:
        asked = score(self.daemons)
        asked.manifest_sha256 = bytes.fromhex(self.manifest.manifest_sha256)
        return masking_pb2.MaskedScoreRequest(score=asked, rounds=[self.round])

    def masked_bucket(self) -> Message:
        asked = bucket(self.daemons)
        asked.manifest_sha256 = bytes.fromhex(self.manifest.manifest_sha256)
        return masking_pb2.MaskedBucketRequest(bucket=asked, round=self.round)


async def asked(frames: Frames, name: str, data: bytes) -> Outcome:
    return await frames.ask(link_pb2.Frame.DESCRIPTOR.fields_by_name[name].number, data)


async def begun(daemons: Daemons, frames: Frames, name: str) -> tuple[Message, list[str]]:
    """Return a good question for a frame, after those that have to come before it, and the frames of these."""
    post, shop = (LiveTls(daemons.certificates.of(party)) for party in ("post", "shop"))
    session = Session(daemons, post, shop, secrets.token_bytes(32))
    before = list({"mask_key": (), "mask_keys": MASKED[:1]}.get(name, MASKED[:2]))
    for each in before:
        assert await asked(frames, each, getattr(session, each)().SerializeToString()) == OK
    good: Message = getattr(session, name)()
    return good, before


def is_message(name: str, data: bytes) -> bool:
    try:
        getattr(link_pb2.Frame(), name).FromString(data)
    except DecodeError:
        return False
    return True


def test_every_frame_that_is_a_call_is_walked_here_or_with_the_rpcs() -> None:
    assert {*MASKED, *FRAMES.values()} == set(methods.FRAMES)


@pytest.mark.parametrize("way", sorted(WAYS))
async def test_every_bad_field_of_a_masked_question_is_refused_in_public_words_with_a_line(
    way: str, daemons: Daemons
) -> None:
    found, lines = [], []
    async with AsyncExitStack() as stack:
        frames = await WAYS[way](daemons, stack)
        for name in MASKED:
            template, before = await begun(daemons, frames, name)
            lines += [(ANSWERED[each], True) for each in before]
            for place, (what, _) in enumerate(spoiled(template)):
                good, before = await begun(daemons, frames, name)
                _, data = next(islice(spoiled(good), place, None))
                outcome = await asked(frames, name, data)
                lines += [(ANSWERED[each], True) for each in before]
                if outcome[0] == "CLOSED" and not is_message(name, data):
                    frames = await WAYS[way](daemons, stack)
                    lines.append(("Frame", False))
                    continue
                lines.append((ANSWERED[name], outcome == OK))
                if problem := problem_of(outcome, may_be_answered=re.fullmatch(OPTIONAL, what) is not None):
                    found.append(f"{name}: {what} {problem}")
            good, before = await begun(daemons, frames, name)
            assert await asked(frames, name, good.SerializeToString()) == OK
            lines += [(ANSWERED[each], True) for each in (*before, name)]
    await daemons.stack.aclose()

    assert found == []
    assert [(each["what"], each["outcome"] == "ok") for each in calls([daemons.folder / "audit" / "worker-0"])] == lines
