"""A connection to Redis or Valkey: commands and scripts as calls, and the driver's errors as `StoreError`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from fedpredict.errors import StoreError

MAX_CONNECTIONS = 32
CONNECT_TIMEOUT_S = 2.0
_PROTOCOL = 2

Word: TypeAlias = bytes | str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Where a Redis is, and how to log in.

    Attributes:
        url: `redis://` or, with TLS, `rediss://`; a user and a database may be in it, a password may not.
        password: None where the server asks for none.
        tls_ca: CA certificates (PEM) that the server's is verified with; None takes the machine's own.
        timeout_s: For an answer.
        setting: The table of the settings that it is in, for messages.
    """

    url: str
    password: str | None = field(default=None, repr=False)
    tls_ca: Path | None = None
    timeout_s: float = 0.5
    setting: str = "store"

    @property
    def name(self) -> str:
        """Return host:port, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or 6379}"


class Script:
    """A Lua script, known to the server by its digest."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class RefusedCommand:
    """In the place of an answer: the first word of the server's refusal, such as WRONGTYPE, and it in our words."""

    code: str
    told: str


class RedisConnection:
    """Calls that may come from any thread; each takes a connection from a pool, and is tried again on a new one once.

    Every call raises `StoreError` where the server is away, full, or refuses.
    """

    def __init__(self, address: RedisAddress) -> None:
        """Connect to nothing yet."""
        self.name = address.name
        self._setting = address.setting
        options: dict[str, Any] = {}
        if urlsplit(address.url).scheme == "rediss":
            options = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
            if address.tls_ca is not None:
                options["ssl_ca_certs"] = str(address.tls_ca)
        pool = redis.BlockingConnectionPool.from_url(
            address.url,
            password=address.password,
            max_connections=MAX_CONNECTIONS,
            timeout=address.timeout_s,
            socket_timeout=address.timeout_s,
            socket_connect_timeout=min(address.timeout_s, CONNECT_TIMEOUT_S),
            # a server that was restarted has closed what stood in the pool; what timed out is not asked again
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            client_name="fedpredict",
            protocol=_PROTOCOL,
            **options,
        )
        # the driver's own types say nothing of what its commands return
        self._client: Any = redis.Redis.from_pool(pool)

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Word]) -> Any:
        """Return what a script returns: bytes, integers, None and lists of them."""
        words = (len(keys), *keys, *arguments)
        with self._translated():
            try:
                return self._client.execute_command("EVALSHA", script.digest, *words)
            except NoScriptError:  # a server that was restarted
                return self._client.execute_command("EVAL", script.text, *words)

    def send(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Return the answers to commands that travel together; they are not one transaction."""
        with self._translated():
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return list(pipeline.execute())

    def answers(self, commands: Sequence[Sequence[Word]]) -> list[Any | RefusedCommand]:
        """Return the answers to commands that travel together, and what was refused in the place of its answer."""
        with self._translated():
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            found = pipeline.execute(raise_on_error=False)
            return [self._refused(each) if isinstance(each, RedisError) else each for each in found]

    def _refused(self, error: RedisError) -> RefusedCommand:
        return RefusedCommand(str(error).partition(" ")[0], _told(error, self._setting))

    def memory(self) -> dict[str, Any]:
        """Return what the server says of its memory."""
        with self._translated():
            return dict(self._client.info("memory"))

    def close(self) -> None:
        """Close every connection; the next call opens one."""
        self._client.connection_pool.disconnect()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            raise StoreError(f"Redis at {self.name}: {_told(error, self._setting)}") from error


def _told(error: Exception, setting: str) -> str:
    if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "OOM" in str(error)):
        return "is full (maxmemory): give it more memory; while a snapshot is replaced, both are in it"
    if isinstance(error, AuthenticationError | NoPermissionError):
        return f"refuses the login or a command; check the user in [{setting}] and its password_file ({error})"
    if isinstance(error, BusyLoadingError):
        return f"is reading its own data, after a restart ({error})"
    if isinstance(error, redis.TimeoutError):
        return f"does not answer in time ({error})"
    if isinstance(error, redis.ConnectionError | OSError):
        return f"cannot be reached ({error})"
    return f"refused a command ({error})"
