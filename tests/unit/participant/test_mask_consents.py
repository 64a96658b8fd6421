"""Masked sums without a party: by the consent of everybody who remains, and of the party itself, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpredict.errors import MaskingRefusedError, ProtocolError
from fedpredict.model.fixed_point import FixedPoint, sum_words
from fedpredict.model.manifest import Manifest, manifest_to_json
from fedpredict.participant.mask_sessions import LIFETIME_S
from fedpredict.participant.masking import Masking
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.settings import CallerSettings, MaskedSettings, ParticipantSettings
from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.mask_consent import CONSENT_S, ConsentTerms, sign_consent
from fedpredict.security.tls import TlsFiles
from fedpredict.wire.masked_codec import RoundRef
from fedpredict.wire.v1 import masking_pb2
from tests.unit.participant.test_masking import (
    BANK,
    LINK,
    MILL,
    PARTIES,
    Clock,
    described,
    key_request,
    keys_request,
    query,
    reply,
)
from tests.unit.participant.test_masking import MANIFEST as OF_BANK

MANIFEST = replace(OF_BANK, digests=OF_BANK.digests[1:])
"""Of lab, post and shop alone: any initiator may ask for it."""
REMAIN = ("lab", "shop")
NOW = 1_000_000_000.0
FULL, SMALL = bytes(32), bytes(range(32))
SETTINGS_SAY_OTHERWISE = "the sum is of other parties than this party's settings name"
NO_CONSENT = "a party is left out without its consent"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, TlsFiles]:
    folder = tmp_path_factory.mktemp("certificates")
    ca = certs.create_ca(folder / "ca", "test CA")
    return {name: certs.issue(ca, Identity(IdentityKind.PARTY, name), folder / name) for name in PARTIES}


@dataclass
class Clocks:
    """What all parties take for the time: since 1970, and of the session."""

    wall: Clock
    session: Clock

    def pass_by(self, seconds: float) -> None:
        self.wall.now += seconds
        self.session.now += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks(Clock(NOW), Clock())


def masking(
    party: str, files: Mapping[str, TlsFiles], clocks: Clocks, may_lack: tuple[str, ...] = ("post",)
) -> Masking:
    others = tuple(each for each in PARTIES if each != party)
    policy = CallerPolicy({"bank": CallerSettings(models=("m",)), "mill": CallerSettings(models=("m",))})
    settings = {"m": MaskedSettings(parties=others, may_lack=may_lack)}
    describe = partial(described, party)
    return Masking(party, settings, policy, files[party], describe, now=clocks.session, clock=clocks.wall)


@pytest.fixture
def ends(files: Mapping[str, TlsFiles], clocks: Clocks) -> dict[str, Masking]:
    return {party: masking(party, files, clocks) for party in PARTIES}


def request(*lacking: masking_pb2.MaskConsent, **changes: Any) -> masking_pb2.MaskKeyRequest:
    """Return the first step of a session without post."""
    content = {"manifest": manifest_to_json(MANIFEST), "session_id": SMALL, "parties": REMAIN, **changes}
    return key_request(lacking=lacking, **content)


async def consent_of(end: Masking, caller: Identity = BANK, manifest: Manifest = MANIFEST) -> masking_pb2.MaskConsent:
    """Return what a party says when a session of the full sum is opened."""
    asked = key_request(manifest=manifest_to_json(manifest), session_id=FULL)
    shown = await end.key(asked, caller, LINK)
    assert shown.HasField("consent")
    return shown.consent


def signed(files: Mapping[str, TlsFiles], by: str = "post", **changes: Any) -> masking_pb2.MaskConsent:
    """Return a consent that a party's key signed, to terms that are right but for `changes`."""
    content = {"manifest_sha256": MANIFEST.manifest_sha256, "initiator": "bank", "parties": PARTIES, **changes}
    consent = sign_consent(LiveTls(files[by]), ConsentTerms(**content), int(NOW) + 60)
    return masking_pb2.MaskConsent(
        party="post",
        valid_until=consent.valid_until,
        certificate_chain=consent.chain_pem,
        signature=consent.signature,
    )


def changed(consent: masking_pb2.MaskConsent, **changes: Any) -> masking_pb2.MaskConsent:
    other = masking_pb2.MaskConsent()
    other.CopyFrom(consent)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


