"""Metrics ports, read and compared: what happened between two looks."""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fedpredict.errors import InputError

READ_S = 2.0
"""A port that takes longer is away."""
MAX_PAGE_BYTES = 64 * 1024 * 1024

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Look:
    """One port at one moment.

    Attributes:
        url: Where it is.
        at: When, on the monotonic clock.
        samples: Name -> labels -> value; empty where it is away.
        problem: Why it is away, else empty.
    """

    url: str
    at: float
    samples: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)
    problem: str = ""


def url_of(value: str) -> str:
    """Return the address of a page, with what is usual filled in; raise `InputError` where it is no address.

    >>> url_of("127.0.0.1:9464"), url_of("https://bank.example/m")
    ('http://127.0.0.1:9464/metrics', 'https://bank.example/m')
    """
    parts = urlsplit(value if "://" in value else f"http://{value}")
    try:
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise InputError(f"{value!r} is no metrics port: write HOST:PORT or http://HOST:PORT/metrics")
    return parts._replace(path=parts.path if parts.path not in ("", "/") else "/metrics").geturl()


def look_at(urls: Sequence[str]) -> list[Look]:
    """Return a look at every port, all at the same time; one that does not answer is away."""
    with ThreadPoolExecutor(max_workers=min(32, len(urls))) as pool:
        return list(pool.map(_look, urls))


def _look(url: str) -> Look:
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415  slow to import

    try:
        text = _read(url)
        samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    except (OSError, http.client.HTTPException) as error:
        return Look(url, time.monotonic(), problem=_told(error))
    except ValueError:  # what Prometheus' parser raises, and text that is no text
        return Look(url, time.monotonic(), problem="answers something else than metrics")
    if "fedpredict_build_info" not in samples:
        return Look(url, time.monotonic(), problem="is no server of fedpredict")
    return Look(url, time.monotonic(), samples)


def _read(url: str) -> str:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=READ_S)
    try:
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""))
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise http.client.HTTPException(f"answers {response.status}")
        return response.read(MAX_PAGE_BYTES).decode("utf-8")
    finally:
        connection.close()


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {READ_S:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    return str(error) or type(error).__name__


class Window:
    """What one port said, and what happened since the look before."""

    def __init__(self, before: Look, now: Look) -> None:
        self.now = now
        self._before = before
        restarted = self._value_of(before, "process_start_time_seconds") != self._value_of(
            now, "process_start_time_seconds"
        )
        # a process that has started since counts from 0, as one that was away before
        self._base = {} if restarted else before.samples
        self.seconds = max(1e-9, now.at - before.at)

    @property
    def is_away(self) -> bool:
        """Whether the port did not answer at the last look."""
        return bool(self.now.problem)

    @property
    def has_rates(self) -> bool:
        """Whether it answered at both looks, so that something can be said of what happened between them."""
        return not (self.now.problem or self._before.problem)

    def values(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Yield labels and value of each sample of that name, as it stands."""
        for labels, value in self.now.samples.get(name, {}).items():
            yield dict(labels), value

    def value(self, name: str) -> float | None:
        """Return the sum of a name's values as they stand; None where it has none."""
        values = [value for _, value in self.values(name)]
        return sum(values) if values else None

    def grown(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Yield labels and increase of each counter of that name."""
        if not self.has_rates:
            return
        base = self._base.get(name, {})
        for labels, value in self.now.samples.get(name, {}).items():
            yield dict(labels), max(0.0, value - base.get(labels, 0.0))

    @staticmethod
    def _value_of(look: Look, name: str) -> float | None:
        return next(iter(look.samples.get(name, {}).values()), None)


@dataclass(slots=True)
class Latencies:
    """Buckets of one histogram, added up over servers and labels."""

    below: dict[float, float] = field(default_factory=dict)

    def add(self, bound: str, count: float) -> None:
        """Add a bucket's increase; `bound` is its label `le`."""
        key = float(bound)
        self.below[key] = self.below.get(key, 0.0) + count

    def quantile(self, part: float) -> float | None:
        """Return the value below which that part of what was counted lies, as Prometheus does it; None for nothing.

        >>> some = Latencies({1.0: 50.0, 2.0: 100.0, math.inf: 100.0})
        >>> some.quantile(0.5), some.quantile(0.75), Latencies({1.0: 0.0, math.inf: 8.0}).quantile(0.5)
        (1.0, 1.5, 1.0)
        """
        bounds = sorted(self.below)
        count = self.below[bounds[-1]] if bounds else 0.0
        if not count:
            return None
        wanted, lower, before = part * count, 0.0, 0.0
        for bound in bounds:
            if self.below[bound] >= wanted and not math.isinf(bound):
                inside = self.below[bound] - before
                return lower + (bound - lower) * ((wanted - before) / inside if inside else 1.0)
            if not math.isinf(bound):
                lower, before = bound, self.below[bound]
        return lower
