"""Looks at the buffer every two seconds, for the forecast and for the status page's history. Made and served by `app.py`."""

import asyncio
from typing import Final

from forwarder.buffer.base import Buffer
from forwarder.event import Clock
from forwarder.observing.forecast import Forecast, Sample
from forwarder.observing.history import History
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings

_SAMPLE_SECONDS: Final = 2.0


class Sampling:
    """`clock` is the event loop's."""

    def __init__(self, settings: BufferSettings, *, buffer: Buffer, telemetry: Telemetry, clock: Clock) -> None:
        self.forecast = Forecast(max_events=settings.max_events, max_bytes=settings.max_bytes)
        self.history = History(clock=clock)
        self._buffer = buffer
        self._telemetry = telemetry
        self._clock = clock

    async def serve(self) -> None:
        """Sample until cancelled."""
        while True:
            self._telemetry.holds_last()
            occupancy, ledger = self._buffer.occupancy(), self._buffer.ledger()
            self.forecast.add(Sample(self._clock(), occupancy.events, occupancy.bytes, ledger.accepted))
            self.history.add(
                accepted=ledger.accepted,
                delivered=ledger.delivered,
                refused=ledger.rejected,
                buffered=occupancy.events,
            )
            await asyncio.sleep(_SAMPLE_SECONDS)
