"""The loop's lag: how long what is ready waits for this process, so that it is not taken for a queue at the far side.

An answer that has come waits until the loop has done what was ready before it, and then once more, from the connection to
the worker; so did its request. A timer that goes off late tells how long such a wait is, now. In a flood of events the next
waits are longer, so more is counted than there are, or the flood itself would end a slow start.
"""

import asyncio
from collections.abc import Callable
from typing import Final

BUSY_INTERVAL_SECONDS: Final = 0.02
"""How often a timer is to tell, while it matters."""
WAITS_OF_AN_ATTEMPT: Final = 8
"""At 50 ms, 768 at once, and with the backlog coming in meanwhile, 3 ended three of seven slow starts early; 8 one."""
_SHARE: Final = 0.2
_RESOLUTION_SECONDS: Final = 0.001
"""Timers are so late at times although nothing keeps them."""


class LoopLag:
    """Smooths how late timers are. Pure."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """What the loop adds to the latency of an attempt, about."""

    def add(self, late_seconds: float) -> None:
        """A timer was late by so much."""
        waits = WAITS_OF_AN_ATTEMPT * max(0.0, late_seconds - _RESOLUTION_SECONDS)
        self.seconds += _SHARE * (waits - self.seconds)


class LagTimer(LoopLag):
    """Measures the lag of the running loop, again and again from `measure` on, for as long as `while_` says so."""

    def __init__(self, *, while_: Callable[[], bool]) -> None:
        super().__init__()
        self._while = while_
        self._timer: asyncio.TimerHandle | None = None

    def measure(self) -> None:
        """Begin, unless it has begun."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            due = loop.time() + BUSY_INTERVAL_SECONDS
            self._timer = loop.call_at(due, self._add, loop, due)

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _add(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._timer = None
        self.add(loop.time() - due)
        if self._while():
            self.measure()
