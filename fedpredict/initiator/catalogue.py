"""What this initiator knows of its models: pins, what the parties said last, and what follows. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedpredict.errors import IncompatiblePartsError, ModelNotFoundError, ModelNotReadyError
from fedpredict.initiator.settings import ModelSettings
from fedpredict.model.head import Head, Heads, HeadShelf
from fedpredict.model.kinds import KINDS
from fedpredict.model.manifest import DEFAULT_MAX_SAMPLES, Manifest, PartDescription, build_manifest
from fedpredict.model.prediction import ModelInfo
from fedpredict.public_status import STATUS

NOT_READY = STATUS[ModelNotReadyError].text
INCOMPATIBLE = STATUS[IncompatiblePartsError].text


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something is not as it should be.

    Attributes:
        told: For this process's operator.
        public: For its users.
    """

    told: str
    public: str = NOT_READY


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one party said last about its part of one model.

    Attributes:
        part: Its description; kept while the party is away, None where it has no such model or was never met.
        problem: Why it cannot be asked now; None when it can.
    """

    part: PartDescription | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Offered:
    """What the parties' parts make together: a manifest, or a problem."""

    manifest: Manifest | None = None
    problem: Problem | None = None


@dataclass(slots=True)
class _Entry:
    settings: ModelSettings
    pinned: Manifest | None = None
    sightings: dict[str, Sighting] = field(default_factory=dict)


