"""The Buffer protocol: what intake and delivery may expect of any store of accepted events.

Invariants that every buffer keeps, and `tests/contract/` proves:

- An event is in from the moment `put` answers `Stored` until it is acked with its fate; nothing else removes it.
- It is bounded in events and in bytes; both bounds count everything not yet acked.
- `take` hands out events in the order they were put, each to one taker. `release` puts an event back in its old place.
- Cancelling a `take` hands out nothing.
- An event that is found marked when the buffer is opened is never handed out: see `mark`.
- A store that several processes share may revoke lanes: see `listen` and `may_start`. For the event objects that it handed
  out before, `mark`, `unmark` and `release` then do nothing. It may accept or refuse their acks, as an attempt may have been
  under way. If it hands out the events again, they are other objects.
- The ledger changes in the same step as the events.
- While a tap is open, it is told of events that are in, and of those that leave without being delivered, once that is so.
- `erase` revokes lanes, too, but their events are not handed out again: they leave the buffer, reason `erased`. It accepts
  the acks of events of which an attempt was under way; a release of such an event drops it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Protocol

from forwarder.attribute import TypeChanges
from forwarder.buffer.fates import Fate
from forwarder.event import DeadLetter, DeadLetterPage, DuplicateKey, Event, LetterFilter
from forwarder.words import DeadReason, DropReason, Intake, WhenFull


@dataclass(frozen=True, slots=True)
class Stored:
    """All the events are in: the buffer's promise holds for them."""


@dataclass(frozen=True, slots=True)
class Full:
    """There is no room for all of them now, or it is kept for others. None of them is in."""

    retry_after_seconds: int = field(default=1, compare=False)
    """After how long there may be room."""


@dataclass(frozen=True, slots=True)
class NeverFits:
    """They exceed the bounds of an empty buffer."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The disk is full or fails. None of them is in; the put may be repeated."""


PutAnswer = Stored | Full | NeverFits | Unavailable

ALL_LETTERS: Final = LetterFilter()
MAX_LETTERS: Final = 1000
"""How many dead letters may be read or changed at once."""
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024


class BufferUnavailableError(Exception):
    """The store does not answer, or its disk fails. Nothing has changed, and the call may be repeated."""


@dataclass(frozen=True, slots=True)
class Notes:
    """What intake remembers, and a buffer that outlives the process keeps for it, in the step that stores its events."""

    types: TypeChanges = field(default_factory=dict)
    """What was learned of attributes."""
    keys: Sequence[DuplicateKey] = ()
    """The apps' own keys of events, in the order of their ids."""
    keys_forgotten_to: int = 0
    """Keys of events up to this id are to be forgotten."""
    changed_types: TypeChanges = field(default_factory=dict)
    """What changes of types that were noted before; it comes before `types`."""


NO_NOTES: Final = Notes()


@dataclass(frozen=True, slots=True)
class Ledger:
    """How many events came to what, since the store began.

    `received = accepted + duplicates + rejected`. `buffered` is counted separately, never computed from the others.
    """

    received: int
    accepted: int
    duplicates: int
    rejected: int
    delivered: int
    dead_lettered: Mapping[DeadReason, int]
    dropped: Mapping[DropReason, int]
    buffered: int

    @property
    def unaccounted(self) -> int:
        """The difference between the sides of `accepted = delivered + dead_lettered + dropped + buffered`. Must be 0."""
        gone = self.delivered + sum(self.dead_lettered.values()) + sum(self.dropped.values())
        return self.accepted - gone - self.buffered


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full the buffer is, counting what is taken and not yet acked."""

    events: int
    bytes: int
    deferred: int
    """How many events are deferred: they were released, or are behind such an event in their lane, and must wait."""
    oldest_accepted_at: float | None
    """Seconds since 1970; None if it is empty. May be too early while the oldest event is only on disk."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed of a customer, or would be."""

    up_to: int
    """The id up to which events were removed."""
    events: int
    in_flight: int
    """Events of which an attempt was under way. They leave when it ends: delivered, or else dropped. Not in `events`."""
    dead_letters: int
    files: int = 0
    """Damaged files that are kept: they are removed once they are salvaged."""


