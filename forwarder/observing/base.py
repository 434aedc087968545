"""What all parts of telemetry share: the metrics, the tally, what happened last, the log, the clock. Used by them alone.

A log line that may repeat is written once every few seconds for each kind, with how many were left out since. So an outage,
or a client that is wrong a thousand times a second, fills no log. The caller chooses a kind from few values, never from the
text of a stranger, or the table of kinds would grow.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from forwarder.event import Clock
from forwarder.observing.metrics import Metrics
from forwarder.observing.recent import Recent
from forwarder.tally import Tally
from forwarder.words import HoldCause

INTERVAL_SECONDS: Final = 10.0
NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_NEVER: Final = float("-inf")

log = logging.getLogger("forwarder")


class SeldomLog:
    """Writes to the log of the daemon. `clock` gives seconds since 1970; it may jump."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, object], tuple[float, int]] = {}
        """When the last line of each kind was written, and how many were left out since."""
        self._burst_at = _NEVER
        self._burst_lines = 0
        self._burst_omitted = 0

    def write(
        self,
        message: str,
        *,
        kind: object,
        level: int = logging.WARNING,
        bug: BaseException | None = None,
        more: Mapping[str, object] = NOTHING,
        **fields: object,
    ) -> bool:
        """Write a line unless one of its message and kind was written just before. Return whether it was written.

        A `bug` makes it an error with a traceback. Fields that are None are left out. `more` has the fields that are named
        like these parameters.
        """
        last, omitted = self._kinds.get((message, kind), (_NEVER, 0))
        now = self._clock()
        if not _is_past(last, now):
            self._kinds[message, kind] = (last, omitted + 1)
            return False
        self._kinds[message, kind] = (now, 0)
        shown = {name: value for name, value in {**more, **fields}.items() if value is not None}
        shown |= _repeats(omitted)
        log.log(level if bug is None else logging.ERROR, message, extra={"fields": shown}, exc_info=bug)
        return True

    def would_write(self, message: str, *, kind: object) -> bool:
        """Return whether `write` would write such a line now."""
        return _is_past(self._kinds.get((message, kind), (_NEVER, 0))[0], self._clock())

    def write_of_many(self, message: str, fields: Mapping[str, object], *, most: int) -> None:
        """Write a line of which each differs, unless `most` of them were written just before."""
        now = self._clock()
        if _is_past(self._burst_at, now):
            self._burst_at, self._burst_lines = now, 0
        if self._burst_lines == most:
            self._burst_omitted += 1
            return
        self._burst_lines += 1
        omitted, self._burst_omitted = self._burst_omitted, 0
        log.warning(message, extra={"fields": {**fields, **_repeats(omitted)}})


def _is_past(last: float, now: float) -> bool:
    """Return whether a line may follow one that was written at `last`; also after the clock was set back."""
    return abs(now - last) >= INTERVAL_SECONDS


def _repeats(omitted: int) -> Mapping[str, object]:
    return {"repeats_not_logged": omitted} if omitted else NOTHING


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
