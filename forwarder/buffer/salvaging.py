"""Salvages damaged files: what can be read of a quarantined file is restored to the new one. Used by the disk buffer alone.

Events of a damaged file get new ids, as they come late. The new file keeps the progress of each salvage, and changes it in
the transactions that restore something, so that a salvage which is interrupted goes on where it was.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final

from msgspec.structs import replace as changed

from forwarder.buffer.base import Stored
from forwarder.buffer.batch import Put, Salvaged
from forwarder.buffer.commits import PUT_SECONDS, RETRY_SECONDS, GroupCommit
from forwarder.buffer.marking import ambiguous
from forwarder.buffer.putting import Room
from forwarder.database import salvage
from forwarder.database.connection import DamagedError, Database, Job, T, UnavailableError
from forwarder.database.marks import Changes
from forwarder.database.salvage import DamagedFile, Salvage
from forwarder.event import Event
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import DeadLettersSettings

_ROWS: Final = 500
"""How many rows are read at a time."""


class Salvaging:
    """`next_id` gives rising ids; `bounds` are those of the dead letters."""

    def __init__(
        self,
        database: Database,
        commits: GroupCommit[int],
        *,
        room: Room,
        bounds: DeadLettersSettings,
        telemetry: Telemetry,
        receipts: Receipts,
        next_id: Callable[[], int],
    ) -> None:
        self.times_restored = 0
        """How often a new file was made and what was in memory written to it."""
        self._database = database
        self._commits = commits
        self._room = room
        self._bounds = bounds
        self._telemetry = telemetry
        self._receipts = receipts
        self._next_id = next_id
        self._progress: dict[str, Salvage] = {}
        """What the database says of each, as committed last. If that file is damaged too, this is written to the next."""
        self._open: dict[str, DamagedFile] = {}  # nobody else can open a file meanwhile
        self._portion = asyncio.Lock()  # held while something is restored
        self._restored = asyncio.Event()  # there is something to salvage
        self._restored.set()

    async def find_damaged_files(self) -> Job[None] | None:
        """Return a job that begins to salvage the damaged files unknown to the database; None if it knows all."""
        directory = self._database.directory
        assert directory is not None
        self._progress = {each.file: each for each in await self._database.run(salvage.pending)}
        names = [name for name in await asyncio.to_thread(directory.damaged) if name not in self._progress]
        if not names:
            return None
        found = [await asyncio.to_thread(salvage.look_at, directory.path, name) for name in names]
        found.sort(key=lambda each: each.counters is not None)
        counters = None if self._database.ledger else found[-1].counters
        # The file that was quarantined last knows how far the salvage of earlier files had come.
        known = {each.file: each for file in found for each in file.salvages}
        self._progress |= {name: known.get(name, Salvage(name)) for name in names}
        for name in names:
            self._telemetry.database_quarantined(name)
        if counters is None:
            self._telemetry.ledger_lost(names[-1])
        return partial(salvage.begin, salvages=tuple(self._progress.values()), counters=counters)

    def damaged_files(self) -> list[str]:
        """Return the names of the files that are being salvaged."""
        return list(self._progress)

    def job_to_restore(
        self, file: str, *, counters: Mapping[str, int], kept: Sequence[Event], marked: Changes
    ) -> Job[None]:
        """Return a job that begins to salvage a file which was quarantined now, and restores what is in memory."""
        self._progress[file] = Salvage(file, skip=frozenset(event.id for event in kept))
        salvages = tuple(self._progress.values())
        return partial(salvage.begin, salvages=salvages, counters=counters, kept=kept, marked=marked)

    def salvage_soon(self) -> None:
        """Salvage another damaged file: what was in memory is restored."""
        self.times_restored += 1
        self._restored.set()

    def committed(self, source: Salvaged) -> None:
        """Note that events of a damaged file are committed."""
        self._progress[source.file] = replace(self._progress[source.file], events_after=source.events_after)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Restore nothing meanwhile."""
        async with self._portion:
            yield

    async def erase(self, customer: str, *, dry_run: bool) -> tuple[int, int, int]:
        """Leave out what the damaged files still have of a customer. Call it while the salvage is paused.

        Return how many events and dead letters that are, and how many files are removed: those that are salvaged, now, and
        the others when they are. Raise UnavailableError or DamagedError.
        """
        directory = self._database.directory
        assert directory is not None
        key = customer.encode(errors="surrogatepass")
        events = letters = files = 0
        for name in await asyncio.to_thread(directory.salvaged):
            if await asyncio.to_thread(directory.contains, name, key):
                files += 1
                if not dry_run:
                    await asyncio.to_thread(directory.remove_salvaged, name)
        for name, progress in list(self._progress.items()):
            found, letter_ids = await _in_thread(partial(self._meant, progress, customer))
            if not found and not letter_ids and not await asyncio.to_thread(directory.contains, name, key):
                continue
            events, letters, files = events + len(found), letters + len(letter_ids), files + (not progress.has_erased)
            if not dry_run:
                job = partial(salvage.leave_out, file=name, events=found, letters=letter_ids)
                dropped = await self._database.run(job)
                last = self._progress[name]  # a put that the disk stored late may have changed it
                self._progress[name] = replace(last, skip=last.skip.union(found, letter_ids), has_erased=True)
                self._telemetry.events_dropped(dropped, reason="erased")
                self._telemetry.dead_letters_evicted(len(letter_ids), reason="erased")
        return events, letters, files

    def _meant(self, progress: Salvage, customer: str) -> tuple[dict[int, int], list[int]]:
        """Return what a damaged file still has of a customer: events, with their sizes, and the ids of dead letters."""
        directory = self._database.directory
        assert directory is not None
        is_open = progress.file in self._open
        file = self._open[progress.file] if is_open else DamagedFile(directory.path / progress.file)
        found: dict[int, int] = {}
        ids: list[int] = []
        try:
            after: int | None = progress.events_after
            while after is not None:
                events, after = file.events(after, max_rows=_ROWS)
                found.update((each.id, each.size_bytes) for each in events if each.customer == customer)
            after = progress.letters_after
            while after is not None:
                letters, after = file.letters(after, max_rows=_ROWS)
                ids += (each.event.id for each in letters if each.event.customer == customer)
        finally:
            if not is_open:
                file.close()
        return {event_id: size for event_id, size in found.items() if event_id not in progress.skip}, [
            letter_id for letter_id in ids if letter_id not in progress.skip
        ]

    async def pause(self, times_restored: int) -> None:
        """Wait a second, or until more was restored than `times_restored`."""
        if times_restored == self.times_restored:
            self._restored.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._restored.wait()

    async def serve(self) -> None:
        """Salvage whatever is to be salvaged, until cancelled."""
        while True:
            times_restored = self.times_restored
            try:
                for each in await self._database.run(salvage.pending):
                    await self._salvage(each)
                if times_restored == self.times_restored:
                    self._restored.clear()
                    await self._restored.wait()
            except (UnavailableError, DamagedError) as error:
                self._telemetry.buffer_failed("salvage", error)
                await self.pause(times_restored)

    async def _salvage(self, progress: Salvage) -> None:
        directory = self._database.directory
        assert directory is not None
        async with self._portion:
            opening = asyncio.ensure_future(asyncio.to_thread(DamagedFile, directory.path / progress.file))
            try:
                file = await asyncio.shield(opening)
            except asyncio.CancelledError:  # its thread goes on, and nobody else would close what it opens
                (await opening).close()
                raise
            self._open[progress.file] = file
        try:
            events = await self._restore_events(file, progress)
            letters = await self._restore_letters(file, progress)
        finally:
            del self._open[progress.file]
            await asyncio.to_thread(file.close)
        # In this order: if the process is killed in between, nothing is salvaged twice.
        async with self._portion:
            last = self._progress.get(progress.file, progress)
            done = directory.remove_damaged if last.has_erased else directory.mark_salvaged
            await asyncio.to_thread(done, progress.file)
        lost = await self._database.run(partial(salvage.end, file=progress.file))
        self._progress.pop(progress.file, None)  # it may have been restored, and ended once more
        self._telemetry.events_dropped(lost, reason="corrupt")
        self._telemetry.salvage_ended(file=progress.file, events=events, dead_letters=letters, lost=lost)

    async def _restore_events(self, file: DamagedFile, progress: Salvage) -> int:
        after: int | None = progress.events_after
        restored = 0
        marks = await asyncio.to_thread(file.marks)
        while after is not None:
            async with self._portion:
                found, after = await asyncio.to_thread(file.events, after, max_rows=_ROWS)
                skip = self._progress.get(progress.file, progress).skip
                events = [event for event in found if event.id not in skip]
                if after is not None and not await self._put(events, Salvaged(progress.file, after, marks)):
                    raise UnavailableError("there is no room for salvaged events")
            restored += len(events)
        return restored

    async def _put(self, events: Sequence[Event], source: Salvaged) -> bool:
        """Store events of a damaged file under new ids; return whether that worked."""
        if not self._commits.available:
            return False
        # With no await before the put stands in the queue, so that ids are committed in their order.
        new = [changed(event, id=self._next_id()) for event in events]
        ended = [
            ambiguous(event, source.marks[old.id])
            for old, event in zip(events, new, strict=True)
            if old.id in source.marks
        ]
        size = sum(len(event.body) for event in new)
        loop = asyncio.get_running_loop()
        put = Put(new, size, None, loop.create_future(), loop.time() + PUT_SECONDS, salvaged=source, ended=ended)
        async with self._room.turn():
            self._room.count(put)
            self._commits.put(put)
        if await put.done != Stored():
            return False
        for old, event in zip(events, new, strict=True):
            self._receipts.ended(old.id, "replaced", event.id, event.customer)
        return True

    async def _restore_letters(self, file: DamagedFile, progress: Salvage) -> int:
        after: int | None = progress.letters_after
        restored = 0
        while after is not None:
            async with self._portion:
                found, after = await asyncio.to_thread(file.letters, after, max_rows=_ROWS)
                skip = self._progress.get(progress.file, progress).skip
                letters = [letter for letter in found if letter.event.id not in skip]
                if after is not None:
                    job = partial(
                        salvage.restore_letters,
                        file=progress.file,
                        found=letters,
                        letters_after=after,
                        max_events=self._bounds.max_events,
                        max_bytes=self._bounds.max_bytes,
                    )
                    self._telemetry.dead_letters_evicted(await self._database.run(job), reason="full")
                    self._progress[progress.file] = replace(self._progress[progress.file], letters_after=after)
            restored += len(letters)
        return restored


async def _in_thread(job: Callable[[], T]) -> T:
    """Do a job in a thread; return, or end if cancelled, when it is done: until then nobody else may open its file."""
    working = asyncio.ensure_future(asyncio.to_thread(job))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait({working})
        raise