class Catalogue:
    """The models of the settings, and what is known of each. Used from one thread: the event loop's."""

    def __init__(self, models: Mapping[str, ModelSettings], heads: Heads = HeadShelf) -> None:
        """Know nothing of the models yet.

        Args:
            models: Those of the settings.
            heads: Returns the heads that this initiator can finish with; default: none.
        """
        self._heads = heads
        self._entries = {model_id: _Entry(settings) for model_id, settings in models.items()}
        self.limits_seen = 0
        """How often a model's `max_samples` has changed."""
        self._usable: dict[str, Manifest] = {}
        """Pins that were found usable, until the pins change: every request asks."""

    @property
    def model_ids(self) -> tuple[str, ...]:
        """Every configured model, sorted."""
        return tuple(sorted(self._entries))

    def models_of(self, party: str) -> tuple[str, ...]:
        """Return the models of which `party` holds a part, sorted."""
        return tuple(model_id for model_id in self.model_ids if party in self._entries[model_id].settings.parties)

    def settings(self, model_id: str) -> ModelSettings:
        """Return a model's settings; raise `ModelNotFoundError` for one that is not configured."""
        return self._entry(model_id).settings

    def record_pins(self, pins: Mapping[str, Manifest]) -> tuple[str, ...]:
        """Take over the pinned manifests; return the models whose pin is another one than before, sorted."""
        changed = tuple(m for m in self.model_ids if self._entries[m].pinned != pins.get(m))
        for model_id in changed:
            self._entries[model_id].pinned = pins.get(model_id)
        self._usable.clear()
        return changed

    def record(self, model_id: str, party: str, sighting: Sighting) -> None:
        """Take over what a party said."""
        before = self.max_samples(model_id)
        self._entry(model_id).sightings[party] = sighting
        self.limits_seen += self.max_samples(model_id) != before

    def record_away(self, model_id: str, party: str, problem: Problem) -> None:
        """Take over that a party cannot be asked now; what it said before stays known."""
        self.record(model_id, party, Sighting(self.sighting(model_id, party).part, problem))

    def sighting(self, model_id: str, party: str) -> Sighting:
        """Return what the party said last; one never met is waited for."""
        unmet = Sighting(problem=Problem(f"party {party} has not been met yet"))
        return self._entry(model_id).sightings.get(party, unmet)

    def pin_of(self, model_id: str) -> Manifest | None:
        """Return the pinned manifest, or None where nothing is pinned; raise `ModelNotFoundError`."""
        return self._entry(model_id).pinned

    def answerable(self, model_id: str) -> Manifest:
        """Return the pinned manifest that predictions are combined under.

        Whether the parties can be reached is not asked here: the model's policy says what then.

        Raises:
            ModelNotFoundError: Not a configured model.
            ModelNotReadyError: Nothing usable is pinned.
        """
        usable = self._usable.get(model_id)
        if usable is not None:
            return usable
        pinned, problem = self._entry(model_id).pinned, self._pin_problem(model_id)
        if pinned is None or problem is not None:
            raise ModelNotReadyError(f"model {model_id}: {problem.told if problem else NOT_READY}")
        self._usable[model_id] = pinned
        return pinned

    def head_of(self, manifest: Manifest) -> Head | None:
        """Return what finishes the shares of a version; None where they are added up.

        Raises:
            ModelNotReadyError: The version has a head that is not loaded.
        """
        problem = self._head_problem(manifest)
        if problem is not None:
            raise ModelNotReadyError(f"model {manifest.model_id}: {problem.told}")
        if manifest.head is None:
            return None
        found = self._heads().version(manifest.model_id, manifest.head.head_sha256)
        return None if found is None else found.model.head

    def max_samples(self, model_id: str) -> int:
        """Return how many sample ids every party of a model takes in one call, as far as they said."""
        sightings = (self.sighting(model_id, party).part for party in self._entry(model_id).settings.parties)
        return min((part.max_samples for part in sightings if part is not None), default=DEFAULT_MAX_SAMPLES)

    def offered(self, model_id: str) -> Offered:
        """Return what the parties' parts make together, as far as they are known."""
        entry = self._entry(model_id)
        parts: dict[str, PartDescription] = {}
        for party in entry.settings.parties:
            sighting = self.sighting(model_id, party)
            if sighting.part is None:
                return Offered(problem=sighting.problem or Problem(f"party {party} described no part"))
            parts[party] = sighting.part
        try:
            return Offered(build_manifest(parts, self._heads()))
        except IncompatiblePartsError as error:
            return Offered(problem=Problem(str(error), INCOMPATIBLE))

    def problem(self, model_id: str) -> Problem | None:
        """Return why the model cannot be answered in full now, or None when it can."""
        problem = self._pin_problem(model_id)
        if problem is not None:
            return problem
        sightings = (self.sighting(model_id, party) for party in sorted(self._entry(model_id).settings.parties))
        return next((sighting.problem for sighting in sightings if sighting.problem), None)

    def info(self, model_id: str) -> ModelInfo:
        """Return the model as its users see it; raise `ModelNotFoundError`."""
        pinned, problem = self._entry(model_id).pinned, self.problem(model_id)
        return ModelInfo(
            model_id=model_id,
            ready=problem is None,
            problem=problem.public if problem else "",
            kind=pinned.kind if pinned else None,
            link=pinned.link if pinned else None,
            classes=pinned.classes if pinned else (),
            parties=pinned.parties if pinned else (),
            manifest_sha256=pinned.manifest_sha256 if pinned else "",
            n_outputs=pinned.n_outputs if pinned else 0,
        )

    def _pin_problem(self, model_id: str) -> Problem | None:
        entry = self._entry(model_id)
        if entry.pinned is None:
            return self.offered(model_id).problem or Problem(
                f"nothing is pinned: look at what is offered, then `fedpredict catalogue pin {model_id}`"
            )
        return (
            _misfit(entry.settings, entry.pinned)
            or self._head_problem(entry.pinned)
            or self._fallback_problem(entry.settings, entry.pinned)
        )

    def _head_problem(self, pinned: Manifest) -> Problem | None:
        if pinned.head is None or self._heads().version(pinned.model_id, pinned.head.head_sha256):
            return None
        why = self._heads().problems.get(pinned.model_id) or "no such head is in this initiator's warehouse"
        return Problem(f"head {pinned.head.head_sha256[:12]} of the pinned version is not loaded: {why}")

    def _fallback_problem(self, settings: ModelSettings, pinned: Manifest) -> Problem | None:
        fallback = self._entry(settings.fallback_model).pinned if settings.fallback_model else None
        if fallback is None:
            return None
        if fallback.head is not None:
            return Problem(
                f"the fallback model {fallback.model_id} has a head; one whose shares are added up is needed"
            )
        if _outputs(fallback) == _outputs(pinned):
            return None
        return Problem(
            f"the fallback model {fallback.model_id} has other classes, another number of outputs, or outputs that "
            "mean something else (a decision value is no probability)"
        )

    def _entry(self, model_id: str) -> _Entry:
        entry = self._entries.get(model_id)
        if entry is None:
            raise ModelNotFoundError(f"model {model_id} is not under [models]")
        return entry


def _outputs(manifest: Manifest) -> tuple[object, ...]:
    return manifest.classes, manifest.n_outputs, KINDS[manifest.kind].output


def _misfit(settings: ModelSettings, pinned: Manifest) -> Problem | None:
    if set(settings.parties) != set(pinned.parties):
        return Problem(
            f"pinned for {', '.join(pinned.parties)}, but the settings say {', '.join(sorted(settings.parties))}: "
            f"`fedpredict catalogue pin {pinned.model_id}` once all of them are met"
        )
    if settings.head != (pinned.head is not None):
        what = "shares are finished by a head" if pinned.head else "shares are added up"
        return Problem(
            f"the pinned version's {what}, but models.{pinned.model_id}.head is {str(settings.head).lower()}"
        )
    for party, constants in sorted(settings.defaults.items()):
        if len(constants) != pinned.n_scores:
            return Problem(
                f"models.{pinned.model_id}.defaults.{party} has {len(constants)} numbers; "
                f"the pinned model has {pinned.n_scores} scores a sample"
            )
    return None
