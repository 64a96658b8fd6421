"""The page that Prometheus reads, in its text format or OpenMetrics: the only module that knows prometheus-client.

The library needs some 20 µs a line, and a hundred models make thousands of lines: so the page is written in slices, and
the event loop answers others between two of them (ADR 0015).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Written
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from typing_extensions import override

from fedpredict.observe.counting import Distribution, Reading, Source, Value
from fedpredict.observe.metrics import Metric, MetricKind

SLICE_LINES = 25
"""Lines written at once, one histogram of one label set: some 0.5 ms."""
_END = b"# EOF\n"


class Page:
    """What some sources count, as a page."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """Prepare.

        Args:
            sources: In the order of the page; no two may have a metric in common.
        """
        self._sources = sources
        # memory, processor time and open files, under the names that every Prometheus client gives them
        self._process = ProcessCollector(registry=None)

    async def write(self, accept: str) -> tuple[str, bytes]:
        """Return the content type and the page.

        Args:
            accept: What the reader takes, as its header says.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # of a version that is none: it gets what everybody reads
            encode, content_type = choose_encoder("")
        parts: list[bytes] = []
        for part in self._parts(encode):
            parts.append(part)
            await asyncio.sleep(0)
        if "openmetrics" in content_type:
            parts.append(_END)
        return content_type, b"".join(parts)

    def _parts(self, encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
        for source in self._sources:
            for reading in source.read():
                for number, family in enumerate(_slices(reading)):
                    text = encode(_Only(family)).removesuffix(_END)
                    yield text if number == 0 else _without_head(text)
        for family in self._process.collect():
            yield encode(_Only(family)).removesuffix(_END)


class _Only(Collector):
    """A registry of one family, for the library's encoders."""

    def __init__(self, family: Written) -> None:
        self._family = family

    @override
    def collect(self) -> Iterable[Written]:
        return (self._family,)


def _slices(reading: Reading) -> Iterator[Written]:
    """Return families of a reading's values, a few label sets each; one without values where it has none."""
    step = max(1, SLICE_LINES // (len(reading.metric.bounds) + 3))
    for start in range(0, max(1, len(reading.values)), step):
        yield _family(reading.metric, reading.values[start : start + step])


def _family(metric: Metric, values: Sequence[tuple[tuple[str, ...], Value]]) -> Written:
    if metric.kind is MetricKind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
        for labels, value in values:
            if isinstance(value, Distribution):
                histogram.add_metric(labels, _buckets(value), value.total)
        return histogram
    kind = CounterMetricFamily if metric.kind is MetricKind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.text, labels=metric.labels)
    for labels, value in values:
        if not isinstance(value, Distribution):
            family.add_metric(labels, value)
    return family


def _buckets(distribution: Distribution) -> list[tuple[str, float]]:
    below, buckets = 0, []
    for bound, count in zip((*distribution.bounds, float("inf")), tuple(distribution.counts), strict=True):
        below += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), float(below)))
    return buckets


def _without_head(text: bytes) -> bytes:
    return b"\n".join(line for line in text.split(b"\n") if not line.startswith(b"# "))
