"""The events of one lane that were passed over or released, in order; of some only the ids. Used by the ordering.

They are in three places, one after the other: `_released`, `_passed` and `_unread`. Events are handed out from the front, so
whatever is released precedes all that was never handed out.
"""

import heapq
from array import array
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Final

from forwarder.event import Event

OVERHEAD_BYTES: Final = 512
"""About what an event takes in memory besides its body."""


def cost_bytes(event: Event) -> int:
    """Return about what an event takes in memory."""
    return len(event.body) + OVERHEAD_BYTES


class RisingIds:
    """Ids in order, 8 bytes each. Removing the first one costs nothing, however many there are."""

    __slots__ = ("_array", "_removed")

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._array = array("q", ids)
        self._removed = 0  # how many at its start were removed

    def __len__(self) -> int:
        return len(self._array) - self._removed

    def first(self) -> int:
        """Return the first one, which there must be."""
        return self._array[self._removed]

    def next(self, number: int) -> Sequence[int]:
        """Return the first ones."""
        return self._array[self._removed : self._removed + number]

    def append(self, event_id: int) -> None:
        """Add an id that is higher than all."""
        self._array.append(event_id)

    def insert(self, event_id: int) -> None:
        """Add an id in its place."""
        self._array.insert(bisect(self._array, event_id, lo=self._removed), event_id)

    def remove_first(self) -> None:
        """Remove the first one."""
        self._removed += 1
        if 2 * self._removed > len(self._array):
            del self._array[: self._removed]
            self._removed = 0

    def __iter__(self) -> Iterator[int]:
        return iter(self._array[self._removed :])


class StoredLane:
    """Deferred until `not_before`. It is `offered` if that is over and, as far as is known, no taker skips it."""

    __slots__ = ("_passed", "_released", "_unread", "_unread_since", "not_before", "offered")

    def __init__(self) -> None:
        self.not_before = 0.0
        self.offered = False
        self._released: list[tuple[int, Event]] = []  # a heap of what was released or read
        # None in most lanes: empty ones would take more memory than everything else.
        self._passed: deque[Event] | None = None
        self._unread: RisingIds | None = None
        self._unread_since = 0.0  # no event of `_unread` was accepted earlier

    def __len__(self) -> int:
        return len(self._released) + len(self._passed or ()) + len(self._unread or ())

    def first(self) -> Event | None:
        """Return the first event; None if only its id is kept."""
        if self._released:
            return self._released[0][1]
        return self._passed[0] if self._passed else None

    def first_id(self) -> int:
        """Return the id of the first event, which there must be."""
        if (first := self.first()) is not None:
            return first.id
        assert self._unread, "there is no first event"
        return self._unread.first()

    def oldest_accepted_at(self) -> float:
        """Return when the first event, which there must be, was accepted; or an earlier time."""
        first = self.first()
        return self._unread_since if first is None else first.accepted_at

    def kept(self) -> Iterator[Event]:
        """Yield the events that are kept, and not only their ids."""
        return chain((event for _, event in self._released), self._passed or ())

    def next_unread(self, max_ids: int) -> Sequence[int]:
        """Return the ids to read before the first event can be handed out; none if it can."""
        return self._unread.next(max_ids) if self._unread and self.first() is None else ()

    def append(self, event: Event, *, keep: bool) -> bool:
        """Add an event that was passed over; return whether it is kept, and not only its id."""
        if not keep or self._unread:
            if not self._unread:
                self._unread, self._unread_since = RisingIds(), event.accepted_at
            self._unread.append(event.id)
            return False
        if self._passed is None:
            self._passed = deque()
        self._passed.append(event)
        return True

    def release(self, event: Event) -> bool:
        """Add an event that was handed out; return whether it is kept, and not only its id."""
        if self._unread and event.id > self._unread.first():
            self._unread.insert(event.id)
            return False
        heapq.heappush(self._released, (event.id, event))
        return True

    def remove_first(self) -> None:
        """Remove the first event, which must be kept."""
        if self._released:
            heapq.heappop(self._released)
        else:
            assert self._passed, "the first event is unread"
            self._passed.popleft()

    def awaited(self) -> int | None:
        """Return the id of the first event to read, if there is one."""
        return self._unread.first() if self._unread else None

    def read(self, event: Event | None) -> None:
        """Add the first event to read, which was read, or forget it if it is None."""
        assert self._unread, "nothing is unread"
        self._unread.remove_first()
        if event is not None:
            heapq.heappush(self._released, (event.id, event))
            self._unread_since = event.accepted_at

    def keep_ids(self) -> int:
        """Keep only the ids of all events; return how many bytes that frees."""
        if self.first() is None:
            return 0
        freed = sum(map(cost_bytes, self.kept()))
        self._unread_since = self.oldest_accepted_at()
        kept = sorted(event.id for event in self.kept())
        self._released, self._passed, self._unread = [], None, RisingIds(chain(kept, self._unread or ()))
        return freed

    def discard(self, is_meant: Callable[[Event], bool], ids: AbstractSet[int]) -> list[Event] | None:
        """Remove events that are kept and meant, and unread ones with these ids. Return the former; None if there are none.

        The order in which the others come stays the same.
        """
        removed = [event for event in self.kept() if is_meant(event)]
        unread = len(self._unread or ())
        if removed:
            self._released = [(event_id, event) for event_id, event in self._released if not is_meant(event)]
            heapq.heapify(self._released)
            if self._passed is not None:
                self._passed = deque(event for event in self._passed if not is_meant(event))
        if ids and self._unread:
            self._unread = RisingIds(event_id for event_id in self._unread if event_id not in ids)
        return removed if removed or unread != len(self._unread or ()) else None

    def forget_unread(self) -> None:
        """Forget the events of which only the id is kept."""
        self._unread = None