class DeadLetters(Protocol):
    """The dead letters of a buffer. Its acks write them, and remove the oldest if they exceed the bounds of the settings.

    The methods raise BufferUnavailableError.
    """

    @property
    def events(self) -> int:
        """How many there are."""
        ...

    @property
    def bytes(self) -> int:
        """How much they count against `dead_letters.max_bytes`."""
        ...

    @property
    def by_reason(self) -> Mapping[DeadReason, int]:
        """How many there are of each reason."""
        ...

    async def page(self, *, after_place: int, max_letters: int, only: LetterFilter = ALL_LETTERS) -> DeadLetterPage:
        """Return up to `max_letters` (1 to `MAX_LETTERS`) that are meant, oldest first; fewer if they are large or far.

        Without a filter, at least one, if there is one.
        """
        ...

    async def find(self, ids: Sequence[int], *, max_bytes: int = MAX_PAGE_BYTES) -> list[DeadLetter]:
        """Return the dead letters with these ids. Stop after the first one that exceeds `max_bytes` in sum."""
        ...

    async def purge(self, ids: Sequence[int]) -> list[int]:
        """Remove the dead letters with these ids for good, and return the ids that there were."""
        ...


class Buffer(Protocol):
    """A bounded store of accepted events."""

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters that its acks have written."""
        ...

    @property
    def outlives_process(self) -> bool:
        """Whether the events stay in it when this process ends."""
        ...

    @property
    def may_start(self) -> Callable[[Event], bool] | None:
        """Return whether a taken event may be sent; asked right before its first byte leaves. None if it always may.

        If it returns false, the store revokes the lane of the event: whatever was taken of the lane is the store's again.
        """
        ...

    @property
    def last_id(self) -> int:
        """The highest id that an event in it ever had, or 0. Known once it is open. New ids must be higher."""
        ...

    async def open(self) -> None:
        """Get ready. Earlier events are in, but need not be read yet. Call `close` even if this fails."""
        ...

    async def serve(self) -> None:
        """Do the upkeep until cancelled."""
        ...

    async def put(
        self, events: Sequence[Event], *, intake: Intake, replayed: Sequence[int] = (), notes: Notes = NO_NOTES
    ) -> PutAnswer:
        """Store all of `events`, whose ids rise, or none; return when the promise holds.

        `intake` is the way they came in, for the ledger; `replayed` are the ids of the dead letters that they were, which
        are removed in the same step, and `notes` are kept; of several types of an attribute, the first. Where the events are
        not stored, nothing of it is kept.
        """
        ...

    def begin_put(self, event: Event, *, intake: Intake) -> asyncio.Future[PutAnswer] | None:
        """Store one event, and no more; None if `put` is to be asked instead, as there may be something to wait for first.

        As `put` does, but its place among all others is settled when this returns.
        """
        ...

    async def recall(self) -> Notes:
        """Return what was noted before this process, once, between `open` and `serve`: nothing is to be forgotten."""
        ...

    async def note(self, types: TypeChanges) -> None:
        """Keep what is learned of attributes or forgotten, after all that was noted before; return when that is so.

        It may wait as `ack` does.
        """
        ...

    async def take(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        """Wait for events of lanes (customers) other than `skip_lanes`, hide them from later takes and return them.

        Returns at least one, and so perhaps one beyond `max_bytes`; at most `max_events` (1 or more), and at most
        `max_lane_events` of any lane. Skipping a lane costs each of its events one step for as long as it is skipped, not
        one for each take; others have their turn on the event loop meanwhile.
        """
        ...

    def take_ready(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        """As `take`, but without waiting: return what may be taken now and is in memory; perhaps nothing.

        If that is fewer events, and less than half of the bytes, the listener's `changed` is called once there may be more.
        If there may be more in the store, this begins to read it.
        """
        ...

    def listen(
        self,
        *,
        changed: Callable[[], None],
        left: Callable[[Sequence[Event]], None],
        revoked: Callable[[AbstractSet[str]], Sequence[Event]] | None = None,
    ) -> None:
        """Call these functions from now on, in place of those that were given before.

        `changed` is called when something may be taken that could not be before: events were put or released, a rest or a
        read ended. `left` is called with events whose acks are committed, or refused because their lanes were revoked.
        `revoked` is called with lanes (customers) that are revoked; no attempt of them may start, but one under way may end.
        It returns the events of those, and releases each whose attempt ends without an ack.
        None may take long; all may call this buffer.
        """
        ...

    def begin_ack(self, event: Event, fate: Fate) -> None:
        """Remove a taken event with its fate, as `ack` does, without waiting.

        The buffer chooses when it commits that, soon; then the listener's `left` is called.
        """
        ...

    def hurry_acks(self) -> None:
        """Commit the acks that were begun at once, as delivery waits for them."""
        ...

    async def settle_acks(self) -> None:
        """Commit all acks that were begun; return when they are committed. It may wait as `ack` does."""
        ...

    async def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        """Remove taken events for good, each with its fate; return when that is committed.

        An event whose fate is to be a dead letter becomes one in the same step. It may wait as long as the disk fails.
        """
        ...

    async def mark(self, events: Sequence[tuple[Event, int]]) -> None:
        """Note of taken events that an attempt may be under way, the int-th of each; return when that is committed.

        If the process ends before `ack`, `unmark` or `release`, such an event may have arrived: a buffer that outlives it
        makes it a dead letter when it is opened, reason `ambiguous`. Marking again replaces the mark. It may wait as `ack`
        does.
        """
        ...

    async def unmark(self, events: Sequence[Event]) -> None:
        """Remove the marks of taken events, as their attempts have ended or never began; return when that is committed."""
        ...

    async def release(self, events: Sequence[Event], *, not_before: float) -> None:
        """Put taken events back in their old places, and unmark them without waiting for that.

        Nothing of their lanes is handed out before `not_before`, in seconds of the event loop's clock.
        """
        ...

    def end_deferrals(self) -> None:
        """Let everything that is deferred be taken at once."""
        ...

    async def pull(self, event_id: int) -> Event | None:
        """Take one event out of its turn, to ack it; None if it is not in, taken already, or about to leave.

        Raise BufferUnavailableError if it cannot be read.
        """
        ...

    async def erase(self, customer: str, *, up_to: int | None = None, dry_run: bool = False) -> Erased:
        """Remove all events and dead letters of a customer whose ids are at most `up_to`, by default all that are in now.

        Nothing of them is kept that this store could restore, nor any trace in its files, unless an attempt is under way:
        then call this again with the same `up_to` when it has ended. Removed events are dropped, reason `erased`. It may
        wait as `ack` does. Raise BufferUnavailableError if it must be repeated.
        """
        ...

    async def contains(self, event_id: int) -> bool:
        """Return whether the event is in. Raise BufferUnavailableError if that cannot be read."""
        ...

    def use(self, when_full: WhenFull) -> None:
        """From now on do this when full."""
        ...

    def ledger(self) -> Ledger:
        """Return the ledger as of now."""
        ...

    @property
    def available(self) -> bool:
        """Whether events can be stored, if there is room."""
        ...

    @property
    def stalled(self) -> bool:
        """Whether nothing can be committed now, not even an ack."""
        ...

    @property
    def dead_letters_lost(self) -> int:
        """How many dead letters were lost by the close."""
        ...

    def occupancy(self) -> Occupancy:
        """Return how full the buffer is now."""
        ...

    def ready_at(self, now: float, *, skip_lanes: AbstractSet[str] = frozenset()) -> float | None:
        """Return when something may be taken, by the event loop's clock: `now`, later, or None for never.

        The time may be too early while the buffer does not know yet that all its events are deferred or skipped.
        """
        ...

    async def close(self) -> None:
        """Close. Events that this buffer cannot keep are dropped, reason `shutdown`. May be called again."""
        ...
