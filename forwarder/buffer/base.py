"""The Buffer protocol: what intake and delivery may expect of any store of accepted events.

Invariants that every buffer keeps, and `tests/contract/` proves:

- An event is in from the moment `put` answers `Stored` until it is acked with its fate; nothing else removes it.
- It is bounded in events and in bytes; both bounds count everything not yet acked.
- `take` hands out events in the order they were put, each to one taker; `release` gives one back its place in its lane.
- Cancelling a `take` hands out nothing.
- The ledger changes in the same step as the events.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from forwarder.buffer.fates import DropReason, Fate
from forwarder.event import Event


@dataclass(frozen=True, slots=True)
class Stored:
    """All the events are in: the buffer's promise holds for them."""


@dataclass(frozen=True, slots=True)
class Full:
    """There is no room for all of them now, so none is in."""


@dataclass(frozen=True, slots=True)
class NeverFits:
    """They exceed the bounds of even an empty buffer."""


PutAnswer = Stored | Full | NeverFits


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of every accepted event; the numbers are events.

    `buffered` is counted from the events themselves and never derived from the other numbers.
    """

    accepted: int
    delivered: int
    dropped: Mapping[DropReason, int]
    buffered: int

    @property
    def unaccounted(self) -> int:
        """The difference between the sides of `accepted = delivered + dropped + buffered`. Must be 0."""
        return self.accepted - self.delivered - sum(self.dropped.values()) - self.buffered


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full the buffer is, counting what is taken and not yet acked."""

    events: int
    bytes: int
    resting: int
    """Events that were released and whose time has not come, with the events behind them in their lanes."""
    oldest_accepted_at: float | None
    """Seconds since 1970; None when it is empty."""


class Buffer(Protocol):
    """A bounded store of accepted events."""

    async def put(self, events: Sequence[Event], *, intake: str) -> PutAnswer:
        """Store all of `events`, whose ids rise, or none; return when the promise holds.

        `intake` is the way they came in, for the ledger.
        """
        ...

    async def take(self, *, max_events: int, max_bytes: int, skip_lanes: AbstractSet[str] = frozenset()) -> list[Event]:
        """Wait for events of lanes (customers) other than `skip_lanes`, hide them from later takes and return them.

        Returns at least one, and so perhaps one beyond `max_bytes`; at most `max_events` (1 or more). Skipping a lane
        costs each of its events one step for as long as it is skipped, not one for each take.
        """
        ...

    async def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        """Remove taken events, each with its fate, for good."""
        ...

    async def release(self, events: Sequence[Event], *, not_before: float) -> None:
        """Give taken events back, in their old places.

        Nothing of their lanes is handed out before `not_before`, in seconds of the event loop's clock.
        """
        ...

    async def end_rests(self) -> None:
        """Let everything that was released be taken at once, as if its time had come."""
        ...

    def ledger(self) -> Ledger:
        """Return the ledger as of now."""
        ...

    def occupancy(self) -> Occupancy:
        """Return how full the buffer is now."""
        ...

    def ready_at(self, now: float) -> float | None:
        """Return from when on something may be taken, by the event loop's clock: `now`, later, or None for never."""
        ...

    async def close(self) -> None:
        """Close. What this buffer cannot keep is dropped, reason `shutdown`. May be called again."""
        ...
