"""The event, the one thing that travels from intake to Growlytics; and what is kept of it afterwards.

An event is immutable and its bytes are the app's own: nothing between intake and Growlytics encodes them anew. Everybody
may import this module; of the project it imports nothing but words.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter

import msgspec

from forwarder.words import EventKind


class Event(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One event that satisfies the contract.

    Events are compared by identity; across restarts `id` names one. A msgspec struct is made ten times as fast as a frozen
    dataclass, and the garbage collector skips it.
    """

    id: int
    """Unique, and rising in the order of acceptance. The API writes it as a decimal string."""
    customer: str
    """The `customerId`, or a digest of a long one: the lane of the event. Never logged. May hold lone surrogates."""
    name: str
    """The event's name, 1 to 49 UTF-16 code units. Text from strangers: log it as `printable(name)`."""
    body: bytes
    """The exact JSON bytes to send, as the app wrote them."""
    accepted_at: float
    """When intake accepted it, in seconds since 1970."""
    kind: EventKind = "event"

    @property
    def size_bytes(self) -> int:
        """How much the event counts against `buffer.max_bytes`. What runs for every event uses `len(event.body)`."""
        return len(self.body)


@dataclass(frozen=True, slots=True)
class DuplicateKey:
    """The app's own key of an accepted event, which may be long delivered."""

    event_id: int
    digest: bytes
    """16 bytes, made of the app's key."""
    accepted_at: float
    """Seconds since 1970."""
    event: int | None = None
    """64 bits, made of the event that came with the key; None if version 0.1.0 wrote it, which did not keep that."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that will not be sent again, unless an operator replays it."""

    event: Event
    reason: str
    status: int | None
    """Of the last answer; None if there was none."""
    answer: bytes
    """The first 2 KiB of it."""
    attempts: int
    first_attempt_at: float
    """Seconds since 1970, as the next."""
    last_attempt_at: float

    @property
    def size_bytes(self) -> int:
        """How much it counts against `dead_letters.max_bytes`."""
        return self.event.size_bytes + len(self.answer)


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters are meant: those that have all of this. None stands for any."""

    reason: str | None = None
    customer: str | None = None
    """The lane, as `Event.customer`."""
    name: str | None = None
    since: float | None = None
    """Only those whose last attempt was at this time or later, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Some dead letters, oldest first. There may be none although others follow, where only some are meant."""

    letters: list[DeadLetter]
    next_place: int | None
    """The place after which to go on; None at the end."""


LaneOf = Callable[[Event], str]
"""Names the lane of an event: those of one lane are delivered in order."""

by_customer: LaneOf = attrgetter("customer")


def each_alone(event: Event) -> str:
    """Give each event a lane of its own, so that none waits for another."""
    return str(event.id)


class EventIds(Iterator[int]):
    """Ids that rise by one from `first`, by default from now in microseconds since 1970.

    A process that starts later starts higher, as long as there are less than a million events a second on average. A process
    that knows the last id calls `rise_above`, so that the clock does not matter.
    """

    def __init__(self, first: int | None = None) -> None:
        self._next = time.time_ns() // 1000 if first is None else first

    def __next__(self) -> int:
        event_id = self._next
        self._next += 1
        return event_id

    def rise_above(self, last: int) -> None:
        """Yield only ids above `last` from now on."""
        self._next = max(self._next, last + 1)


Clock = Callable[[], float]
"""A clock in seconds: `time.time` for times that are shown or kept, `loop.time` for waits."""
