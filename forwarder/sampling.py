"""Looks at the buffer for the forecasts and for the history of the status page. Made and served by `app.py`.

While events come or leave it looks every two seconds. When nothing changes any more it sleeps until telemetry tells of a
change; what passes meanwhile follows from what it saw last.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from forwarder.buffer.base import Buffer
from forwarder.event import Clock
from forwarder.observing.rates import Forecast, History, Sample
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings

_SAMPLE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look at the buffer shows."""

    events: int
    bytes: int
    accepted: int
    delivered: int
    refused: int


class Sampling:
    """`clock` is the event loop's."""

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
        """Return the forecast as of now."""
        self._catch_up()
        return self._forecast

    @property
    def history(self) -> History:
        """Return the history up to now."""
        self._catch_up()
        return self._history

    async def serve(self) -> None:
        """Sample until cancelled."""
        while True:
            has_lines_to_write = self._telemetry.holds_last()
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
        """Add what a look now would have shown if it sleeps: the same as the last one."""
        if self._is_asleep and self._last:
            self._add(self._last)

    def _add(self, seen: _Seen) -> None:
        self._forecast.add(Sample(self._clock(), seen.events, seen.bytes, seen.accepted))
        self._history.add(accepted=seen.accepted, delivered=seen.delivered, refused=seen.refused, buffered=seen.events)
