"""A relay between participants that changes, swaps, leaves out or replays what it carries: each is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fedpredict.errors import ManifestMismatchError, MaskingRefusedError, ModelNotFoundError, ProtocolError
from fedpredict.model.combination import Combination, Combining
from fedpredict.model.fixed_point import FixedPoint, sum_words
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest, PartDescription, manifest_to_json
from fedpredict.model.reasons import Reasons
from fedpredict.model.scorer import ModelRef, PartyReply, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, Share
from fedpredict.participant.audited import CallAudit
from fedpredict.participant.mask_sessions import LIFETIME_S
from fedpredict.participant.masking import Masking
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.settings import CallerSettings, MaskedSettings
from fedpredict.security import certs, crls
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.audit_waiting import Then
from fedpredict.security.certs import CaFiles
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.masking import MaskSession
from fedpredict.security.tls import TlsFiles
from fedpredict.wire.masked_codec import RoundRef
from fedpredict.wire.v1 import masking_pb2

BANK, MILL = Identity(IdentityKind.PARTY, "bank"), Identity(IdentityKind.PARTY, "mill")
PARTIES = ("lab", "post", "shop")
SESSION = bytes(range(32))
LINK = object()
"""What sessions are opened on."""
MANIFEST = Manifest(
    model_id="m",
    training_run="run-1",
    kind=Kind.LINEAR,
    link=own_link(Kind.LINEAR),
    classes=(),
    n_scores=1,
    fit_intercept=False,
    intercept_party=None,
    digests=tuple((party, f"{place}a" * 32) for place, party in enumerate(("bank", *PARTIES))),
)
JOINED = Combination(Combining.LEAF_MASKS, "cd" * 32, 1)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CaFiles:
    return certs.create_ca(tmp_path_factory.mktemp("ca"), "test CA")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, ca: CaFiles) -> Mapping[str, TlsFiles]:
    folder, names = tmp_path_factory.mktemp("certificates"), ("bank", "mill", *PARTIES)
    return {name: certs.issue(ca, Identity(IdentityKind.PARTY, name), folder / name) for name in names}


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ends(files: Mapping[str, TlsFiles], clock: Clock) -> dict[str, Masking]:
    return {party: masking(party, files, clock) for party in PARTIES}


def masking(
    party: str, files: Mapping[str, TlsFiles], clock: Clock, audit: CallAudit | None = None, **changes: Any
) -> Masking:
    wanted = {"parties": tuple(each for each in PARTIES if each != party), **changes}
    policy = CallerPolicy({"bank": CallerSettings(models=("m",)), "mill": CallerSettings(models=("m",))})
    settings, describe = {"m": MaskedSettings(**wanted)}, partial(described, party)
    return Masking(party, settings, policy, files[party], describe, audit=audit, now=clock)


def described(party: str, model_id: str, params_sha256: str) -> PartDescription:
    """Return the party's part of the manifest, or one that needs a head, or one of another run."""
    known: dict[str, dict[str, Any]] = {
        MANIFEST.digest_of(party): {},
        "aa" * 32: {"combination": JOINED},
        "bb" * 32: {"training_run": "run-2"},
    }
    if params_sha256 not in known:
        raise ManifestMismatchError("not loaded")
    part = PartDescription(
        party=party,
        model_id=model_id,
        params_sha256=params_sha256,
        training_run="run-1",
        kind=Kind.LINEAR,
        link=own_link(Kind.LINEAR),
        classes=(),
        n_scores=1,
        holds_intercept=False,
        fit_intercept=False,
    )
    return replace(part, **known[params_sha256])


def key_request(**changes: Any) -> masking_pb2.MaskKeyRequest:
    content = {
        "protocol_version": 1,
        "request_id": "r-1",
        "manifest": manifest_to_json(MANIFEST),
        "session_id": SESSION,
        "parties": PARTIES,
        "scale_bits": 32,
        **changes,
    }
    return masking_pb2.MaskKeyRequest(**content)


def keys_request(*keys: masking_pb2.MaskKey, session_id: bytes = SESSION) -> masking_pb2.MaskKeysRequest:
    return masking_pb2.MaskKeysRequest(protocol_version=1, request_id="r-2", session_id=session_id, keys=keys)


