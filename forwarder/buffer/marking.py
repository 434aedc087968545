"""What the disk buffer keeps besides its events: marks of attempts, and what intake remembers. Used on the event loop.

A mark is in the database before its attempt begins, and leaves it with the event or when the attempt has ended. Marks that
are found at the start are of an earlier process: nobody knows what became of those attempts.

Intake remembers types of attributes and the apps' own keys of events. A key is committed with its event, and never without.
All else is hints, and waits while the disk is full. A damaged file costs nothing of it: while the process runs, intake has
it all in memory; at the start it is read from the damaged file.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from forwarder.attribute import LearnedType, Place, TypeChanges
from forwarder.buffer.base import Notes
from forwarder.buffer.batch import Noted
from forwarder.buffer.commits import GroupCommit
from forwarder.buffer.fates import DeadLettered, Fate
from forwarder.database import attribute_types, duplicate_keys, salvage
from forwarder.database.connection import DamagedError, Database, Transaction, UnavailableError
from forwarder.database.marks import Mark
from forwarder.event import Clock, DuplicateKey, Event
from forwarder.observing.telemetry import Telemetry


def ambiguous(event: Event, mark: Mark) -> tuple[Event, Fate]:
    """Return an event that was found marked, and its fate."""
    at = mark.marked_at
    return event, DeadLettered("ambiguous", None, b"", mark.attempts, first_attempt_at=at, last_attempt_at=at)


class Marking:
    """Changes marks. `clock` gives seconds since 1970."""

    def __init__(self, commits: GroupCommit[int], *, clock: Clock = time.time) -> None:
        self._commits = commits
        self._clock = clock
        self.marks: dict[int, Mark] = {}
        """The marks that the file has, or will have, by the ids of their events."""

    async def mark(self, events: Sequence[tuple[Event, int]]) -> None:
        """Mark events, each with the number of its attempts; return when that is committed."""
        now = self._clock()
        changes = {event.id: Mark(attempts, now) for event, attempts in events}
        self.marks |= changes
        await self._change(changes)

    async def unmark(self, ids: Iterable[int]) -> None:
        """Remove the marks of events, if they have any; return when that is committed."""
        if removed := self._forget(ids):
            await self._change(removed)

    def unmark_soon(self, ids: Iterable[int]) -> None:
        """Remove the marks of events without waiting for the commit."""
        if removed := self._forget(ids):
            self._commits.mark(removed)

    def ending(self, ids: Iterable[int]) -> None:
        """Remove the marks of events in the commit that removes the events. If that fails, they stay marked."""
        if removed := {event_id: None for event_id in ids if event_id in self.marks}:
            self._commits.mark(removed)

    def found(self, marks: Mapping[int, Mark], events: Sequence[Event]) -> list[tuple[Event, Fate]]:
        """Note the marks found at the start; return their events, as far as they can be read, with their fates."""
        self.marks |= marks
        # Events whose rows are lost or altered are dropped when their turn comes.
        self.unmark_soon(marks.keys() - {event.id for event in events})
        return [ambiguous(event, marks[event.id]) for event in events]

    def _forget(self, ids: Iterable[int]) -> dict[int, None]:
        return {event_id: None for event_id in ids if self.marks.pop(event_id, None) is not None}

    async def _change(self, changes: Mapping[int, Mark | None]) -> None:
        if changes:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._commits.mark(changes, done)
            await done


class Noting:
    """Keeps what intake remembers. `remembered` gives all of it; of keys, only those whose events are committed."""

    def __init__(
        self, database: Database, commits: GroupCommit[int], *, telemetry: Telemetry, remembered: Callable[[], Notes]
    ) -> None:
        self._database = database
        self._commits = commits
        self._telemetry = telemetry
        self._remembered = remembered
        self._recalled = False

    async def recall(self, damaged: Callable[[], Sequence[str]]) -> Notes:
        """Return what the file keeps, and what the `damaged` files that are not salvaged have besides; keep that, too."""
        types, in_order = await self._read()
        names = [] if self._database.ledger["notes_brought"] else sorted(damaged(), reverse=True)
        if names:
            keys = {key.event_id: key for key in in_order}
            salvaged = Noted(complete=True)
            for name in names:
                old_types, old_keys = await self._read_damaged(name)
                salvaged.types |= {place: each for place, each in old_types.items() if place not in types}
                salvaged.keys |= {event_id: each for event_id, each in old_keys.items() if event_id not in keys}
                types, keys = old_types | types, old_keys | keys
            self._commits.note(salvaged)
            in_order = [keys[event_id] for event_id in sorted(keys)]
        self._recalled = True  # with no await before the caller has the notes
        return Notes(types=types, keys=tuple(in_order))

    async def note(self, types: TypeChanges) -> None:
        """Commit changes of types; return when that is done."""
        if types:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._commits.note(Noted(types=dict(types), waiters=[done]))
            await done

    def restored(self) -> None:
        """Write everything noted to a new file. By now intake knows every put that was committed in the old one."""
        if self._recalled:  # otherwise `recall` reads the damaged file
            notes = self._remembered()
            types, keys = dict(notes.types), {key.event_id: key for key in notes.keys}
            self._commits.note(Noted(types=types, keys=keys, complete=True))

    async def _read(self) -> tuple[dict[Place, LearnedType], list[DuplicateKey]]:
        try:
            (types, altered_types), (keys, altered_keys) = await self._database.run(
                lambda transaction: (attribute_types.load(transaction), duplicate_keys.load(transaction))
            )
        except DamagedError:  # the new file is empty, and this one is among the damaged ones now
            await self._commits.flush()
            return {}, []
        except UnavailableError as error:
            self._telemetry.buffer_failed("read", error)
            return {}, []

        def remove_altered(transaction: Transaction) -> None:
            attribute_types.remove(transaction, altered_types)
            duplicate_keys.remove(transaction, altered_keys)

        if altered_types or altered_keys:
            with suppress(UnavailableError, DamagedError):  # the next commit shows the error
                await self._database.run(remove_altered)
        return types, keys

    async def _read_damaged(self, name: str) -> tuple[dict[Place, LearnedType], dict[int, DuplicateKey]]:
        assert self._database.directory is not None
        return await asyncio.to_thread(salvage.notes_in, self._database.directory.path, name)
