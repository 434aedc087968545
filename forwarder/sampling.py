"""How fast events come and leave: a forecast of when the buffer is full or empty, and the last five minutes.

While events come or leave, `Sampling` looks at the buffer every two seconds. When nothing changes any more, it sleeps until
telemetry tells of a change; the time between follows from its last look. Made and served by `app.py`.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from math import exp, inf
from typing import Final

from forwarder.buffer.base import Buffer
from forwarder.event import Clock
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings

SMOOTHING_SECONDS: Final = 30.0
INTERVAL_SECONDS: Final = 5.0
MAX_SAMPLES: Final = 60
_SAMPLE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """How full the buffer is at a time, in seconds of any clock that never goes back."""

    at: float
    events: int
    bytes: int
    accepted_events: int
    """In total, since any start, as those below. How many have left follows from this and `events`."""
    delivered_events: int = 0
    refused_events: int = 0


class Forecast:
    """When the buffer will be full or empty if the present rates last. Pure.

    Rates are smoothed exponentially, so a short burst hardly counts and old rates are forgotten. Add a sample every few
    seconds while something changes, and one before something changes again.
    """

    def __init__(self, *, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._last: Sample | None = None
        self._weight = 0.0
        self.in_per_second = 0.0
        """Events accepted."""
        self.delivered_per_second = 0.0
        self.refused_per_second = 0.0
        self._growth_per_second = 0.0  # of the events, and of their bytes
        self._growth_bytes_per_second = 0.0

    def add(self, sample: Sample) -> None:
        """Update the rates."""
        last, self._last = self._last, sample
        if last is None or sample.at <= last.at:
            return
        seconds = sample.at - last.at
        share = 1 - exp(-seconds / SMOOTHING_SECONDS)
        # While there are few samples, use their mean: a smoothed rate would begin at 0.
        self._weight += (1 - self._weight) * share
        share /= self._weight

        def smoothed(rate: float, total: int, before: int) -> float:
            return rate + share * ((total - before) / seconds - rate)

        self.in_per_second = smoothed(self.in_per_second, sample.accepted_events, last.accepted_events)
        # A total shrinks if a damaged file was replaced by a new one.
        delivered_before = min(last.delivered_events, sample.delivered_events)
        refused_before = min(last.refused_events, sample.refused_events)
        self.delivered_per_second = smoothed(self.delivered_per_second, sample.delivered_events, delivered_before)
        self.refused_per_second = smoothed(self.refused_per_second, sample.refused_events, refused_before)
        self._growth_per_second += share * ((sample.events - last.events) / seconds - self._growth_per_second)
        growth_bytes = (sample.bytes - last.bytes) / seconds
        self._growth_bytes_per_second += share * (growth_bytes - self._growth_bytes_per_second)

    @property
    def out_per_second(self) -> float:
        """Events that left the buffer."""
        return max(0.0, self.in_per_second - self._growth_per_second)

    @property
    def full_seconds(self) -> float:
        """How long until either bound is reached: 0 if one is, infinite if the buffer does not grow."""
        if self._last is None:
            return inf
        return min(
            _until(self._max_events - self._last.events, self._growth_per_second),
            _until(self._max_bytes - self._last.bytes, self._growth_bytes_per_second),
        )

    @property
    def drain_seconds(self) -> float:
        """How long until the buffer is empty: 0 if it is, infinite if it does not shrink."""
        return inf if self._last is None else _until(self._last.events, -self._growth_per_second)


def _until(distance: float, per_second: float) -> float:
    if distance <= 0:
        return 0.0
    return distance / per_second if per_second > 1e-9 else inf


class History:
    """The last five minutes: how many events a second came and left, and how many were buffered.

    There is one sample for each INTERVAL_SECONDS, so an index is a time. Totals that are added more often are skipped; if
    they are added less often, all samples since the last ones are alike. So add them every few seconds while they change,
    and before they change again.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._last_at: float | None = None
        self._due_at = 0.0
        self._last = (0, 0, 0)
        self._samples: deque[tuple[float, float, float, int]] = deque(maxlen=MAX_SAMPLES)

    def add(self, *, accepted: int, delivered: int, refused: int, buffered: int) -> None:
        """Add how many events there were in total, since any start, and how many are buffered now."""
        now, totals = self._clock(), (accepted, delivered, refused)
        if self._last_at is None:
            self._due_at = now + INTERVAL_SECONDS
        elif now < self._due_at:
            return
        else:
            seconds = now - self._last_at
            # A total shrinks if a damaged file was replaced by a new one.
            came, went, refusals = (
                max(0.0, (new - old) / seconds) for new, old in zip(totals, self._last, strict=True)
            )
            due = int((now - self._due_at) / INTERVAL_SECONDS) + 1
            self._samples.extend([(came, went, refusals, buffered)] * min(due, MAX_SAMPLES))
            self._due_at += due * INTERVAL_SECONDS
        self._last_at, self._last = now, totals

    def has(self, *, accepted: int, delivered: int, refused: int) -> bool:
        """Return whether the samples contain these totals already, so that nothing need be added while they stay."""
        return self._last_at is not None and self._last == (accepted, delivered, refused)

    def described(self) -> dict[str, object]:
        """Return the samples, oldest first, as /v1/status shows them."""
        accepted, delivered, refused, buffered = zip(*self._samples, strict=True) if self._samples else ((),) * 4
        rates = {"accepted": accepted, "delivered": delivered, "refused": refused}
        return {
            "interval_seconds": INTERVAL_SECONDS,
            **{name: [round(rate, 2) for rate in each] for name, each in rates.items()},
            "buffered": list(buffered),
        }


