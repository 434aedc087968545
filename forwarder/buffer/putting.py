"""Room for new events in the disk buffer, and dropping the oldest to make it. Used by that buffer alone.

Committed events count, and those of puts that are not committed yet, less the events that these puts drop. Events to be
dropped leave the ordering at once, so that nobody takes them, and return to it if their put is not stored.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from forwarder.buffer.base import Full, Unavailable
from forwarder.buffer.batch import Put
from forwarder.buffer.commits import PUT_SECONDS
from forwarder.buffer.local import News
from forwarder.buffer.ordering import Ordering
from forwarder.buffer.reading import Reading
from forwarder.buffer.turns import Turns
from forwarder.database.connection import Database, UnavailableError
from forwarder.event import Clock, Event
from forwarder.settings import BufferSettings

_COMMIT_SECONDS: Final = 0.5
"""How much of its time a put keeps for its commit, if it or the put before it waits for room."""


class Room:
    """Counts the room that puts need. `news` wakes whenever anything is put, acked, released, read or refused.

    `disk_hangs` is called when the disk does not answer a read in time.
    """

    def __init__(
        self,
        settings: BufferSettings,
        database: Database,
        *,
        ordering: Ordering,
        reading: Reading,
        news: News,
        clock: Clock,
        disk_hangs: Callable[[], None],
    ) -> None:
        self.queued = 0
        """How many puts are in the queue, the one whose turn it is included."""
        self.dropping: list[Event] = []
        """What the put whose turn it is has dropped so far."""
        self._queue = asyncio.Lock()
        self._settings = settings
        self._database = database
        self._ordering = ordering
        self._reading = reading
        self._news = news
        self._disk_hangs = disk_hangs
        self._turns = Turns(settings, clock)
        self._uncommitted_puts = 0
        self._uncommitted_events = 0
        self._uncommitted_bytes = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a put's turn to be submitted: first come, first served, as ids are committed in order."""
        self.queued += 1
        try:
            async with self._queue:
                yield
        finally:
            self.queued -= 1

    def claim(self, events: int, size: int) -> bool:
        """Count so many events, of together `size` bytes, until their put is settled; return False if it must use `find`."""
        counters, settings = self._database.ledger, self._settings
        if (
            self._turns.waiting
            or counters["buffered"] + self._uncommitted_events + events > settings.max_events
            or counters["buffered_bytes"] + self._uncommitted_bytes + size > settings.max_bytes
        ):
            return False
        self._uncommitted_puts += 1
        self._uncommitted_events += events
        self._uncommitted_bytes += size
        return True

    async def find(self, put: Put, *, drop_oldest: bool) -> Full | Unavailable | None:
        """Count a put if there is room for it, or if dropping the oldest makes room; return the answer if not."""
        refused: Full | Unavailable | None
        if drop_oldest:
            self._turns.forget()  # the settings may have been others
            refused = await self._drop_oldest(put)
        else:
            assert put.intake is not None, "salvaged events ask for no room"
            refused = self._turns.ask(put.events, put.size_bytes, intake=put.intake, free=self._free())
        if refused is None:
            self.count(put)
        return refused

    def count(self, put: Put, sign: int = 1) -> None:
        """Count a put, whether it fits or not, until it is settled."""
        self._uncommitted_puts += sign
        if put.salvaged is None:  # the ledger counts salvaged events already
            self._uncommitted_events += sign * (len(put.events) - len(put.dropped))
            dropped_bytes = sum(len(event.body) for event in put.dropped)
            self._uncommitted_bytes += sign * (put.size_bytes - dropped_bytes)

    def settle(self, put: Put, *, stored: bool) -> None:
        """Count a put no more: now the ledger does, or it is not stored."""
        if put.dropped or put.salvaged is not None:
            self.count(put, -1)
        else:
            self._uncommitted_puts -= 1
            self._uncommitted_events -= len(put.events)
            self._uncommitted_bytes -= put.size_bytes
        if not stored:
            self._keep(put.dropped)

    async def _drop_oldest(self, put: Put) -> Full | Unavailable | None:
        """Drop the oldest events for a put; return the answer if that cannot be done in time."""
        try:
            async with asyncio.timeout_at(put.deadline - _COMMIT_SECONDS):
                dropped = await self._make(len(put.events), put.size_bytes)
        except UnavailableError:
            return Unavailable()
        except TimeoutError:
            if self._reading.waiting_seconds() > PUT_SECONDS / 2:  # else there was only much to do
                self._disk_hangs()
            return Unavailable()
        if dropped is None:
            return Full()
        put.dropped = dropped
        return None

    async def _make(self, events: int, size: int) -> Sequence[Event] | None:
        """Make them fit, and return the events dropped for it; drop none and return None if all others are taken.

        It may wait for the disk as long as that takes. Cancelled, it drops none. Raise UnavailableError if a read fails.
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
                self._keep(dropped)
        return dropped

    def _fits(self, events: int, size: int) -> bool:
        free_events, free_bytes = self._free()
        return events <= free_events and size <= free_bytes

    def _free(self) -> tuple[int, int]:
        """Return for how many more events, and bytes, there is room."""
        counters = self._database.ledger
        return (
            self._settings.max_events - counters["buffered"] - self._uncommitted_events,
            self._settings.max_bytes - counters["buffered_bytes"] - self._uncommitted_bytes,
        )

    def _keep(self, events: Sequence[Event]) -> None:
        """Put events that are not dropped after all back in their places, unless they are being erased."""
        self._ordering.release(self._reading.without_erased(events), not_before=0.0)
        if events:
            self._news.tell()
        else:
            self._news.wake()
