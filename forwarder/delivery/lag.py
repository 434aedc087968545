"""The loop's lag: how long what is ready waits for this process, so that it is not taken for a queue at the far side. Pure.

An answer that has come waits until the loop has done what was ready before it, and then once more, from the connection to
the worker; so did its request. A timer that goes off late tells how long such a wait is, now. In a flood of events the next
waits are longer, so more is counted than there are, or the flood itself would end a slow start.
"""

from typing import Final

BUSY_INTERVAL_SECONDS: Final = 0.02
IDLE_INTERVAL_SECONDS: Final = 0.5
"""How often a timer is to tell: while there are attempts, and else."""
WAITS_OF_AN_ATTEMPT: Final = 8
"""At 50 ms, 768 at once, and with the backlog coming in meanwhile, 3 ended three of seven slow starts early; 8 one."""
_SHARE: Final = 0.2
_RESOLUTION_SECONDS: Final = 0.001
"""Timers are so late at times although nothing keeps them."""


class LoopLag:
    """Smooths how late timers are."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """What the loop adds to the latency of an attempt, about."""

    def add(self, late_seconds: float) -> None:
        """A timer was late by so much."""
        waits = WAITS_OF_AN_ATTEMPT * max(0.0, late_seconds - _RESOLUTION_SECONDS)
        self.seconds += _SHARE * (waits - self.seconds)