@dataclass(frozen=True, slots=True)
class _Seen:
    """The result of one look at the buffer."""

    events: int
    bytes: int
    accepted: int
    delivered: int
    refused: int


class Sampling:
    """Keeps a forecast and a history of the buffer. `clock` is the event loop's."""

    def __init__(self, settings: BufferSettings, *, buffer: Buffer, telemetry: Telemetry, clock: Clock) -> None:
        self._forecast = Forecast(max_events=settings.max_events, max_bytes=settings.max_bytes)
        self._history = History(clock=clock)
        self._buffer = buffer
        self._telemetry = telemetry
        self._clock = clock
        self._last: _Seen | None = None
        self._is_asleep = False

    @property
    def forecast(self) -> Forecast:
        """The forecast as of now."""
        self._catch_up()
        return self._forecast

    @property
    def history(self) -> History:
        """The history up to now."""
        self._catch_up()
        return self._history

    async def serve(self) -> None:
        """Sample until cancelled."""
        while True:
            has_lines_to_write = self._telemetry.write_late_holds()
            if self._look() or has_lines_to_write:
                await asyncio.sleep(_SAMPLE_SECONDS)
                continue
            self._is_asleep = True
            try:
                await asyncio.wait({self._telemetry.next_change()})
            finally:
                self._catch_up()
                self._is_asleep = False
            await asyncio.sleep(_SAMPLE_SECONDS)

    def _look(self) -> bool:
        """Take a sample. Return whether something has changed, or the history has not noted the last change yet."""
        occupancy, ledger = self._buffer.occupancy(), self._buffer.ledger()
        seen = _Seen(occupancy.events, occupancy.bytes, ledger.accepted, ledger.delivered, ledger.rejected)
        last, self._last = self._last, seen
        self._add(seen)
        is_noted = self._history.has(accepted=seen.accepted, delivered=seen.delivered, refused=seen.refused)
        return seen != last or not is_noted

    def _catch_up(self) -> None:
        """While asleep, add what a look would show now: the same as the last look."""
        if self._is_asleep and self._last:
            self._add(self._last)

    def _add(self, seen: _Seen) -> None:
        now = self._clock()
        self._forecast.add(Sample(now, seen.events, seen.bytes, seen.accepted, seen.delivered, seen.refused))
        self._history.add(accepted=seen.accepted, delivered=seen.delivered, refused=seen.refused, buffered=seen.events)
