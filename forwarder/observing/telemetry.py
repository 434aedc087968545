"""Everything the daemon says: one method for each thing that happens, which counts it and, rarely, writes a log line.

Invariants: no attribute value, customer id or secret comes here; labels are bounded; every series exists from the start,
at 0; within one turn of the event loop `received = accepted + duplicates + rejected`. Every room may call it, and it knows
none of them. Its methods stand in four files, by the room that calls them.
"""

import platform
from collections.abc import Callable

from prometheus_client import Gauge

from forwarder import __version__
from forwarder.observing.buffer import BufferTelemetry
from forwarder.observing.daemon import DaemonTelemetry
from forwarder.observing.delivery import DeliveryTelemetry
from forwarder.observing.gauges import METRICS_PREFIX, Gauges, ReadGauges
from forwarder.observing.intake import IntakeTelemetry


class Telemetry(IntakeTelemetry, DeliveryTelemetry, BufferTelemetry, DaemonTelemetry):
    """The metrics of one daemon, in a registry of its own, and its log."""

    def daemon_described(self, *, loop: str, max_events: int, max_bytes: int, read: Callable[[], Gauges]) -> None:
        """Add the gauges: those that never change, and those that `read` returns at each scrape."""
        Gauge(
            f"{METRICS_PREFIX}_build_info", "Versions; always 1", ("version", "python", "loop"), registry=self.registry
        ).labels(__version__, platform.python_version(), loop).set(1)
        for name, text, value in (
            ("buffer_capacity_events", "Most events the buffer holds", max_events),
            ("buffer_capacity_bytes", "Most bytes of events the buffer holds", max_bytes),
        ):
            Gauge(f"{METRICS_PREFIX}_{name}", text, registry=self.registry).set(value)
        self.registry.register(ReadGauges(read, age_seconds=self.age_seconds))
