"""How old an event is, even if the wall clock jumps.

Times are shown and kept by the wall clock, but it jumps: a machine without a battery starts in 1970, and its clock is set
when it has a network. So ages within this process are measured by a steady clock, which also counts while the machine
sleeps. The time between two jumps is an era. An event belongs to the latest era in which the wall clock said its time, so a
doubt makes it younger. To the age of an event of an earlier process the wall time between its acceptance and the start of
this process is added, if that is plausible. So an event is kept too long rather than dead-lettered too early.

Made by the composition root, and used on the event loop alone.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Final

from forwarder.event import Clock

JUMP_SECONDS: Final = 1.0
"""How far the two clocks may drift apart. More is a jump."""
FIRST_PLAUSIBLE: Final = 1_735_689_600.0
"""The start of 2025. This software did not exist before, so a clock that says less is not set yet."""
MAX_ERAS: Final = 256

machine_seconds: Final[Clock] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds since the machine started. The loop's clock stops while the machine sleeps, so each sleep would be a jump."""


@dataclass(frozen=True, slots=True)
class _Era:
    """A time without jumps. `first` and `last` are what the wall clock said, in seconds since 1970."""

    first: float
    last: float
    offset: float
    """How far the wall clock was ahead of the steady one."""


class Ages:
    """Says the time, and how long ago another time was. `wall` gives seconds since 1970; `steady` never jumps."""

    def __init__(self, *, wall: Clock = time.time, steady: Clock = machine_seconds) -> None:
        self._wall = wall
        self._steady = steady
        self._started_at = steady()
        self._started_wall = self._first = wall()
        self._offset = self._first - self._started_at
        self._ended: list[_Era] = []

    def wall(self) -> float:
        """Return the wall clock's time. Event times must come from here, so that each belongs to an era."""
        wall, steady = self._wall(), self._steady()
        if not -JUMP_SECONDS <= wall - steady - self._offset <= JUMP_SECONDS:
            self._jumped(wall, steady)
        return wall

    def even(self) -> float:
        """Return the seconds since 1970 as if the wall clock had not jumped since the start. They never go back."""
        return self._started_wall + self._steady() - self._started_at

    def age_seconds(self, accepted_at: float) -> float:
        """Return how long ago an event was accepted, at least 0. `accepted_at` is from `wall` or an earlier process."""
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
        """Join the two eras with the smallest jump between them. Of the two ages, the younger one counts."""
        eras = self._ended
        place = min(range(len(eras) - 1), key=lambda each: abs(eras[each + 1].offset - eras[each].offset))
        one, other = eras[place : place + 2]
        joined = _Era(min(one.first, other.first), max(one.last, other.last), min(one.offset, other.offset))
        eras[place : place + 2] = [joined]
