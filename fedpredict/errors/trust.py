"""Who may not, or not now; and what keeps account of it."""

from __future__ import annotations

from fedpredict.errors.base import FedPredictError, retry_after


class SecurityError(FedPredictError):
    """Something about identity, certificates or permissions is wrong."""


class CertificateError(SecurityError):
    """A certificate or key file cannot be used."""


class CertificateRefusedError(SecurityError):
    """A peer's certificate is good no more: it ended, or it is on a list of those that are refused.

    Attributes:
        caller: Whose it is, where a handshake proved that; else empty.
    """

    def __init__(self, message: str, *, caller: str = "") -> None:
        super().__init__(message)
        self.caller = caller


class UnauthenticatedError(SecurityError):
    """The caller did not prove an identity."""


class NotPermittedError(SecurityError):
    """The caller may ask, but not for this; `problem` is a text of ours that may be told."""

    public_fields = ("problem",)

    def __init__(self, message: str, *, problem: str) -> None:
        super().__init__(message)
        self.problem = problem


class OutOfHoursError(SecurityError):
    """The caller may ask, but not at this time."""


class TokenRefusedError(SecurityError):
    """A bearer token cannot be used; callers are not told why.

    Attributes:
        reason: Why: "malformed", "unknown", "wrong", "expired", "revoked", "unusable", "not taken" or "another client";
            empty at the caller's end.
        token_id: Names the token; empty where that is not known. What was sent is never kept.
    """

    def __init__(self, message: str, *, reason: str = "", token_id: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.token_id = token_id


class MaskingRefusedError(FedPredictError):
    """A party does not mask, or does not answer without masks, as it was asked to; `problem` may be told."""

    public_fields = ("problem",)

    def __init__(self, message: str, *, problem: str) -> None:
        super().__init__(message)
        self.problem = problem


class AuditBrokenError(FedPredictError):
    """Lines of an audit log were changed, removed, added or moved."""


class AuditUnavailableError(FedPredictError):
    """The audit log cannot be written, and calls that are not written down are not answered."""


class DistinctIdsUsedUpError(FedPredictError):
    """A question names more sample ids that are new on this day than its caller has left; nothing of it counts.

    Attributes:
        until: When the count begins anew, in UTC, as ISO 8601 writes it.
    """

    public_fields = ("until",)

    def __init__(self, message: str, *, until: str) -> None:
        super().__init__(message)
        self.until = until


class DistinctIdsUnavailableError(FedPredictError):
    """The sample ids of callers that have a limit cannot be counted, and nothing that is not counted is answered."""


class RetryLaterError(FedPredictError):
    """The call was not begun, and may be made again after a while."""

    public_fields = ("retry_after_ms",)

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after(retry_after_ms)


class OverloadedError(RetryLaterError):
    """This process has more work than it takes."""


class RateLimitedError(RetryLaterError):
    """The caller makes more calls than its rule allows."""
