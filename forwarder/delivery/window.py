"""The window: events taken from the buffer, each startable, parked or started. Pure, with times given by the caller.

Bounded in events and in bytes, but for one event that is larger. At most half of either may be events that are retried;
one that would be parked beyond that goes back to the buffer, so that the others keep moving.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from forwarder.event import Event


@dataclass(slots=True, eq=False)
class Taken:
    """An event in the window, and how often it was tried."""

    event: Event
    attempts: int = 0
    first_attempt_at: float = 0.0
    """When it was tried first, in seconds since 1970; and last."""
    last_attempt_at: float = 0.0
    retried: bool = False
    """Whether it was parked, so that it counts among those that are retried until it leaves."""


class Window:
    """Up to `max_events` events of together up to `max_bytes`."""

    def __init__(self, *, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_retried = max(1, max_events // 2)
        self._events = 0
        self._bytes = 0
        self._retried_events = 0
        self._retried_bytes = 0
        self._first: deque[Taken] = deque()  # never tried
        self._again: deque[Taken] = deque()  # parked before, and due
        self._parked: list[tuple[float, int, Taken]] = []  # a heap by due time
        self._tie = count()
        self._retry_was_last = False

    def room(self) -> tuple[int, int]:
        """Return how many events, and bytes of them, may be added.

        `(0, 0)` unless a quarter of the window is free, so that the buffer is asked for batches.
        """
        events, size = self._max_events - self._events, self._max_bytes - self._bytes
        return (events, size) if events >= max(1, self._max_events // 4) and size > 0 else (0, 0)

    def add(self, events: Sequence[Event]) -> None:
        """Add events that were taken from the buffer."""
        for event in events:
            self._events += 1
            self._bytes += event.size_bytes
            self._first.append(Taken(event))

    def start(self) -> Taken:
        """Return the next event to try. Where both wait, retries and first attempts take turns.

        Raises IndexError if nothing is startable.
        """
        self._retry_was_last = bool(self._again) and not (self._first and self._retry_was_last)
        return self._again.popleft() if self._retry_was_last else self._first.popleft()

    def park(self, taken: Taken, *, until: float) -> bool:
        """Park a started event until then; False if there is no room for one more, which must be removed and released."""
        if not taken.retried:
            if not self._may_be_retried(taken.event):
                return False
            taken.retried = True
            self._retried_events += 1
            self._retried_bytes += taken.event.size_bytes
        heapq.heappush(self._parked, (until, next(self._tie), taken))
        return True

    def unpark_due(self, now: float) -> int:
        """Make parked events startable whose time has come, and return how many."""
        before = len(self._again)
        while self._parked and self._parked[0][0] <= now:
            self._again.append(heapq.heappop(self._parked)[2])
        return len(self._again) - before

    def remove(self, taken: Taken) -> None:
        """Forget a started event, which was acked or released."""
        self._events -= 1
        self._bytes -= taken.event.size_bytes
        if taken.retried:
            self._retried_events -= 1
            self._retried_bytes -= taken.event.size_bytes

    @property
    def crowded(self) -> bool:
        """Whether about as many events are retried as may be."""
        return self._retried_events >= self._max_retried or 4 * self._retried_bytes > self._max_bytes

    @property
    def calm(self) -> bool:
        """Whether there is room again for a good many more to be retried."""
        return 4 * self._retried_events <= 3 * self._max_retried and 8 * self._retried_bytes <= self._max_bytes

    @property
    def parked(self) -> int:
        """How many events wait for their time."""
        return len(self._parked)

    @property
    def startable(self) -> int:
        """How many events may be tried at once."""
        return len(self._first) + len(self._again)

    @property
    def started(self) -> int:
        """How many events are on the wire or wait for their ack to be committed."""
        return self._events - self.startable - self.parked

    def parked_until(self, event_id: int) -> float | None:
        """Return when an event becomes startable again that is parked now."""
        return next((due for due, _, taken in self._parked if taken.event.id == event_id), None)

    @property
    def next_due(self) -> float | None:
        """When the next parked event becomes startable."""
        return self._parked[0][0] if self._parked else None

    def _may_be_retried(self, event: Event) -> bool:
        fits = 2 * (self._retried_bytes + event.size_bytes) <= self._max_bytes
        return fits and self._retried_events < self._max_retried
