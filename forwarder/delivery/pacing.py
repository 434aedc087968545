"""When attempts may go: the schedule of retries, the rate limit, and how late our own event loop is.

- Retries wait with exponential backoff and full jitter, by tenacity. Only its schedule is used. Its retrying loops would
  sleep inside a coroutine for each event, and would cost every event that succeeds at once a third of a post. Here an event
  meets tenacity when it has failed, and then waits in the window.
- The rate limit keeps attempts at even distances, without a burst at the start or after a pause.
- The lag is how long what is ready waits for this process. It is measured so that the limiter does not take it for a queue
  at the far side. An answer that has come waits until the loop has done what was ready before it, and then once more, from
  the connection to the worker; so did its request. A timer that goes off late tells how long such a wait is now. In a flood
  of events the next waits are longer. So more waits are counted than there are, or the flood itself would end a slow start.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from tenacity import RetryCallState, Retrying, wait_random_exponential

from forwarder.settings import DeliverySettings

_VERY_MANY_ATTEMPTS: Final = 1000
_CATCH_UP_SECONDS: Final = 0.05
"""An attempt that is at most so late does not delay those after it, as timers are not exact. A later one follows a pause."""
BUSY_INTERVAL_SECONDS: Final = 0.02
"""How often a timer measures the lag while it matters."""
WAITS_OF_AN_ATTEMPT: Final = 8
"""At 50 ms, with 768 at once and the backlog coming in meanwhile, 3 ended three of seven slow starts early, and 8 one."""
_SHARE: Final = 0.2
_RESOLUTION_SECONDS: Final = 0.001
"""Timers may be so late although nothing delays them."""


class RetrySchedule:
    """Delays between the attempts of one event: each is up to twice as long as the last, times a random share."""

    def __init__(self, settings: DeliverySettings) -> None:
        self._retrying = Retrying(
            wait=wait_random_exponential(multiplier=settings.retry_initial_seconds, max=settings.retry_max_seconds)
        )

    def delay_seconds(self, attempts: int) -> float:
        """Return how long to wait after `attempts` failed attempts, 1 or more."""
        state = RetryCallState(self._retrying, fn=None, args=(), kwargs={})
        state.attempt_number = attempts
        return self._retrying.wait(state)

    def deferral_seconds(self) -> float:
        """Return how long an event is deferred for which the retry quota has no room: as after very many attempts.

        So the same events are not tried again and again before those never tried. The wait ends early when there is room.
        """
        return self.delay_seconds(_VERY_MANY_ATTEMPTS)


class RateLimit:
    """At most `per_second` attempts; 0 is no limit. Times are seconds of any one clock."""

    def __init__(self, per_second: float) -> None:
        self._distance_seconds = 1 / per_second if per_second else 0.0
        self.is_on = per_second > 0
        self.next_at = float("-inf")
        """When the next attempt may start."""

    def change(self, per_second: float) -> None:
        """Use another limit, counted from the last attempt."""
        distance_seconds = 1 / per_second if per_second else 0.0
        self.next_at += distance_seconds - self._distance_seconds
        self._distance_seconds = distance_seconds
        self.is_on = per_second > 0

    def started(self, now: float) -> None:
        """Note that an attempt starts at `now`, which is not before `next_at`."""
        if self.is_on:
            is_late = now - self.next_at <= _CATCH_UP_SECONDS
            self.next_at = (self.next_at if is_late else now) + self._distance_seconds


class LoopLag:
    """Smooths how late timers are. Pure."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """About how much the loop adds to the latency of an attempt."""

    def add(self, late_seconds: float) -> None:
        """Add that a timer was so late."""
        waits = WAITS_OF_AN_ATTEMPT * max(0.0, late_seconds - _RESOLUTION_SECONDS)
        self.seconds += _SHARE * (waits - self.seconds)


class LagTimer(LoopLag):
    """Measures the lag of the running loop repeatedly, from `measure` on until `while_` returns false."""

    def __init__(self, *, while_: Callable[[], bool]) -> None:
        super().__init__()
        self._while = while_
        self._timer: asyncio.TimerHandle | None = None

    def measure(self) -> None:
        """Begin to measure, unless that has begun."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            due = loop.time() + BUSY_INTERVAL_SECONDS
            self._timer = loop.call_at(due, self._add, loop, due)

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _add(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._timer = None
        self.add(loop.time() - due)
        if self._while():
            self.measure()
