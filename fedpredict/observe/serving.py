"""What an initiator counts: requests at its edges, rounds, and calls to parties.

A recorder is asked for once per edge, model and mode (or found again for 0.1 µs), and told how each request ended.
Recorders of `NO_SERVING_METRICS` do nothing: a process without a metrics port uses those.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from typing_extensions import override

from fedpredict.model.share import Mode
from fedpredict.observe import metrics
from fedpredict.observe.counting import Distribution, Reading, Source, Tally, distributions, one, tallies
from fedpredict.observe.metrics import UNKNOWN, CallOutcome, Edge, Outcome

Queue = Callable[[], tuple[int, int]]
"""Returns how many requests wait for a round, and their rows."""


class Requests:
    """Requests of one edge, model and mode."""

    __slots__ = ("_open", "_tallies")

    def __init__(self, open_tally: Callable[[Outcome], tuple[Distribution, Tally]]) -> None:
        self._open = open_tally
        self._tallies: dict[Outcome, tuple[Distribution, Tally]] = {}

    def done(self, outcome: Outcome, seconds: float, rows: int) -> None:
        """Count one request.

        Args:
            outcome: How it ended; `outcome_of` says it of an error.
            seconds: From its arrival to its answer.
            rows: Sample ids that it asked for.
        """
        tally = self._tallies.get(outcome)
        if tally is None:
            tally = self._tallies[outcome] = self._open(outcome)
        latency, asked = tally
        latency.counts[bisect_left(latency.bounds, seconds)] += 1
        latency.total += seconds
        asked.value += rows


class Rounds:
    """Rounds of one model and mode."""

    __slots__ = ("_misfits", "_requests", "_rows", "_seconds", "in_flight")

    def __init__(self, seconds: Distribution, rows: Distribution, requests: Distribution, misfits: Tally) -> None:
        self._seconds, self._rows, self._requests, self._misfits = seconds, rows, requests, misfits
        self.in_flight = 0

    def began(self, requests: int, rows: int) -> None:
        """Count a round that begins, with what it carries."""
        self.in_flight += 1
        self._requests.observe(requests)
        self._rows.observe(rows)

    def misfit(self, rows: int) -> None:
        """Count rows whose shares contradict each other."""
        self._misfits.value += rows

    def done(self, seconds: float) -> None:
        """Count a round that ended, however it did: exactly once for each that began."""
        self.in_flight -= 1
        self._seconds.observe(seconds)


class Link(Protocol):
    """What carries calls to a party, as it is now."""

    @property
    def carriers(self) -> Mapping[str, int]:
        """How many connections take calls, by a word of ours for what carries them; empty while the party is away."""

    @property
    def offline_carriers(self) -> Mapping[str, int]:
        """As `carriers`, of the connections for offline tasks: empty while no task asks the party."""

    @property
    def reconnects(self) -> int:
        """How many connections were made again after they had been lost."""


class InProcess(Link):
    """The link to the part that this process holds itself."""

    carriers: Mapping[str, int] = MappingProxyType({"local": 1})
    offline_carriers: Mapping[str, int] = MappingProxyType({})
    reconnects = 0


class Calls:
    """Calls to one party, and what carries them."""

    __slots__ = ("_elapsed", "_open", "_seconds", "link")

    def __init__(self, open_seconds: Callable[[CallOutcome], Distribution], elapsed: Distribution) -> None:
        self._open = open_seconds
        self._elapsed = elapsed
        self._seconds: dict[CallOutcome, Distribution] = {}
        self.link: Link | None = None
        """Asked when the page is read; whoever opens the link puts it here."""

    def done(self, outcome: CallOutcome, seconds: float, elapsed_s: float | None = None) -> None:
        """Count one call.

        Args:
            outcome: How it ended; `call_outcome_of` says it of an error.
            seconds: From asking to having the share.
            elapsed_s: What the party says that it spent; None where it did not answer.
        """
        latency = self._seconds.get(outcome)
        if latency is None:
            latency = self._seconds[outcome] = self._open(outcome)
        latency.counts[bisect_left(latency.bounds, seconds)] += 1
        latency.total += seconds
        if elapsed_s is not None:
            self._elapsed.observe(elapsed_s)


class ServingMetrics(Source):
    """All of them, of one process."""

    counts = True
    """Whether anything is counted at all."""

    def __init__(self, models: Container[str]) -> None:
        """Begin with nothing.

        Args:
            models: The configured models; any other id counts as unknown.
        """
        self._models = models
        self._request_seconds = distributions(metrics.REQUEST_SECONDS)
        self._request_rows = tallies(metrics.REQUEST_ROWS)
        self._round_seconds = distributions(metrics.ROUND_SECONDS)
        self._round_rows = distributions(metrics.ROUND_ROWS)
        self._round_requests = distributions(metrics.ROUND_REQUESTS)
        self._misfit_rows = tallies(metrics.MISFIT_ROWS)
        self._party_seconds = distributions(metrics.PARTY_SECONDS)
        self._party_elapsed = distributions(metrics.PARTY_ELAPSED_SECONDS)
        self._requests: dict[tuple[Edge, str, Mode], Requests] = {}
        self._rounds: dict[tuple[str, Mode], Rounds] = {}
        self._parties: dict[str, Calls] = {}
        self._connections: dict[Edge, Callable[[], int]] = {}
        self._queue: Queue = lambda: (0, 0)
        self._ready: Callable[[], Mapping[str, bool]] = dict

    def request(self, edge: Edge, model: str, mode: Mode) -> Requests:
        """Return the recorder of an edge, model and mode."""
        found = self._requests.get((edge, model, mode))
        if found is not None:
            return found
        if model not in self._models:
            model = UNKNOWN
        return self._requests.setdefault((edge, model, mode), Requests(self._request_opener(edge, model, mode)))

    def round(self, model: str, mode: Mode) -> Rounds:
        """Return the recorder of the rounds of a configured model in a mode."""
        found = self._rounds.get((model, mode))
        if found is not None:
            return found
        labels = (model, mode.value)
        made = Rounds(
            self._round_seconds.child(*labels),
            self._round_rows.child(*labels),
            self._round_requests.child(*labels),
            self._misfit_rows.child(*labels),
        )
        return self._rounds.setdefault((model, mode), made)

    def party(self, party: str) -> Calls:
        """Return the recorder of a configured party."""
        found = self._parties.get(party)
        if found is not None:
            return found
        made = Calls(lambda outcome: self._party_seconds.child(party, outcome), self._party_elapsed.child(party))
        return self._parties.setdefault(party, made)

    def connections(self, edge: Edge, count: Callable[[], int]) -> None:
        """Have `count` asked, when the page is read, how many connections are open at an edge."""
        self._connections[edge] = count

    def queue(self, waiting: Queue) -> None:
        """Have `waiting` asked, when the page is read, how many requests and rows wait."""
        self._queue = waiting

    def ready(self, models: Callable[[], Mapping[str, bool]]) -> None:
        """Have `models` asked, when the page is read: model id -> whether it can be answered in full."""
        self._ready = models

    @override
    def read(self) -> Iterable[Reading]:
        """Return everything, in the order of the declarations."""
        yield self._request_seconds.reading()
        yield self._request_rows.reading()
        yield Reading(metrics.OPEN_CONNECTIONS, [((edge,), count()) for edge, count in self._connections.items()])
        yield Reading(metrics.MODEL_READY, [((model,), float(ready)) for model, ready in self._ready().items()])
        yield self._round_seconds.reading()
        yield self._round_rows.reading()
        yield self._round_requests.reading()
        rounds = tuple(self._rounds.items())
        yield Reading(metrics.ROUNDS_IN_FLIGHT, [((key[0], key[1].value), each.in_flight) for key, each in rounds])
        yield self._misfit_rows.reading()
        requests, rows = self._queue()
        yield one(metrics.QUEUE_REQUESTS, requests)
        yield one(metrics.QUEUE_ROWS, rows)
        yield self._party_seconds.reading()
        yield self._party_elapsed.reading()
        links = [(party, calls.link, calls.link.carriers) for party, calls in self._parties.items() if calls.link]
        yield Reading(metrics.PARTY_CONNECTED, [((party,), float(bool(carriers))) for party, _, carriers in links])
        yield Reading(
            metrics.PARTY_LINKS,
            [((party, carrier), count) for party, _, carriers in links for carrier, count in carriers.items()],
        )
        yield Reading(
            metrics.PARTY_OFFLINE_LINKS,
            [((party, carrier), count) for party, link, _ in links for carrier, count in link.offline_carriers.items()],
        )
        yield Reading(metrics.PARTY_RECONNECTS, [((party,), link.reconnects) for party, link, _ in links])

    def _request_opener(self, edge: Edge, model: str, mode: Mode) -> Callable[[Outcome], tuple[Distribution, Tally]]:
        def open_tally(outcome: Outcome) -> tuple[Distribution, Tally]:
            labels = (edge, model, mode.value, outcome)
            return self._request_seconds.child(*labels), self._request_rows.child(*labels)

        return open_tally


class _NoRequests(Requests):
    @override
    def done(self, outcome: Outcome, seconds: float, rows: int) -> None:
        pass


class _NoRounds(Rounds):
    @override
    def began(self, requests: int, rows: int) -> None:
        pass

    @override
    def misfit(self, rows: int) -> None:
        pass

    @override
    def done(self, seconds: float) -> None:
        pass


class _NoCalls(Calls):
    @override
    def done(self, outcome: CallOutcome, seconds: float, elapsed_s: float | None = None) -> None:
        pass


class _NoServingMetrics(ServingMetrics):
    counts = False

    def __init__(self) -> None:
        super().__init__(())
        nothing = Distribution(())
        self._none = _NoRequests(lambda _: (nothing, Tally()))
        self._no_rounds = _NoRounds(nothing, nothing, nothing, Tally())

    @override
    def request(self, edge: Edge, model: str, mode: Mode) -> Requests:
        return self._none

    @override
    def round(self, model: str, mode: Mode) -> Rounds:
        return self._no_rounds

    @override
    def party(self, party: str) -> Calls:
        # each asker has its own: a link that is put there must not outlive it
        return _NoCalls(lambda _: Distribution(()), Distribution(()))

    # there is one of these in a process: what it would ask, it would keep alive

    @override
    def connections(self, edge: Edge, count: Callable[[], int]) -> None:
        pass

    @override
    def queue(self, waiting: Queue) -> None:
        pass

    @override
    def ready(self, models: Callable[[], Mapping[str, bool]]) -> None:
        pass


NO_SERVING_METRICS: ServingMetrics = _NoServingMetrics()
"""Counts nothing."""
