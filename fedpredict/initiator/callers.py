"""Who asks an initiator, however they show it: a certificate, a bearer token, or on loopback their word."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedpredict.errors import SecurityError, TokenRefusedError
from fedpredict.initiator.audited import RequestAudit
from fedpredict.security.audit_calls import no_purpose
from fedpredict.security.audit_waiting import Audit
from fedpredict.security.https import http_identity
from fedpredict.security.identity import Identity
from fedpredict.security.passwords import AUTHORIZATION
from fedpredict.security.tls import Context, certificate_uris, peer_identity, single_identity
from fedpredict.security.tokens import Tokens


class Callers:
    """Tells who calls, over gRPC and HTTP alike. Where there is a token, it decides."""

    def __init__(
        self,
        *,
        insecure: bool = False,
        tokens: Tokens | None = None,
        log: Audit | None = None,
        purpose_of: Callable[[Identity], str] = no_purpose,
    ) -> None:
        """Prepare.

        Args:
            insecure: Whether gRPC callers have no TLS, and state who they are; on loopback.
            tokens: The users' tokens; None: none are taken.
            log: Where calls are written down; None: nowhere.
            purpose_of: What a caller asks for, as its rule says; lines repeat it.
        """
        self.audit = RequestAudit(log, purpose_of)
        """Writes calls down, those of strangers here and all others where they are answered."""
        self._insecure = insecure
        self._tokens = tokens

    def of_call(self, context: Context) -> Identity:
        """Return who makes a gRPC call.

        Raises:
            UnauthenticatedError: He has no identity, or more than one.
            TokenRefusedError: He came with a token that is not good.
        """
        sent = [value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION]
        try:
            if not sent:
                return peer_identity(context, insecure=self._insecure)
            if len(sent) > 1:
                raise TokenRefusedError(f"{len(sent)} entries of {AUTHORIZATION} in one call", reason="malformed")
            return self._holder(str(sent[0]), () if self._insecure else certificate_uris(context))
        except SecurityError as error:
            self.audit.stranger("gRPC", error)
            raise

    def of_request(self, uris: tuple[str, ...] | None, stated: str | None, authorization: str | None) -> Identity:
        """Return who makes an HTTP request; arguments as of `http_identity`, errors as of `of_call`."""
        try:
            return http_identity(uris, stated) if authorization is None else self._holder(authorization, uris or ())
        except SecurityError as error:
            self.audit.stranger("HTTP", error)
            raise

    def _holder(self, authorization: str, uris: Sequence[str]) -> Identity:
        if self._tokens is None:
            raise TokenRefusedError("a token came, and the settings name no file of tokens", reason="not taken")
        holder = self._tokens.holder(authorization)
        if uris:
            proved = single_identity(uris)
            if (proved.kind, proved.name) != (holder.kind, holder.name):
                told = f"token {holder.token.id} of {holder} came with the certificate of {proved}"
                raise TokenRefusedError(told, reason="another client", token_id=holder.token.id)
        return holder