async def agree(ends: Mapping[str, Masking], *lacking: masking_pb2.MaskConsent, **changes: Any) -> dict[str, int]:
    """Open a session, and return how long it stands at each party."""
    asked = request(*lacking, **changes)
    keys = {party: (await ends[party].key(asked, BANK, LINK)).key for party in asked.parties}
    stands = {}
    for party in asked.parties:
        others = keys_request(*(keys[each] for each in asked.parties if each != party), session_id=asked.session_id)
        stands[party] = (await ends[party].keys(others, BANK)).lifetime_s
    return stands


def asked_of(party: str) -> Any:
    asked = query(b"u1", b"u2")
    return replace(asked, manifest_sha256=MANIFEST.manifest_sha256, params_sha256=MANIFEST.digest_of(party))


def words_of(end: Masking, party: str, session_id: bytes, *values: float) -> Any:
    place = RoundRef(session_id, 1)
    session = end.admit(BANK, asked_of(party), place)
    told = end.masked(asked_of(party), reply(*values), [session], [place]).masked
    assert told is not None
    return told


async def test_two_of_three_give_their_sum_when_everybody_consented(ends: dict[str, Masking]) -> None:
    consent = await consent_of(ends["post"])
    assert await agree(ends, consent) == {"lab": LIFETIME_S, "shop": LIFETIME_S}
    told = [words_of(ends[party], party, SMALL, 1.5, -2.0) for party in REMAIN]
    assert FixedPoint(32, 2).decode(sum_words([each.words for each in told])).tolist() == [[3.0], [-4.0]]
    assert sum_words([each.checks for each in told]).tolist() == [0]


async def test_the_masks_of_the_smaller_sum_are_others_and_do_not_cancel_with_those_of_the_full_one(
    ends: dict[str, Masking],
) -> None:
    consent = await consent_of(ends["post"])
    await agree(ends, parties=PARTIES, session_id=bytes(31) + b"f")
    await agree(ends, consent)
    full = {party: words_of(ends[party], party, bytes(31) + b"f", 1.5, -2.0) for party in PARTIES}
    small = {party: words_of(ends[party], party, SMALL, 1.5, -2.0) for party in REMAIN}
    assert sum_words([each.checks for each in full.values()]).tolist() == [0]
    for party in REMAIN:
        assert not np.isin(small[party].words, full[party].words).any()
    assert (full["lab"].checks + small["shop"].checks).tolist() != [0]
    assert (full["lab"].checks + full["shop"].checks).tolist() != [0]


async def test_a_party_consents_where_its_settings_name_itself_alone(
    files: Mapping[str, TlsFiles], clocks: Clocks, ends: dict[str, Masking]
) -> None:
    assert (await consent_of(ends["post"])).valid_until == NOW + CONSENT_S
    for end in (ends["lab"], masking("post", files, clocks, ()), masking("post", files, clocks, ("lab",))):
        shown = await end.key(key_request(manifest=manifest_to_json(MANIFEST), session_id=FULL), BANK, LINK)
        assert not shown.HasField("consent")


@pytest.mark.parametrize(
    ("may_lack", "parties"),
    [((), REMAIN), (("shop",), REMAIN), (("post",), ("lab", "post")), (("lab",), ("post", "shop"))],
    ids=["nobody", "another", "another is left out", "itself is left out"],
)
async def test_a_sum_that_these_settings_do_not_let_lack_a_party_is_refused(
    files: Mapping[str, TlsFiles], clocks: Clocks, may_lack: tuple[str, ...], parties: tuple[str, ...]
) -> None:
    lab = masking("lab", files, clocks, may_lack)
    lacking = changed(signed(files), party=next(each for each in PARTIES if each not in parties))
    with pytest.raises(MaskingRefusedError) as raised:
        await lab.key(request(lacking, parties=parties), BANK, LINK)
    assert raised.value.problem == SETTINGS_SAY_OTHERWISE


async def test_a_sum_of_one_party_is_none(files: Mapping[str, TlsFiles], ends: dict[str, Masking]) -> None:
    with pytest.raises(ProtocolError, match="a masked sum of 1 parties"):
        await ends["lab"].key(request(signed(files), parties=("lab",)), BANK, LINK)


