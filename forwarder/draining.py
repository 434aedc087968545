"""The drain: deliver what is buffered before the process ends, as far as time allows. Called by `app.py` alone."""

import asyncio
from typing import Final

from forwarder.buffer.base import Buffer
from forwarder.delivery.worker import Delivery
from forwarder.event import Clock
from forwarder.observing.telemetry import Telemetry

_POLL_SECONDS: Final = 0.1
_LOG_SECONDS: Final = 5.0


async def drain(buffer: Buffer, delivery: Delivery, *, seconds: float, telemetry: Telemetry, clock: Clock) -> None:
    """Return when the buffer is empty, when nothing can be delivered before the end, or after `seconds`.

    Nothing must be put meanwhile. `clock` is the event loop's.
    """
    await delivery.end_waits()
    deadline = clock() + seconds
    next_log = clock() + _LOG_SECONDS
    while (buffered := buffer.occupancy().events) and delivery.can_move_before(deadline):
        now = clock()
        if now >= deadline:
            return
        if now >= next_log:
            telemetry.drain_progressed(buffered=buffered, seconds_left=deadline - now)
            next_log += _LOG_SECONDS
        await asyncio.sleep(_POLL_SECONDS)
