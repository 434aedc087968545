"""The numbers that happenings change: plain ones, which become Prometheus' samples only when somebody scrapes.

prometheus_client's own counters take a lock and several calls for each event; a dict of ints takes none. All are changed
and read on the event loop's thread, so that a scrape sees the numbers of one moment. Used by telemetry alone.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, Generic, TypeVar

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from forwarder.observing.gauges import METRICS_PREFIX

Word = TypeVar("Word", bound=str)


class Counts(dict[Word, int], Generic[Word]):
    """A counter with one label: a number for each value of it, all of them from the start."""

    def __init__(self, name: str, text: str, label: str, values: Sequence[Word]) -> None:
        super().__init__(dict.fromkeys(values, 0))
        self._name = name
        self._text = text
        self._label = label

    def family(self, since: float) -> Metric:
        """Return its samples; `since` is the time in seconds since 1970 from which on it counts."""
        family = CounterMetricFamily(self._name, self._text, labels=(self._label,))
        for value, number in self.items():
            family.add_metric((value,), number, created=since)
        return family


class PairCounts(dict[tuple[str, str], int]):
    """A counter with two labels: a number for each pair of their values, all of them from the start."""

    def __init__(self, name: str, text: str, labels: tuple[str, str], pairs: Iterable[tuple[str, str]]) -> None:
        super().__init__(dict.fromkeys(pairs, 0))
        self._name = name
        self._text = text
        self._labels = labels

    def family(self, since: float) -> Metric:
        """See Counts."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for pair, number in self.items():
            family.add_metric(pair, number, created=since)
        return family


class Count:
    """A counter without labels; whoever counts adds to `value`."""

    __slots__ = ("_name", "_text", "value")

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self.value = 0

    def family(self, since: float) -> Metric:
        """See Counts."""
        return CounterMetricFamily(self._name, self._text, value=self.value, created=since)


class Level:
    """A gauge; whoever knows better sets `value`."""

    __slots__ = ("_name", "_text", "value")

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self.value = 0.0

    def family(self, since: float) -> Metric:  # noqa: ARG002 - as counters have it
        """Return its sample."""
        return GaugeMetricFamily(self._name, self._text, value=self.value)


class Durations:
    """A histogram of seconds. `bounds` are the upper ends of its buckets, rising; one without end follows them."""

    __slots__ = ("_bounds", "_counts", "_name", "_sum", "_text")

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._bounds = tuple(map(float, bounds))
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def family(self, since: float) -> Metric:
        """See Counts."""
        names = map(floatToGoString, (*self._bounds, float("inf")))
        buckets = list(zip(names, map(float, accumulate(self._counts)), strict=True))
        family = HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)
        family.add_sample(f"{self._name}_created", {}, since)
        return family


class Numbers(Collector):
    """Makes the numbers of one daemon, and shows all of them at each scrape, in the order in which they were made."""

    def __init__(self) -> None:
        self._since: Final = time.time()
        self._all: list[Counts[str] | PairCounts | Count | Level | Durations] = []

    def counts(self, name: str, text: str, label: str, values: Sequence[Word]) -> Counts[Word]:
        """Make a counter with one label."""
        made = Counts(f"{METRICS_PREFIX}_{name}", text, label, values)
        self._all.append(made)  # type: ignore[arg-type] # it is only read
        return made

    def pair_counts(
        self, name: str, text: str, labels: tuple[str, str], pairs: Iterable[tuple[str, str]]
    ) -> PairCounts:
        """Make a counter with two labels."""
        self._all.append(made := PairCounts(f"{METRICS_PREFIX}_{name}", text, labels, pairs))
        return made

    def count(self, name: str, text: str) -> Count:
        """Make a counter without labels."""
        self._all.append(made := Count(f"{METRICS_PREFIX}_{name}", text))
        return made

    def level(self, name: str, text: str) -> Level:
        """Make a gauge."""
        self._all.append(made := Level(f"{METRICS_PREFIX}_{name}", text))
        return made

    def durations(self, name: str, text: str, bounds: Sequence[float]) -> Durations:
        """Make a histogram of seconds."""
        self._all.append(made := Durations(f"{METRICS_PREFIX}_{name}", text, bounds))
        return made

    def collect(self) -> Iterator[Metric]:
        """Return the samples of all numbers, for prometheus_client."""
        for number in self._all:
            yield number.family(self._since)
