"""The buffer in memory: what it holds is lost when the process ends.

An event is in `_ordering` until it is taken, and then in `_taken` until it is acked or released. Dead letters are written
to a database in memory, by the same code as on disk.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Final

from forwarder.attribute import TypeChanges
from forwarder.buffer.base import NO_NOTES, Erased, Full, Ledger, NeverFits, Notes, Occupancy, PutAnswer, Stored
from forwarder.buffer.fates import DeadLettered, Dropped, Fate, counter_of, letters_of
from forwarder.buffer.leaving import ERASED
from forwarder.buffer.local import LocalBuffer, ledger_of
from forwarder.buffer.ordering import Ordering
from forwarder.buffer.turns import Turns
from forwarder.database import dead_letters as letters
from forwarder.database import erasing
from forwarder.database.connection import Committed, Database
from forwarder.event import Clock, Event, LaneOf, by_customer
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings
from forwarder.words import Intake

EVENTS_AT_ONCE: Final = 500
"""How many dead letters are erased in one transaction."""


class MemoryBuffer(LocalBuffer):
    """A Buffer in memory. `clock` is the event loop's, in seconds; `database`, one in memory too, is opened with it."""

    outlives_process = False
    last_id = 0
    available = True
    stalled = False

    def __init__(
        self,
        settings: BufferSettings,
        *,
        dead_letters: DeadLettersSettings,
        database: Database,
        telemetry: Telemetry,
        receipts: Receipts,
        clock: Clock,
        lane_of: LaneOf = by_customer,
    ) -> None:
        super().__init__(
            settings, database=database, telemetry=telemetry, receipts=receipts, clock=clock, lane_of=lane_of
        )
        self.dead_letters_lost = 0
        self._bounds = dead_letters
        self._turns = Turns(settings, clock)
        self._left: list[Event] = []  # the listener is told of these in the next turn of the loop
        self._acks: set[asyncio.Future[None]] = set()  # those that wait until dead letters are written
        self._dying: set[int] = set()  # the ids of their events
        self._newest = 0
        self._events = 0
        self._bytes = 0
        self._counters: Counter[str] = Counter()
        self._failure: Exception | None = None
        self._failed = asyncio.Event()

    async def open(self) -> None:
        """See Buffer."""
        await self._database.open()

    async def serve(self) -> None:
        """See Buffer. Raise what a bug in writing dead letters raised; there is nothing else to do."""
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure

    async def put(
        self,
        events: Sequence[Event],
        *,
        intake: Intake,
        replayed: Sequence[int] = (),
        notes: Notes = NO_NOTES,  # noqa: ARG002 - intake has them in memory, too
    ) -> PutAnswer:
        """See Buffer. Full until something is acked; with `drop_oldest`, only while all events are taken."""
        answer = self._put(events, intake=intake)
        if replayed and isinstance(answer, Stored):
            await self._database.run(partial(letters.remove, ids=replayed))
        return answer

    def begin_put(self, event: Event, *, intake: Intake) -> asyncio.Future[PutAnswer]:
        """See Buffer."""
        done: asyncio.Future[PutAnswer] = asyncio.get_running_loop().create_future()
        done.set_result(self._put((event,), intake=intake))
        return done

    def _put(self, events: Sequence[Event], *, intake: Intake) -> PutAnswer:
        size = sum(len(event.body) for event in events)
        if len(events) > self._settings.max_events or size > self._settings.max_bytes:
            return NeverFits()
        if self._when_full == "drop_oldest":
            if not (self._fits(len(events), size) or self._make_room(len(events), size)):
                return Full()
        elif self._turns.waiting or not self._fits(len(events), size):
            free = self._settings.max_events - self._events, self._settings.max_bytes - self._bytes
            if (full := self._turns.ask(events, size, intake=intake, free=free)) is not None:
                return full
        self._ordering.add(events)
        self._newest = events[-1].id if events else self._newest
        self._events += len(events)
        self._bytes += size
        self._counters["accepted"] += len(events)
        self._telemetry.events_accepted(len(events), intake=intake)
        if self._telemetry.taps.open:
            self._telemetry.taps.accepted(events, intake=intake)
        self._news.tell()
        return Stored()

    async def recall(self) -> Notes:
        """See Buffer. An earlier process left nothing."""
        return NO_NOTES

    async def note(self, types: TypeChanges) -> None:
        """See Buffer. Intake has them in memory, too."""

    async def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        """See Buffer."""
        if self._leaving.events:
            fates = [(event, self._leaving.fate_of(event, fate)) for event, fate in fates]
        if any(isinstance(fate, DeadLettered) for _, fate in fates):
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._keep_letters(fates, done)
            await asyncio.shield(done)
        else:
            self._remove(fates)

    def begin_ack(self, event: Event, fate: Fate) -> None:
        """See Buffer. An event that becomes a dead letter is removed once that is written."""
        if self._leaving.events:
            fate = self._leaving.fate_of(event, fate)
        if isinstance(fate, DeadLettered):
            self._keep_letters(((event, fate),), asyncio.get_running_loop().create_future())
        else:
            self._remove(((event, fate),))

    def hurry_acks(self) -> None:
        """See Buffer. Acks wait for nothing here."""

    async def settle_acks(self) -> None:
        """See Buffer."""
        if self._acks:
            await asyncio.wait(self._acks)
        self._tell_left()

    def _keep_letters(self, fates: Sequence[tuple[Event, Fate]], done: asyncio.Future[None]) -> None:
        self._acks.add(done)
        self._dying.update(event.id for event, _ in fates)
        done.add_done_callback(self._acks.discard)
        dead, bounds = list(letters_of(fates)), self._bounds
        job = partial(letters.insert, letters=dead, max_events=bounds.max_events, max_bytes=bounds.max_bytes)
        self._database.submit(job, partial(self._kept, fates, done))

    def _kept(
        self, fates: Sequence[tuple[Event, Fate]], done: asyncio.Future[None], result: Committed[int] | Exception
    ) -> None:
        self._dying.difference_update(event.id for event, _ in fates)
        if isinstance(result, Committed):
            try:
                self._telemetry.dead_letters_evicted(result.value, reason="full")
                self._remove(fates)
            except Exception as error:  # noqa: BLE001 - a bug, which ends the process
                result = error
        if isinstance(result, Exception):
            self._failure = result
            self._failed.set()
        if done.done():
            return
        if isinstance(result, Exception):
            done.set_exception(result)
            done.exception()  # nobody may wait for an ack that was begun
        else:
            done.set_result(None)

    def _remove(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        if not self._left:
            asyncio.get_running_loop().call_soon(self._tell_left)
        for event, _ in fates:
            del self._taken[event.id]
            self._left.append(event)
        self._count(fates)

    def _tell_left(self) -> None:
        left, self._left = self._leaving.have_left(self._left), []
        if left:
            self._news.have_left(left)

    async def mark(self, events: Sequence[tuple[Event, int]]) -> None:
        """See Buffer. No mark outlives the process, so none is kept."""
        self._check_taken(event for event, _ in events)

    async def unmark(self, events: Sequence[Event]) -> None:
        """See Buffer."""
        self._check_taken(events)

    async def pull(self, event_id: int) -> Event | None:
        """See Buffer."""
        found = self._ordering.discard(lambda event: event.id == event_id)
        self._taken.update((event.id, event) for event in found)
        return found[0] if found else None

    async def erase(self, customer: str, *, up_to: int | None = None, dry_run: bool = False) -> Erased:
        """See Buffer."""
        last = self._newest if up_to is None else up_to

        def is_meant(event: Event) -> bool:
            return event.customer == customer and event.id <= last

        if dry_run:
            events = sum(map(is_meant, chain(self._ordering, self._taken.values())))
            return Erased(last, events, 0, len(await self._letters_of(customer, last)))
        gone = self._leave(customer, is_meant, self._dying)
        in_flight = sum(map(is_meant, self._leaving.events.values()))
        self._events -= len(gone)
        self._bytes -= sum(len(event.body) for event in gone)
        self._counters["dropped.erased"] += len(gone)
        self._telemetry.events_dropped(len(gone), reason="erased")
        self._news.wake()
        if self._acks:  # some may become dead letters
            await asyncio.wait(self._acks)
        ids = await self._letters_of(customer, last)
        for at in range(0, len(ids), EVENTS_AT_ONCE):
            job = partial(erasing.purge, ids=ids[at : at + EVENTS_AT_ONCE])
            self._telemetry.dead_letters_evicted(len(await self._database.run(job)), reason="erased")
        return Erased(last, len(gone), in_flight, len(ids))

    async def _letters_of(self, customer: str, up_to: int) -> list[int]:
        key = customer.encode(errors="surrogatepass")
        ids: list[int] = []
        after: int | None = -1
        while after is not None:
            job = partial(erasing.find_letters, customer=key, after_place=after, up_to=up_to)
            found = await self._database.run(job)
            ids += (letter_id for _, letter_id in found.rows)
            after = found.after
        return ids

    async def contains(self, event_id: int) -> bool:
        """See Buffer."""
        return event_id in self._taken or any(event.id == event_id for event in self._ordering)

    def ledger(self) -> Ledger:
        """See Buffer."""
        tally = self._telemetry.tally
        return ledger_of(
            self._counters,
            received=tally.received,
            duplicates=tally.duplicates,
            refused=tally.refused,
            buffered=len(self._ordering) + len(self._taken),
        )

    def occupancy(self) -> Occupancy:
        """See Buffer."""
        waiting = self._ordering.oldest_accepted_at()
        times = chain(() if waiting is None else (waiting,), (event.accepted_at for event in self._taken.values()))
        deferred = self._ordering.count_deferred(self._clock())
        return Occupancy(
            events=self._events, bytes=self._bytes, deferred=deferred, oldest_accepted_at=min(times, default=None)
        )

    async def close(self) -> None:
        """See Buffer."""
        self._news.close()
        await self.settle_acks()
        erased = self._leaving.drop(list(self._leaving.events.values()))
        await self.ack([(event, ERASED) for event in erased])
        left = list(chain(self._ordering, self._taken.values()))
        self._ordering = Ordering()
        self._taken.clear()
        self._count([(event, Dropped("shutdown")) for event in left])
        lost = self._database.ledger["dead_letters"] - self.dead_letters_lost
        self._telemetry.dead_letters_evicted(lost, reason="shutdown")
        self.dead_letters_lost += lost
        await self._database.close()

    def _fits(self, events: int, size: int) -> bool:
        return self._events + events <= self._settings.max_events and self._bytes + size <= self._settings.max_bytes

    def _make_room(self, events: int, size: int) -> bool:
        """Drop the oldest events that are not taken, if that makes room enough."""
        dropped: list[Event] = []
        while event := self._ordering.take_oldest():
            dropped.append(event)
            size -= len(event.body)
            if self._fits(events - len(dropped), size):
                self._count([(event, Dropped("drop_oldest")) for event in dropped])
                return True
        self._ordering.release(dropped, not_before=0.0)
        return False

    def _count(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        """Count events that have left, and tell of them."""
        for event, fate in fates:
            self._events -= 1
            self._bytes -= len(event.body)
            self._counters[counter_of(fate)] += 1
        self._tell_fates(fates)
