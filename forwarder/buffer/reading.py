"""Which events of the disk buffer are in memory: a window of those that come next, filled from disk ahead of the takers.

New events go straight into the window while there is room and nothing older is only on disk; otherwise they are read when
their turn is near. Events that were passed over or released are read again if the ordering keeps only their ids.

Everything up to the id `_read_up_to` was in the ordering once, and nothing newer ever was. The results of jobs arrive in the
order in which the jobs ran, so a read knows every commit whose result came before its own, and no later one.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from forwarder.buffer.commits import RETRY_SECONDS, tell
from forwarder.buffer.lane import OVERHEAD_BYTES
from forwarder.buffer.local import News
from forwarder.buffer.ordering import Ordering
from forwarder.database import events as rows
from forwarder.database.connection import Committed, DamagedError, Database, Job, UnavailableError
from forwarder.event import Event
from forwarder.observing.telemetry import Telemetry

READ_EVENTS: Final = 512
READ_BYTES: Final = 1024 * 1024
"""How much is read at a time, unless one event is larger."""
READ_ASIDE_EVENTS: Final = 64


class Reading:
    """Fills an ordering, one read at a time. Used on the event loop.

    `news` tells when there is something new in the ordering. `drop_corrupt` gets the ids of rows that cannot be read.
    """

    def __init__(
        self,
        database: Database,
        ordering: Ordering,
        *,
        window_bytes: int,
        news: News,
        drop_corrupt: Callable[[Sequence[int]], None],
        telemetry: Telemetry,
    ) -> None:
        self._database = database
        self._ordering = ordering
        self._window_bytes = window_bytes
        self._news = news
        self._drop_corrupt = drop_corrupt
        self._telemetry = telemetry
        self.is_erased: Callable[[Event], bool] | None = None
        """Says of which events nothing is read at present, as they are being erased."""
        self.erased: set[int] = set()
        """The ids of those that are in the ordering without their bodies: that they are gone is no damage."""
        self._hidden: set[int] = set()
        self._read_up_to = -1
        self._unread_since = 0.0
        self._reading = False
        self._asked_at = 0.0  # when the read under way was submitted
        self._failure: Exception | None = None
        self._waiters: list[asyncio.Future[None]] = []

    async def open(self) -> None:
        """Learn whether there is anything to read."""
        self._ordering.more_fresh, self._unread_since = await self._database.run(rows.first)

    def hide(self, ids: Iterable[int]) -> None:
        """Leave these out of later reads: they are taken already."""
        self._hidden.update(ids)

    def add(self, events: Sequence[Event]) -> None:
        """Add new events, which are committed."""
        ordering = self._ordering
        if not events or ordering.more_fresh:
            return
        if ordering.fresh_bytes < self._window_bytes:
            ordering.add(events)
            self._read_up_to = events[-1].id
        else:
            ordering.more_fresh, self._unread_since = True, events[0].accepted_at

    def read_ahead(self) -> None:
        """Read what may be handed out next and is not in memory, unless a read is under way."""
        room = self._window_bytes - self._ordering.fresh_bytes
        if ids := self._ordering.wanted(READ_ASIDE_EVENTS):
            self._read_ids(ids)
        elif self._ordering.more_fresh and 2 * room > self._window_bytes:
            self._read_next(room)

    async def read_oldest(self) -> bool:
        """Read the oldest events, or wait for the read under way; return False if there is nothing to read.

        Raise UnavailableError if the read fails.
        """
        if ids := self._ordering.oldest_wanted(READ_ASIDE_EVENTS):
            self._read_ids(ids)
        elif self._ordering.more_fresh:
            self._read_next(self._window_bytes - self._ordering.fresh_bytes)
        else:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
        return True

    def waiting_seconds(self) -> float:
        """Return how long the read under way has taken; 0 if there is none."""
        return asyncio.get_running_loop().time() - self._asked_at if self._reading else 0.0

    def unread_since(self) -> float | None:
        """Return when the first event after the window was accepted, or an earlier time; None if there is none."""
        return self._unread_since if self._ordering.more_fresh else None

    def _read_next(self, room: int) -> None:
        max_events = max(1, min(READ_EVENTS, room // OVERHEAD_BYTES))
        max_bytes = max(1, min(READ_BYTES, room))
        job = partial(rows.read_after, after_id=self._read_up_to, max_events=max_events, max_bytes=max_bytes)
        self._submit(job, partial(self._add_next, max_events, max_bytes))

    def _read_ids(self, ids: Sequence[int]) -> None:
        self._submit(partial(rows.read_ids, ids=ids, max_bytes=READ_BYTES), partial(self._add_read, ids))

    def _submit(self, job: Job[rows.Read], add: Callable[[rows.Read], None]) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._reading:
            self._reading = True
            self._asked_at = asyncio.get_running_loop().time()
            self._database.submit(job, partial(self._told, add))

    def _told(self, add: Callable[[rows.Read], None], result: Committed[rows.Read] | Exception) -> None:
        self._reading = False
        if isinstance(result, Committed):
            try:
                add(result.value)
            except Exception as error:  # noqa: BLE001 - a bug, which the takers raise
                result = error
        match result:
            case Committed():
                self._news.tell()
            case UnavailableError():
                self._telemetry.buffer_failed("read", result)
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._news.tell)
                self._end_waits(result)
            case DamagedError():  # there is a new file, to which what is in memory is restored
                self._telemetry.buffer_failed("read", result)
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._news.tell)
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._end_waits)
                return
            case _:  # a bug, which the takers raise
                self._failure = result
                self._news.tell()
        self._end_waits()

    def _end_waits(self, error: UnavailableError | None = None) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if error is None:
                tell(waiter, None)
            elif not waiter.done():
                waiter.set_exception(error)

    def _add_next(self, max_events: int, max_bytes: int, read: rows.Read) -> None:
        found = self.without_erased(read.events)
        self._ordering.add([event for event in found if event.id not in self._hidden])
        self._read_up_to = max(self._read_up_to, read.last_id)
        if read.events:
            self._unread_since = read.events[-1].accepted_at
        size = sum(len(event.body) for event in read.events)
        self._ordering.more_fresh = read.looked_at >= max_events or size >= max_bytes
        self._drop_corrupt(read.unreadable)

    def _add_read(self, ids: Sequence[int], read: rows.Read) -> None:
        found = self.without_erased(read.events)
        gone = self._ordering.add_read(ids[: read.looked_at], found)
        if self.is_erased is not None:
            left_out = self.erased.union(event.id for event in read.events)
            gone = [event_id for event_id in gone if event_id not in left_out]
        self._drop_corrupt(gone)

    def without_erased(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return the events that are not being erased."""
        is_erased = self.is_erased
        return events if is_erased is None else [event for event in events if not is_erased(event)]

    def removing(self, ids: Iterable[int]) -> None:
        """Note that these rows are being erased. Call it before, as a read may find them gone before that is told."""
        self.erased.update(event_id for event_id in ids if event_id <= self._read_up_to)
