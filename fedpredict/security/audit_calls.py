"""What the audit of every party's calls has in common, whether or not there is a log."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedpredict.security.audit_line import AuditedCall, outcome_of
from fedpredict.security.audit_peers import Handed
from fedpredict.security.audit_waiting import Audit, until_safe
from fedpredict.security.identity import Identity
from fedpredict.security.tokens import token_of


def no_purpose(_: Identity) -> str:
    """Return that no rule says what a caller asks for."""
    return ""


class AuditedCalls:
    """Writes calls down, where there is an audit log."""

    def __init__(self, log: Audit | None, purpose_of: Callable[[Identity], str] = no_purpose) -> None:
        """Prepare.

        Args:
            log: Where to write; None: nowhere.
            purpose_of: What a caller asks for, as its rule says; lines repeat it.
        """
        self._log = log
        self._purpose_of = purpose_of

    def check(self) -> None:
        """Raise `AuditUnavailableError` where calls must not be answered."""
        if self._log is not None:
            self._log.check()

    async def safe(self) -> None:
        """Return when the answer may leave: at once, or with `fsync = "each"` when the disk has its line.

        Raises:
            AuditUnavailableError: The line cannot be written.
        """
        if self._log is not None and self._log.holds_answers:
            await until_safe(self._log)

    def other(self, what: str, caller: Identity, request_id: str, model_id: str, error: BaseException | None) -> None:
        """Write down a call that names no samples, or one that was refused before it was understood."""
        if self._log is not None:
            self._log.add(
                AuditedCall(
                    what,
                    str(caller),
                    request_id,
                    model_id,
                    outcome=outcome_of(error),
                    token=token_of(caller),
                    purpose=self._purpose_of(caller),
                )
            )

    def handed(self) -> list[Handed]:
        """Return the checkpoints that another party is handed now."""
        return [] if self._log is None else self._log.peers.handed()

    def keep(self, sender: Identity, handed: Sequence[Handed]) -> None:
        """Keep the checkpoints that another party handed over."""
        if self._log is not None and handed:
            self._log.peers.keep(sender, handed)
