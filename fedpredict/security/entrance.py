"""Calls that end before anything held them against a rule: they count, keep to hours and leave a line like all others.

What is understood is counted where it is checked; here is what becomes of the rest, so that a call counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
            self._admit(caller, needs)
        except FedPredictError as refused:
            self._audit.other(what, caller, "", "", refused)
            raise
        self._audit.other(what, caller, "", "", error)

    @contextmanager
    def refusals(self, what: str, caller: Identity, needs: Needs) -> Iterator[None]:
        """Do what `misunderstood` does with what the block refuses."""
        try:
            yield
        except FedPredictError as error:
            self.misunderstood(what, caller, error, needs)
            raise

    @contextmanager
    def look_up(self, what: str, caller: Identity, model_id: str = "") -> Iterator[None]:
        """Count a look-up, of a model or of all, that the block answers; it has a line only where it is refused.

        Raises:
            FedPredictError: The caller may not look this up, or not now; the block is not begun.
        """
        with self._audit.unanswered(what, caller, model_id):
            if self._policy is not None:
                rule = self._policy.admit(caller, Needs.RULE)
                if model_id:
                    rule.check_model(model_id)
            yield

    def _admit(self, caller: Identity, needs: Needs) -> None:
        if self._policy is None:
            return
        if needs in _HAVE_RULES:
            self._policy.admit(caller, needs)
        elif needs is Needs.IDENTITY and self._policy.rule_of(caller) is not None:
            # who has no rule shares a few lines with strangers; who has one could write them without an end
            self._policy.admit(caller, Needs.RULE)

    def unread(
        self, what: str, needs: Needs, who_calls: Callable[[Context], Identity]
    ) -> Callable[[Context, ProtocolError], None]:
        """Return what `wire.handlers.unary` tells of messages that do not parse."""

        def tell(context: Context, error: ProtocolError) -> None:
            self.misunderstood(what, who_calls(context), error, needs)

        return tell
