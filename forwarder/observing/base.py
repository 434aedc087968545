"""What all parts of telemetry share: the metrics, the tally, recent events, the log, the clock. Used by them alone.

A log line that may repeat is written once in ten seconds for each kind, with the number of lines left out since. So neither
an outage nor a client that makes a thousand errors a second fills the log. A kind comes from a few fixed values, never from
text that a client sent: else the table of kinds would grow.
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
from forwarder.observing.tap import Tap, Taps
from forwarder.places import PROGRAM
from forwarder.tally import Tally
from forwarder.words import HoldCause

INTERVAL_SECONDS: Final = 10.0
NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_NEVER: Final = float("-inf")

log = logging.getLogger("forwarder")


class SeldomLog:
    """Writes lines that may repeat. `clock` returns seconds since 1970, and may jump."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, object], tuple[float, int]] = {}
        """When the last line of each kind was written, and how many were left out since then."""
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
        """Write a line unless one with this message and kind was just written. Return whether it was written.

        A `bug` makes it an error with a traceback. Fields that are None are left out. `more` contains fields whose names are
        those of parameters.
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
        """Return whether `write` would write this line now."""
        return _is_past(self._kinds.get((message, kind), (_NEVER, 0))[0], self._clock())

    def write_of_many(self, message: str, fields: Mapping[str, object], *, most: int) -> None:
        """Write a line that differs each time, unless `most` of them were just written."""
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
    """Return whether a line may follow one written at `last`. The clock may have been set back."""
    return abs(now - last) >= INTERVAL_SECONDS


def _repeats(omitted: int) -> Mapping[str, object]:
    return {"repeats_not_logged": omitted} if omitted else NOTHING


class TelemetryBase:
    """`clock` returns seconds since 1970. `age_seconds` returns how long ago an event was accepted."""

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
        """Returns how long ago this time, in seconds since 1970, was."""
        self._clock = clock
        self.taps = Taps(clock=clock, age_seconds=self.age_seconds, has_ended=self._tap_ended)
        """What operators watch. Who tells it of an event looks first whether `taps.open` is empty."""
        self._metrics = Metrics()
        self.registry.register(self._metrics)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._seldom = SeldomLog(clock=clock)
        self._unwritten_holds: dict[HoldCause, dict[str, object]] = {}
        """Holds that last while their first lines were left out, with the fields of these lines."""
        self._program, self._door = PROGRAM, ""
        self._awaited: asyncio.Future[None] | None = None
        """Set while somebody waits for a change, so that other events cost no call."""

    def recommend_as(self, program: str, door: str) -> None:
        """From now on, lines that recommend a command show it as it is typed, with flags by which it reaches this daemon."""
        self._program, self._door = program, door

    def _see(self, command: str) -> str:
        return f"see {self._program} {command}{self._door}"

    def next_change(self) -> asyncio.Future[None]:
        """Return a future for the next change: an event is accepted or refused or leaves, or a hold's line is left out.

        Several tasks may wait for it, with `asyncio.wait`.
        """
        if self._awaited is None:
            self._awaited = asyncio.get_running_loop().create_future()
        return self._awaited

    def tap_opened(self, tap: Tap) -> None:
        """An operator watches events; that one who sees payloads does so is logged."""
        if tap.request.with_payloads:
            log.warning("a tap with payloads was opened", extra={"fields": {"user": tap.request.user}})

    def _tap_ended(self, tap: Tap) -> None:
        if tap.request.with_payloads:
            fields = {
                "user": tap.request.user,
                "reason": tap.ended,
                "lines": tap.told - tap.lost,
                "lines_lost": tap.lost,
            }
            log.warning("a tap with payloads has ended", extra={"fields": fields})

    def _tell_of_change(self, awaited: asyncio.Future[None]) -> None:
        self._awaited = None
        awaited.set_result(None)
