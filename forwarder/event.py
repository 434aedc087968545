"""The event, the one thing that travels from intake to Growlytics.

An event is immutable and its bytes are the app's own: nothing between intake and Growlytics encodes them anew. Everybody
may import this module; it imports nothing of the project.
"""

import time
from collections.abc import Callable, Iterator
from operator import attrgetter

import msgspec


class Event(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One event that satisfies the contract.

    Events are compared by identity; `id` is what names one across restarts. A struct of msgspec is made ten times as fast
    as a frozen dataclass, and the garbage collector need not look at it.
    """

    id: int
    """Unique, and rising in the order of acceptance. In the API it is written as a decimal string."""
    customer: str
    """The `customerId`, or a digest of a long one: the lane of the event. Never logged. May hold lone surrogates."""
    name: str
    """The event's name, 1 to 49 UTF-16 code units. Text from strangers: log it as `printable(name)`."""
    body: bytes
    """The exact JSON bytes to send, as the app wrote them."""
    accepted_at: float
    """When intake accepted it, in seconds since 1970."""

    @property
    def size_bytes(self) -> int:
        """What the event counts against `buffer.max_bytes`."""
        return len(self.body)


LaneOf = Callable[[Event], str]
"""Names the lane of an event: those of one lane are delivered in order."""

by_customer: LaneOf = attrgetter("customer")


def each_alone(event: Event) -> str:
    """Let no event wait for another."""
    return str(event.id)


class EventIds(Iterator[int]):
    """Ids that rise by one from `first`, by default from now in microseconds since 1970.

    A process that starts later starts higher, as long as events average below a million a second; where it remembers the
    last one, whatever the clock says.
    """

    def __init__(self, first: int | None = None) -> None:
        self._next = time.time_ns() // 1000 if first is None else first

    def __next__(self) -> int:
        event_id = self._next
        self._next += 1
        return event_id

    def rise_above(self, last: int) -> None:
        """Yield only what is higher than `last`."""
        self._next = max(self._next, last + 1)


Clock = Callable[[], float]
"""A clock in seconds: `time.time` for times that are shown or kept, `loop.time` for waits."""
