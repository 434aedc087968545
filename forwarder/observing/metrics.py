"""Every metric that counts what happens: its name, its help text, its labels and its buckets.

Metrics are plain numbers that become samples of Prometheus when they are scraped: the counters of prometheus_client take a
lock and several calls for each event, and adding to a number of a dict or list takes neither. All numbers are changed and
read on the event loop's thread, so a scrape shows those of one moment. Only telemetry changes them. Metrics that are read
from the daemon's state at each scrape are in `gauges.py`; `deploy/prometheus/README.md` has the table of all.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, product
from typing import Final, Generic, TypeVar

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from forwarder.observing.gauges import METRICS_PREFIX
from forwarder.words import (
    BUFFER_OPERATIONS,
    CLOSE_REASONS,
    CONFLICT_ACTIONS,
    CONFLICT_KINDS,
    DEAD_REASONS,
    DROP_REASONS,
    EVICTION_REASONS,
    FAILURE_KINDS,
    INTAKES,
    OUTCOMES,
    REFUSAL_REASONS,
    RELOAD_RESULTS,
    REQUEST_REFUSAL_REASONS,
    RETRY_REASONS,
)

INTAKE_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0)
ATTEMPT_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LATENCY_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 21600.0, 86400.0)


Labels = TypeVar("Labels", bound=str | tuple[str, str])


class Counts(dict[Labels, int], Generic[Labels]):
    """A counter with labels: a number for each of their values, all of them from the start."""


class Number:
    """A counter without labels, or a gauge. Whoever counts adds to `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Durations:
    """A histogram of seconds.

    Whoever observes a duration adds 1 to the number of its bucket in `counts`, which has one more bucket without an upper
    end, and the seconds to `total`.
    """

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0


class Numbers(Collector):
    """Makes the numbers of one daemon, and shows them at each scrape in the order in which they were made."""

    def __init__(self) -> None:
        self._since: Final = time.time()
        self._shown: list[Callable[[], Metric]] = []

    def counts(self, name: str, text: str, label: str | tuple[str, str], values: Sequence[Labels]) -> Counts[Labels]:
        """Make a counter with one label, or with two, and then `values` are pairs."""
        made: Counts[Labels] = Counts(dict.fromkeys(values, 0))
        labels = (label,) if isinstance(label, str) else label

        def family() -> Metric:
            family = CounterMetricFamily(f"{METRICS_PREFIX}_{name}", text, labels=labels)
            for value, number in made.items():
                family.add_metric((value,) if isinstance(value, str) else value, number, created=self._since)
            return family

        self._shown.append(family)
        return made

    def count(self, name: str, text: str) -> Number:
        """Make a counter without labels."""
        made = Number()
        name = f"{METRICS_PREFIX}_{name}"
        self._shown.append(lambda: CounterMetricFamily(name, text, value=made.value, created=self._since))
        return made

    def level(self, name: str, text: str) -> Number:
        """Make a gauge."""
        made = Number()
        self._shown.append(lambda: GaugeMetricFamily(f"{METRICS_PREFIX}_{name}", text, value=made.value))
        return made

    def durations(self, name: str, text: str, bounds: Sequence[float]) -> Durations:
        """Make a histogram of seconds. `bounds` are the upper ends of its buckets, rising."""
        made = Durations(len(bounds))
        name = f"{METRICS_PREFIX}_{name}"
        names = list(map(floatToGoString, (*map(float, bounds), float("inf"))))

        def family() -> Metric:
            buckets = list(zip(names, map(float, accumulate(made.counts)), strict=True))
            family = HistogramMetricFamily(name, text, buckets=buckets, sum_value=made.total)
            family.add_sample(f"{name}_created", {}, self._since)
            return family

        self._shown.append(family)
        return made

    def collect(self) -> Iterator[Metric]:
        """Return the samples of all numbers, for prometheus_client."""
        return (family() for family in self._shown)


class Metrics(Numbers):
    """The metrics of one daemon. They are shown in the order in which they stand here."""

    def __init__(self) -> None:
        super().__init__()
        self.received = self.counts("events_received", "Events that reached an intake", "intake", INTAKES)
        self.accepted = self.counts("events_accepted", "Events that the buffer took charge of", "intake", INTAKES)
        self.duplicates = self.count("events_duplicate", "Events that repeated the key of one accepted before")
        self.rejected = self.counts(
            "events_rejected", "Events refused, by the first error's code", "reason", REFUSAL_REASONS
        )
        self.requests_refused = self.counts(
            "http_requests_refused",
            "Requests refused before anything of an event is known",
            "reason",
            REQUEST_REFUSAL_REASONS,
        )
        self.closed = self.counts(
            "connections_closed", "Connections that an intake closed for the sake of others", "reason", CLOSE_REASONS
        )
        self.error_lines_lost = self.count(
            "error_lines_lost", "Lines about refused events that a client of lines_socket did not read"
        )
        self.conflicts = self.counts(
            "attribute_type_conflicts",
            "Attributes of another type than before, by what was done; date: a string for a date, or the reverse",
            ("action", "kind"),
            tuple(product(CONFLICT_ACTIONS, CONFLICT_KINDS)),
        )
        self.delivered = self.count("events_delivered", "Events that Growlytics has")
        self.dead_lettered = self.counts(
            "events_dead_lettered", "Events given up and kept as dead letters", "reason", DEAD_REASONS
        )
        self.dropped = self.counts("events_dropped", "Accepted events lost", "reason", DROP_REASONS)
        self.evicted = self.counts(
            "dead_letters_evicted", "Dead letters removed other than by replaying them", "reason", EVICTION_REASONS
        )
        self.buffer_errors = self.counts(
            "buffer_errors", "Failures of the buffer's disk", "operation", BUFFER_OPERATIONS
        )
        self.attempts = self.counts(
            "delivery_attempts", "Attempts to deliver an event, by what they came to", "outcome", OUTCOMES
        )
        self.failures = self.counts(
            "attempt_failures", "Attempts that did not deliver, by what went wrong", "kind", FAILURE_KINDS
        )
        self.retries = self.counts(
            "delivery_retries", "Attempts that will be repeated, by cause", "reason", RETRY_REASONS
        )
        self.possible_duplicates = self.count(
            "possible_duplicates", "Attempts repeated although the event may have arrived"
        )
        self.reloads = self.counts(
            "config_reloads",
            "Times that settings were read again at SIGHUP, or a secret's or certificates' file as it changed",
            "result",
            RELOAD_RESULTS,
        )
        self.intake_seconds = self.durations(
            "intake_duration_seconds", "From a request's headers to its answer", INTAKE_SECONDS
        )
        self.attempt_seconds = self.durations("delivery_attempt_duration_seconds", "One attempt", ATTEMPT_SECONDS)
        self.latency_seconds = self.durations("delivery_latency_seconds", "From accepted to delivered", LATENCY_SECONDS)
        self.last_delivery = self.level("last_delivery_timestamp_seconds", "When the last event was delivered")
