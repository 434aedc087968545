"""The buffer in memory: what it holds is lost when the process ends.

An event is either in `_ordering`, waiting to be taken, or in `_taken`, until it is acked or released. Dead letters go to a
database in memory, by the same code as on disk.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import chain

from forwarder.attribute import TypeChanges
from forwarder.buffer.base import NO_NOTES, Full, Ledger, NeverFits, Notes, Occupancy, PutAnswer, Stored
from forwarder.buffer.dead_letters import DatabaseDeadLetters
from forwarder.buffer.fates import DeadLettered, Dropped, Fate
from forwarder.buffer.ordering import MAX_STEPS, Ordering
from forwarder.buffer.settling import Settling
from forwarder.buffer.turns import Turns
from forwarder.buffer.waiting import News, tell
from forwarder.buffer.writing import counter_of, letters_of
from forwarder.database import dead_letters as letters
from forwarder.database.connection import Committed, Database
from forwarder.event import Clock, Event, LaneOf, by_customer
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings
from forwarder.words import DEAD_REASONS, DROP_REASONS, Intake, WhenFull


class MemoryBuffer:
    """A Buffer in memory. `clock` is the event loop's, in seconds; `database`, one in memory too, is opened with it."""

    outlives_process = False
    may_start = None
    last_id = 0

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
        self._lane_of = lane_of
        self._settings = settings
        self._when_full = settings.when_full
        self._bounds = dead_letters
        self._database = database
        self.dead_letters = DatabaseDeadLetters(database, telemetry=telemetry)
        self._telemetry = telemetry
        self._settling = Settling(telemetry, receipts)
        self._clock = clock
        self._ordering = Ordering(lane_of=self._lane_of)
        self._turns = Turns(settings, clock)
        self._taken: dict[int, Event] = {}
        self._left: list[Event] = []  # those of which the listener is told in the next turn of the loop
        self._acks: set[asyncio.Future[None]] = set()  # those that wait for dead letters to be stored
        self._news = News(clock)
        self._events = 0
        self._bytes = 0
        self._counters: Counter[str] = Counter()
        self._dead_letters_lost = 0

    async def open(self) -> None:
        """See Buffer."""
        await self._database.open()

    async def serve(self) -> None:
        """See Buffer. There is nothing to do."""

    async def put(
        self,
        events: Sequence[Event],
        *,
        intake: Intake,
        replayed: Sequence[int] = (),
        notes: Notes = NO_NOTES,  # noqa: ARG002 - who made them has them in memory, too
    ) -> PutAnswer:
        """See Buffer. Full until something is acked, or never, if the oldest are dropped instead."""
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
        self._events += len(events)
        self._bytes += size
        self._counters["accepted"] += len(events)
        self._telemetry.events_accepted(len(events), intake=intake)
        self._news.tell()
        return Stored()

    async def recall(self) -> Notes:
        """See Buffer. There is nothing from before."""
        return NO_NOTES

    async def note(self, types: TypeChanges) -> None:
        """See Buffer. Who learned them has them in memory, too."""

    async def take(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        """See Buffer."""
        while True:
            self._news.expect()
            events = self.take_ready(
                max_events=max_events, max_bytes=max_bytes, skip_lanes=skip_lanes, max_lane_events=max_lane_events
            )
            if events:
                return events
            await self._news.wait()

    def take_ready(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        """See Buffer."""
        events = self._ordering.hand_out(
            now=self._clock(),
            max_events=max_events,
            max_bytes=max_bytes,
            skip_lanes=skip_lanes,
            max_lane_events=max_lane_events,
            max_steps=MAX_STEPS,
        )
        for event in events:
            self._taken[event.id] = event
        if self._ordering.unfinished:
            asyncio.get_running_loop().call_soon(self._news.tell)
        elif len(events) < max_events and not self._ordering.nothing_aside:
            self._news.tell_at(self._ordering.next_change())
        return events

    def listen(
        self,
        *,
        changed: Callable[[], None],
        left: Callable[[Sequence[Event]], None],
        revoked: Callable[[AbstractSet[str]], None] | None = None,  # noqa: ARG002 - it is this process's alone
    ) -> None:
        """See Buffer."""
        self._news.listen(changed=changed, left=left)

    async def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        """See Buffer."""
        if any(isinstance(fate, DeadLettered) for _, fate in fates):
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._keep_letters(fates, done)
            await asyncio.shield(done)
        else:
            self._remove(fates)

    def begin_ack(self, event: Event, fate: Fate) -> None:
        """See Buffer. What is to be a dead letter is removed once that is written."""
        fates = ((event, fate),)
        if isinstance(fate, DeadLettered):
            self._keep_letters(fates, asyncio.get_running_loop().create_future())
        else:
            self._remove(fates)

    def hurry_acks(self) -> None:
        """See Buffer. Acks wait for nothing here."""

    async def settle_acks(self) -> None:
        """See Buffer."""
        if self._acks:
            await asyncio.wait(self._acks)
        self._tell_left()

    def _keep_letters(self, fates: Sequence[tuple[Event, Fate]], done: asyncio.Future[None]) -> None:
        bounds = self._bounds
        self._acks.add(done)
        done.add_done_callback(self._acks.discard)
        dead = list(letters_of(fates))
        job = partial(letters.insert, letters=dead, max_events=bounds.max_events, max_bytes=bounds.max_bytes)
        self._database.submit(job, partial(self._kept, fates, done))

    def _kept(
        self, fates: Sequence[tuple[Event, Fate]], done: asyncio.Future[None], result: Committed[int] | Exception
    ) -> None:
        if not isinstance(result, Committed):
            done.set_exception(result)
            return
        self._telemetry.dead_letters_evicted(result.value, reason="full")
        self._remove(fates)
        tell(done, None)

    def _remove(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        if not self._left:
            asyncio.get_running_loop().call_soon(self._tell_left)
        for event, _ in fates:
            del self._taken[event.id]
            self._left.append(event)
        self._settle(fates)

    def _tell_left(self) -> None:
        left, self._left = self._left, []
        self._news.have_left(left)

    async def mark(self, events: Sequence[tuple[Event, int]]) -> None:
        """See Buffer. Nothing outlives the process that could be found marked."""
        await self.unmark([event for event, _ in events])

    async def unmark(self, events: Sequence[Event]) -> None:
        """See Buffer."""
        for event in events:
            if event.id not in self._taken:
                raise KeyError(event.id)

    async def release(self, events: Sequence[Event], *, not_before: float) -> None:
        """See Buffer."""
        for event in events:
            del self._taken[event.id]
        self._ordering.give_back(events, not_before=not_before)
        self._news.tell()

    def end_rests(self) -> None:
        """See Buffer."""
        self._ordering.end_rests()
        self._news.tell()

    async def contains(self, event_id: int) -> bool:
        """See Buffer."""
        return event_id in self._taken or any(event.id == event_id for event in self._ordering)

    def use(self, when_full: WhenFull) -> None:
        """See Buffer."""
        self._when_full = when_full

    def ledger(self) -> Ledger:
        """See Buffer."""
        counters = self._counters
        return Ledger(
            received=self._telemetry.tally.received,
            accepted=counters["accepted"],
            duplicates=self._telemetry.tally.duplicates,
            rejected=self._telemetry.tally.refused,
            delivered=counters["delivered"],
            dead_lettered={reason: counters[f"dead_lettered.{reason}"] for reason in DEAD_REASONS},
            dropped={reason: counters[f"dropped.{reason}"] for reason in DROP_REASONS},
            buffered=len(self._ordering) + len(self._taken),
        )

    def occupancy(self) -> Occupancy:
        """See Buffer."""
        waiting = self._ordering.oldest_accepted_at()
        times = chain(() if waiting is None else (waiting,), (event.accepted_at for event in self._taken.values()))
        resting = self._ordering.resting(self._clock())
        return Occupancy(
            events=self._events, bytes=self._bytes, resting=resting, oldest_accepted_at=min(times, default=None)
        )

    def ready_at(self, now: float, *, skip_lanes: AbstractSet[str] = frozenset()) -> float | None:
        """See Buffer."""
        return self._ordering.ready_at(now, skip_lanes=skip_lanes)

    @property
    def available(self) -> bool:
        """See Buffer."""
        return True

    @property
    def stalled(self) -> bool:
        """See Buffer."""
        return False

    @property
    def dead_letters_lost(self) -> int:
        """See Buffer."""
        return self._dead_letters_lost

    async def close(self) -> None:
        """See Buffer."""
        self._news.close()
        await self.settle_acks()
        left = list(chain(self._ordering, self._taken.values()))
        self._ordering = Ordering(lane_of=self._lane_of)
        self._taken.clear()
        self._settle([(event, Dropped("shutdown")) for event in left])
        lost = self._database.ledger["dead_letters"] - self._dead_letters_lost
        self._telemetry.dead_letters_evicted(lost, reason="shutdown")
        self._dead_letters_lost += lost
        await self._database.close()

    def _fits(self, events: int, size: int) -> bool:
        return self._events + events <= self._settings.max_events and self._bytes + size <= self._settings.max_bytes

    def _make_room(self, events: int, size: int) -> bool:
        """Drop the oldest events that are not taken, if that makes room enough."""
        dropped: list[Event] = []
        while event := self._ordering.take_oldest():
            dropped.append(event)
            size -= event.size_bytes
            if self._fits(events - len(dropped), size):
                self._settle([(event, Dropped("drop_oldest")) for event in dropped])
                return True
        self._ordering.give_back(dropped, not_before=0.0)
        return False

    def _settle(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        for event, fate in fates:
            self._events -= 1
            self._bytes -= event.size_bytes
            self._counters[counter_of(fate)] += 1
        self._settling.settle(fates)
