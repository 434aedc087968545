"""A store that several forwarders share: it keeps events in a list behind a network, and moves lanes between them.

It knows nothing of SQLite. What it is asked to change takes `delay` seconds, together with all else that is asked meanwhile;
so does reading. Each lane (customer) has one owner, who alone is handed its events. Moving a lane fences its owner at once,
tells it a little later, and then lets the next owner read what is left. An ack of the one before is accepted for as long as
the event was not handed out again.
"""

import asyncio
import copy
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TypeVar

from forwarder.attribute import LearnedType, Place, TypeChanges
from forwarder.buffer.base import (
    ALL_LETTERS,
    MAX_PAGE_BYTES,
    NO_NOTES,
    Erased,
    Full,
    Ledger,
    NeverFits,
    Notes,
    Occupancy,
    PutAnswer,
    Stored,
)
from forwarder.buffer.fates import DeadLettered, Dropped, Fate, HandedOver
from forwarder.buffer.turns import Turns
from forwarder.event import DeadLetter, DeadLetterPage, DuplicateKey, Event, LetterFilter
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings
from forwarder.words import DEAD_REASONS, DROP_REASONS, DeadReason, Intake, WhenFull

T = TypeVar("T")
MAX_DELAY_SECONDS = 0.002


@dataclass(eq=False)
class _Row:
    """An event in the store."""

    place: int
    event: Event
    out: Event | None = None
    """What its owner was given; an ack must name this object."""
    taken: bool = False
    """Whether its owner took it, and may have an attempt under way."""
    mark: int | None = None
    erased: bool = False
    """Whether it is dropped when the attempt under way has ended."""


class FarStore:
    """What all forwarders see. `delay` gives how long the network takes, in seconds."""

    def __init__(self, *, delay: Callable[[], float] = lambda: random.uniform(0.0, MAX_DELAY_SECONDS)) -> None:
        self.rows: list[_Row] = []
        self.letters: list[tuple[int, DeadLetter]] = []
        self.counters: Counter[str] = Counter()
        self.types: dict[Place, LearnedType] = {}
        self.keys: dict[bytes, DuplicateKey] = {}
        self.handed_out: Counter[bytes] = Counter()
        """How often each event was taken, by its body."""
        self.last_letter = 0
        self.last_id = 0
        self.buffers: list[FarBuffer] = []
        self.owners: dict[str, FarBuffer | None] = {}
        """Who owns a lane; the first buffer that is open, those that are not named."""
        self._delay = delay
        self._places = 0
        self._jobs: list[Callable[[], None]] = []
        self._working: asyncio.Task[None] | None = None

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Have a job done over there, after all that was submitted before, whether anybody waits for it or not."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def work() -> None:
            result = job()
            if not done.done():
                done.set_result(result)

        self._jobs.append(work)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return done

    async def _work(self) -> None:
        while self._jobs:
            await asyncio.sleep(self._delay())
            jobs, self._jobs = self._jobs, []
            for job in jobs:
                job()

    async def settled(self) -> None:
        """Return when all that was submitted is done."""
        if self._working is not None:
            await self._working

    def owner(self, customer: str) -> "FarBuffer | None":
        return self.owners.get(customer, self.buffers[0] if self.buffers else None)

    async def move(self, customers: AbstractSet[str], to: "FarBuffer | None") -> None:
        """Take lanes away from their owners, at once as far as these may ask, and give them to another, or to nobody yet."""
        before = {customer: self.owner(customer) for customer in customers}
        for customer in customers:
            self.owners[customer] = None
        await self.submit(lambda: None)
        for owner in {owner for owner in before.values() if owner is not None}:
            owner.revoke({customer for customer in customers if before[customer] is owner})
        await self.submit(lambda: None)
        for customer in customers:
            self.owners[customer] = to
        if to is not None:
            to.read()

    def add(self, events: Iterable[Event]) -> list[_Row]:
        added: list[_Row] = []
        for event in events:
            self._places += 1
            added.append(_Row(self._places, event))
            self.last_id = max(self.last_id, event.id)
        self.rows += added
        return added

    def find(self, event: Event) -> _Row | None:
        """Return the row of an event that is out, if this object is what its last owner was given."""
        return next((row for row in self.rows if row.out is event), None)


@dataclass(eq=False)
class _Here:
    """An event of which its owner has read the row."""

    row: _Row
    event: Event