async def show_keys(ends: Mapping[str, Masking], caller: Identity = BANK, **changes: Any) -> dict[str, Any]:
    return {party: (await end.key(key_request(**changes), caller, LINK)).key for party, end in ends.items()}


async def agree(ends: Mapping[str, Masking]) -> None:
    keys = await show_keys(ends)
    for party, end in ends.items():
        await end.keys(keys_request(*(key for other, key in keys.items() if other != party)), BANK)


def query(*sample_ids: bytes, party: str = "lab") -> ScoreQuery:
    return ScoreQuery(
        request_id="r-3",
        model_id="m",
        manifest_sha256=MANIFEST.manifest_sha256,
        params_sha256=MANIFEST.digest_of(party),
        mode=Mode.NEARLINE,
        sample_ids=sample_ids,
    )


def reply(*values: float) -> PartyReply:
    share = Share(np.array(values)[:, None], np.full(len(values), SampleStatus.OK, np.uint8))
    reasons = Reasons(("code",), np.zeros((len(values), 1), np.uint16))
    return PartyReply(share=share, oldest_event_time=7, elapsed_s=0.5, reasons=reasons)


def masked(end: Masking, party: str, asked: ScoreQuery, number: int, *values: float) -> PartyReply:
    place = RoundRef(SESSION, number)
    session = end.admit(BANK, replace(asked, params_sha256=MANIFEST.digest_of(party)), place)
    return end.masked(asked, reply(*values), [session], [place])


async def test_three_parties_that_agreed_give_a_sum_and_nothing_else(ends: dict[str, Masking]) -> None:
    await agree(ends)
    asked = query(b"u1", b"u2")
    replies = [masked(end, party, asked, 1, 1.5, -2.0) for party, end in ends.items()]
    words = [each.masked.words for each in replies if each.masked is not None]
    assert FixedPoint(32, 3).decode(sum_words(words)).tolist() == [[4.5], [-6.0]]
    for each in replies:
        # which points a scorecard took away tells of its share
        assert (each.share.values.shape, each.reasons, each.oldest_event_time) == ((2, 0), None, 7)


class SlowAudit:
    """An audit log with `fsync = "each"`, of which the disk has lines when the test says so."""

    holds_answers = True

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held: list[Then] = []

    def check(self) -> None:
        pass

    def add(self, call: AuditedCall) -> None:
        self.calls.append(call.what)

    def when_safe(self, then: Then) -> None:
        self.held.append(then)

    async def holds_back(self, answer: asyncio.Future[Any]) -> None:
        """Check that an answer waits for the disk, and let it go."""
        async with asyncio.timeout(30.0):
            while not self.held and not answer.done():
                await asyncio.sleep(0.01)
        assert not answer.done()
        self.held.pop()(None)


async def test_keys_leave_when_the_disk_has_their_lines(
    ends: dict[str, Masking], files: Mapping[str, TlsFiles], clock: Clock
) -> None:
    log = SlowAudit()
    lab = masking("lab", files, clock, CallAudit(cast("Any", log)))
    showing = asyncio.ensure_future(lab.key(key_request(), BANK, LINK))
    await log.holds_back(showing)
    others = await show_keys({party: end for party, end in ends.items() if party != "lab"})
    taking = asyncio.ensure_future(lab.keys(keys_request(*others.values()), BANK))
    await log.holds_back(taking)
    assert (await showing).key.party == "lab"
    assert (await taking).lifetime_s == LIFETIME_S
    assert log.calls == ["MaskKey", "MaskKeys"]


async def test_a_key_of_the_relays_own_is_refused(ends: dict[str, Masking], files: Mapping[str, TlsFiles]) -> None:
    # a relay that sits in the middle shows each party its own key under another's name
    keys = await show_keys(ends)
    own = (await masking("lab", files, Clock()).key(key_request(), BANK, LINK)).key.public_key
    forged = masking_pb2.MaskKey()
    forged.CopyFrom(keys["lab"])
    forged.public_key = own
    with pytest.raises(MaskingRefusedError, match="lab"):
        await ends["shop"].keys(keys_request(forged, keys["post"]), BANK)


Tamper = Callable[[dict[str, Any]], list[Any]]


