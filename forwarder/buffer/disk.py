"""The buffer on disk: what was put is there again after the process died.

`put` answers after the commit that holds its events. Part of the events are in memory as well: those being delivered, and a
window of those that come next, of about `WINDOW_BYTES`; see `reading`.

An event is in `_ordering`, waiting to be taken; in `_taken`, until it is acked or released; in `_room.dropping` and then
in the put that it makes room for, until that is committed; or on disk only: newer than all in `_ordering`, or known to it
by its id. After a crash every event that was not acked is there again, in order.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Final

from forwarder.attribute import TypeChanges
from forwarder.buffer.base import (
    NO_NOTES,
    BufferUnavailableError,
    Erased,
    Ledger,
    NeverFits,
    Notes,
    Occupancy,
    PutAnswer,
    Stored,
    Unavailable,
)
from forwarder.buffer.batch import Batch, Put
from forwarder.buffer.commits import PUT_SECONDS, GroupCommit, tell
from forwarder.buffer.erasing import Erasing
from forwarder.buffer.fates import Dropped, Fate
from forwarder.buffer.leaving import ERASED
from forwarder.buffer.local import LocalBuffer, ask, ledger_of
from forwarder.buffer.marking import Marking, Noting
from forwarder.buffer.putting import Room
from forwarder.buffer.reading import Reading
from forwarder.buffer.salvaging import Salvaging
from forwarder.buffer.upkeep import Upkeep
from forwarder.buffer.writing import write
from forwarder.database import events as rows
from forwarder.database import marks
from forwarder.database.connection import Committed, DamagedError, Database, Job, UnavailableError
from forwarder.database.ledger import Counters
from forwarder.event import Clock, Event, LaneOf, by_customer
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings
from forwarder.words import Intake

WINDOW_BYTES: Final = 6 * 1024 * 1024
"""Of memory for the events that come next, and once more for those that were passed over or released."""
_STORED: Final = Stored()


class DiskBuffer(LocalBuffer):
    """A Buffer in a database on disk, opened with it. `clock` is the event loop's, in seconds; `next_id` gives rising ids.

    `remembered` gives all that intake remembers now, for a new file in the place of a damaged one. A key must not be in it
    before the put of its event has answered `Stored`, or it might outlive an event that was never stored.
    """

    outlives_process = True

    def __init__(  # noqa: PLR0913 - the composition root names each of them
        self,
        settings: BufferSettings,
        *,
        dead_letters: DeadLettersSettings,
        database: Database,
        telemetry: Telemetry,
        receipts: Receipts,
        clock: Clock,
        next_id: Callable[[], int],
        lane_of: LaneOf = by_customer,
        window_bytes: int = WINDOW_BYTES,
        remembered: Callable[[], Notes] = lambda: NO_NOTES,
    ) -> None:
        super().__init__(
            settings,
            database=database,
            telemetry=telemetry,
            receipts=receipts,
            clock=clock,
            lane_of=lane_of,
            max_aside_bytes=window_bytes,
        )
        self._bounds = dead_letters
        self._is_open = False
        self._is_lost = False
        """Whether the file was not in its place at the end."""
        self._tally = telemetry.tally
        self._counted_refused = self._counted_duplicates = 0
        """How much of the tally is in the ledger."""
        self._count = rows.RowCount()
        self._commits = GroupCommit(
            database, job_of=self._job_of, apply=self._apply, refuse=self._refuse, telemetry=telemetry
        )
        self._marking = Marking(self._commits)
        self._noting = Noting(database, self._commits, telemetry=telemetry, remembered=remembered)
        self._reading = Reading(
            database,
            self._ordering,
            window_bytes=window_bytes,
            news=self._news,
            drop_corrupt=self._drop_corrupt,
            telemetry=telemetry,
        )
        self._room = Room(
            settings,
            database,
            ordering=self._ordering,
            reading=self._reading,
            news=self._news,
            clock=clock,
            disk_hangs=self._commits.disk_hangs,
        )
        self._salvaging = Salvaging(
            database,
            self._commits,
            room=self._room,
            bounds=dead_letters,
            telemetry=telemetry,
            receipts=receipts,
            next_id=next_id,
        )
        self._erasing = Erasing(
            database,
            self._commits,
            ordering=self._ordering,
            reading=self._reading,
            salvaging=self._salvaging,
            count=self._count,
            leave=self._leave_memory,
            stay=self._stay,
            leaving=self._leaving,
            telemetry=telemetry,
        )
        self._upkeep = Upkeep(
            database,
            salvaging=self._salvaging,
            telemetry=telemetry,
            count=self._count,
            write_tally=self._write_tally,
            beyond_reach=self._beyond_reach,
            moved=self._commits.lacks_room,
        )
        database.on_damaged = self._restore

    async def open(self) -> None:
        """See Buffer. Nothing but the ledger, the first row and what is marked is read.

        Raise DirectoryError or DirectoryInUseError if the directory cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        await self._database.open()
        self._is_open = True
        directory = self._database.directory
        assert directory is not None
        if self._database.lacks_file:
            self._commits.lacks_room(UnavailableError("the disk is full, so there is no file yet"))
            return
        if directory.is_open_to_everybody:
            self._telemetry.buffer_open_to_everybody(str(directory.path))
        try:
            if job := await self._salvaging.find_damaged_files():
                self._commits.restore(job, then=self._salvaging.salvage_soon)
                await self._commits.flush()
            await self._reading.open()
            await self._end_marked()
        except DamagedError:  # there is a new file, and nothing in it to read
            await self._commits.flush()
        except UnavailableError as error:
            raise directory.unusable(error) from error
        if not directory.has_reserve:
            self._commits.lacks_room(UnavailableError("there is no room for the reserve"))

    async def _end_marked(self) -> None:
        """Make dead letters of the events found marked. While the disk is too full for that, they stay taken."""
        found, events = await self._database.run(marks.find)
        if found:
            self._taken.update((event.id, event) for event in events)
            self._reading.hide(self._taken)
            for event, fate in self._marking.found(found, events):
                self.begin_ack(event, fate)
            await self._commits.flush()

    async def serve(self) -> None:
        """See Buffer. Raise what a bug in the database's jobs raised."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._upkeep.serve(), name="buffer upkeep")
            tasks.create_task(self._commits.watch(), name="buffer failure")

    # In

    async def put(
        self, events: Sequence[Event], *, intake: Intake, replayed: Sequence[int] = (), notes: Notes = NO_NOTES
    ) -> PutAnswer:
        """See Buffer. Full until something is acked; with `drop_oldest`, only while all events are taken."""
        size = sum(len(event.body) for event in events)
        if len(events) > self._settings.max_events or size > self._settings.max_bytes:
            return NeverFits()
        if not self._commits.available:
            return Unavailable()
        deadline = self._loop.time() + PUT_SECONDS
        put = Put(events, size, intake, self._loop.create_future(), deadline, replayed=replayed, notes=notes)
        async with self._room.turn():  # whoever is before it in the queue has an earlier deadline
            if not self._room.claim(len(events), size):
                self._commits.hurry_acks()  # what was acked takes its room until that is committed
                refused = await self._room.find(put, drop_oldest=self._when_full == "drop_oldest")
                if refused is not None:
                    return refused
            self._commits.put(put)
        return await put.done

    def begin_put(self, event: Event, *, intake: Intake) -> asyncio.Future[PutAnswer] | None:
        """See Buffer."""
        room, commits, loop = self._room, self._commits, self._loop
        size = len(event.body)
        if room.queued or not commits.available or not room.claim(1, size):
            return None
        put = Put((event,), size, intake, loop.create_future(), loop.time() + PUT_SECONDS)
        commits.put(put)
        return put.done

    async def recall(self) -> Notes:
        """See Buffer. Call it before `serve`, which ends the salvage of the damaged files from which it reads, too."""
        return await self._noting.recall(self._salvaging.damaged_files)

    async def note(self, types: TypeChanges) -> None:
        """See Buffer. While the disk is full it waits for room."""
        await self._noting.note(types)

    # Out

    def _read_ahead(self) -> None:
        self._reading.read_ahead()

    async def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        """See Buffer. What is acked is never handed out again, also where the commit must wait."""
        done: asyncio.Future[None] = self._loop.create_future()
        if self._leaving.events:
            fates = [(event, self._leaving.fate_of(event, fate)) for event, fate in fates]
        self._marking.ending(event.id for event, _ in fates)
        self._commits.ack(fates, done)
        await done

    def begin_ack(self, event: Event, fate: Fate) -> None:
        """See Buffer."""
        if self._leaving.events:
            fate = self._leaving.fate_of(event, fate)
        if self._marking.marks:
            self._marking.ending((event.id,))
        self._commits.begin_ack(event, fate)

    def hurry_acks(self) -> None:
        """See Buffer."""
        self._commits.hurry_acks()

    async def settle_acks(self) -> None:
        """See Buffer."""
        if self._commits.has_acks:
            await self.ack(())

    async def mark(self, events: Sequence[tuple[Event, int]]) -> None:
        """See Buffer."""
        self._check_taken(event for event, _ in events)
        await self._marking.mark(events)

    async def unmark(self, events: Sequence[Event]) -> None:
        """See Buffer."""
        self._check_taken(events)
        await self._marking.unmark(event.id for event in events)

    def _unmark_soon(self, events: Sequence[Event]) -> None:
        self._marking.unmark_soon(event.id for event in events)

    async def pull(self, event_id: int) -> Event | None:
        """See Buffer."""
        pulled: asyncio.Future[Event | None] = self._loop.create_future()

        def pull(result: Committed[rows.Read] | Exception) -> None:
            """Pull it within the turn in which the read arrives, as before and after it may be elsewhere."""
            if pulled.done():
                return
            if not isinstance(result, Committed):
                pulled.set_exception(result)
                return
            is_free = event_id not in self._taken and event_id not in self._stay()
            found = self._reading.without_erased(result.value.events)
            event = found[0] if found and is_free else None
            if event is not None:
                self._ordering.discard(lambda each: each.id == event_id, {event_id})
                self._reading.hide((event_id,))
                self._leaving.pull(event, taken=self._taken)
            pulled.set_result(event)

        self._database.submit(partial(rows.read_ids, ids=[event_id], max_bytes=1), pull)
        try:
            return await pulled
        except (UnavailableError, DamagedError) as error:
            raise BufferUnavailableError(str(error)) from error

    async def erase(self, customer: str, *, up_to: int | None = None, dry_run: bool = False) -> Erased:
        """See Buffer."""
        return await self._erasing.erase(customer, up_to=up_to, dry_run=dry_run)

    def _leave_memory(self, customer: str, is_meant: Callable[[Event], bool]) -> None:
        self._leave(customer, is_meant, self._commits.uncommitted_acks())

    def _stay(self) -> set[int]:
        """Return the ids of the rows that something else is about to remove."""
        dropped = chain(self._room.dropping, *(put.dropped for put in self._commits.uncommitted_puts()))
        return {*self._taken, *(event.id for event in dropped), *self._commits.uncommitted_corrupt()}

    # What may be known of it

    async def contains(self, event_id: int) -> bool:
        """See Buffer."""
        if event_id in self._taken:
            return True
        return await ask(self._database, lambda transaction: rows.is_held(transaction, event_id))

    @property
    def last_id(self) -> int:
        """See Buffer."""
        return self._database.ledger["last_id"]

    def ledger(self) -> Ledger:
        """See Buffer."""
        counters, tally = self._database.ledger, self._tally
        if self._is_lost:
            lost = counters["buffered"]
            counters = Counters(counters, buffered=0)
            counters["dropped.shutdown"] += lost
        refused, duplicates = tally.refused - self._counted_refused, tally.duplicates - self._counted_duplicates
        return ledger_of(
            counters,
            received=counters["received"] + refused + duplicates,
            duplicates=counters["duplicates"] + duplicates,
            refused=counters["rejected"] + refused,
            buffered=counters["buffered"],
        )

    def occupancy(self) -> Occupancy:
        """See Buffer. Events of a damaged file count until they are salvaged or lost."""
        counters = self._database.ledger
        times = [self._ordering.oldest_accepted_at(), self._reading.unread_since()]
        times += (event.accepted_at for event in self._taken.values())
        return Occupancy(
            events=counters["buffered"],
            bytes=counters["buffered_bytes"],
            deferred=self._ordering.count_deferred(self._clock()),
            oldest_accepted_at=min((time for time in times if time is not None), default=None)
            if counters["buffered"]
            else None,
        )

    @property
    def available(self) -> bool:
        """See Buffer."""
        return self._commits.available

    @property
    def stalled(self) -> bool:
        """See Buffer."""
        return self._commits.stalled

    @property
    def dead_letters_lost(self) -> int:
        """See Buffer. They are kept, as the events are, unless the file is not in its place any more."""
        return self._database.ledger["dead_letters"] if self._is_lost else 0

    async def close(self) -> None:
        """See Buffer."""
        try:
            if self._is_open:
                self._is_open = False
                await self._commit_all()
        finally:
            await self._database.close()

    async def _commit_all(self) -> None:
        self._news.close()
        self._erasing.close()
        for event in self._leaving.drop(list(self._leaving.events.values())):
            self.begin_ack(event, ERASED)
        self._write_tally()
        await self._commits.flush()
        if not await self._upkeep.look():
            self._is_lost = True
            self._telemetry.events_dropped(self._database.ledger["buffered"], reason="shutdown")
            self._telemetry.dead_letters_evicted(self.dead_letters_lost, reason="shutdown")
        self._commits.close()

    # Committing

    def _write_tally(self) -> None:
        if self._tally.refused > self._counted_refused or self._tally.duplicates > self._counted_duplicates:
            self._commits.commit_tally()

    def _job_of(self, batch: Batch) -> Job[int]:
        batch.refused = self._tally.refused - self._counted_refused
        batch.duplicates = self._tally.duplicates - self._counted_duplicates
        acked = self._leaving.acked
        overwrites = bool(acked) and any(event.id in acked for event, _ in batch.acks)
        return partial(write, batch=batch, count=self._count, bounds=self._bounds, overwrites=overwrites)

    def _apply(self, batch: Batch, evicted: int) -> None:
        """Make what was committed true in memory, within one turn of the event loop."""
        self._counted_refused += batch.refused
        self._counted_duplicates += batch.duplicates
        if batch.puts:
            self._apply_puts(batch.puts)
        left: list[Event] = []
        if batch.acks:
            taken, marked = self._taken, self._marking.marks
            for event, _ in batch.acks:
                del taken[event.id]
                marked.pop(event.id, None)
                left.append(event)
            if self._leaving.acked:
                left = self._leaving.have_left(left)
            self._tell_fates(batch.acks)
        for done in batch.waiters if batch.noted is None else chain(batch.waiters, batch.noted.waiters):
            tell(done, None)
        for event_id in batch.corrupt:
            self._telemetry.events_dropped(1, reason="corrupt")
            self._receipts.ended(event_id, "dropped", "corrupt")
        if evicted:
            self._telemetry.dead_letters_evicted(evicted, reason="full")
        if left:
            self._news.have_left(left)
        if batch.puts:
            self._news.tell()
        else:
            self._news.wake()

    def _apply_puts(self, puts: Sequence[Put]) -> None:
        accepted: dict[Intake, int] = {}
        for put in puts:
            if not put.written:
                self._refuse(put)
                continue
            self._room.settle(put, stored=True)
            if put.dropped:
                self._tell_fates((event, Dropped("drop_oldest")) for event in put.dropped)
            if put.salvaged is None:
                assert put.intake is not None, "only salvaged events came by no intake"
                accepted[put.intake] = accepted.get(put.intake, 0) + len(put.events)
                self._reading.add(put.events)
                if self._telemetry.taps.open:
                    self._telemetry.taps.accepted(put.events, intake=put.intake)
            else:
                self._salvaging.committed(put.salvaged)
                self._tell_fates(put.ended)
                ended = {event.id for event, _ in put.ended}
                self._reading.add([event for event in put.events if event.id not in ended])
            if not put.done.done():
                put.done.set_result(_STORED)
        for intake, number in accepted.items():
            self._telemetry.events_accepted(number, intake=intake)

    def _refuse(self, put: Put) -> None:
        self._room.settle(put, stored=False)
        tell(put.done, Unavailable())

    def _drop_corrupt(self, ids: Sequence[int]) -> None:
        if ids:
            self._commits.waiting.corrupt += ids
            self._commits.commit()

    # Damage

    def _beyond_reach(self) -> int:
        """Return how many events are buffered that nothing here knows of, and that no read will find."""
        counters = self._database.ledger
        if self._ordering.more_fresh or self._commits.restoring or self._erasing.is_under_way:
            return 0
        dropped = sum(len(put.dropped) for put in self._commits.uncommitted_puts())
        known = len(self._ordering) + len(self._taken) + len(self._room.dropping) + dropped
        return counters["buffered"] - counters["unsalvaged"] - known - len(self._commits.uncommitted_corrupt())

    def _restore(self, file: str) -> None:
        """Have the ledger and what is in memory written to the new file; the rest is salvaged from the damaged one."""
        self._telemetry.database_quarantined(file)
        dropped = chain(self._room.dropping, *(put.dropped for put in self._commits.uncommitted_puts()))
        kept = sorted(chain(self._ordering, self._taken.values(), dropped), key=lambda event: event.id)
        counters = dict(self._database.ledger)
        self._ordering.forget_unread()
        self._commits.forget_corrupt()  # the salvage will miss them, too
        job = self._salvaging.job_to_restore(file, counters=counters, kept=kept, marked=dict(self._marking.marks))
        self._commits.restore(job, then=self._restored)

    def _restored(self) -> None:
        self._noting.restored()
        self._salvaging.salvage_soon()
