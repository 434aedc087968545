"""The rate limit: attempts at even distances, without a burst at the start or after a pause. Pure."""

from typing import Final

_CATCH_UP_SECONDS: Final = 0.05
"""How late an attempt may be without the following ones being put off: timers are not exact. Later, it follows a pause."""


class RateLimit:
    """At most `per_second` attempts; 0 is no limit. Times are seconds of any one clock."""

    def __init__(self, per_second: float) -> None:
        self._distance_seconds = 1 / per_second if per_second else 0.0
        self.is_on = per_second > 0
        self.next_at = float("-inf")
        """From when on the next attempt may start."""

    def change(self, per_second: float) -> None:
        """Go by another limit from the last attempt on."""
        distance_seconds = 1 / per_second if per_second else 0.0
        self.next_at += distance_seconds - self._distance_seconds
        self._distance_seconds = distance_seconds
        self.is_on = per_second > 0

    def started(self, now: float) -> None:
        """An attempt starts at `now`, which is not before `next_at`."""
        if self.is_on:
            is_late = now - self.next_at <= _CATCH_UP_SECONDS
            self.next_at = (self.next_at if is_late else now) + self._distance_seconds
