"""Erasing all events of one customer from a buffer: from memory at once, then from the database in portions.

An event is meant if it is of the customer and its id is at most the one that the erasure began with; newer ones are treated
like all others. From the first step on nothing that is meant is handed out: it leaves the ordering and delivery's window,
and what a read or a put that failed would bring back is left out. Events of which an attempt is under way, and those whose
acks are not committed, stay taken: see `leaving`.

Each portion is one transaction, and the ledger changes in it. If the disk fails, the portion is tried again. If the process
ends in between, what is not removed yet is there again at the next start, and the erasure must be repeated. Used by the disk
buffer alone, on the event loop.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from forwarder.buffer.base import BufferUnavailableError, Erased
from forwarder.buffer.commits import RETRY_SECONDS, GroupCommit
from forwarder.buffer.leaving import Leaving
from forwarder.buffer.ordering import Ordering
from forwarder.buffer.reading import Reading
from forwarder.buffer.salvaging import Salvaging
from forwarder.database import erasing as jobs
from forwarder.database.connection import DamagedError, Database, Job, MovedError, T, UnavailableError
from forwarder.database.events import RowCount
from forwarder.event import Event
from forwarder.observing.telemetry import Telemetry

EVENTS_AT_ONCE: Final = 500
"""How many events are removed in one transaction, and in one turn of the event loop."""


class Erasing:
    """Erases from the disk buffer.

    `leave` removes from memory what is meant of a customer; `stay` returns the ids of rows that something else removes.
    """

    def __init__(  # noqa: PLR0913 - the disk buffer alone makes it
        self,
        database: Database,
        commits: GroupCommit[int],
        *,
        ordering: Ordering,
        reading: Reading,
        salvaging: Salvaging,
        count: RowCount,
        leave: Callable[[str, Callable[[Event], bool]], None],
        stay: Callable[[], set[int]],
        leaving: Leaving,
        telemetry: Telemetry,
    ) -> None:
        self.is_under_way = False
        self._database = database
        self._commits = commits
        self._ordering = ordering
        self._reading = reading
        self._salvaging = salvaging
        self._count = count
        self._leave = leave
        self._stay = stay
        self._leaving = leaving
        self._telemetry = telemetry
        self._lock = asyncio.Lock()
        self._closed = False

    def close(self) -> None:
        """Give up what is being erased."""
        self._closed = True

    async def erase(self, customer: str, *, up_to: int | None, dry_run: bool) -> Erased:
        """See Buffer."""
        async with self._lock, self._salvaging.paused():
            if up_to is None:
                up_to = self._database.ledger["last_id"]
            try:
                if dry_run:
                    return await self._look(customer, up_to)
                return await self._erase(customer, up_to)
            except DamagedError as error:
                raise BufferUnavailableError(str(error)) from error

    async def _look(self, customer: str, up_to: int) -> Erased:
        key = customer.encode(errors="surrogatepass")
        events = letters = 0
        after: int | None = -1
        while after is not None:
            found = await self._run(partial(jobs.find_events, customer=key, after_id=after, up_to=up_to))
            events, after = events + len(found.rows), found.after
        after = -1
        while after is not None:
            found = await self._run(partial(jobs.find_letters, customer=key, after_place=after, up_to=up_to))
            letters, after = letters + len(found.rows), found.after
        unsalvaged, unsalvaged_letters, files = await self._salvaging.erase(customer, dry_run=True)
        return Erased(up_to, events + unsalvaged, 0, letters + unsalvaged_letters, files)

    async def _erase(self, customer: str, up_to: int) -> Erased:
        def is_meant(event: Event) -> bool:
            return event.customer == customer and event.id <= up_to

        key = customer.encode(errors="surrogatepass")
        self._reading.is_erased = is_meant
        self.is_under_way = True
        try:
            self._leave(customer, is_meant)
            in_flight = sum(map(is_meant, self._leaving.events.values()))
            events = await self._remove_events(key, up_to, partial(self._leave, customer, is_meant))
            letters = await self._remove_letters(key, up_to)
            unsalvaged, unsalvaged_letters, files = await self._salvaging.erase(customer, dry_run=False)
        finally:
            self.is_under_way = False
            self._reading.is_erased = None
            self._ordering.discard(lambda _: False, self._reading.erased)
            self._reading.erased.clear()
        if not in_flight:  # else it is erased once more
            await self._clean()
        return Erased(up_to, events + unsalvaged, in_flight, letters + unsalvaged_letters, files)

    async def _remove_events(self, key: bytes, up_to: int, leave: Callable[[], None]) -> int:
        """Remove events until none stays but those of which an attempt is under way; return how many that were."""
        removed = 0
        waits = True
        while waits:
            waits = False
            leave()
            after: int | None = -1
            while after is not None:
                found = await self._run(partial(jobs.find_events, customer=key, after_id=after, up_to=up_to))
                after = found.after
                for at in range(0, len(found.rows), EVENTS_AT_ONCE):
                    portion = found.rows[at : at + EVENTS_AT_ONCE]
                    stay = self._stay()
                    rows = [row for row in portion if row[0] not in stay]
                    waits |= any(row[0] in stay and row[0] not in self._leaving.events for row in portion)
                    if rows:
                        self._reading.removing(row[0] for row in rows)
                        number = await self._run(partial(jobs.remove_events, found=rows, count=self._count))
                        self._telemetry.events_dropped(number, reason="erased")
                        removed += number
            if waits:  # for commits that are under way, which remove these events or put them back
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._commits.ack((), done)
                await done
        return removed

    async def _remove_letters(self, key: bytes, up_to: int) -> int:
        removed = 0
        after: int | None = -1
        while after is not None:
            found = await self._run(partial(jobs.find_letters, customer=key, after_place=after, up_to=up_to))
            after = found.after
            for at in range(0, len(found.rows), EVENTS_AT_ONCE):
                ids = [letter_id for _, letter_id in found.rows[at : at + EVENTS_AT_ONCE]]
                number = len(await self._run(partial(jobs.purge, ids=ids)))
                self._telemetry.dead_letters_evicted(number, reason="erased")
                removed += number
        return removed

    async def _clean(self) -> None:
        """Leave no copies of deleted rows in the file."""
        for table in jobs.TABLES:
            while await self._run(jobs.return_all_space):
                pass
            after: int | None = -1
            while after is not None:
                after = await self._run(partial(jobs.write_anew, table=table, after=after))
        while await self._run(jobs.return_all_space):
            pass
        await self._run(jobs.clear_log)

    async def _run(self, job: Job[T]) -> T:
        """Run a job, again and again while the disk fails."""
        while not self._closed:
            try:
                return await self._database.run(job)
            except MovedError as error:  # what remains can be done only when the file is back
                raise BufferUnavailableError(str(error)) from error
            except UnavailableError as error:
                self._telemetry.buffer_failed("commit", error)
                await asyncio.sleep(RETRY_SECONDS)
        raise BufferUnavailableError("the buffer is closed")
