"""Who may ask this participant for what, and who may send it events. What is not listed is not there."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from fedpredict.errors import ConfigError, FeedNotFoundError
from fedpredict.participant.settings import CallerSettings, ParticipantSettings
from fedpredict.scoring.realtime_settings import EventSettings
from fedpredict.security.identity import Identity
from fedpredict.security.policy import Changes, Clocks, Policy, Turnstile
from fedpredict.security.rates import Rates
from fedpredict.wire.channel import MAX_SAMPLES_PER_CALL


class CallerPolicy(Policy[CallerSettings]):
    """The `[callers]` of the settings."""

    def __init__(
        self,
        callers: Mapping[str, CallerSettings],
        *,
        max_rows: int = MAX_SAMPLES_PER_CALL,
        rates: Rates | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        """Put rules in force.

        Args:
            callers: By party.
            max_rows: Most sample ids in one call of anybody.
            rates: Where calls are counted; default: in this process alone.
            clocks: Default: the machine's.
        """
        self.distinct_ids: Mapping[str, int] = {}
        """How many distinct sample ids callers may ask about on a day; who has no limit is not in it."""
        super().__init__(callers, table="callers", max_rows=max_rows, rates=rates, clocks=clocks)

    @override
    def replace(self, rules: Mapping[str, CallerSettings]) -> Changes:
        changed = super().replace(rules)
        limits = {name: each.distinct_ids_per_day for name, each in rules.items()}
        self.distinct_ids = {name: limit for name, limit in limits.items() if limit is not None}
        return changed


class SenderPolicy:
    """The `[events] senders` of the settings, and their limits, which each of them has for itself."""

    def __init__(self, settings: EventSettings, rates: Rates, clocks: Clocks | None = None) -> None:
        """Put settings in force.

        Args:
            settings: `[events]`.
            rates: Where messages are counted.
            clocks: Default: the machine's.
        """
        self._rates = rates
        self._clocks = clocks or Clocks()
        self._settings = EventSettings()
        self._turnstiles: Mapping[str, Turnstile] = {}
        self.replace(settings)

    def replace(self, settings: EventSettings) -> Changes:
        """Put other settings in force, and return what is different.

        Raises:
            ConfigError: There were too many senders; the settings stay as they were.
        """
        before, limits = set(self._turnstiles), settings.limits
        turnstiles = {uri: Turnstile.of(limits, self._rates, f"events {uri}") for uri in settings.senders}
        changed = ("events.limits",) if limits != self._settings.limits else ()
        self._settings, self._turnstiles = settings, turnstiles
        return Changes(tuple(sorted(turnstiles.keys() - before)), tuple(sorted(before - turnstiles.keys())), changed)

    def admit(self, sender: Identity) -> None:
        """Count a message of a sender, who may send now.

        Raises:
            FeedNotFoundError: It is not listed: as for a view that takes no events.
            OutOfHoursError: Not at this time.
            RateLimitedError: Not so often.
        """
        turnstile = self._turnstiles.get(sender.uri)
        if turnstile is None:
            raise FeedNotFoundError(f"{sender} is not among [events] senders")
        turnstile.check_hours(sender, self._clocks.now_s())
        turnstile.count(sender, self._rates, self._clocks.monotonic_ns())


class ParticipantPolicy:
    """All that a participant's settings say about who may do what; one per process."""

    def __init__(self, settings: ParticipantSettings, rates: Rates | None = None) -> None:
        """Put settings in force.

        Args:
            settings: The participant's.
            rates: Where calls are counted; default: in this process alone.
        """
        self.callers = CallerPolicy(settings.callers, max_rows=settings.max_samples, rates=rates)
        self.senders = SenderPolicy(settings.events, self.callers.rates)

    def replace(self, settings: ParticipantSettings) -> Changes:
        """Put other settings in force, as far as they are about this, and return what is different.

        Raises:
            ConfigError: There were too many callers or senders; everything stays as it was.
        """
        before = dict(self.callers)
        changed = self.callers.replace(settings.callers)
        try:
            return changed.and_also(self.senders.replace(settings.events))
        except ConfigError:
            self.callers.replace(before)
            raise