def _changed(key: Any, **changes: Any) -> Any:
    other = masking_pb2.MaskKey()
    other.CopyFrom(key)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        pytest.param(lambda k: [k["lab"]], "keys of other parties than the sum's", id="one left out"),
        pytest.param(
            lambda k: [k["lab"], k["post"], k["shop"]], "keys of other parties than the sum's", id="its own too"
        ),
        pytest.param(lambda k: [], "keys of other parties than the sum's", id="none"),
        pytest.param(
            lambda k: [k["lab"], _changed(k["lab"], party="post")],
            "not sign for this session",
            id="one for two parties",
        ),
        pytest.param(
            lambda k: [_changed(k["lab"], public_key=k["post"].public_key), k["post"]],
            "not sign for this session",
            id="another key",
        ),
        pytest.param(
            lambda k: [_changed(k["lab"], signature=k["post"].signature), k["post"]],
            "not sign for this session",
            id="another signature",
        ),
        pytest.param(
            lambda k: [_changed(k["lab"], certificate_chain=k["post"].certificate_chain), k["post"]],
            "not sign for this session",
            id="another certificate",
        ),
        pytest.param(
            lambda k: [_changed(k["lab"], certificate_chain=b"x"), k["post"]],
            "not sign for this session",
            id="no chain",
        ),
    ],
)
async def test_keys_that_the_relay_changed_are_refused(ends: dict[str, Masking], tamper: Tamper, problem: str) -> None:
    keys = await show_keys(ends)
    with pytest.raises(MaskingRefusedError) as raised:
        await ends["shop"].keys(keys_request(*tamper(keys)), BANK)
    assert raised.value.problem.endswith(problem)
    with pytest.raises(MaskingRefusedError):  # the session is over: its private key was used up
        await ends["shop"].keys(keys_request(keys["lab"], keys["post"]), BANK)


async def test_a_key_of_another_session_is_refused(ends: dict[str, Masking]) -> None:
    old = await show_keys(ends, session_id=bytes(32))
    keys = await show_keys(ends)
    with pytest.raises(MaskingRefusedError, match="does not fit"):
        await ends["shop"].keys(keys_request(old["lab"], keys["post"]), BANK)


async def test_a_key_that_was_signed_for_another_initiator_is_refused(ends: dict[str, Masking]) -> None:
    manifest = replace(MANIFEST, digests=tuple(sorted({**dict(MANIFEST.digests), "mill": "ff" * 32}.items())[1:]))
    for_mill = await show_keys(ends, MILL, manifest=manifest_to_json(manifest))
    again = {
        party: masking(party, {party: end._live.files for party, end in ends.items()}, Clock()) for party in PARTIES
    }
    keys = await show_keys(again)
    with pytest.raises(MaskingRefusedError, match="does not fit"):
        await again["shop"].keys(keys_request(for_mill["lab"], keys["post"]), BANK)


@dataclass(frozen=True)
class Lists:
    """The lists of shop, which refuse nobody yet."""

    ca: CaFiles
    files: Mapping[str, TlsFiles]
    deny: Path
    crl: Path

    def refuse(self, how: str, party: str) -> None:
        certificate = self.files[party].certificate
        if how == "denied":
            self.deny.write_text(certs.describe(certificate).key_fingerprint)
        else:
            crls.revoke(self.ca, [certificate], kept=self.crl)


@pytest.fixture
def lists(ca: CaFiles, files: Mapping[str, TlsFiles], tmp_path: Path) -> Lists:
    deny, crl = tmp_path / "denied.txt", tmp_path / "ca.crl"
    deny.write_text("")
    crls.revoke(ca, [], kept=crl)
    return Lists(ca, {**files, "shop": replace(files["shop"], deny=deny, crl=crl)}, deny, crl)


@pytest.fixture
def ends_with_lists(lists: Lists, clock: Clock) -> dict[str, Masking]:
    return {party: masking(party, lists.files, clock) for party in PARTIES}


def look(end: Masking) -> None:
    """Do what the daemon does each second."""
    end._live.look()
    end._live.sweep()


@pytest.mark.parametrize("how", ["denied", "revoked"])
async def test_a_party_whose_certificate_is_refused_gets_no_session(
    ends_with_lists: dict[str, Masking], lists: Lists, how: str
) -> None:
    lists.refuse(how, "lab")
    shop = ends_with_lists["shop"]
    look(shop)
    keys = await show_keys(ends_with_lists)
    with pytest.raises(MaskingRefusedError, match="the mask key of party lab: the certificate of party lab") as told:
        await shop.keys(keys_request(keys["lab"], keys["post"]), BANK)
    assert told.value.problem == "a key of a party whose certificate is not accepted"
    with pytest.raises(MaskingRefusedError, match="not its own"):
        shop.admit(BANK, query(b"u1", party="shop"), RoundRef(SESSION, 1))


