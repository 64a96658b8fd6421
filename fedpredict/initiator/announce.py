"""What an initiator that listens says of it in its log, and of what its settings leave open."""

from __future__ import annotations

import logging

from fedpredict.initiator.settings import InitiatorSettings

logger = logging.getLogger(__name__)


def announce(settings: InitiatorSettings, address: str, http_address: str | None, token_address: str) -> None:
    """Log where calls are taken, and who need not prove who they are."""
    logger.info("initiator.listening", extra={"party": settings.party, "address": address})
    if token_address:
        logger.info("initiator.listening_tokens", extra={"address": token_address})
    if http_address is not None:
        logger.info("initiator.listening_http", extra={"address": http_address})
    if settings.http_insecure:
        logger.warning("initiator.http_insecure", extra={"meaning": "HTTP callers state who they are"})
    if settings.insecure:
        logger.warning("initiator.insecure", extra={"meaning": "plain text; callers state who they are"})
    if not settings.clients:
        logger.warning("initiator.no_clients", extra={"meaning": "nobody may ask; see [clients]"})
