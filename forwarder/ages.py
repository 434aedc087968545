"""How old an event is, whatever becomes of the wall clock meanwhile.

The wall clock is right for what is shown and kept, but it jumps: a machine without a battery starts in 1970, and its clock
is set when it has a network. So within this process an age is time of a steady clock, one that also counts while the machine
sleeps. The time between two jumps is an era. An event belongs to the latest era in which the wall clock said its time, so a
doubt makes it younger. An event of an earlier process brings along the wall time between its acceptance and the start of
this process, where that is plausible, and else nothing: an event is rather kept for too long than given up too early.

Made by the composition root, and used on the event loop alone.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Final

from forwarder.event import Clock

JUMP_SECONDS: Final = 1.0
"""By how much the two clocks may drift apart; what is more is a jump."""
FIRST_PLAUSIBLE: Final = 1_735_689_600.0
"""The start of 2025. This software did not exist before, so a clock that says less has not been set yet."""
MAX_ERAS: Final = 256

machine_seconds: Final[Clock] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds since the machine started. The loop's own clock stands still while the machine sleeps, which would be a jump."""


@dataclass(frozen=True, slots=True)
class _Era:
    """A time without jumps; `first` and `last` in seconds since 1970, as the wall clock said then."""

    first: float
    last: float
    offset: float
    """Of the wall clock from the steady one."""


class Ages:
    """Tells the time, and how long ago another one was. `wall` gives seconds since 1970; `steady` never jumps."""

    def __init__(self, *, wall: Clock = time.time, steady: Clock = machine_seconds) -> None:
        self._wall = wall
        self._steady = steady
        self._started_at = steady()
        self._started_wall = self._first = wall()
        self._offset = self._first - self._started_at
        self._ended: list[_Era] = []

    def wall(self) -> float:
        """Return the wall clock's time. The times of events must come from here, so that each belongs to an era."""
        wall, steady = self._wall(), self._steady()
        if not -JUMP_SECONDS <= wall - steady - self._offset <= JUMP_SECONDS:
            self._jumped(wall, steady)
        return wall

    def even(self) -> float:
        """Return the time in seconds since 1970 as if the wall clock had not jumped since the start: it never goes back."""
        return self._started_wall + self._steady() - self._started_at

    def age_seconds(self, accepted_at: float) -> float:
        """Return how long ago an event was accepted, at least 0; `accepted_at` came from here or from an earlier process."""
        wall, now = self._wall(), self._steady()
        if not -JUMP_SECONDS <= wall - now - self._offset <= JUMP_SECONDS:
            self._jumped(wall, now)
        age = now + self._offset - accepted_at
        if age >= -JUMP_SECONDS and accepted_at >= self._first - JUMP_SECONDS:
            return max(0.0, age)
        for era in reversed(self._ended):
            if era.first - JUMP_SECONDS <= accepted_at <= era.last + JUMP_SECONDS:
                return max(0.0, now + era.offset - accepted_at)
        is_plausible = FIRST_PLAUSIBLE <= accepted_at <= self._started_wall
        return now - self._started_at + (self._started_wall - accepted_at if is_plausible else 0.0)

    def _jumped(self, wall: float, steady: float) -> None:
        """Begin an era."""
        self._ended.append(_Era(self._first, steady + self._offset, self._offset))
        self._first, self._offset = wall, wall - steady
        if len(self._ended) > MAX_ERAS:
            self._join_the_nearest()

    def _join_the_nearest(self) -> None:
        """Make one of the two eras between which the jump was least; of the two ages choose the younger."""
        eras = self._ended
        place = min(range(len(eras) - 1), key=lambda each: abs(eras[each + 1].offset - eras[each].offset))
        one, other = eras[place : place + 2]
        joined = _Era(min(one.first, other.first), max(one.last, other.last), min(one.offset, other.offset))
        eras[place : place + 2] = [joined]
