"""Bearer tokens of an initiator's users: 256 random bits each, of which the file holds a hash, a scope and an end.

A token is `fedpredict_<id>_<secret>`. The id is no secret: it names the token in logs, in the audit log and on the
command line. The file has the SHA-256 of the whole text: there is nothing to guess among 2^256 texts, so a slow hash,
a salt, or a delay after a wrong one would protect nothing (ADR 0048).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedpredict.errors import CertificateError, ConfigError, InputError, TokenRefusedError
from fedpredict.model.share import Mode
from fedpredict.security.files import PRIVATE, flush_folder, write_file
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.pace import Pace
from fedpredict.security.policy import Rule
from fedpredict.security.rules import Rows
from fedpredict.security.settings import ALL_MODELS, ModelOrAll, PartyId

logger = logging.getLogger(__name__)

MOST_DAYS = 366
_PREFIX = "fedpredict"
_ID_BYTES, _SECRET_BYTES = 6, 32
_TEXT = re.compile(rf"{_PREFIX}_([0-9a-f]{{{2 * _ID_BYTES}}})_[A-Za-z0-9_-]{{43}}")
_OPEN_TO_OTHERS = 0o022

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
_Id = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * _ID_BYTES}}}$")]


class TokenLimits(BaseModel):
    """What a token has for itself, within what its client may."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls_per_s: float | None = Field(default=None, ge=1e-4, le=1e6)
    """Calls in a second, in the long run; None: as many as the client."""
    burst: int | None = Field(default=None, ge=1, le=1_000_000)
    """Calls that are taken at once; default: those of a second, at least one."""
    max_rows: Rows | None = None
    """Sample ids in one call, and rows of one task; None: as many as the client."""

    @model_validator(mode="after")
    def _keys_fit(self) -> TokenLimits:
        if self.burst is not None and self.calls_per_s is None:
            raise ValueError("burst: needs calls_per_s")
        return self

    @property
    def pace(self) -> Pace | None:
        """How often; None for as often as the client."""
        return None if self.calls_per_s is None else Pace.of(self.calls_per_s, self.burst)


class Token(TokenLimits):
    """What is kept of a token."""

    id: _Id
    """Names it; no secret."""
    sha256: _Sha256
    """Of the whole text."""
    client: PartyId
    """Whom it stands for: a name under [clients]."""
    models: tuple[ModelOrAll, ...] = Field(min_length=1)
    """Of the client's models, those that it may ask for; "*" for all of them."""
    modes: tuple[Mode, ...] = Field(min_length=1)
    created_at: AwareDatetime
    created_by: str
    expires_at: AwareDatetime
    revoked_at: AwareDatetime | None = None
    revoked_by: str = ""

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        """Return what it is good for at an instant."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if now < self.expires_at else "expired"


NO_LIMITS = TokenLimits()


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made.

    Attributes:
        text: The token; nothing keeps it.
        kept: What is kept of it.
    """

    text: str = field(repr=False)
    kept: Token


@dataclass(frozen=True, slots=True)
class TokenHolder(Identity):
    """A client who came with a token.

    Attributes:
        token: It, as it was when it came.
        tokens: Who knows what became of it since.
    """

    token: Token
    tokens: Tokens = field(repr=False, compare=False)


