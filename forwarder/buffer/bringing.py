"""Bringing events of a damaged file into the disk buffer, under new ids as they come late. Used by that buffer alone."""

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from forwarder.buffer.base import Stored
from forwarder.buffer.batch import Put, Salvaged
from forwarder.buffer.commits import PUT_SECONDS, GroupCommit
from forwarder.buffer.marking import ambiguous
from forwarder.buffer.room import Room
from forwarder.event import Event
from forwarder.observing.recent import Receipts


class Bringing:
    """`submit` has a put committed; `next_id` gives rising ids."""

    def __init__(
        self,
        commits: GroupCommit[int],
        *,
        room: Room,
        submit: Callable[[Put], None],
        receipts: Receipts,
        next_id: Callable[[], int],
    ) -> None:
        self._commits = commits
        self._room = room
        self._submit = submit
        self._receipts = receipts
        self._next_id = next_id

    async def bring(self, events: Sequence[Event], source: Salvaged) -> bool:
        """Store events of a damaged file; return whether that worked."""
        if not self._commits.available:
            return False
        # With no await before it stands in the queue, so that ids are committed in their order.
        new = [replace(event, id=self._next_id()) for event in events]
        ended = [
            ambiguous(event, source.marks[old.id])
            for old, event in zip(events, new, strict=True)
            if old.id in source.marks
        ]
        size = sum(event.size_bytes for event in new)
        loop = asyncio.get_running_loop()
        put = Put(new, size, None, loop.create_future(), loop.time() + PUT_SECONDS, salvaged=source, ended=ended)
        async with self._room.turn():
            self._submit(put)
        if await put.done != Stored():
            return False
        for old, event in zip(events, new, strict=True):
            self._receipts.ended(old.id, "replaced", event.id)
        return True
