"""What all parts of telemetry share: the metrics, the tally, what happened last, the log, the clock. Used by them alone."""

import asyncio
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from forwarder.event import Clock
from forwarder.observing.metrics import Metrics
from forwarder.observing.recent import Recent
from forwarder.observing.seldom import SeldomLog
from forwarder.tally import Tally
from forwarder.words import HoldCause


class TelemetryBase:
    """`clock` gives seconds since 1970. `age_seconds` returns how long ago an event was accepted, by default by `clock`."""

    def __init__(
        self,
        *,
        clock: Clock = time.time,
        age_seconds: Callable[[float], float] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        """What a scrape shows."""
        self.tally = Tally() if tally is None else tally
        self.recent = Recent(clock=clock)
        self.age_seconds = age_seconds or (lambda accepted_at: max(0.0, clock() - accepted_at))
        """How long ago an event was accepted that was accepted at this time, in seconds since 1970."""
        self._clock = clock
        self._metrics = Metrics()
        self.registry.register(self._metrics)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._seldom = SeldomLog(clock=clock)
        self._unwritten_holds: dict[HoldCause, dict[str, object]] = {}
        """The holds that go on and whose first lines were left out, with the fields of these lines."""
        self._awaited: asyncio.Future[None] | None = None
        """Set while somebody waits for a change, so that an event that nobody waits for costs no call."""

    def next_change(self) -> asyncio.Future[None]:
        """Return what is done when the next event is accepted or refused or leaves the buffer, or a hold's line is left out.

        Several may wait for it, with `asyncio.wait`.
        """
        if self._awaited is None:
            self._awaited = asyncio.get_running_loop().create_future()
        return self._awaited

    def _tell_of_change(self, awaited: asyncio.Future[None]) -> None:
        self._awaited = None
        awaited.set_result(None)