class TokenFile:
    """The file, as the command line reads and changes it; one process after the other, each time as a whole."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Name the file, which need not be there yet."""
        self._path = path
        self._now = now

    def all(self) -> list[Token]:
        """Return every token, the newest last; raise `ConfigError` where the file cannot be used."""
        return list(_read(self._path))

    def create(
        self,
        client: str,
        *,
        models: tuple[str, ...],
        modes: tuple[Mode, ...],
        lasts: timedelta,
        by: str,
        limits: TokenLimits = NO_LIMITS,
        out: Path | None = None,
    ) -> NewToken:
        """Make a token.

        Args:
            client: Whom it stands for.
            models: Model ids, or "*".
            modes: What it may ask in.
            lasts: How long it is good for, `MOST_DAYS` at most.
            by: Who makes it.
            limits: What it has for itself.
            out: Write the token to this new file of its owner's, too.

        Raises:
            InputError: A name breaks its rule, or it would last too long.
            ConfigError: The file cannot be used.
            CertificateError: `out` exists or cannot be written; no token was made.
        """
        if not timedelta(0) < lasts <= timedelta(days=MOST_DAYS):
            raise InputError(f"a token lasts for more than nothing, and {MOST_DAYS} days at most")
        token_id, now = secrets.token_hex(_ID_BYTES), self._now()
        text = f"{_PREFIX}_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        try:
            kept = Token(
                id=token_id,
                sha256=_hash(text),
                client=client,
                models=models,
                modes=modes,
                created_at=now,
                created_by=by,
                expires_at=now + lasts,
                **limits.model_dump(),
            )
        except ValidationError as error:
            raise InputError(f"the token cannot be made: {_problem(error)}") from error
        if out is not None:  # first: a token that is kept while its text is lost would be good, and of no use
            write_file(out, text.encode() + b"\n", mode=PRIVATE, force=False)
        try:
            with self._changing() as tokens:
                tokens.append(kept)
        except ConfigError:
            if out is not None:
                out.unlink()
            raise
        return NewToken(text, kept)

    def find(self, token_id: str) -> Token:
        """Return a token; raise `InputError` where there is none of that id."""
        found = next((each for each in self.all() if each.id == token_id), None)
        if found is None:
            raise InputError(f"no token {token_id[:40]!r} in {self._path}: see `fedpredict token list`")
        return found

    def revoke(self, token_id: str, *, by: str) -> Token:
        """Revoke a token, for good; one that is revoked already stays as it is.

        Raises:
            InputError: There is none of that id.
            ConfigError: The file cannot be used.
        """
        self.find(token_id)
        with self._changing() as tokens:
            at = next(place for place, each in enumerate(tokens) if each.id == token_id)
            if tokens[at].revoked_at is None:
                tokens[at] = tokens[at].model_copy(update={"revoked_at": self._now(), "revoked_by": by})
        return tokens[at]

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        import fcntl  # noqa: PLC0415

        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            name = self._path.with_name(f".{self._path.name}.lock")
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        except OSError as error:
            raise ConfigError(f"tokens: {self._path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = self.all()
            yield tokens
            # without what is none: a fedpredict that knows no limits of tokens reads a file that has none
            content = _Content(tokens=tuple(tokens)).model_dump_json(indent=1, exclude_none=True).encode() + b"\n"
            write_file(self._path, content, mode=PRIVATE, force=True)
            flush_folder(self._path.parent)
        except CertificateError as error:
            raise ConfigError(f"tokens: {error}") from error
        finally:
            os.close(lock)


class Tokens:
    """The file, as a serving process asks it: what changes in it holds from the next call on."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Name the file, which need not be there yet."""
        self._path = path
        self._now = now
        self._seen: tuple[int, ...] | None = None
        self._known: Mapping[str, Token] = {}
        self._problem = ""

    def holder(self, authorization: str) -> TokenHolder:
        """Return who comes with a token.

        Args:
            authorization: What its header says: `Bearer <token>`.

        Raises:
            TokenRefusedError: It is none of ours, or no longer good; the message says which, and never what was sent.
        """
        scheme, _, text = authorization.partition(" ")
        named = _TEXT.fullmatch(text) if scheme.lower() == "bearer" else None
        if named is None:
            raise TokenRefusedError("what stands in authorization is no token of ours", reason="malformed")
        kept = self._valid(named[1])
        if not hmac.compare_digest(_hash(text), kept.sha256):
            raise TokenRefusedError(f"token {kept.id}: its secret is another", reason="wrong", token_id=kept.id)
        return TokenHolder(IdentityKind.CLIENT, kept.client, kept, self)

    def check(self, token: Token) -> None:
        """Raise `TokenRefusedError` where a token is no longer good: calls on a standing stream come long after it."""
        self._valid(token.id)

    def _valid(self, token_id: str) -> Token:
        kept = self._read().get(token_id)
        if self._problem:
            raise TokenRefusedError(f"token {token_id}: {self._problem}", reason="unusable", token_id=token_id)
        if kept is None:
            raise TokenRefusedError(f"token {token_id}: none of ours", reason="unknown", token_id=token_id)
        state = kept.state(self._now())
        if state != "valid":
            since = kept.revoked_at or kept.expires_at
            told = f"token {token_id} of {kept.client}: {state} since {since:%Y-%m-%d %H:%M} UTC"
            raise TokenRefusedError(told, reason=state, token_id=token_id)
        return kept

    def _read(self) -> Mapping[str, Token]:
        # every call looks: a file that is replaced is another one, and to look takes a microsecond
        try:
            found = self._path.stat()
            # with the time of its last chmod: a file is refused that others may write
            seen = (found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)
        except FileNotFoundError:
            seen = (0, 0, 0, 0)
        except OSError as error:
            self._fail(f"{self._path} cannot be read: {error.strerror}")
            self._seen = None
            return {}
        if seen != self._seen:
            self._load(seen)
        return self._known

    def _load(self, seen: tuple[int, ...]) -> None:
        self._seen = seen  # a file that is damaged, too, is read again when it changes, and no earlier
        try:
            self._known = {each.id: each for each in _read(self._path)}
            self._problem = ""
        except ConfigError as error:
            self._fail(str(error))
            if isinstance(error.__cause__, OSError):  # that may pass without a change of the file
                self._seen = None

    def _fail(self, problem: str) -> None:
        if problem != self._problem:
            logger.error("tokens.unusable", extra={"reason": problem})
        self._known, self._problem = {}, problem


def token_of(caller: Identity) -> str:
    """Return the id of the token that a caller came with; empty where he came with none."""
    return caller.token.id if isinstance(caller, TokenHolder) else ""


def check_token(caller: Identity) -> None:
    """Raise `TokenRefusedError` where a caller came with a token that is no longer good."""
    if isinstance(caller, TokenHolder):
        caller.tokens.check(caller.token)


def rule_with_token(rule: Rule, caller: Identity) -> Rule:
    """Return what the token that a caller came with leaves of its rule; all of it where it came with a certificate."""
    if not isinstance(caller, TokenHolder):
        return rule
    token, models, has_all = caller.token, rule.models, rule.has_all
    if ALL_MODELS not in token.models:
        models = frozenset(token.models) if has_all else models.intersection(token.models)
        has_all = False
    modes, most = rule.modes.intersection(token.modes), token.max_rows
    rule = replace(rule, models=models, has_all=has_all, modes=modes)
    if most is None:
        return rule
    offline = most if rule.max_offline_rows is None else min(most, rule.max_offline_rows)
    return replace(rule, max_rows=min(most, rule.max_rows), max_offline_rows=offline)


def _read(path: Path) -> tuple[Token, ...]:
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(f"tokens: {path} cannot be read: {error.strerror}") from error
    if mode & _OPEN_TO_OTHERS:
        raise ConfigError(f"tokens: others may write {path}, and so make tokens: chmod 600 {path}")
    try:
        return _Content.model_validate_json(data).tokens
    except ValidationError as error:
        raise ConfigError(f"tokens: {path} is damaged: {_problem(error)}; bring it back from a copy") from error


def _problem(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
