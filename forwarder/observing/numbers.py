"""Plain numbers that become samples of Prometheus when they are scraped.

The counters of prometheus_client take a lock and several calls for each event. Adding to a number of a dict or list takes
neither. All numbers are changed and read on the event loop's thread, so a scrape shows those of one moment. Used by
telemetry alone.
"""

import time
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
    """A counter with one label: a number for each of its values, all of them from the start."""

    def __init__(self, name: str, text: str, label: str, values: Sequence[Word]) -> None:
        super().__init__(dict.fromkeys(values, 0))
        self._name = name
        self._text = text
        self._label = label

    def family(self, since: float) -> Metric:
        """Return the samples. `since` is when counting began, in seconds since 1970."""
        family = CounterMetricFamily(self._name, self._text, labels=(self._label,))
        for value, number in self.items():
            family.add_metric((value,), number, created=since)
        return family


class PairCounts(dict[tuple[str, str], int]):
    """A counter with two labels: a number for each pair of values, all of them from the start."""

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
    """A counter without labels. Whoever counts adds to `value`."""

    __slots__ = ("_name", "_text", "value")

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self.value = 0

    def family(self, since: float) -> Metric:
        """See Counts."""
        return CounterMetricFamily(self._name, self._text, value=self.value, created=since)


class Level:
    """A gauge. Whoever has a new value sets `value`."""

    __slots__ = ("_name", "_text", "value")

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self.value = 0.0

    def family(self, since: float) -> Metric:  # noqa: ARG002 - as counters have it
        """Return the sample."""
        return GaugeMetricFamily(self._name, self._text, value=self.value)


class Durations:
    """A histogram of seconds.

    `bounds` are the upper ends of its buckets, rising. Whoever observes a duration adds 1 to the number of its bucket in
    `counts`, which has one more bucket without an upper end, and the seconds to `total`.
    """

    __slots__ = ("_bounds", "_name", "_text", "counts", "total")

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._bounds = tuple(map(float, bounds))
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def family(self, since: float) -> Metric:
        """See Counts."""
        names = map(floatToGoString, (*self._bounds, float("inf")))
        buckets = list(zip(names, map(float, accumulate(self.counts)), strict=True))
        family = HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self.total)
        family.add_sample(f"{self._name}_created", {}, since)
        return family


class Numbers(Collector):
    """Makes the numbers of one daemon, and shows them at each scrape in the order in which they were made."""

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
