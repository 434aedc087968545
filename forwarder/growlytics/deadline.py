"""Deadlines for the far side, which do not count time in which this process stood still. Used by `connections`.

A process may be stopped (SIGSTOP, a paused container, a virtual machine that moves), get no CPU time, or block its loop.
When it runs again, a timer may fire before the loop has read what arrived meanwhile. So a deadline that is noticed late, or
while unread bytes lie in the socket, is extended a few times before it counts.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

STALLED_SECONDS: Final = 0.1
"""If a deadline is noticed later than this, the process stood still; until then the loop was only busy."""
READING_SECONDS: Final = 0.01
"""How long the loop gets to read what lies in the socket: many turns, as TLS and long answers take some."""
CHANCES: Final = 4
"""Extensions of a deadline: several, as the process may be stopped again; few, as the far side may always send more."""


class Deadline:
    """When one attempt is too late, as a time of the event loop. Pure. One object serves the attempts of a connection."""

    def __init__(self) -> None:
        self.at = inf
        """When to look next; infinite while no attempt is under way."""
        self._latest = inf
        self._allowed_seconds = 0.0
        self._chances = 0

    def start(self, at: float, now: float) -> None:
        """Start an attempt that may take until `at`."""
        self.at = self._latest = at
        self._allowed_seconds = max(at - now, READING_SECONDS)
        self._chances = CHANCES

    def bring_forward(self, at: float) -> None:
        """Move the deadline to `at`, but never beyond the time that it was started with."""
        self.at = min(at, self._latest)

    def has_passed(self, now: float, something_came: Callable[[], bool]) -> bool:
        """Return whether the attempt is too late; extend the deadline if it deserves another chance.

        The extension is as long as the loop stood still, and at most the time that the attempt had at first.
        `something_came` says whether bytes lie unread in the socket.
        """
        late_seconds = now - self.at
        if late_seconds < 0:
            return False
        if self._chances and (late_seconds > STALLED_SECONDS or something_came()):
            self._chances -= 1
            self.at = now + min(max(late_seconds, READING_SECONDS), self._allowed_seconds)
            return False
        self.at = inf
        return True


class Sweep:
    """One timer for any number of deadlines. It is set only while there is one."""

    def __init__(self, look: Callable[[float], float]) -> None:
        """`look` handles all that is due at the time it is given, and returns when it must be called next, or infinity."""
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.at = inf
        """When it looks next."""

    def look_by(self, at: float) -> None:
        """Look at this time at the latest."""
        if at < self.at:
            self.cancel()
            self.at = at
            self._timer = self._loop.call_at(at, self._run)

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.at = None, inf

    def _run(self) -> None:
        now = max(self._loop.time(), self.at)  # a loop that counts whole milliseconds may come a little early
        self._timer, self.at = None, inf
        self.look_by(self._look(now))