@pytest.mark.parametrize("how", ["none", "of another", "twice", "and another", "though it is there"])
async def test_a_party_is_not_left_out_without_its_consent(
    files: Mapping[str, TlsFiles], ends: dict[str, Masking], how: str
) -> None:
    good = signed(files)
    lacking, parties = {
        "none": ([], REMAIN),
        "of another": ([changed(signed(files, "shop"), party="shop")], REMAIN),
        "twice": ([good, good], REMAIN),
        "and another": ([good, changed(signed(files, "shop"), party="shop")], REMAIN),
        "though it is there": ([good], PARTIES),
    }[how]
    with pytest.raises(MaskingRefusedError) as raised:
        await ends["lab"].key(request(*lacking, parties=parties), BANK, LINK)
    assert raised.value.problem == NO_CONSENT
    await ends["lab"].key(request(good), BANK, LINK)  # nothing was begun, and with the consent it is


@pytest.mark.parametrize(
    "how",
    [
        "another version",
        "another initiator",
        "another full set",
        "signed by shop",
        "longer than signed",
        "another signature",
        "no chain",
        "no signature",
    ],
)
async def test_a_consent_that_is_not_good_for_this_sum_is_refused(
    files: Mapping[str, TlsFiles], ends: dict[str, Masking], how: str
) -> None:
    good = signed(files)
    consent = {
        "another version": signed(files, manifest_sha256=OF_BANK.manifest_sha256),
        "another initiator": await consent_of(ends["post"], MILL),
        "another full set": signed(files, parties=("lab", "mill", "post", "shop")),
        "signed by shop": signed(files, "shop"),
        "longer than signed": changed(good, valid_until=good.valid_until + 1),
        "another signature": changed(good, signature=signed(files, "lab").signature),
        "no chain": changed(good, certificate_chain=b"x"),
        "no signature": changed(good, signature=b""),
    }[how]
    for party in REMAIN:
        with pytest.raises(MaskingRefusedError) as raised:
            await ends[party].key(request(consent), BANK, LINK)
        assert raised.value.problem == "a consent that its party did not give to this sum"
    await ends["lab"].key(request(good), BANK, LINK)


async def test_a_consent_for_one_initiator_is_none_for_another(ends: dict[str, Masking]) -> None:
    consent = await consent_of(ends["post"], BANK)
    with pytest.raises(MaskingRefusedError, match="does not fit"):
        await ends["lab"].key(request(consent), MILL, LINK)


async def test_a_consent_ends(ends: dict[str, Masking], clocks: Clocks) -> None:
    consent = await consent_of(ends["post"])
    clocks.pass_by(CONSENT_S)
    with pytest.raises(MaskingRefusedError) as raised:
        await ends["lab"].key(request(consent), BANK, LINK)
    assert raised.value.problem == "a consent to be left out that is over"


async def test_a_session_without_a_party_ends_with_its_consent(ends: dict[str, Masking], clocks: Clocks) -> None:
    consent = await consent_of(ends["post"])
    clocks.pass_by(CONSENT_S - 100)
    assert await agree(ends, consent) == {"lab": 100, "shop": 100}
    clocks.pass_by(99)
    ends["lab"].admit(BANK, asked_of("lab"), RoundRef(SMALL, 1))
    clocks.pass_by(1)
    with pytest.raises(MaskingRefusedError, match="not its own"):
        ends["lab"].admit(BANK, asked_of("lab"), RoundRef(SMALL, 2))


async def test_a_key_of_the_full_sum_is_none_of_the_smaller_one_nor_the_reverse(ends: dict[str, Masking]) -> None:
    consent = await consent_of(ends["post"])
    in_full = {party: (await ends[party].key(request(parties=PARTIES), BANK, LINK)).key for party in ("post", "shop")}
    # shop showed its key in session SMALL of the full sum, and lab is told that SMALL lacks post
    await ends["lab"].key(request(consent), BANK, LINK)
    with pytest.raises(MaskingRefusedError, match="does not fit"):
        await ends["lab"].keys(keys_request(in_full["shop"], session_id=SMALL), BANK)


async def test_keys_of_one_smaller_session_are_none_of_another(ends: dict[str, Masking]) -> None:
    consent = await consent_of(ends["post"])
    old = (await ends["shop"].key(request(consent), BANK, LINK)).key
    await ends["lab"].key(request(consent, session_id=bytes(31) + b"x"), BANK, LINK)
    with pytest.raises(MaskingRefusedError, match="does not fit"):
        await ends["lab"].keys(keys_request(old, session_id=bytes(31) + b"x"), BANK)


