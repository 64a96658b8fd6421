"""Calls that end before anything held them against a rule: they count, keep to hours and leave a line like all others.

What is understood is counted where it is checked; here is what becomes of the rest, so that a call counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedpredict.errors import FedPredictError, ProtocolError
from fedpredict.security.audit_calls import AuditedCalls
from fedpredict.security.identity import Identity
from fedpredict.security.policy import Needs, Policy
from fedpredict.security.tls import Context

_HAVE_RULES = frozenset({Needs.RULE, Needs.COUNTED, Needs.CALL})


class Entrance:
    """Refuses what is no call."""

    def __init__(self, policy: Policy[Any] | None, audit: AuditedCalls) -> None:
        """Prepare.

        Args:
            policy: Who may call, and how often; None: whoever has an identity.
            audit: Writes down what is refused.
        """
        self._policy = policy
        self._audit = audit

    def misunderstood(self, what: str, caller: Identity, error: Exception, needs: Needs = Needs.CALL) -> None:
        """Count a call that was not understood, and write it down.

        Args:
            what: The method, as lines name it.
            caller: Who called.
            error: What is wrong with it, for the caller to know.
            needs: What the method asks of its callers.

        Raises:
            FedPredictError: The caller may not call now, so he learns this instead, and nothing else.
        """
        try:
            if self._policy is not None and needs in _HAVE_RULES:
                self._policy.admit(caller, needs)
        except FedPredictError as refused:
            self._audit.other(what, caller, "", "", refused)
            raise
        self._audit.other(what, caller, "", "", error)

    def unread(
        self, what: str, needs: Needs, who_calls: Callable[[Context], Identity]
    ) -> Callable[[Context, ProtocolError], None]:
        """Return what `wire.handlers.unary` tells of messages that do not parse."""

        def tell(context: Context, error: ProtocolError) -> None:
            self.misunderstood(what, who_calls(context), error, needs)

        return tell
