"""Who gets what becomes free in a full buffer: every kind of request an equal share. Pure; used by the buffers.

Without it the smallest requests would get everything: one event fits as soon as one place is free, a batch never does.

- Nothing is kept for anybody before a request is refused for want of room. Until then, whatever fits is put.
- Requests are of one kind if they come by the same intake and are about as large. A kind waits from the refusal of one of
  its requests until a little after the time at which that is to come again. Each kind that waits has an equal share of
  what becomes free kept for it, up to a bound. If none of its requests comes again, that ends by itself.
- Within a kind, the request that was refused first has the first turn. Later and smaller ones get only what is kept beyond
  it, so a client that obeys Retry-After does not lose against one that asks again at once. A request that comes again is
  recognised by its size and its first event.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, log
from typing import Final

from forwarder.buffer.base import Full
from forwarder.event import Clock, Event
from forwarder.settings import BufferSettings
from forwarder.words import Intake

IN_PARTS: Final = frozenset[Intake]({"lines", "datagram"})
"""Intakes that put as many events at once as there is room for, so that they need no turns."""
SLACK_SECONDS: Final = 1.0
"""How long after its Retry-After a request may come again and still have its turn."""
MAX_RETRY_AFTER_SECONDS: Final = 10
MAX_TURNS: Final = 100
"""Of each kind. Later requests have no turn, and take what they find."""
_KEPT_PART: Final = 4
"""At most this part of the buffer is kept for a kind, or twice its largest request if that is more."""
_FORGET_SECONDS: Final = 10.0
"""After so long, half of what is known of the rate at which a kind gets its share is forgotten."""
_EVENTS, _BYTES = 0, 1


@dataclass(slots=True)
class _Turn:
    """A request that was refused."""

    size: Sequence[int]
    """In events and in bytes, as all pairs here."""
    units: float
    """Its size as one number: its part of the buffer, in events."""
    until: float


@dataclass(slots=True)
class _Kind:
    """Requests that are alike."""

    since: float
    until: float = 0.0
    kept: list[int] = field(default_factory=lambda: [0, 0])
    gained: list[int] = field(default_factory=lambda: [0, 0])
    """What was kept for it since `since`, used or not."""
    largest: list[int] = field(default_factory=lambda: [0, 0])
    turns: OrderedDict[int, _Turn] = field(default_factory=OrderedDict)

    def first_turn(self, now: float) -> tuple[int, _Turn] | None:
        """Return whose turn it is, and forget the turns of requests that did not come again."""
        while self.turns:
            key, turn = next(iter(self.turns.items()))
            if turn.until >= now:
                return key, turn
            del self.turns[key]
        return None


class Turns:
    """Decides whether a request may be put into a buffer with these bounds. `clock` gives seconds."""

    def __init__(self, settings: BufferSettings, clock: Clock) -> None:
        self.waiting = False
        """Whether something may be kept for a kind. If not, whatever fits may be put without asking."""
        self._bounds = (settings.max_events, settings.max_bytes)
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, int], _Kind] = OrderedDict()  # the first one gets the next odd place
        self._open = [0, 0]  # what is free and kept for nobody

    def ask(self, events: Sequence[Event], size_bytes: int, *, intake: Intake, free: tuple[int, int]) -> Full | None:
        """Return None if these events may be put; the caller must put them then. `free` is in events and bytes."""
        now = self._clock()
        self._share_out(now, free)
        size = (len(events), size_bytes)
        units = max(size[_EVENTS], size_bytes * self._bounds[_EVENTS] / self._bounds[_BYTES])
        place = (intake, 0 if intake in IN_PARTS or units <= 1 else 1 + int(log(units, 4)))
        kind = self._kinds.get(place)
        key = hash((*size, events[0].customer, events[0].name)) if events else 0
        own = [0, 0] if kind is None else _beyond_first_turn(kind, key, units, now)
        fits = all(size[each] <= own[each] + self._open[each] for each in (_EVENTS, _BYTES))
        if fits or free == self._bounds:  # an empty buffer keeps nothing for anybody
            for each in (_EVENTS, _BYTES):
                used = min(own[each], size[each])
                self._open[each] -= size[each] - used
                if kind is not None:
                    kind.kept[each] -= used
            if kind is not None:
                kind.turns.pop(key, None)
            return None
        if kind is None:
            kind = self._kinds[place] = _Kind(since=now)
            self.waiting = True
        missing = [size[each] - own[each] - self._open[each] for each in (_EVENTS, _BYTES)]
        seconds = _seconds_until(kind, missing, now)
        kind.until = now + seconds + SLACK_SECONDS
        kind.largest = [max(size[each], kind.largest[each]) for each in (_EVENTS, _BYTES)]
        if intake not in IN_PARTS:
            if (turn := kind.turns.get(key)) is not None:
                turn.until = kind.until
            elif len(kind.turns) < MAX_TURNS:
                kind.turns[key] = _Turn(size, units, kind.until)
        return Full(retry_after_seconds=seconds)

    def forget(self) -> None:
        """Keep nothing for anybody."""
        self._kinds.clear()
        self.waiting = False

    def _share_out(self, now: float, free: tuple[int, int]) -> None:
        """Share what became free since the last time, and what was kept for kinds that wait no more."""
        for place, kind in list(self._kinds.items()):
            if kind.until < now:
                del self._kinds[place]
            elif now - kind.since > _FORGET_SECONDS:
                kind.since += (now - kind.since) / 2
                kind.gained = [number // 2 for number in kind.gained]
        if not self._kinds:
            self.waiting = False
            self._open = list(free)
            return
        for each in (_EVENTS, _BYTES):
            news = free[each] - self._open[each] - sum(kind.kept[each] for kind in self._kinds.values())
            owed = news if news < 0 else min(news, max(0, -self._open[each]))  # others took more than was open
            self._open[each] += owed
            self._share(each, news - owed)

    def _share(self, each: int, number: int) -> None:
        """Keep equal parts of what became free for the kinds. What none of them may have is open to everybody."""
        while number and (hungry := [place for place, kind in self._kinds.items() if self._may_have(kind, each)]):
            part = max(1, number // len(hungry))
            for place in hungry[:number]:
                kind = self._kinds[place]
                share = min(part, self._may_have(kind, each))
                kind.kept[each] += share
                kind.gained[each] += share
                number -= share
                if part == 1 and each == _EVENTS:
                    self._kinds.move_to_end(place)
        self._open[each] += number

    def _may_have(self, kind: _Kind, each: int) -> int:
        """Return how much more may be kept for a kind."""
        bound = self._bounds[each]
        return max(0, min(bound, max(2 * kind.largest[each], bound // _KEPT_PART)) - kind.kept[each])


def _beyond_first_turn(kind: _Kind, key: int, units: float, now: float) -> list[int]:
    """Return how much a request may have of what is kept for its kind."""
    first = kind.first_turn(now)
    if first is None or first[0] == key or (units >= first[1].units and key not in kind.turns):
        return list(kind.kept)
    return [max(0, kept - size) for kept, size in zip(kind.kept, first[1].size, strict=True)]


def _seconds_until(kind: _Kind, missing: Sequence[int], now: float) -> int:
    """Return in how many seconds a kind will have what is missing, if it gets its share as before; 1 if it gets none."""
    passed = now - kind.since
    seconds = [number * passed / gained for number, gained in zip(missing, kind.gained, strict=True) if gained]
    return min(MAX_RETRY_AFTER_SECONDS, max(1, ceil(max(seconds, default=1))))