@pytest.mark.parametrize("how", ["denied", "revoked"])
async def test_a_session_ends_when_a_certificate_in_it_is_refused(
    ends_with_lists: dict[str, Masking], lists: Lists, how: str
) -> None:
    await agree(ends_with_lists)
    shop, asked = ends_with_lists["shop"], query(b"u1", party="shop")
    look(shop)
    shop.admit(BANK, asked, RoundRef(SESSION, 1))
    lists.refuse(how, "lab")
    look(shop)
    with pytest.raises(MaskingRefusedError, match="not its own"):
        shop.admit(BANK, asked, RoundRef(SESSION, 2))


async def test_a_session_ends_with_the_link_that_it_was_opened_on(ends: dict[str, Masking]) -> None:
    await agree(ends)
    lab, asked = ends["lab"], query(b"u1")
    lab.end(object())
    lab.admit(BANK, asked, RoundRef(SESSION, 1))
    lab.end(LINK)
    with pytest.raises(MaskingRefusedError, match="not its own"):
        lab.admit(BANK, asked, RoundRef(SESSION, 2))


async def test_keys_are_signed_with_the_newest_certificate(
    ca: CaFiles, files: Mapping[str, TlsFiles], clock: Clock, tmp_path: Path
) -> None:
    mine = certs.issue(ca, Identity(IdentityKind.PARTY, "lab"), tmp_path / "lab")
    ends = {party: masking(party, {**files, "lab": mine}, clock) for party in PARTIES}
    before = mine.certificate.read_bytes()
    certs.issue(ca, Identity(IdentityKind.PARTY, "lab"), tmp_path / "lab", force=True)
    for _ in range(2):  # a certificate is taken when it has settled
        look(ends["lab"])
    keys = await show_keys(ends)
    assert keys["lab"].certificate_chain == mine.certificate.read_bytes() != before
    await ends["shop"].keys(keys_request(keys["lab"], keys["post"]), BANK)


async def test_a_session_is_begun_once(ends: dict[str, Masking]) -> None:
    await agree(ends)
    with pytest.raises(MaskingRefusedError, match="twice"):
        await ends["lab"].key(key_request(), BANK, LINK)
    with pytest.raises(MaskingRefusedError, match="no session that waits"):
        await ends["lab"].keys(keys_request(), BANK)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"parties": ("lab", "shop")}, "the sum is of other parties than this party's settings name"),
        ({"parties": ("lab", "mill", "post", "shop")}, "the sum is of other parties than this party's settings name"),
        ({"scale_bits": 40}, "the scale must be 2^32"),
        (
            {"manifest": manifest_to_json(replace(MANIFEST, digests=MANIFEST.digests[:3]))},
            "the sum is of other parties than this party's settings name",
        ),
        ({"manifest": manifest_to_json(replace(MANIFEST, model_id="n"))}, None),
    ],
    ids=["one party less", "one party more", "another scale", "a manifest without shop", "another model"],
)
async def test_a_sum_that_the_settings_do_not_name_is_refused(
    ends: dict[str, Masking], changes: dict[str, Any], problem: str | None
) -> None:
    with pytest.raises(MaskingRefusedError if problem else ModelNotFoundError) as raised:
        await ends["lab"].key(key_request(**changes), BANK, LINK)
    assert getattr(raised.value, "problem", None) == problem


@pytest.mark.parametrize(
    ("digest", "error"),
    [("aa", MaskingRefusedError), ("bb", ManifestMismatchError), ("ee", ManifestMismatchError)],
    ids=["a part that needs a head", "a part of another run", "a part that is not loaded"],
)
async def test_a_manifest_that_does_not_fit_the_part_is_refused(
    ends: dict[str, Masking], digest: str, error: type[Exception]
) -> None:
    digests = tuple(sorted({**dict(MANIFEST.digests), "lab": digest * 32}.items()))
    with pytest.raises(error):
        await ends["lab"].key(key_request(manifest=manifest_to_json(replace(MANIFEST, digests=digests))), BANK, LINK)


