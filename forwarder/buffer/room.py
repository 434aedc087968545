"""Whether new events fit into the disk buffer, and making room for them by dropping the oldest. Used by that buffer alone.

What counts is what is committed, and what is put and not yet committed, less what is dropped for it. Events that are to be
dropped leave the ordering at once, so that nobody takes them, and come back if what they make room for is not stored.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from forwarder.buffer.batch import Put
from forwarder.buffer.ordering import Ordering
from forwarder.buffer.reading import Reading
from forwarder.buffer.waiting import News
from forwarder.database.connection import Database
from forwarder.event import Event
from forwarder.settings import BufferSettings


class Room:
    """`news` wakes whenever anything is put, acked, released, read or refused."""

    def __init__(
        self,
        settings: BufferSettings,
        database: Database,
        *,
        ordering: Ordering,
        reading: Reading,
        news: News,
    ) -> None:
        self._queue = asyncio.Lock()
        self.queued = 0
        """How many puts are in the queue, the one whose turn it is included."""
        self.dropping: list[Event] = []
        """What who has its turn has dropped so far."""
        self._settings = settings
        self._database = database
        self._ordering = ordering
        self._reading = reading
        self._news = news
        self._uncommitted_puts = 0
        self._uncommitted_events = 0
        self._uncommitted_bytes = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a put's turn to make room and be submitted: first come, first served, as ids are committed in order."""
        self.queued += 1
        try:
            async with self._queue:
                yield
        finally:
            self.queued -= 1

    def claim(self, events: int, size: int) -> bool:
        """Return whether so many more events fit, of together `size` bytes; if so, count them until their put is settled."""
        counters, settings = self._database.ledger, self._settings
        if (
            counters["buffered"] + self._uncommitted_events + events > settings.max_events
            or counters["buffered_bytes"] + self._uncommitted_bytes + size > settings.max_bytes
        ):
            return False
        self._uncommitted_puts += 1
        self._uncommitted_events += events
        self._uncommitted_bytes += size
        return True

    def _fits(self, events: int, size: int) -> bool:
        free_events, free_bytes = self.free()
        return events <= free_events and size <= free_bytes

    def free(self) -> tuple[int, int]:
        """Return for how many more events, and bytes, there is room."""
        counters = self._database.ledger
        return (
            self._settings.max_events - counters["buffered"] - self._uncommitted_events,
            self._settings.max_bytes - counters["buffered_bytes"] - self._uncommitted_bytes,
        )

    def occupy(self, put: Put) -> None:
        """Count a put, whether it fits or not, until it is settled."""
        self._count(put, 1)

    def settle(self, put: Put, *, stored: bool) -> None:
        """Count a put no more: now the ledger does, or it is not stored."""
        if put.dropped or put.salvaged is not None:
            self._count(put, -1)
        else:
            self._uncommitted_puts -= 1
            self._uncommitted_events -= len(put.events)
            self._uncommitted_bytes -= put.size_bytes
        if not stored:
            self._put_back(put.dropped)

    async def make(self, events: int, size: int) -> Sequence[Event] | None:
        """Make them fit, and return the events that are dropped for it; None, and none is dropped, if all are taken.

        It may wait for the disk as long as that takes. Cancelled, it drops none. Raises UnavailableError if a read fails.
        """
        made = False
        try:
            while not self._fits(events - len(self.dropping), size):
                self._news.expect()
                if event := self._ordering.take_oldest():
                    self.dropping.append(event)
                    size -= len(event.body)
                elif await self._reading.read_oldest():
                    pass
                elif self._uncommitted_puts:
                    await self._news.wait()
                else:
                    return None
            made = True
        finally:
            dropped, self.dropping = self.dropping, []
            if not made:
                self._put_back(dropped)
        return dropped

    def _count(self, put: Put, sign: int) -> None:
        self._uncommitted_puts += sign
        if put.salvaged is None:  # the others count already
            self._uncommitted_events += sign * (len(put.events) - len(put.dropped))
            dropped_bytes = sum(len(event.body) for event in put.dropped)
            self._uncommitted_bytes += sign * (put.size_bytes - dropped_bytes)

    def _put_back(self, events: Sequence[Event]) -> None:
        self._ordering.give_back(events, not_before=0.0)
        if events:
            self._news.tell()
        else:
            self._news.wake()
