"""Who asks an initiator, however they show it: a certificate, a bearer token, or on loopback their word."""

from __future__ import annotations

from fedpredict.errors import SecurityError, TokenRefusedError
from fedpredict.initiator.admission import Access
from fedpredict.initiator.audited import RequestAudit
from fedpredict.security.audit_calls import no_purpose
from fedpredict.security.audit_waiting import Audit
from fedpredict.security.callers import caller_identity, shown_in
from fedpredict.security.https import http_identity
from fedpredict.security.identity import Identity
from fedpredict.security.live import LiveTls
from fedpredict.security.passwords import AUTHORIZATION
from fedpredict.security.tls import Context, single_identity
from fedpredict.security.tokens import Tokens


class Callers:
    """Tells who calls, over gRPC and HTTP alike. Where there is a token, it decides."""

    def __init__(
        self,
        access: Access | None = None,
        *,
        tokens: Tokens | None = None,
        log: Audit | None = None,
    ) -> None:
        """Prepare.

        Args:
            access: Who may ask for what; None: what the server's settings say.
            tokens: The users' tokens; None: none are taken.
            log: Where calls are written down; None: nowhere.
        """
        self.audit = RequestAudit(log, no_purpose if access is None else access.purpose_of)
        """Writes calls down, those of strangers here and all others where they are answered."""
        self.live: LiveTls | None = None
        """What certificates are held to, as the server says; None for plain text, where callers state who they are."""
        self.access = access
        """Who may ask for what; None: what the server's settings say."""
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
                return caller_identity(context, self.live)
            if len(sent) > 1:
                raise TokenRefusedError(f"{len(sent)} entries of {AUTHORIZATION} in one call", reason="malformed")
            shown = b"" if self.live is None else shown_in(context)
            return self._holder(str(sent[0]), self.live.check(shown) if self.live and shown else None)
        except SecurityError as error:
            self.audit.stranger("gRPC", error)
            raise

    def of_request(self, uris: tuple[str, ...] | None, stated: str | None, authorization: str | None) -> Identity:
        """Return who makes an HTTP request; arguments as of `http_identity`, errors as of `of_call`."""
        try:
            if authorization is None:
                return http_identity(uris, stated)
            return self._holder(authorization, single_identity(uris) if uris else None)
        except SecurityError as error:
            self.audit.stranger("HTTP", error)
            raise

    def _holder(self, authorization: str, proved: Identity | None) -> Identity:
        if self._tokens is None:
            raise TokenRefusedError("a token came, and the settings name no file of tokens", reason="not taken")
        holder = self._tokens.holder(authorization)
        if proved is not None and (proved.kind, proved.name) != (holder.kind, holder.name):
            told = f"token {holder.token.id} of {holder} came with the certificate of {proved}"
            raise TokenRefusedError(told, reason="another client", token_id=holder.token.id)
        return holder
