"""Calls that go on for long: each ends when its caller may have it no more, however it began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fedpredict.errors import CertificateRefusedError

LOOK_S = 0.5
"""How often it is looked whether a caller still has the rule, and the token, for what is under way."""


class HeldCall:
    """A call under way, which the caller's certificate holds as well: it is a `Standing` for `LiveTls.hold`."""

    def __init__(self, look: Callable[[], object]) -> None:
        """Prepare.

        Args:
            look: Raises what the caller is to be told, where it may have the call no more; asked again and again.
        """
        self._look = look
        self._limit: asyncio.Timeout | None = None  # inside the block
        self.refused: Exception | None = None
        """Why the call was ended; None where it was not."""

    def close(self, reason: str) -> None:
        """End at once: the caller is believed no more."""
        self._end(CertificateRefusedError(reason))

    @asynccontextmanager
    async def within(self) -> AsyncIterator[None]:
        """Go on with the call inside the block, which is cancelled where it ends; used once.

        Raises:
            FedPredictError: What `look` raised, or `CertificateRefusedError`.
        """
        if self.refused is not None:
            raise self.refused
        looking = asyncio.ensure_future(self._keep_looking())
        try:
            async with asyncio.timeout(None) as self._limit:
                yield
        except TimeoutError:
            if self.refused is None:  # another's
                raise
            raise self.refused from None
        finally:
            self._limit = None
            looking.cancel()

    async def _keep_looking(self) -> None:
        while self.refused is None:
            await asyncio.sleep(LOOK_S)
            try:
                self._look()
            except Exception as error:  # noqa: BLE001  handed to the call, which ends with it
                self._end(error)

    def _end(self, error: Exception) -> None:
        if self.refused is not None:
            return
        self.refused = error
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())
