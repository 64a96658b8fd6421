"""What `doctor` looks at by role: whom a participant answers; an initiator's pins and its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from fedpredict.cli import wiring
from fedpredict.cli.checks_local import TIMEOUT_S, Checked
from fedpredict.cli.config_file import Loaded
from fedpredict.cli.names import nearest
from fedpredict.cli.unknown_models import NONE_ANSWERED, NONE_CONVERTED, unknown_models
from fedpredict.errors import FedPredictError, PartyError, PartyRefusedError
from fedpredict.initiator.fanout import Dialler
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.check import Finding, Level, explain_handshake
from fedpredict.security.rules import RuleSettings
from fedpredict.security.tls import server_name
from fedpredict.state.base import Offer, Pin


def check_callers(settings: ParticipantSettings, models: frozenset[str]) -> Iterator[Checked]:
    """Yield whom a participant answers, and models that it lists but does not have."""
    if not settings.callers:
        fix = 'add [callers.<party>] with models = ["*"] for each initiator'
        yield "callers", Finding(Level.WARNING, "nobody may ask", fix)
    yield from _check_rules("callers", settings.callers, models, NONE_CONVERTED)


def check_clients(settings: InitiatorSettings) -> Iterator[Checked]:
    """Yield whom an initiator answers, and models that it lists but does not answer for."""
    if not settings.clients:
        fix = 'add [clients.<name>] with models = ["*"] for each client'
        yield "clients", Finding(Level.WARNING, "nobody may ask", fix)
    yield from _check_rules("clients", settings.clients, frozenset(settings.models), NONE_ANSWERED)


def _check_rules(topic: str, rules: Mapping[str, RuleSettings], models: frozenset[str], none: str) -> Iterator[Checked]:
    for caller, allowed in rules.items():
        unknown = [name for _, name in unknown_models({caller: allowed}, models)]
        for name in unknown:
            hint = nearest(name, models, none)
            yield topic, Finding(Level.WARNING, f"{caller} may ask for {name}, which is not here", hint)
        if not unknown:
            yield topic, Finding(Level.OK, f"{caller} may ask for {', '.join(allowed.models) or 'nothing'}")


def check_initiators(loaded: Loaded[ParticipantSettings]) -> Iterator[Checked]:
    """Yield whether a participant that dials may be asked by those whom it dials, and reaches each of them."""
    settings = loaded.settings
    files = settings.tls.files(loaded.base) if settings.tls and not settings.insecure else None
    for party, peer in settings.initiators.items():
        if party not in settings.callers:
            fix = f'add [callers.{party}] with models = ["*"]'
            yield f"initiator {party}", Finding(Level.WARNING, f"{party} is dialled, but may ask for nothing", fix)
        if files is not None:
            for address in peer.addresses:
                yield f"initiator {party}", explain_handshake(address, files, server_name(party), TIMEOUT_S)


def check_catalogue(loaded: Loaded[InitiatorSettings]) -> Iterator[Checked]:
    """Yield whether every model of an initiator has a pin, and whether its parties offer another version."""
    try:
        store = wiring.open_pins(loaded)
        try:
            pins, offers = store.pins(), store.offers()
        finally:
            store.close()
    except FedPredictError as error:
        yield "catalogue", Finding(Level.PROBLEM, str(error), "correct `state`, or the rights of its file")
        return
    if not loaded.settings.models:
        yield "catalogue", Finding(Level.WARNING, "no model is answered", "add [models.<id>] with its parties")
    for model_id in loaded.settings.models:
        yield "catalogue", _check_pin(model_id, pins, offers.get(model_id))


def check_peers(loaded: Loaded[InitiatorSettings]) -> Iterator[Checked]:
    """Yield per party whether it is reached, is who it should be, and has its part of every model."""
    settings = loaded.settings
    files = settings.tls.files(loaded.base) if settings.tls and not settings.insecure else None
    for party, peer in settings.parties.items():
        if peer.address is None:
            fix = f"{party}'s own `fedpredict doctor` and log say whether it reaches this initiator"
            yield f"peer {party}", Finding(Level.OK, "dials us: nothing can be asked from here", fix)
            continue
        if files is not None:
            handshake = explain_handshake(peer.address, files, server_name(party), TIMEOUT_S)
            yield f"peer {party}", handshake
            if handshake.level is Level.PROBLEM:
                continue
        models = [model_id for model_id, model in settings.models.items() if party in model.parties]
        for finding in asyncio.run(_ask(Dialler(settings.party, files), party, peer.address, models)):
            yield f"peer {party}", finding


def _check_pin(model_id: str, pins: Mapping[str, tuple[Pin, ...]], offer: Offer | None) -> Finding:
    history = pins.get(model_id, ())
    pinned = history[0].manifest if history else None
    if offer is not None and offer.manifest is None:
        what = f"{model_id}: the parties' parts make no model: {offer.problem}"
        return Finding(Level.PROBLEM, what, "see the parties' own `fedpredict model list`")
    if pinned is None:
        fix = f"start the initiator; then fedpredict catalogue pin {model_id}, where its pin is manual"
        return Finding(Level.WARNING, f"{model_id}: no version is pinned", fix)
    if offer is not None and offer.manifest != pinned:
        what = f"{model_id}: the parties offer another version than the pinned {pinned.manifest_sha256[:12]}"
        return Finding(
            Level.WARNING, what, f"fedpredict catalogue show {model_id}, then pin, or let the party roll back"
        )
    return Finding(Level.OK, f"{model_id}: pinned {pinned.manifest_sha256[:12]}")


async def _ask(dialler: Dialler, party: str, address: str, models: list[str]) -> list[Finding]:
    try:
        peer = dialler.dial(party, address)
    except FedPredictError as error:
        return [Finding(Level.PROBLEM, str(error), "see what is said about the certificates")]
    async with peer:
        try:
            await peer.hello(deadline_s=TIMEOUT_S)
        except PartyRefusedError as error:
            fix = f"ask {party}: its log says why; perhaps its [tls] lists, or no [callers.{dialler.party}]"
            return [Finding(Level.PROBLEM, str(error), fix)]
        except PartyError as error:
            fix = f"start {party}'s participant, or correct [parties.{party}] address; its log may say more"
            return [Finding(Level.PROBLEM, str(error), fix)]
        found = [Finding(Level.OK, f"{address} answers as {party}{', and proves it' if dialler.tls else ''}")]
        for model_id in models:
            try:
                part = await peer.describe(model_id, deadline_s=TIMEOUT_S)
            except FedPredictError as error:
                fix = f"at {party}: `fedpredict model list`, and [callers.{dialler.party}] in its settings"
                found.append(Finding(Level.PROBLEM, f"{model_id}: {error}", fix))
            else:
                found.append(Finding(Level.OK, f"{model_id}: digest {part.params_sha256[:12]}"))
        return found
