"""What the disk buffer does from time to time: look for its file, count its rows, salvage damaged files, give back space.

The count is what makes the ledger a proof: `buffered` is a number of its own in the ledger, and here it is compared with the
rows themselves, little by little so that commits go on meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from forwarder.buffer.batch import Salvaged
from forwarder.buffer.commits import RETRY_SECONDS
from forwarder.database import connection, events, ledger, salvage
from forwarder.database.connection import DamagedError, Database, Job, Look, MovedError, Transaction, UnavailableError
from forwarder.database.marks import Changes
from forwarder.database.salvage import DamagedFile, Salvage
from forwarder.event import Event
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import DeadLettersSettings

COUNT_SECONDS: Final = 60.0
TIDY_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 10.0
"""How often the file is looked for while nothing happens to events. The database looks before it commits, too."""
_SALVAGED_ROWS: Final = 500


class Upkeep:
    """`bring` stores events of a damaged file, and returns whether that worked.

    `write_tally` has the numbers of refused events and of duplicates committed. `moved` is called with the error again and
    again while the file is not in its place, so that nothing is put there.
    """

    def __init__(
        self,
        database: Database,
        *,
        bounds: DeadLettersSettings,
        telemetry: Telemetry,
        count: events.RowCount,
        bring: Callable[[Sequence[Event], Salvaged], Awaitable[bool]],
        write_tally: Callable[[], None],
        beyond_reach: Callable[[], int],
        moved: Callable[[MovedError], None],
    ) -> None:
        self._database = database
        self._bounds = bounds
        self._telemetry = telemetry
        self._count = count
        self._bring = bring
        self._write_tally = write_tally
        self._beyond_reach = beyond_reach
        self._moved = moved
        self._is_away = False
        self._books: dict[str, Salvage] = {}
        """What the database has of them, as committed last: if its file is damaged, too, they are written to the next."""
        self.counted = False
        """Whether the rows were counted since the start."""
        self._restored = asyncio.Event()  # there are the books of a damaged file
        self._restored.set()
        self._times_restored = 0

    async def find_damaged_files(self) -> Job[None] | None:
        """Return a job that opens the books for files that were set aside and are in none; None if there are none."""
        directory = self._database.directory
        assert directory is not None
        self._books = {each.file: each for each in await self._database.run(salvage.pending)}
        names = [name for name in await asyncio.to_thread(directory.damaged) if name not in self._books]
        if not names:
            return None
        found = [await asyncio.to_thread(salvage.look_at, directory.path, name) for name in names]
        found.sort(key=lambda each: each.counters is not None)
        counters = None if self._database.ledger else found[-1].counters
        # What was set aside last knows how far the salvage of earlier files had come.
        known = {each.file: each for file in found for each in file.salvages}
        self._books |= {name: known.get(name, Salvage(name)) for name in names}
        for name in names:
            self._telemetry.database_set_aside(name)
        if counters is None:
            self._telemetry.ledger_lost(names[-1])
        return partial(salvage.begin, books=tuple(self._books.values()), counters=counters)

    def damaged_files(self) -> list[str]:
        """Return the names of the damaged files whose books are open."""
        return list(self._books)

    def restoring(self, file: str, *, counters: Mapping[str, int], kept: Sequence[Event], marked: Changes) -> Job[None]:
        """Return a job that opens the books for a file that was set aside now, and restores what is in memory."""
        self._books[file] = Salvage(file, skip=frozenset(event.id for event in kept))
        return partial(salvage.begin, books=tuple(self._books.values()), counters=counters, kept=kept, marked=marked)

    def salvage_soon(self) -> None:
        """The books of another damaged file are open."""
        self._times_restored += 1
        self._restored.set()

    def brought(self, source: Salvaged) -> None:
        """Events of a damaged file are committed."""
        self._books[source.file] = replace(self._books[source.file], events_after=source.events_after)

    async def serve(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_counting(), name="buffer row count")
            tasks.create_task(self._keep_salvaging(), name="buffer salvage")
            tasks.create_task(self._keep_tidy(), name="buffer space")

    async def _keep_tidy(self) -> None:
        """Tidy every second while events come or leave, the file is not in its place, or there is space to give back."""
        more = True
        while True:
            changed = self._telemetry.next_change()
            if not more and not (await asyncio.wait({changed}, timeout=QUIET_SECONDS))[0]:
                more = not await self.look()
                continue
            await asyncio.sleep(TIDY_SECONDS)
            changed = self._telemetry.next_change()
            self._write_tally()
            found = await self._look(then=connection.give_back_space)
            more = self._is_away or found.may_shrink or changed.done()

    async def look(self) -> bool:
        """Look whether the file is in its place, tell what is news of that, and return whether it is."""
        await self._look()
        return not self._is_away

    async def _look(self, *, then: Job[bool] | None = None) -> Look:
        found = await self._database.look(then=then)
        for name in found.made_anew:
            self._telemetry.buffer_file_made_anew(name)
        if found.moved is not None:
            self._telemetry.buffer_moved(found.moved, is_news=not self._is_away)
            self._moved(found.moved)
        elif self._is_away:
            self._telemetry.buffer_came_back()
        self._is_away = found.moved is not None
        return found

    async def _keep_counting(self) -> None:
        while True:
            times_restored = self._times_restored
            try:
                await self._compare_rows(as_found=not self.counted)
                self.counted = True
                await asyncio.sleep(COUNT_SECONDS)
            except (UnavailableError, DamagedError) as error:
                self._telemetry.buffer_failed("count", error)
                await self._pause(times_restored)

    async def _pause(self, times_restored: int) -> None:
        """Wait a while, or until a damaged file was restored, if that was not so already."""
        if times_restored == self._times_restored:
            self._restored.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._restored.wait()

    async def _compare_rows(self, *, as_found: bool) -> None:
        """Compare the ledger with the rows. What differs at once, the disk lost or altered; what differs later is a bug."""
        self._count.forget()
        missing: int | None = None
        while missing is None:
            missing = await self._database.run(partial(compare_rows, count=self._count, as_found=as_found))
        if missing and as_found:
            self._telemetry.rows_differ(missing)
            self._telemetry.events_dropped(max(0, missing), reason="corrupt")
        elif missing:
            self._telemetry.rows_miscounted(missing)
        elif self._beyond_reach() > 0:
            await self._database.run(look_through)

    async def _keep_salvaging(self) -> None:
        while True:
            times_restored = self._times_restored
            try:
                for each in await self._database.run(salvage.pending):
                    await self._salvage(each)
                if times_restored == self._times_restored:
                    self._restored.clear()
                    await self._restored.wait()
            except (UnavailableError, DamagedError) as error:
                self._telemetry.buffer_failed("salvage", error)
                await self._pause(times_restored)

    async def _salvage(self, books: Salvage) -> None:
        directory = self._database.directory
        assert directory is not None
        opening = asyncio.ensure_future(asyncio.to_thread(DamagedFile, directory.path / books.file))
        try:
            file = await asyncio.shield(opening)
        except asyncio.CancelledError:  # its thread goes on, and nobody else would close what it opens
            (await opening).close()
            raise
        try:
            brought = await self._bring_events(file, books)
            letters = await self._bring_letters(file, books)
        finally:
            await asyncio.to_thread(file.close)
        # In this order, or if the process were killed in between, everything would be salvaged once more.
        await asyncio.to_thread(directory.mark_salvaged, books.file)
        lost = await self._database.run(partial(salvage.end, file=books.file))
        self._books.pop(books.file, None)  # it may have been restored, and ended once more
        self._telemetry.events_dropped(lost, reason="corrupt")
        self._telemetry.salvage_ended(file=books.file, events=brought, dead_letters=letters, lost=lost)

    async def _bring_events(self, file: DamagedFile, books: Salvage) -> int:
        after: int | None = books.events_after
        brought = 0
        marks = await asyncio.to_thread(file.marks)
        while after is not None:
            found, after = await asyncio.to_thread(file.events, after, max_rows=_SALVAGED_ROWS)
            new = [event for event in found if event.id not in books.skip]
            if after is not None and not await self._bring(new, Salvaged(books.file, after, marks)):
                raise UnavailableError("there is no room for what is salvaged")
            brought += len(new)
        return brought

    async def _bring_letters(self, file: DamagedFile, books: Salvage) -> int:
        after: int | None = books.letters_after
        brought = 0
        while after is not None:
            found, after = await asyncio.to_thread(file.letters, after, max_rows=_SALVAGED_ROWS)
            if after is not None:
                job = partial(
                    salvage.bring_letters,
                    file=books.file,
                    found=found,
                    letters_after=after,
                    max_events=self._bounds.max_events,
                    max_bytes=self._bounds.max_bytes,
                )
                self._telemetry.dead_letters_evicted(await self._database.run(job), reason="full")
                self._books[books.file] = replace(self._books[books.file], letters_after=after)
                brought += len(found)
        return brought


def look_through(transaction: Transaction) -> None:
    """Have the file set aside if it is damaged: rows that are counted, but were not found when their turn came."""
    if not connection.is_sound(transaction):
        raise ledger.AlteredError("rows cannot be reached")


def compare_rows(transaction: Transaction, *, count: events.RowCount, as_found: bool) -> int | None:
    """Count some more rows. Once all are counted return how many the ledger has beyond them, and else None.

    Then the ledger believes the rows. With `as_found`, as nothing but the disk can have changed them, what is missing is
    counted as corrupt, and what the ledger does not know as accepted only now; else the difference stays, as unaccounted.
    But a file that is found damaged is set aside instead.
    """
    found = count.step(transaction)
    if found is None:
        return None
    number, size = found
    unsalvaged = transaction.ledger.get("unsalvaged", 0)
    missing = transaction.ledger.get("buffered", 0) - unsalvaged - number
    if missing and not connection.is_sound(transaction):
        raise ledger.AlteredError("there are not as many rows as there should be")
    if missing and as_found:
        transaction.count("dropped.corrupt", max(0, missing))
        for name in ("received", "accepted"):
            transaction.count(name, max(0, -missing))
    transaction.count("buffered", -missing)
    if not unsalvaged:
        transaction.ledger["buffered_bytes"] = size
    return missing
