"""A deadline for the far side, which is not charged for the time in which this process did not run.

A process may be stopped (SIGSTOP, a paused container, a virtual machine that moves), get no CPU time, or block its loop.
When it goes on, a timer that is long overdue may run before what has arrived meanwhile is read. So a timer that comes late,
or while something lies in the socket, is set again a few times before it is believed. Used by `connections`.
"""

import asyncio
from collections.abc import Callable
from typing import Final

STALLED_SECONDS: Final = 0.1
"""A timer that is later than this missed something; all below is the loop's usual work."""
READING_SECONDS: Final = 0.01
"""How long the loop gets to read what lies in the socket: many turns, as TLS and long answers take some."""
CHANCES: Final = 4
"""So often, because the process may be stopped again, and no oftener, because the far side may always send a little more."""


class Deadline:
    """Calls `passed` at a time of the event loop; later by as long as the loop stood still then, at most the time it had.

    `something_came` says whether there is something to read.
    """

    def __init__(self, at: float, passed: Callable[[], None], *, something_came: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._last_at = at
        self._allowed_seconds = max(at - self._loop.time(), READING_SECONDS)
        self._passed = passed
        self._something_came = something_came
        self._chances = CHANCES
        self._timer = self._loop.call_at(at, self._come)

    def bring_forward(self, at: float) -> None:
        """Let it come at another time, which is not after the one that it was made for."""
        self._timer.cancel()
        self._at = min(at, self._last_at)
        self._timer = self._loop.call_at(self._at, self._come)

    def cancel(self) -> None:
        """Have nothing called any more."""
        self._timer.cancel()

    def _come(self) -> None:
        now = self._loop.time()
        late_seconds = now - self._at
        if self._chances and (late_seconds > STALLED_SECONDS or self._something_came()):
            self._chances -= 1
            self._at = now + min(max(late_seconds, READING_SECONDS), self._allowed_seconds)
            self._timer = self._loop.call_at(self._at, self._come)
        else:
            self._passed()
