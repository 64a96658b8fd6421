"""What the calls of one connection travel on: a channel and its streams, and others once the certificate is renewed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fedpredict.client.connection import Target
from fedpredict.client.credentials import Credentials
from fedpredict.client.standing import StandingStreams


class Line:
    """A channel and its streams, made with one set of credentials.

    Attributes:
        made_with: These credentials.
        channel: For calls of their own.
        rows, tables: For calls that share a stream.
        users: How many calls are under way on it.
    """

    def __init__(self, target: Target) -> None:
        """Prepare; gRPC connects at the first call, in the event loop that runs now."""
        self.made_with = target.credentials and target.credentials.newest
        self.channel = target.open_channel()
        self.rows = StandingStreams(self.channel, target, as_tables=False)
        self.tables = StandingStreams(self.channel, target, as_tables=True)
        self.users = 0

    async def close(self) -> None:
        """Close it; calls under way are lost."""
        await self.rows.close()
        await self.tables.close()
        await self.channel.close(None)


class Lines:
    """The line that calls begin on, and those before it, each of which closes with the last call on it."""

    def __init__(self, target: Target) -> None:
        """Prepare the first line, with what the files hold now."""
        self._credentials = target.credentials
        if self._credentials is not None:
            self._credentials.take_new()
        self._target = target
        self._newest = Line(target)
        self._before: set[Line] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def look(self, *, at_once: bool = False) -> bool:
        """Look at the files, now and then or `at_once`; return whether calls begin on another line from now on."""
        if self._credentials is None:
            return False
        if at_once:
            self._credentials.take_new()
        else:
            self._credentials.look()
        return self._renew(self._credentials)

    def is_outdated(self, line: Line) -> bool:
        """Return whether calls begin on another line than one on which a call failed; the files are looked at first."""
        if line is self._newest and self._credentials is not None:
            self._credentials.hurry()
            self._renew(self._credentials)
        return line is not self._newest

    @contextmanager
    def take(self) -> Iterator[Line]:
        """Give the newest line to a call, which keeps it open."""
        line = self._newest
        line.users += 1
        try:
            yield line
        finally:
            line.users -= 1
            self._close_unused(line)

    async def close(self) -> None:
        """Close all of them; calls under way are lost."""
        lines = self._newest, *self._before
        self._before.clear()
        for line in lines:
            await line.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def _renew(self, credentials: Credentials) -> bool:
        if self._newest.made_with is credentials.newest:
            return False
        old, self._newest = self._newest, Line(self._target)
        self._before.add(old)
        self._close_unused(old)
        return True

    def _close_unused(self, line: Line) -> None:
        if line.users or line not in self._before:
            return
        self._before.remove(line)
        closing = asyncio.ensure_future(line.close())
        self._closing.add(closing)  # an event loop keeps no task alive
        closing.add_done_callback(self._closing.discard)