@dataclass
class _Told:
    """Who is told what."""

    changed: Callable[[], None] = lambda: None
    left: Callable[[Sequence[Event]], None] = lambda _: None
    revoked: Callable[[AbstractSet[str]], Sequence[Event]] | None = None
    waiting: asyncio.Event = field(default_factory=asyncio.Event)


class FarBuffer:
    """A Buffer in front of a FarStore."""

    outlives_process = True
    available = True
    stalled = False
    dead_letters_lost = 0

    def __init__(
        self,
        store: FarStore,
        settings: BufferSettings,
        *,
        dead_letters: DeadLettersSettings,
        telemetry: Telemetry,
        receipts: Receipts,
        clock: Callable[[], float],
    ) -> None:
        self.store = store
        self._settings = settings
        self._when_full = settings.when_full
        self._bounds = dead_letters
        self._telemetry = telemetry
        self._receipts = receipts
        self._clock = clock
        self._turns = Turns(settings, clock)
        self._told = _Told()
        self._here: dict[int, _Here] = {}  # by place
        self._rests: dict[str, float] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._coming = [0, 0]  # events and bytes that are on their way to the store
        self._acks = 0
        self._is_open = False
        self.dead_letters = FarDeadLetters(self)

    # Opening

    async def open(self) -> None:
        self.store.buffers.append(self)
        self._is_open = True
        await self.store.submit(self._read)

    async def serve(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        await self.settle_acks()
        await self.store.settled()
        for timer in self._timers:
            timer.cancel()
        if self._is_open:
            self._is_open = False
            self.store.buffers.remove(self)
            self.store.counters["duplicates"] += self._telemetry.tally.duplicates
            self.store.counters["refused"] += self._telemetry.tally.refused
            for here in self._here.values():
                here.row.out = None
                here.row.taken = False
            self._here.clear()

    # Putting

    async def put(
        self, events: Sequence[Event], *, intake: Intake, replayed: Sequence[int] = (), notes: Notes = NO_NOTES
    ) -> PutAnswer:
        size = sum(event.size_bytes for event in events)
        if len(events) > self._settings.max_events or size > self._settings.max_bytes:
            return NeverFits()
        free = self._free()
        fits = len(events) <= free[0] and size <= free[1]
        if self._when_full == "drop_oldest":
            if not fits and not self._drop_oldest(len(events) - free[0], size - free[1]):
                return Full()
        elif self._turns.waiting or not fits:
            full = self._turns.ask(events, size, intake=intake, free=free)
            if full is not None:
                return full
        self._coming[0] += len(events)
        self._coming[1] += size

        def work() -> None:
            self._coming[0] -= len(events)
            self._coming[1] -= size
            self.store.counters["accepted"] += len(events)
            self._telemetry.events_accepted(len(events), intake=intake)
            self._telemetry.taps.accepted(events, intake=intake)
            self._remember(notes)
            self.store.letters = [each for each in self.store.letters if each[1].event.id not in replayed]
            for row in self.store.add(events):
                if (owner := self.store.owner(row.event.customer)) is self:
                    self._see(row)
                elif owner is not None:
                    owner.read()
            self._tell_changed()

        await self.store.submit(work)
        return Stored()

    def begin_put(self, event: Event, *, intake: Intake) -> asyncio.Future[PutAnswer] | None:  # noqa: ARG002
        return None

    def _free(self) -> tuple[int, int]:
        rows = self.store.rows
        return (
            self._settings.max_events - len(rows) - self._coming[0],
            self._settings.max_bytes - sum(row.event.size_bytes for row in rows) - self._coming[1],
        )

    def _drop_oldest(self, events: int, size: int) -> bool:
        """Drop as many of the oldest that nobody was given, if that makes room for so many more."""
        dropped: list[_Row] = []
        for row in self.store.rows:
            if events <= 0 and size <= 0:
                break
            if not row.taken:
                dropped.append(row)
                events -= 1
                size -= row.event.size_bytes
        if events > 0 or size > 0:
            return False
        self._settle([(row, Dropped("drop_oldest")) for row in dropped])
        return True

    # What intake remembers

    def _remember(self, notes: Notes) -> None:
        self._change_types(notes.changed_types)
        for place, learned in notes.types.items():
            if learned is not None:
                self.store.types.setdefault(place, learned)
        self.store.keys |= {key.digest: key for key in notes.keys}
        self.store.keys = {
            digest: key for digest, key in self.store.keys.items() if key.event_id > notes.keys_forgotten_to
        }

    def _change_types(self, types: TypeChanges) -> None:
        for place, learned in types.items():
            if learned is None:
                self.store.types.pop(place, None)
            else:
                self.store.types[place] = learned

    async def recall(self) -> Notes:
        keys = sorted(self.store.keys.values(), key=lambda key: key.event_id)
        return Notes(dict(self.store.types), tuple(keys), 0)

    async def note(self, types: TypeChanges) -> None:
        await self.store.submit(lambda: self._change_types(types))

    # Reading and taking

    def read(self) -> None:
        """Read the rows that are ours and not here."""
        _ = self.store.submit(self._read)

    def _read(self) -> None:
        if self._is_open:
            owner, at = self.store.owner, time.time()
            new = [row for row in self.store.rows if row.place not in self._here and owner(row.event.customer) is self]
            marked = [row for row in new if row.mark is not None]  # nobody knows what became of those attempts
            self._settle([(row, DeadLettered("ambiguous", None, b"", row.mark or 0, at, at)) for row in marked])
            for row in new:
                if row.mark is None:
                    self._see(row)
            self._here = dict(sorted(self._here.items()))
            self._tell_changed()

    def _see(self, row: _Row) -> None:
        """Hand out another object after a revocation, so that an ack of the one before can be told."""
        event = row.event
        if row.out is not None:
            event = copy.copy(event)
        row.out = event
        self._here[row.place] = _Here(row, row.out)

    async def take(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        while True:
            self._told.waiting.clear()
            events = self.take_ready(
                max_events=max_events, max_bytes=max_bytes, skip_lanes=skip_lanes, max_lane_events=max_lane_events
            )
            if events:
                return events
            await self._told.waiting.wait()

    def take_ready(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        now, size = self._clock(), 0
        taken: list[Event] = []
        of_lane: Counter[str] = Counter()
        for here in self._here.values():
            event = here.event
            lane = event.customer
            if (
                here.row.taken
                or lane in skip_lanes
                or self._rests.get(lane, now) > now
                or of_lane[lane] == max_lane_events
            ):
                continue
            if len(taken) == max_events or (taken and size + event.size_bytes > max_bytes):
                if len(taken) < max_events and 2 * size <= max_bytes:
                    asyncio.get_running_loop().call_soon(self._tell_changed)
                break
            here.row.taken = True
            taken.append(event)
            self.store.handed_out[event.body] += 1
            of_lane[lane] += 1
            size += event.size_bytes
        return taken

    def listen(
        self,
        *,
        changed: Callable[[], None],
        left: Callable[[Sequence[Event]], None],
        revoked: Callable[[AbstractSet[str]], Sequence[Event]] | None = None,
    ) -> None:
        self._told = _Told(changed, left, revoked, self._told.waiting)

    def _tell_changed(self) -> None:
        self._told.waiting.set()
        self._tell(self._told.changed)

    def _tell(self, listener: Callable[[], None]) -> None:
        try:
            listener()
        except Exception as error:  # noqa: BLE001 - as News does
            context = {"message": "a listener of the buffer failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def may_start(self, event: Event) -> bool:
        """Look whether the lane is still ours. In a real store, whether the lease has not ended."""
        if self.store.owner(event.customer) is self and self._of(event):
            return True
        self._forget({event.customer})
        return False

    def revoke(self, customers: AbstractSet[str]) -> None:
        """Go without these lanes."""
        self._forget(customers)
        if self._told.revoked is not None:
            self._told.revoked(customers)

    def _forget(self, customers: AbstractSet[str]) -> None:
        for here in [here for here in self._here.values() if here.event.customer in customers]:
            here.row.taken = False
            del self._here[here.row.place]
        for customer in customers:
            self._rests.pop(customer, None)

    def _of(self, event: Event) -> _Here | None:
        """Return what is known of a taken event, unless its lane was revoked."""
        return next((here for here in self._here.values() if here.event is event), None)

    # What becomes of what was taken

    async def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        await self._begin_acks(fates)

    def _begin_acks(self, fates: Sequence[tuple[Event, Fate]]) -> asyncio.Future[None]:
        events = [event for event, _ in fates]

        def work() -> None:
            rows = [
                (row, Dropped("erased") if row.erased and isinstance(fate, DeadLettered) else fate)
                for event, fate in fates
                if (row := self.store.find(event)) is not None
            ]
            self._settle(rows)
            self._tell(lambda: self._told.left(events))

        return self.store.submit(work)

    def begin_ack(self, event: Event, fate: Fate) -> None:
        acking = self._begin_acks([(event, fate)])
        self._acks += 1
        acking.add_done_callback(self._acked)

    def _acked(self, _: object) -> None:
        self._acks -= 1

    def hurry_acks(self) -> None:
        pass

    async def settle_acks(self) -> None:
        while self._acks:
            await asyncio.sleep(0)
            await self.store.settled()

    def _settle(self, rows: Sequence[tuple[_Row, Fate]]) -> None:
        """Remove rows, each with its fate."""
        store = self.store
        for row, fate in rows:
            store.rows.remove(row)
            self._here.pop(row.place, None)
            event = row.event
            match fate:
                case HandedOver():
                    store.counters["delivered"] += 1
                    self._telemetry.event_delivered(accepted_at=event.accepted_at)
                    self._receipts.ended(event.id, "delivered")
                case DeadLettered():
                    if self._telemetry.taps.open:
                        self._telemetry.taps.dead_lettered(event, reason=fate.reason)
                    store.counters[fate.reason] += 1
                    self._telemetry.event_dead_lettered(
                        event.id, reason=fate.reason, status=fate.status, name=event.name
                    )
                    self._receipts.ended(event.id, "dead_letter", fate.reason)
                    self.dead_letters.add(event, fate)
                case Dropped(reason):
                    store.counters[reason] += 1
                    if self._telemetry.taps.open:
                        self._telemetry.taps.dropped(event, reason=reason)
                    self._telemetry.events_dropped(1, reason=reason)
                    if reason != "erased":
                        self._receipts.ended(event.id, "dropped", reason, event.customer)
        self._telemetry.dead_letters_evicted(self.dead_letters.evict(self._bounds), reason="full")

    async def mark(self, events: Sequence[tuple[Event, int]]) -> None:
        await self._mark(events)

    async def unmark(self, events: Sequence[Event]) -> None:
        await self._mark([(event, None) for event in events])

    async def _mark(self, events: Sequence[tuple[Event, int | None]]) -> None:
        def work() -> None:
            for event, number in events:
                if (row := self.store.find(event)) is not None:
                    row.mark = number

        await self.store.submit(work)

    async def release(self, events: Sequence[Event], *, not_before: float) -> None:
        def work() -> None:
            for event in events:
                if (row := self.store.find(event)) is not None and row.erased:
                    self._settle([(row, Dropped("erased"))])
                elif (here := self._of(event)) is not None:
                    here.row.taken = False
                    here.row.mark = None
                    lane = event.customer
                    self._rests[lane] = max(not_before, self._rests.get(lane, not_before))
            loop = asyncio.get_running_loop()
            self._timers.add(loop.call_later(max(0.0, not_before - self._clock()) + 0.001, self._tell_changed))
            self._tell_changed()

        await self.store.submit(work)

    def end_deferrals(self) -> None:
        self._rests.clear()
        self._tell_changed()

    async def pull(self, event_id: int) -> Event | None:
        def work() -> Event | None:
            for here in self._here.values():
                if here.event.id == event_id and not here.row.taken:
                    here.row.taken = True
                    return here.event
            return None

        return await self.store.submit(work)

    async def erase(self, customer: str, *, up_to: int | None = None, dry_run: bool = False) -> Erased:
        def work() -> Erased:
            last = self.store.last_id if up_to is None else up_to
            rows = [row for row in self.store.rows if row.event.customer == customer and row.event.id <= last]
            letters = [
                letter.event.id
                for _, letter in self.store.letters
                if letter.event.customer == customer and letter.event.id <= last
            ]
            if dry_run:
                return Erased(last, len(rows), 0, len(letters))
            under_way = [row.out for row in rows if row.taken]
            if self._told.revoked is not None and under_way:
                revoked = self._told.revoked({customer})
                for row in self.store.rows:
                    if row.event.customer == customer and row.taken and row.out not in revoked and row not in rows:
                        row.taken = False
                under_way = [row.out for row in rows if row.out in revoked or row.erased]
            for row in rows:
                row.erased = True
            gone = [row for row in rows if row.out not in under_way or not row.taken]
            self._settle([(row, Dropped("erased")) for row in gone])
            self.store.letters = [each for each in self.store.letters if each[1].event.id not in letters]
            self._telemetry.dead_letters_evicted(len(letters), reason="erased")
            self._tell_changed()
            return Erased(last, len(gone), len(rows) - len(gone), len(letters))

        return await self.store.submit(work)

    # What may be known of it

    @property
    def last_id(self) -> int:
        return self.store.last_id

    async def contains(self, event_id: int) -> bool:
        return await self.store.submit(lambda: any(row.event.id == event_id for row in self.store.rows))

    def use(self, when_full: WhenFull) -> None:
        self._when_full = when_full

    def ledger(self) -> Ledger:
        counters, tallies = self.store.counters, [each._telemetry.tally for each in self.store.buffers]
        duplicates = counters["duplicates"] + sum(tally.duplicates for tally in tallies)
        refused = counters["refused"] + sum(tally.refused for tally in tallies)
        return Ledger(
            received=counters["accepted"] + duplicates + refused,
            accepted=counters["accepted"],
            duplicates=duplicates,
            rejected=refused,
            delivered=counters["delivered"],
            dead_lettered={reason: counters[reason] for reason in DEAD_REASONS},
            dropped={reason: counters[reason] for reason in DROP_REASONS},
            buffered=len(self.store.rows),
        )

    def occupancy(self) -> Occupancy:
        rows, now = self.store.rows, self._clock()
        resting = [here for here in self._here.values() if not here.row.taken]
        return Occupancy(
            events=len(rows),
            bytes=sum(row.event.size_bytes for row in rows),
            deferred=sum(self._rests.get(here.event.customer, now) > now for here in resting),
            oldest_accepted_at=min((row.event.accepted_at for row in rows), default=None),
        )

    def ready_at(self, now: float, *, skip_lanes: AbstractSet[str] = frozenset()) -> float | None:
        waiting = {here.event.customer for here in self._here.values() if not here.row.taken} - skip_lanes
        return min((max(now, self._rests.get(lane, now)) for lane in waiting), default=None)


class FarDeadLetters:
    """The dead letters of a FarStore."""

    def __init__(self, buffer: FarBuffer) -> None:
        self._store, self._buffer = buffer.store, buffer

    @property
    def events(self) -> int:
        return len(self._store.letters)

    @property
    def bytes(self) -> int:
        return sum(letter.size_bytes for _, letter in self._store.letters)

    @property
    def by_reason(self) -> Mapping[DeadReason, int]:
        found = Counter(letter.reason for _, letter in self._store.letters)
        return {reason: found[reason] for reason in DEAD_REASONS}

    def add(self, event: Event, fate: DeadLettered) -> None:
        self._store.last_letter += 1
        letter = DeadLetter(
            event, fate.reason, fate.status, fate.answer, fate.attempts, fate.first_attempt_at, fate.last_attempt_at
        )
        self._store.letters.append((self._store.last_letter, letter))

    def evict(self, bounds: DeadLettersSettings) -> int:
        before = self.events
        while self.events > bounds.max_events or self.bytes > bounds.max_bytes:
            del self._store.letters[0]
        return before - self.events

    async def page(self, *, after_place: int, max_letters: int, only: LetterFilter = ALL_LETTERS) -> DeadLetterPage:
        found: list[DeadLetter] = []
        last, size = after_place, 0
        for place, letter in await self._read():
            event = letter.event
            if (
                place > after_place
                and only.reason in (None, letter.reason)
                and only.customer in (None, event.customer)
                and only.name in (None, event.name)
                and (only.since is None or letter.last_attempt_at >= only.since)
            ):
                if len(found) == max_letters or size >= MAX_PAGE_BYTES:
                    return DeadLetterPage(found, last)
                last = place
                found.append(letter)
                size += letter.size_bytes
        return DeadLetterPage(found, None)

    async def find(self, ids: Sequence[int], *, max_bytes: int = MAX_PAGE_BYTES) -> list[DeadLetter]:
        letters = {letter.event.id: letter for _, letter in await self._read()}
        found: list[DeadLetter] = []
        for event_id in ids:
            if sum(letter.event.size_bytes for letter in found) <= max_bytes and event_id in letters:
                found.append(replace(letters[event_id]))
        return found

    async def purge(self, ids: Sequence[int]) -> list[int]:
        there = {letter.event.id for _, letter in await self._read()}
        self._store.letters = [each for each in self._store.letters if each[1].event.id not in ids]
        purged = [event_id for event_id in ids if event_id in there]
        self._buffer._telemetry.dead_letters_evicted(len(purged), reason="purged")
        return purged

    async def _read(self) -> list[tuple[int, DeadLetter]]:
        return await self._store.submit(lambda: list(self._store.letters))
