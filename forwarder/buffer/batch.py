"""What is committed together: events to store, events to remove with their fates, marks, notes. The disk buffer's alone."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forwarder.attribute import LearnedType, Place
from forwarder.buffer.base import NO_NOTES, Notes, PutAnswer
from forwarder.buffer.fates import Fate
from forwarder.database.marks import Mark
from forwarder.event import DuplicateKey, Event
from forwarder.words import Intake


@dataclass(frozen=True, slots=True)
class Salvaged:
    """The damaged file from which events are salvaged."""

    file: str
    events_after: int
    """The id up to which the file's events are salvaged with these."""
    marks: Mapping[int, Mark]
    """The marks that the file has, by the ids that events have in it."""


@dataclass(slots=True, eq=False)
class Put:
    """Events to store, and what goes with them."""

    events: Sequence[Event]
    size_bytes: int
    """Of the events."""
    intake: Intake | None
    """None if they are salvaged."""
    done: asyncio.Future[PutAnswer]
    deadline: float
    """Until when, by the event loop's clock, it may wait for the disk."""
    replayed: Sequence[int] = ()
    notes: Notes = NO_NOTES
    """What intake remembers with them."""
    dropped: Sequence[Event] = ()
    """The oldest events, dropped to make room for them."""
    salvaged: Salvaged | None = None
    """Set if they come from a damaged file and were accepted long ago."""
    ended: Sequence[tuple[Event, Fate]] = ()
    """Those of them that leave at once, because the damaged file had them marked."""
    overdue: bool = False
    """Whether its caller was told that the disk takes too long. Then it is not written, unless that has begun."""
    written: bool = False
    """Whether it is in the transaction. Set on the database's thread, once for each transaction."""


@dataclass(slots=True)
class Noted:
    """What is to be kept for intake, whatever happens to puts. It may wait while the disk is full."""

    types: dict[Place, LearnedType | None] = field(default_factory=dict)
    keys: dict[int, DuplicateKey] = field(default_factory=dict)
    """Keys that a damaged file had, by the ids of their events."""
    complete: bool = False
    """Whether with these the database has all notes that damaged files had."""
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def then(self, later: "Noted | None") -> "Noted":
        """Add what was noted later, and return all of it."""
        if later is not None:
            self.types |= later.types
            self.keys |= later.keys
            self.complete |= later.complete
            self.waiters += later.waiters
        return self


@dataclass(slots=True)
class Batch:
    """What is committed together."""

    puts: list[Put] = field(default_factory=list)
    acks: list[tuple[Event, Fate]] = field(default_factory=list)
    """Events to remove, each with its fate."""
    marks: dict[int, Mark | None] = field(default_factory=dict)
    """Changes of marks, by the ids of their events; None removes one."""
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    """Told when the acks and marks are committed."""
    corrupt: list[int] = field(default_factory=list)
    """The ids of rows that cannot be read."""
    refused: int = 0
    """How many events intake refused since the last commit that counts them."""
    duplicates: int = 0
    """How many were duplicates."""
    noted: Noted | None = None

    def __add__(self, later: "Batch") -> "Batch":
        """Return both as one, without what is noted and without the numbers of intake, which are counted again."""
        return Batch(
            self.puts + later.puts,
            self.acks + later.acks,
            self.marks | later.marks,
            self.waiters + later.waiters,
            self.corrupt + later.corrupt,
        )

    def all_waiters(self) -> list[asyncio.Future[PutAnswer] | asyncio.Future[None]]:
        """Return everybody who waits for the commit."""
        noted = self.noted.waiters if self.noted is not None else ()
        return [*(put.done for put in self.puts), *self.waiters, *noted]
