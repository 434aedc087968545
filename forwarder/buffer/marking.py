"""Which taken events are marked: their attempts may be under way. Used by the disk buffer alone, on the event loop.

A mark is in the database before its attempt begins, and leaves it with the event or when the attempt has ended. What is
found there at the start, an earlier process left: nobody knows what became of those attempts.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

from forwarder.buffer.commits import GroupCommit
from forwarder.buffer.fates import DeadLettered, Fate
from forwarder.database.marks import Mark
from forwarder.event import Clock, Event


def ambiguous(event: Event, mark: Mark) -> tuple[Event, Fate]:
    """Return an event that is found marked, and its fate."""
    at = mark.marked_at
    return event, DeadLettered("ambiguous", None, b"", mark.attempts, first_attempt_at=at, last_attempt_at=at)


class Marking:
    """`clock` gives seconds since 1970."""

    def __init__(self, commits: GroupCommit[int], *, clock: Clock = time.time) -> None:
        self._commits = commits
        self._clock = clock
        self.marks: dict[int, Mark] = {}
        """Those that the file has, or is to have, by the ids of their events."""

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
        """Have the marks of events removed, without waiting for that."""
        if removed := self._forget(ids):
            self._commits.mark(removed)

    def ending(self, ids: Iterable[int]) -> None:
        """Have the marks of events removed with what is committed next, in which they end. If that fails they are marked."""
        if removed := {event_id: None for event_id in ids if event_id in self.marks}:
            self._commits.mark(removed)

    def found(self, marks: Mapping[int, Mark], events: Sequence[Event]) -> list[tuple[Event, Fate]]:
        """Note what was found at the start; return the events that there are of it, with their fates."""
        self.marks |= marks
        # Those whose rows are lost or altered are dropped when their turn comes.
        self.unmark_soon(marks.keys() - {event.id for event in events})
        return [ambiguous(event, marks[event.id]) for event in events]

    def _forget(self, ids: Iterable[int]) -> dict[int, None]:
        return {event_id: None for event_id in ids if self.marks.pop(event_id, None) is not None}

    async def _change(self, changes: Mapping[int, Mark | None]) -> None:
        if changes:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._commits.mark(changes, done)
            await done