@pytest.mark.parametrize(
    "changes",
    [
        {"session_id": b"short"},
        {"parties": ("shop", "lab", "post")},
        {"parties": ("lab",)},
        {"manifest": "{}"},
        {"manifest": "x" * 2_000_000},
        {"protocol_version": 9},
        {"request_id": "no id!"},
    ],
)
async def test_a_message_that_breaks_the_protocol_is_refused(ends: dict[str, Masking], changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        await ends["lab"].key(key_request(**changes), BANK, LINK)


async def test_who_may_not_ask_for_the_model_learns_nothing(ends: dict[str, Masking]) -> None:
    with pytest.raises(ModelNotFoundError):
        await ends["lab"].key(key_request(), Identity(IdentityKind.CLIENT, "bank"), LINK)


async def test_a_round_is_answered_once_and_only_higher_ones_after_it(ends: dict[str, Masking]) -> None:
    await agree(ends)
    end, asked = ends["lab"], query(b"u1")
    masked(end, "lab", asked, 5, 1.0)
    for number in (5, 4, 0):
        with pytest.raises(MaskingRefusedError) as raised:
            masked(end, "lab", asked, number, 1.0)
        assert raised.value.problem == "a round that was used before"
    masked(end, "lab", asked, 6, 1.0)


async def test_a_session_is_its_callers_and_its_models_alone(ends: dict[str, Masking]) -> None:
    await agree(ends)
    end, asked, place = ends["lab"], query(b"u1"), RoundRef(SESSION, 1)
    others = [
        (MILL, asked, place),
        (BANK, replace(asked, manifest_sha256="00" * 32), place),
        (BANK, replace(asked, params_sha256="00" * 32), place),
        (BANK, replace(asked, model_id="n"), place),
        (BANK, asked, RoundRef(bytes(32), 1)),
    ]
    for caller, model, ref in others:
        with pytest.raises(MaskingRefusedError) as raised:
            end.admit(caller, model, ref)
        assert raised.value.problem == "no such session"
    assert isinstance(end.admit(BANK, asked, place), MaskSession)


async def test_a_session_ends_after_its_lifetime_and_where_too_many_follow(
    ends: dict[str, Masking], clock: Clock
) -> None:
    await agree(ends)
    end, asked = ends["lab"], query(b"u1")
    clock.now = LIFETIME_S - 1.0
    end.admit(BANK, asked, RoundRef(SESSION, 1))
    clock.now = float(LIFETIME_S)
    with pytest.raises(MaskingRefusedError, match="not its own"):
        end.admit(BANK, asked, RoundRef(SESSION, 2))


async def test_the_oldest_session_of_a_caller_ends_where_too_many_follow(
    ends: dict[str, Masking], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.participant.mask_sessions.MAX_SESSIONS", 3)
    await agree(ends)
    end, asked = ends["lab"], query(b"u1")
    for number in range(2):
        await end.key(key_request(session_id=bytes((number,)) * 32), BANK, LINK)
    end.admit(BANK, asked, RoundRef(SESSION, 1))
    await end.key(key_request(session_id=bytes((7,)) * 32), BANK, LINK)
    with pytest.raises(MaskingRefusedError, match="not its own"):
        end.admit(BANK, asked, RoundRef(SESSION, 2))


def test_a_bare_share_of_a_masked_model_is_refused_and_of_others_is_not(ends: dict[str, Masking]) -> None:
    with pytest.raises(MaskingRefusedError) as raised:
        ends["lab"].admit(BANK, query(b"u1"), None)
    assert raised.value.problem == "shares of this model are given masked alone"
    assert ends["lab"].admit(BANK, ModelRef("n", "00" * 32, "00" * 32), None) is None


async def test_without_a_certificate_nothing_is_agreed_on_and_nothing_leaves_bare(
    files: Mapping[str, TlsFiles],
) -> None:
    policy = CallerPolicy({"bank": CallerSettings(models=("m",))})
    settings = {"m": MaskedSettings(parties=("post", "shop"))}
    end = Masking("lab", settings, policy, None, partial(described, "lab"))
    assert not end.offered
    with pytest.raises(MaskingRefusedError, match="need TLS"):
        await end.key(key_request(), BANK, LINK)
    with pytest.raises(MaskingRefusedError, match="bare shares"):
        end.admit(BANK, query(b"u1"), None)
