"""The gauges: metrics that are read from the state of the daemon at each scrape. Used by telemetry and status."""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from forwarder.words import BUFFER_STATES, HOLD_CAUSES, BufferState, HoldCause

METRICS_PREFIX: Final = "growlytics_forwarder"


@dataclass(frozen=True, slots=True)
class Gauges:
    """All gauges, as of one moment."""

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
    """Until the buffer is full at the present rates, and below until it is empty; infinite: never."""
    drain_seconds: float
    unaccounted: int
    dead_letters: int
    """How many are kept now."""


class ReadGauges(Collector):
    """Reads the state once for each scrape, so that all gauges are of the same moment."""

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
