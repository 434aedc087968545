"""Every metric: its name, its help text, its labels and its buckets.

Counters and histograms are plain numbers that become samples of Prometheus at each scrape: those of prometheus_client take a
lock and several calls for each event. Only telemetry changes them. Gauges are read from the state of the daemon.
All of it happens on the event loop's thread, so a scrape shows the values of one moment. `deploy/prometheus/README.md` has
the table of all metrics.
"""

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Final, Generic, TypeVar

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from forwarder.words import (
    BUFFER_OPERATIONS,
    BUFFER_STATES,
    CLOSE_REASONS,
    CONFLICT_ACTIONS,
    CONFLICT_KINDS,
    DEAD_REASONS,
    DROP_REASONS,
    EVICTION_REASONS,
    FAILURE_KINDS,
    HOLD_CAUSES,
    INTAKES,
    OUTCOMES,
    REFUSAL_REASONS,
    RELOAD_RESULTS,
    REQUEST_REFUSAL_REASONS,
    RETRY_REASONS,
    BufferState,
    HoldCause,
)

METRICS_PREFIX: Final = "growlytics_forwarder"
INTAKE_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0)
ATTEMPT_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LATENCY_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 21600.0, 86400.0)


Labels = TypeVar("Labels", bound=str | tuple[str, str])


class Counts(dict[Labels, int], Generic[Labels]):
    """A counter with labels: a number for each value of the labels, all present from the start."""


class Scalar:
    """A counter without labels, or a gauge. Telemetry changes `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Durations:
    """A histogram of seconds.

    For each duration, telemetry adds 1 to its bucket in `counts`, whose last bucket has no upper end, and the seconds to
    `total`.
    """

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0


class Numbers(Collector):
    """Makes metrics, and shows them at each scrape in the order in which they were made."""

    def __init__(self) -> None:
        self._since: Final = time.time()
        self._shown: list[Callable[[], Metric]] = []

    def counts(self, name: str, text: str, label: str | tuple[str, str], values: Sequence[Labels]) -> Counts[Labels]:
        """Make a counter with one label, or with two labels; then `values` are pairs."""
        made: Counts[Labels] = Counts(dict.fromkeys(values, 0))
        labels = (label,) if isinstance(label, str) else label

        def family() -> Metric:
            family = CounterMetricFamily(f"{METRICS_PREFIX}_{name}", text, labels=labels)
            for value, number in made.items():
                family.add_metric((value,) if isinstance(value, str) else value, number, created=self._since)
            return family

        self._shown.append(family)
        return made

    def count(self, name: str, text: str) -> Scalar:
        """Make a counter without labels."""
        made = Scalar()
        name = f"{METRICS_PREFIX}_{name}"
        self._shown.append(lambda: CounterMetricFamily(name, text, value=made.value, created=self._since))
        return made

    def level(self, name: str, text: str) -> Scalar:
        """Make a gauge."""
        made = Scalar()
        self._shown.append(lambda: GaugeMetricFamily(f"{METRICS_PREFIX}_{name}", text, value=made.value))
        return made

    def durations(self, name: str, text: str, bounds: Sequence[float]) -> Durations:
        """Make a histogram of seconds. `bounds` are the rising upper ends of its buckets."""
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
        """Return all samples, for prometheus_client."""
        return (family() for family in self._shown)


class Metrics(Numbers):
    """The metrics of one daemon that count what happens, in the order in which a scrape shows them."""

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
        self.dropped = self.counts(
            "events_dropped", "Accepted events lost, or erased by somebody", "reason", DROP_REASONS
        )
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


@dataclass(frozen=True, slots=True)
class Gauges:
    """All gauges at one moment."""

    buffer_events: Mapping[BufferState, int]
    buffer_bytes: int
    oldest_accepted_at: float | None
    """Seconds since 1970; None when the buffer is empty."""
    delivery_in_flight: int
    """Attempts on the wire."""
    concurrency_limit: int
    """How many there may be now."""
    holds: Container[HoldCause]
    """The causes for which delivery is paused."""
    suspects: int
    """How many events are refused while others may be delivered."""
    full_seconds: float
    """Until the buffer is full at the present rates; infinite: never. `drain_seconds`: until it is empty."""
    drain_seconds: float
    unaccounted: int
    dead_letters: int
    """How many are kept now."""


class ReadGauges(Collector):
    """Reads the state once for each scrape, so that all gauges show the same moment."""

    def __init__(self, read: Callable[[], Gauges], *, age_seconds: Callable[[float], float]) -> None:
        self._read = read
        self._age_seconds = age_seconds

    def collect(self) -> Iterator[Metric]:
        gauges = self._read()
        oldest = gauges.oldest_accepted_at
        events = GaugeMetricFamily(
            f"{METRICS_PREFIX}_buffer_events", "Events accepted and not yet done with", labels=("state",)
        )
        for state in BUFFER_STATES:
            events.add_metric((state,), gauges.buffer_events[state])
        yield events
        holds = GaugeMetricFamily(
            f"{METRICS_PREFIX}_delivery_hold", "1 while nothing is sent but probes because of this", labels=("cause",)
        )
        for cause in HOLD_CAUSES:
            holds.add_metric((cause,), cause in gauges.holds)
        yield holds
        for name, text, value in (
            ("buffer_bytes", "Bytes of the events in the buffer", gauges.buffer_bytes),
            (
                "buffer_oldest_event_age_seconds",
                "Age of the oldest event in the buffer; 0 if empty",
                0.0 if oldest is None else self._age_seconds(oldest),
            ),
            ("delivery_in_flight", "Attempts on the wire", gauges.delivery_in_flight),
            (
                "delivery_suspects",
                "Events that are refused again and again, while others may be delivered",
                gauges.suspects,
            ),
            ("delivery_concurrency_limit", "Most attempts on the wire at a time, as of now", gauges.concurrency_limit),
            (
                "buffer_full_seconds_estimate",
                "Until the buffer is full if all goes on as it does; +Inf: never",
                gauges.full_seconds,
            ),
            (
                "drain_seconds_estimate",
                "Until the buffer is empty if all goes on as it does; +Inf: never",
                gauges.drain_seconds,
            ),
            ("dead_letters_events", "Dead letters that are kept", gauges.dead_letters),
            ("events_unaccounted", "Accepted events of which nothing is known. Must be 0", gauges.unaccounted),
        ):
            yield GaugeMetricFamily(f"{METRICS_PREFIX}_{name}", text, value=value)