async def test_a_consent_of_a_party_whose_certificate_is_refused_is_none(
    files: Mapping[str, TlsFiles], ends: dict[str, Masking], clocks: Clocks, tmp_path: Path
) -> None:
    deny = tmp_path / "denied.txt"
    deny.write_text("")
    lab = masking("lab", {**files, "lab": replace(files["lab"], deny=deny)}, clocks)
    consent = await consent_of(ends["post"])
    await agree({**ends, "lab": lab}, consent)
    lab.admit(BANK, asked_of("lab"), RoundRef(SMALL, 1))

    deny.write_text(certs.describe(files["post"].certificate).key_fingerprint)
    lab._live.look()
    lab._live.sweep()

    with pytest.raises(MaskingRefusedError, match="not its own"):  # the session that stood is over
        lab.admit(BANK, asked_of("lab"), RoundRef(SMALL, 2))
    with pytest.raises(MaskingRefusedError) as raised:
        await lab.key(request(consent, session_id=FULL), BANK, LINK)
    assert raised.value.problem == "a consent of a party whose certificate is not accepted"


def settings(parties: tuple[str, ...], may_lack: tuple[str, ...]) -> ParticipantSettings:
    tls = {"ca": "ca.pem", "certificate": "lab.pem", "key": "lab.key"}
    masked = {"m": {"parties": parties, "may_lack": may_lack}}
    content: dict[str, Any] = {"party": "lab", "tls": tls, "warehouse": {"path": "w"}, "masked": masked}
    return ParticipantSettings.model_validate(content)


@pytest.mark.parametrize(
    ("parties", "may_lack", "problem"),
    [
        (("shop",), ("shop",), "at least two of lab, shop must be in every sum"),
        (("shop",), ("lab",), "at least two of lab, shop must be in every sum"),
        (("post", "shop"), ("lab", "post"), "at least two of lab, post, shop must be in every sum"),
        (("mill", "post", "shop"), ("mill", "post", "shop"), "at least two of"),
        (("post", "shop"), ("mill",), "mill is not in the sum of lab, post, shop"),
        (("mill", "post", "shop"), ("post", "post"), "name each party once"),
    ],
)
def test_settings_that_leave_fewer_than_two_in_every_sum_are_refused(
    parties: tuple[str, ...], may_lack: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(ValueError, match=f"masked.m.may_lack: {problem}"):
        settings(parties, may_lack)


def test_settings_that_leave_two_are_taken() -> None:
    assert settings(("post", "shop"), ("post",)).masked["m"].may_lack == ("post",)
    assert settings(("mill", "post", "shop"), ("lab", "post")).masked["m"].may_lack == ("lab", "post")
    assert settings(("post", "shop"), ()).masked["m"].may_lack == ()


def follows(share: int, sums: list[list[int]], n_parties: int) -> bool:
    """Return whether a share is a combination of sums, each the places of its parties."""
    rows = np.array([[float(place in each) for place in range(n_parties)] for each in sums])
    wanted = np.eye(n_parties)[share]
    return bool(np.linalg.matrix_rank(np.vstack([rows, wanted])) == np.linalg.matrix_rank(rows))


@pytest.mark.parametrize("n_parties", [3, 4, 5])
def test_no_share_of_a_party_that_did_not_consent_follows_from_all_sums_that_are_allowed(n_parties: int) -> None:
    everyone = list(range(n_parties))
    for n_lacking in range(n_parties):
        away = everyone[:n_lacking]
        lacks = chain.from_iterable(combinations(away, size) for size in range(n_lacking + 1))
        sums = [[place for place in everyone if place not in lack] for lack in lacks]
        names = tuple("abcde"[:n_parties])
        stays = [follows(share, sums, n_parties) for share in everyone[n_lacking:]]
        content: dict[str, Any] = {"parties": names[1:], "may_lack": names[:n_lacking]}
        base: dict[str, Any] = {"party": "a", "warehouse": {"path": "w"}, "masked": {"m": content}}
        tls = {"ca": "ca.pem", "certificate": "a.pem", "key": "a.key"}
        if n_parties - n_lacking >= 2:
            ParticipantSettings.model_validate({**base, "tls": tls})
            assert not any(stays)
        else:  # what the settings refuse tells the share of the last one
            with pytest.raises(ValueError, match="at least two"):
                ParticipantSettings.model_validate({**base, "tls": tls})
            assert all(stays)
