"""What the audit of every party's calls has in common, whether or not there is a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fedpredict.errors import (
    CertificateRefusedError,
    OutOfHoursError,
    RateLimitedError,
    SecurityError,
    TokenRefusedError,
)
from fedpredict.model.arrays import Statuses
from fedpredict.model.few import FewPerSecond
from fedpredict.model.ids import is_model_id
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode
from fedpredict.security.audit_line import TEXT, AuditedCall, fields_of, outcome_of
from fedpredict.security.audit_peers import Handed
from fedpredict.security.audit_waiting import Audit, until_safe
from fedpredict.security.identity import Identity
from fedpredict.security.tokens import token_of

NOBODY = "nobody"
"""The caller in the line of one who did not prove who he is."""
REFUSED_PER_S = 10
"""So many refusals that cost their callers nothing get a line of their own; more are counted, or they would fill the
disk, and with it stop everybody. Those without a rule have them together, each other caller for itself."""

_KEPT, _KEPT_ROWS = 1_024, 64
"""So many texts that lines share are kept, of calls about so many samples at most."""
_NOT_COUNTED = (RateLimitedError, OutOfHoursError, TokenRefusedError)
"""What a caller with a rule is told of calls that do not count as calls."""


def no_purpose(_: Identity) -> str:
    """Return that there is a rule, and it does not say what a caller asks for."""
    return ""


class AuditedCalls:
    """Writes calls down, where there is an audit log."""

    def __init__(self, log: Audit | None, purpose_of: Callable[[Identity], str | None] = no_purpose) -> None:
        """Prepare.

        Args:
            log: Where to write; None: nowhere.
            purpose_of: What a caller asks for, as its rule says; lines repeat it. None for a caller without a rule.
        """
        self._log = log
        self._purpose_of = purpose_of
        self._few = FewPerSecond(REFUSED_PER_S)
        self._texts: dict[tuple[object, ...], bytes] = {}

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

    def write(self, call: AuditedCall, caller: Identity, error: BaseException | None) -> None:
        """Write a call down, or count it: one of too many that were refused, and cost their caller nothing.

        Args:
            call: The call, but for its caller, token and purpose.
            caller: Who asked. Without a rule, the line names no ids: nothing that is large may wait for it.
            error: Why it is refused; None for one that is answered.
        """
        if self._log is None:
            return
        purpose = self._purpose_of(caller)
        call.caller, call.token, call.purpose = str(caller), token_of(caller), purpose or ""
        if error is not None:
            if purpose is None:
                call.sample_ids, call.ids_sha256 = None, ""
                if not self._few.take():
                    self._log.count_refused(call.caller)
                    return
            elif isinstance(error, _NOT_COUNTED) and not self._few.take(call.caller):
                self._log.count_refused(call.caller)
                return
        self._log.add(call)

    def answered(
        self,
        what: str,
        caller: Identity,
        request_id: str,
        *,
        model_id: str,
        manifest_sha256: str,
        mode: Mode,
        epoch: int,
        sample_ids: Sequence[bytes],
        status: Statuses,
    ) -> None:
        """Write down a question that was answered; what is given is as in an `AuditedCall`."""
        if self._log is None:
            return
        # on the way of every answer: what many lines share is looked up
        token, purpose = token_of(caller), self._purpose_of(caller)
        who = (caller.kind, caller.name, token, purpose)
        key = (what, who, model_id, manifest_sha256, mode, epoch, status.tobytes())
        text = self._texts.get(key)
        if text is None:
            rows = len(sample_ids)
            call = AuditedCall(
                what, str(caller), "", model_id, manifest_sha256, mode.value, rows, epoch, status=status,
                token=token, purpose=purpose or "",
            )  # fmt: skip
            text = fields_of(call)
            if rows <= _KEPT_ROWS:
                if len(self._texts) >= _KEPT:
                    self._texts.clear()
                self._texts[key] = text
        self._log.add_answer(text, request_id, SampleIds.of(sample_ids))

    def stranger(self, what: str, error: BaseException, caller: str = NOBODY) -> None:
        """Write down a call of somebody who did not prove who he is, or whom no setting names; many are counted.

        Who proved it by a certificate that is refused is named all the same.
        """
        if self._log is None:
            return
        if isinstance(error, CertificateRefusedError):
            caller = error.caller or caller
        if not self._few.take():
            self._log.count_refused(caller)
            return
        token = error.token_id if isinstance(error, TokenRefusedError) else ""
        self._log.add(AuditedCall(what, caller, outcome=outcome_of(error), token=token))

    @contextmanager
    def strangers(self, what: str) -> Iterator[None]:
        """Write down a caller who does not prove inside the block who he is."""
        try:
            yield
        except SecurityError as error:
            self.stranger(what, error)
            raise

    def other(self, what: str, caller: Identity, request_id: str, model_id: str, error: BaseException | None) -> None:
        """Write down a call that names no samples, or one that was refused before it was understood."""
        if self._log is not None:
            self.write(AuditedCall(what, "", request_id, model_id, outcome=outcome_of(error)), caller, error)

    @contextmanager
    def unanswered(self, what: str, caller: Identity, model_id: str = "", request_id: str = "") -> Iterator[None]:
        """Write down what the block refuses, of a kind of call that names no person, and has no line otherwise."""
        try:
            yield
        except Exception as error:
            self.other(what, caller, request_id[:TEXT], model_id if is_model_id(model_id) else "", error)
            raise

    def handed(self) -> list[Handed]:
        """Return the checkpoints that another party is handed now."""
        return [] if self._log is None else self._log.peers.handed()

    def keep(self, sender: Identity, handed: Sequence[Handed]) -> None:
        """Keep the checkpoints that another party handed over."""
        if self._log is not None and handed:
            self._log.peers.keep(sender, handed)
