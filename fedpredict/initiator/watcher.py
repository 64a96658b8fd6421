"""The tasks behind the catalogue: asking the parties what they hold, and the database what is pinned."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fedpredict.errors import (
    FedPredictError,
    ManifestMismatchError,
    ModelNotFoundError,
    PartyClosedError,
    PartyLimitedError,
    PartyRefusedError,
    PartyTimeoutError,
    StateError,
)
from fedpredict.initiator.catalogue import INCOMPATIBLE, Catalogue, Offered, Problem, Sighting
from fedpredict.initiator.settings import PinMode
from fedpredict.model.manifest import Manifest, PartDescription
from fedpredict.model.scorer import PartyScorer, ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.public_status import public_status
from fedpredict.state.base import PinStore
from fedpredict.wire.codec import new_request_id

logger = logging.getLogger(__name__)

FIRST_USE = "first use"
ASK_S = 5.0
"""Longest wait for one description or probe."""
RETRY_S = 0.2
"""First pause after a party could not be reached; it doubles up to the poll interval."""
_PROBE_IDS = (b"",)
"""An id that names nobody: a party checks the version it is asked for, and scores no one."""


class Watcher:
    """Keeps a catalogue fresh, until cancelled."""

    def __init__(
        self, catalogue: Catalogue, scorers: Mapping[str, PartyScorer], store: PinStore, *, poll_s: float
    ) -> None:
        """Prepare; nothing is asked before `run`.

        Args:
            catalogue: What is kept fresh.
            scorers: By party id, every party of every model.
            store: Pins, and what is offered.
            poll_s: Seconds between two looks at a party, and at the database.
        """
        self._catalogue = catalogue
        self._scorers = scorers
        self._store = store
        self._poll_s = poll_s
        self._stored: dict[str, Offered] = {}
        self._settling = asyncio.Lock()
        self._reading = asyncio.Lock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read the pins, and watch everything while the block runs; raise `StateError` as `read_pins` does."""
        await self.read_pins()
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def run(self) -> None:
        """Watch every party and the database; returns only by being cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_pins())
            for party in sorted(self._scorers):
                tasks.create_task(self._watch_party(self._scorers[party]))

    async def read_pins(self) -> None:
        """Take over what is pinned; raise `StateError` where the database cannot be used."""
        async with self._reading:  # what was read first must not be taken over last: a pin would be lost again
            histories = await asyncio.to_thread(self._store.pins)
            pinned = {model_id: history[0].manifest for model_id, history in histories.items()}
            for model_id in self._catalogue.record_pins(pinned):
                logger.info("catalogue.pin", extra=_named(model_id, pinned.get(model_id)))

    async def _watch_pins(self) -> None:
        while True:
            await self._go_on(self._look_at_pins())
            await asyncio.sleep(self._poll_s)

    async def _watch_party(self, scorer: PartyScorer) -> None:
        failures = 0
        while True:
            failures = 0 if await self._go_on(self._refresh(scorer)) else failures + 1
            pause_s = self._poll_s if not failures else min(self._poll_s, RETRY_S * 2 ** min(failures, 10))
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.0))  # noqa: S311  initiators must not march in step

    async def _go_on(self, step: Coroutine[Any, Any, bool]) -> bool:
        """Return whether a step went well; one that fails is logged, and predictions go on with what is known."""
        try:
            return await step
        except StateError as error:
            logger.warning("state.unavailable", extra={"reason": str(error)})
        except Exception:  # the edge of a background task: it must go on, and say what happened
            logger.exception("watch.failed")
        return False

    async def _look_at_pins(self) -> bool:
        await self.read_pins()
        for model_id in self._catalogue.model_ids:
            await self._settle(model_id)
        return True

    async def _refresh(self, scorer: PartyScorer) -> bool:
        """Look at every model of a party, then settle what follows; return whether all went well."""
        models = self._catalogue.models_of(scorer.party)
        well = await self._look_at(scorer, models)
        for model_id in models:
            await self._settle(model_id)
        return well

    async def _look_at(self, scorer: PartyScorer, models: Sequence[str]) -> bool:
        well = True
        for model_id in models:
            try:
                self._catalogue.record(model_id, scorer.party, await self._look(scorer, model_id))
            except PartyTimeoutError as error:
                self._away(scorer.party, models, error)
                return False
            except FedPredictError as error:
                self._away(scorer.party, (model_id,), error)
                well = False
        return well

    def _away(self, party: str, models: Sequence[str], error: FedPredictError) -> None:
        problem = Problem(str(error), public_status(error).text)
        known = [self._catalogue.sighting(model_id, party).problem for model_id in models]
        if any(before is None or before.public != problem.public for before in known):
            logger.warning("party.away", extra={"party": party, "models": list(models), "reason": problem.told})
        for model_id in models:
            self._catalogue.record_away(model_id, party, problem)

    async def _look(self, scorer: PartyScorer, model_id: str) -> Sighting:
        try:
            part = await scorer.describe(model_id, deadline_s=ASK_S)
        except ModelNotFoundError:
            return Sighting(problem=Problem(f"party {scorer.party} offers no model {model_id} to this initiator"))
        return Sighting(part, await self._probe(scorer, part))

    async def _probe(self, scorer: PartyScorer, part: PartDescription) -> Problem | None:
        """Return a problem if the party describes another version than the pinned one, and no longer serves that."""
        pinned = self._catalogue.pin_of(part.model_id)
        digest = dict(pinned.digests).get(scorer.party) if pinned else None
        if pinned is None or digest is None or digest == part.params_sha256:
            return None
        if self._catalogue.settings(part.model_id).masked:  # no party answers alone: the first round shows it
            return None
        query = ScoreQuery(
            request_id=new_request_id(),
            model_id=part.model_id,
            manifest_sha256=pinned.manifest_sha256,
            params_sha256=digest,
            mode=Mode.NEARLINE,
            sample_ids=_PROBE_IDS,
        )
        try:
            await scorer.score(query, deadline_s=ASK_S)
        except ManifestMismatchError as error:
            told = f"party {scorer.party} no longer serves the pinned version, only {part.params_sha256}"
            return Problem(f"{told}: look at what is offered, and pin it", public_status(error).text)
        except (PartyClosedError, PartyLimitedError, PartyRefusedError):
            return None  # our rule there may not have this mode, or not now: that tells nothing about the version
        return None

    async def _settle(self, model_id: str) -> None:
        """Store what is offered where that changed, and pin it where it is the first and the settings say so."""
        async with self._settling:
            offered = self._catalogue.offered(model_id)
            if offered != self._stored.get(model_id):
                told = offered.problem.told if offered.problem else ""
                await asyncio.to_thread(self._store.offer, model_id, offered.manifest, told)
                self._stored[model_id] = offered
                self._say(model_id, offered)
            if self._catalogue.settings(model_id).pin is PinMode.FIRST and offered.manifest:
                await self._pin_first(offered.manifest)

    async def _pin_first(self, offered: Manifest) -> None:
        """Pin what is offered where nothing is pinned, by this worker or by one beside it."""
        if self._catalogue.pin_of(offered.model_id) is None:
            await self.read_pins()
        if self._catalogue.pin_of(offered.model_id) is None:
            await asyncio.to_thread(self._store.pin, offered, by=FIRST_USE, replaces=None)
            await self.read_pins()

    def _say(self, model_id: str, offered: Offered) -> None:
        pinned = self._catalogue.pin_of(model_id)
        if offered.problem is not None:
            level = logging.WARNING if offered.problem.public == INCOMPATIBLE else logging.INFO
            logger.log(level, "catalogue.incomplete", extra={"model": model_id, "reason": offered.problem.told})
        elif offered.manifest and pinned and offered.manifest != pinned:
            changed = sorted(party for party, _ in set(offered.manifest.digests) - set(pinned.digests))
            logger.warning(
                "catalogue.offered",
                extra={**_named(model_id, offered.manifest), "pinned": pinned.manifest_sha256, "parties": changed},
            )


def _named(model_id: str, manifest: Manifest | None) -> dict[str, object]:
    if manifest is None:
        return {"model": model_id, "manifest": None}
    return {"model": model_id, "manifest": manifest.manifest_sha256, "digests": dict(manifest.digests)}
