"""Tokens: what is kept of them, what they are good for, and that what changes in their file holds at once."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedpredict.errors import (
    ConfigError,
    InputError,
    ModelNotFoundError,
    NotPermittedError,
    RateLimitedError,
    TokenRefusedError,
)
from fedpredict.initiator.admission import Access
from fedpredict.initiator.settings import ClientSettings
from fedpredict.model.share import Mode
from fedpredict.public_status import public_status
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.policy import Clocks, Needs
from fedpredict.security.tokens import NewToken, TokenFile, TokenLimits, Tokens, check_token

NOW = datetime(2026, 11, 27, 8, tzinfo=UTC)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def made(path: Path, *, models: tuple[str, ...] = ("*",), modes: tuple[Mode, ...] = tuple(Mode)) -> NewToken:
    return TokenFile(path, lambda: NOW).create("desk", models=models, modes=modes, lasts=timedelta(days=90), by="ada")


def refused(tokens: Tokens, authorization: str) -> tuple[str, str]:
    """Return why a token is refused, and what its caller is told."""
    with pytest.raises(TokenRefusedError) as raised:
        tokens.holder(authorization)
    secret = authorization.split("_", 2)[-1]  # the secret itself may have such characters, too
    assert len(secret) < 20 or secret not in f"{raised.value!r} {vars(raised.value)}"
    return raised.value.reason, public_status(raised.value).text


def test_a_token_is_256_random_bits_of_which_a_hash_is_kept(path: Path, clock: Clock) -> None:
    one, other = made(path), made(path)
    assert re.fullmatch(r"fedpredict_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", one.text)
    assert one.text != other.text
    content = path.read_text()
    assert one.text not in content
    assert one.text[24:] not in content
    kept = json.loads(content)["tokens"][0]
    assert kept["sha256"] == hashlib.sha256(one.text.encode()).hexdigest()
    assert (kept["client"], kept["created_by"], kept["expires_at"]) == ("desk", "ada", "2027-02-25T08:00:00Z")
    assert path.stat().st_mode & 0o777 == 0o600
    assert one.text not in repr(one)
    holder = Tokens(path, clock).holder(f"Bearer {one.text}")
    assert (str(holder), holder.kind, holder.token.id) == ("client desk", IdentityKind.CLIENT, one.kept.id)
    assert Tokens(path, clock).holder(f"bearer {one.text}") == holder


def test_what_is_no_good_token_is_refused_with_one_text_and_a_reason_of_its_own(path: Path, clock: Clock) -> None:
    good, expired, revoked = made(path), made(path), made(path)
    TokenFile(path, clock).revoke(revoked.kept.id, by="eve")
    tokens = Tokens(path, clock)
    reasons = {
        good.text[:-1] + ("A" if good.text[-1] != "A" else "B"): "wrong",
        f"fedpredict_{'0' * 12}_{'A' * 43}": "unknown",
        revoked.text: "revoked",
        good.text + "A": "malformed",
        "": "malformed",
        "x" * 5_000: "malformed",
        good.text + "\n": "malformed",
    }
    told = {refused(tokens, f"Bearer {text}") for text in reasons}
    assert told == {(reason, "the token is not accepted") for reason in reasons.values()}
    assert refused(tokens, f"Basic {good.text}")[0] == "malformed"
    assert refused(tokens, good.text)[0] == "malformed"
    clock.now = NOW + timedelta(days=90)
    assert refused(tokens, f"Bearer {expired.text}") == ("expired", "the token is not accepted")


def test_a_token_that_is_revoked_or_expires_is_of_no_more_use_to_who_has_shown_it(path: Path, clock: Clock) -> None:
    first, second = made(path), made(path)
    tokens = Tokens(path, clock)
    one, two = (tokens.holder(f"Bearer {each.text}") for each in (first, second))
    check_token(one)
    TokenFile(path, clock).revoke(first.kept.id, by="eve")
    with pytest.raises(TokenRefusedError, match="revoked since 2026-11-27 08:00 UTC"):
        check_token(one)
    check_token(two)
    clock.now = NOW + timedelta(days=91)
    with pytest.raises(TokenRefusedError, match="expired"):
        check_token(two)
    assert refused(Tokens(path, clock), f"Bearer {first.text}")[0] == "revoked"  # as after a restart


def test_a_token_is_for_its_models_and_modes(path: Path, clock: Clock) -> None:
    holder = Tokens(path, clock).holder(f"Bearer {made(path, models=('a', 'b'), modes=(Mode.NEARLINE,)).text}")
    certified = Identity(IdentityKind.CLIENT, "desk")
    for models in (("*",), ("a", "b", "c"), ("b",)):
        access = Access({"desk": ClientSettings(models=models, max_rows=7)})
        whole, rule = access.rule_of(certified), access.rule_of(holder)
        assert whole is not None
        assert rule is not None
        of_client = {"a", "b", "c"} if "*" in models else set(models)
        assert {each for each in "abc" if whole.has(each)} == of_client
        assert {each for each in "abc" if rule.has(each)} == {each for each in "abc" if access.may_ask(holder, each)}
        assert {each for each in "abc" if rule.has(each)} == of_client & {"a", "b"}
        assert (whole.modes, rule.modes) == (frozenset(Mode), frozenset({Mode.NEARLINE}))
        assert rule.max_rows == 7
        admitted = access.admit(holder, Needs.CALL)
        with pytest.raises(NotPermittedError, match="realtime"):
            admitted.check_mode(Mode.REALTIME)
    narrow = Access({"desk": ClientSettings(models=("a",), modes=(Mode.REALTIME,))})
    assert narrow.admit(holder, Needs.CALL).modes == frozenset()  # no mode is both the client's and the token's
    assert Access({}).rule_of(holder) is None


def test_a_token_has_limits_of_its_own_within_its_clients(path: Path, clock: Clock) -> None:
    file, now_ns = TokenFile(path, clock), [10**15]

    def held(**limits: int) -> Identity:
        made = file.create(
            "desk",
            models=("*",),
            modes=tuple(Mode),
            lasts=timedelta(1),
            by="ada",
            limits=TokenLimits.model_validate(limits),
        )
        return Tokens(path, clock).holder(f"Bearer {made.text}")

    client = ClientSettings(models=("a",), max_rows=100, max_offline_rows=1_000, calls_per_s=1, burst=4)
    access = Access({"desk": client}, clocks=Clocks(monotonic_ns=lambda: now_ns[0]))
    for most, rows in ((10, (10, 10)), (200, (100, 200)), (5_000, (100, 1_000))):
        rule = access.rule_of(held(max_rows=most))
        assert rule is not None
        assert (rule.max_rows, rule.max_offline_rows) == rows

    slow, other = held(calls_per_s=1, burst=2), held()
    for _ in range(2):
        access.admit(slow, Needs.CALL)
    for _ in range(10):  # beyond its rate it takes nothing of the client's
        with pytest.raises(RateLimitedError):
            access.admit(slow, Needs.CALL)
    access.admit(slow, Needs.RULE)
    for _ in range(2):
        access.admit(other, Needs.CALL)
    with pytest.raises(RateLimitedError):
        access.admit(other, Needs.CALL)
    now_ns[0] += 10**9
    access.admit(slow, Needs.COUNTED)
    with pytest.raises(ModelNotFoundError):  # who may ask nothing is not counted
        Access({}).admit(slow, Needs.CALL)


def test_a_file_that_cannot_be_trusted_lets_nobody_in_until_it_can(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    token = made(path)
    tokens, whole = Tokens(path, clock), path.read_bytes()
    holder = tokens.holder(f"Bearer {token.text}")
    for damage in (b"{", whole.replace(b'"format":', b'"fromat":'), whole.replace(b'"desk"', b'"No Name"'), b"\xff"):
        path.write_bytes(damage)
        for _ in range(3):
            assert refused(tokens, f"Bearer {token.text}")[0] == "unusable"
        with pytest.raises(TokenRefusedError):
            check_token(holder)
        with pytest.raises(ConfigError, match="damaged"):
            TokenFile(path, clock).create("desk", models=("*",), modes=(Mode.NEARLINE,), lasts=timedelta(1), by="ada")
        assert path.read_bytes() == damage
        path.write_bytes(whole)
        assert tokens.holder(f"Bearer {token.text}") == holder
    path.chmod(0o620)
    path.write_bytes(whole + b"\n")
    assert refused(tokens, f"Bearer {token.text}")[0] == "unusable"
    assert [each.message for each in caplog.records] == ["tokens.unusable"] * 5
    path.unlink()
    assert refused(tokens, f"Bearer {token.text}")[0] == "unknown"


def test_a_damaged_file_is_read_once_and_one_that_could_not_be_read_again(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, reads = made(path), []
    whole, tokens = path.read_bytes(), Tokens(path, clock)
    read = Path.read_bytes

    def reading(file: Path) -> bytes:
        reads.append(file)
        if len(reads) == 2:
            raise OSError(24, "Too many open files")
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", reading)
    path.write_bytes(b"{")
    for _ in range(20):
        assert refused(tokens, f"Bearer {token.text}")[0] == "unusable"
    assert len(reads) == 1
    path.write_bytes(whole)
    assert refused(tokens, f"Bearer {token.text}")[0] == "unusable"
    assert tokens.holder(f"Bearer {token.text}").name == "desk"  # that passed, and the file is as it was
    path.chmod(0o620)
    assert refused(tokens, f"Bearer {token.text}")[0] == "unusable"
    path.chmod(0o600)
    assert tokens.holder(f"Bearer {token.text}").name == "desk"
    assert len(reads) == 5


def _make_ten(path: Path) -> None:
    for _ in range(10):
        made(path)


def test_processes_that_make_tokens_at_once_lose_none(path: Path) -> None:
    spawning = multiprocessing.get_context("fork")
    makers = [spawning.Process(target=_make_ten, args=(path,)) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(30.0)
    assert [maker.exitcode for maker in makers] == [0, 0, 0]
    assert len({each.id for each in TokenFile(path).all()}) == 30
    assert sorted(each.name for each in path.parent.iterdir()) == [".tokens.json.lock", "tokens.json"]


def test_what_cannot_be_made_or_revoked_names_the_reason(path: Path, clock: Clock) -> None:
    file = TokenFile(path, clock)
    for lasts in (timedelta(days=367), timedelta(0)):
        with pytest.raises(InputError, match="366 days"):
            file.create("desk", models=("*",), modes=(Mode.NEARLINE,), lasts=lasts, by="ada")
    with pytest.raises(InputError, match="client: "):
        file.create("No Name", models=("*",), modes=(Mode.NEARLINE,), lasts=timedelta(1), by="ada")
    with pytest.raises(InputError, match="no token"):
        file.revoke("0" * 12, by="ada")
    token = made(path)
    first = file.revoke(token.kept.id, by="eve")
    clock.now += timedelta(days=1)
    assert file.revoke(token.kept.id, by="bob") == first
