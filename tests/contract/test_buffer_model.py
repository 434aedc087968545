"""Every Buffer against a naive model, in runs that hypothesis makes up: the same answers, events, order and ledger."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forwarder.attribute import LearnedType, Place, TypeChanges
from forwarder.buffer.base import ALL_LETTERS, Buffer, Erased, Full, NeverFits, Notes, PutAnswer, Stored
from forwarder.buffer.disk import DiskBuffer
from forwarder.buffer.fates import DeadLettered, Fate, HandedOver
from forwarder.buffer.memory import MemoryBuffer
from forwarder.buffer.turns import MAX_RETRY_AFTER_SECONDS, SLACK_SECONDS
from forwarder.database import dead_letters as stored_letters
from forwarder.database.connection import Database
from forwarder.event import DeadLetter, Event
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings, ReceiptsSettings
from tests.fakes.databases import close_databases, inline_database
from tests.fakes.disk_buffers import copy_of
from tests.fakes.events import ids, keys_of, learned

T = TypeVar("T")

LANES = ("a", "b", "c", "d")
START_SECONDS = 100.0
TURNS = 150
"""Of the event loop, in which whatever may be had must be read from disk and handed out."""
KEPT_SECONDS = MAX_RETRY_AFTER_SECONDS + SLACK_SECONDS
"""How long after its refusal something may be kept for a request, at most."""
DEAD_LETTERS = DeadLettersSettings(max_events=4, max_bytes=100)
REJECTED = DeadLettered("rejected", 422, b"no", attempts=2, first_attempt_at=1.5, last_attempt_at=2.5)

lanes = st.sampled_from(LANES)
picks = st.lists(st.integers(0, 50), max_size=6)
"""Places in the list of taken events, wrapped around its length."""
posts = st.lists(st.tuples(lanes, st.integers(0, 40)), max_size=8)
"""Customers and sizes of events that are put together."""
type_changes = st.dictionaries(
    st.sampled_from([("n", "x"), ("n", "\ud800")]), st.none() | st.sampled_from([learned("string"), learned("date")])
)


class Model:
    """A buffer that is obviously right: lists, scanned from the start at each question."""

    def __init__(self, settings: BufferSettings) -> None:
        self.settings = settings
        self.waiting: list[Event] = []
        self.taken: list[Event] = []
        self.rests: dict[str, float] = {}
        self.marked: set[int] = set()
        self.letters: list[Event] = []
        self.found_marked: set[int] = set()
        self.accepted = 0
        self.delivered = 0
        self.dead_lettered = 0
        self.dropped = 0
        self.erased = 0
        self.leaving: set[int] = set()
        """The ids of taken events that are dropped unless they are delivered."""
        self.keys: set[int] = set()
        """The ids of events whose keys are kept, above the id up to which they are forgotten."""
        self.keys_forgotten_to = 0
        self.types: dict[Place, LearnedType] = {}

    @property
    def held(self) -> list[Event]:
        return self.waiting + self.taken

    def fits(self, held: Sequence[Event], events: Sequence[Event]) -> bool:
        together = [*held, *events]
        return len(together) <= self.settings.max_events and size(together) <= self.settings.max_bytes

    def put(self, events: Sequence[Event], replayed: Sequence[int] = ()) -> PutAnswer:
        if not self.fits([], events):
            return NeverFits()
        left = sorted(self.waiting, key=lambda event: event.id)
        while not self.fits(left + self.taken, events):
            if not left or self.settings.when_full == "reject":
                return Full()
            left.pop(0)
        self.dropped += len(self.waiting) - len(left)
        self.waiting = [*left, *events]
        self.accepted += len(events)
        self.letters = [event for event in self.letters if event.id not in replayed]
        self.keys.update(ids(events))
        return Stored()

    def note(self, types: TypeChanges) -> None:
        for place, each in types.items():
            self.types.pop(place, None)
            if each is not None:
                self.types[place] = each

    def forget_keys(self, up_to: int) -> None:
        self.keys_forgotten_to = max(self.keys_forgotten_to, up_to)
        self.keys = {event_id for event_id in self.keys if event_id > up_to}

    def may_be_taken(
        self, now: float, max_events: int, max_bytes: int, skip: AbstractSet[str], max_lane_events: int | None = None
    ) -> list[Event]:
        batch: list[Event] = []
        for event in sorted(self.waiting, key=lambda event: event.id):
            if event.customer in skip or now < self.rests.get(event.customer, 0.0):
                continue
            if [each.customer for each in batch].count(event.customer) == max_lane_events:
                continue
            if len(batch) == max_events or (batch and size(batch) + event.size_bytes > max_bytes):
                break
            batch.append(event)
        return batch

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            self.waiting.remove(event)
            self.taken.append(event)

    def ready_at(self, now: float) -> float | None:
        return min((max(now, self.rests.get(event.customer, now)) for event in self.waiting), default=None)

    def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        for event, fate in fates:
            self.taken = [each for each in self.taken if each.id != event.id]
            self.marked.discard(event.id)
            if fate == HandedOver():
                self.delivered += 1
            elif event.id in self.leaving:
                self.erased += 1
            else:
                self.dead_lettered += 1
                self.letters.append(event)
        self.evict()

    def evict(self) -> None:
        while len(self.letters) > DEAD_LETTERS.max_events or self.letter_bytes() > DEAD_LETTERS.max_bytes:
            self.letters.pop(0)

    def letter_bytes(self) -> int:
        rejected = sum(event.id not in self.found_marked for event in self.letters)
        return size(self.letters) + len(REJECTED.answer) * rejected

    def release(self, events: Sequence[Event], not_before: float) -> None:
        for event in events:
            self.taken = [each for each in self.taken if each.id != event.id]
            self.marked.discard(event.id)
            if event.id in self.leaving:
                self.erased += 1
                continue
            self.waiting.append(event)
            self.rests[event.customer] = max(self.rests.get(event.customer, 0.0), not_before)

    def end_deferrals(self) -> None:
        self.rests.clear()

    def erase(self, customer: str, *, but: AbstractSet[int] = frozenset()) -> None:
        """Erase a customer, as far as it came: not the events and dead letters with the ids `but`."""
        gone = [event for event in self.waiting if event.customer == customer and event.id not in but]
        self.waiting = [event for event in self.waiting if event not in gone]
        self.erased += len(gone)
        self.leaving.update(event.id for event in self.taken if event.customer == customer)
        self.letters = [event for event in self.letters if event.customer != customer or event.id in but]

    def close(self) -> None:
        leaving = [event for event in self.taken if event.id in self.leaving]
        self.taken = [event for event in self.taken if event not in leaving]
        self.marked.difference_update(ids(leaving))
        self.erased += len(leaving)

    def restart(self) -> None:
        marked = sorted((event for event in self.taken if event.id in self.marked), key=lambda event: event.id)
        self.letters += marked
        self.found_marked.update(ids(marked))
        self.marked.clear()
        self.leaving.clear()
        self.evict()
        self.waiting += [event for event in self.taken if event not in marked]
        self.taken = []
        self.rests.clear()


def size(events: Sequence[Event]) -> int:
    return sum(event.size_bytes for event in events)


@dataclass(frozen=True)
class Opened:
    buffer: Buffer
    database: Database


class MemoryBufferAgainstModel(RuleBasedStateMachine):
    """The buffer in memory. Another kind overrides `open`, and says whether one take hands out all that may be had."""

    takes_all_at_once = True
    opened: Opened
    model: Model

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = START_SECONDS
        self.kept_until = 0.0
        self.ids = count(1)

    async def open(self, options: BufferSettings) -> Opened:
        database = inline_database()
        buffer = MemoryBuffer(
            options,
            dead_letters=DEAD_LETTERS,
            database=database,
            telemetry=Telemetry(),
            receipts=Receipts(ReceiptsSettings(), clock=time.time),
            clock=lambda: self.now,
        )
        await buffer.open()
        return Opened(buffer, database)

    @property
    def buffer(self) -> Buffer:
        return self.opened.buffer

    async def take_now(
        self, max_events: int, max_bytes: int, skip: AbstractSet[str], max_lane_events: int | None = None
    ) -> list[Event]:
        """Take what may be had before anything else happens."""
        taking = asyncio.create_task(
            self.buffer.take(
                max_events=max_events, max_bytes=max_bytes, skip_lanes=skip, max_lane_events=max_lane_events
            )
        )
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if taking.done():
                return taking.result()
        taking.cancel()
        await asyncio.wait({taking})
        return [] if taking.cancelled() else taking.result()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def make(self, post: Sequence[tuple[str, int]]) -> list[Event]:
        return [Event(next(self.ids), customer, "n", b" " * size_bytes, self.now) for customer, size_bytes in post]

    def chosen(self, places: Sequence[int]) -> list[Event]:
        """Return different taken events, in any order."""
        return list({event.id: event for place in places for event in [self.taken_at(place)]}.values())

    def taken_at(self, place: int) -> Event:
        """Return a taken event, as the buffer handed it out."""
        event = self.model.taken[place % len(self.model.taken)]
        return self.handed_out.get(event.id, event)

    @initialize(
        max_events=st.integers(1, 25),
        max_bytes=st.integers(1, 250) | st.just(1000),
        when_full=st.sampled_from(["reject", "drop_oldest"]),
    )
    def opens(self, max_events: int, max_bytes: int, when_full: Literal["reject", "drop_oldest"]) -> None:
        options = BufferSettings(max_events=max_events, max_bytes=max_bytes, when_full=when_full)
        self.model = Model(options)
        self.handed_out: dict[int, Event] = {}
        """The events as they were handed out last: a release is of that very object."""
        self.opened = self.run(self.open(options))

    def agree(self, answer: PutAnswer, events: Sequence[Event], replayed: Sequence[int] = ()) -> None:
        """The model answers the same, except that for a while after a refusal what is free may be kept for others."""
        if self.model.settings.when_full == "reject" and answer == Full():
            may_be_kept, self.kept_until = self.now <= self.kept_until, self.now + KEPT_SECONDS
            if may_be_kept:
                assert self.model.held
                return
        assert answer == self.model.put(events, replayed)

    async def put_with_keys(self, events: Sequence[Event]) -> PutAnswer:
        return await self.buffer.put(events, intake="http", notes=Notes(keys=keys_of(events)))

    @rule(post=posts)
    def put(self, post: list[tuple[str, int]]) -> None:
        events = self.make(post)
        self.agree(self.run(self.put_with_keys(events)), events)

    @rule(post=posts, types=type_changes, forgotten=st.integers(0, 3))
    def put_with_notes(self, post: list[tuple[str, int]], types: TypeChanges, forgotten: int) -> None:
        """Nothing is kept of what is not stored; of a type that is known already the first counts."""
        events = self.make(post)
        forgotten_to = sorted(self.model.keys)[forgotten] if forgotten < len(self.model.keys) else 0
        answer = self.run(self.buffer.put(events, intake="http", notes=Notes(types, keys_of(events), forgotten_to)))
        self.agree(answer, events)
        if answer == Stored():
            self.model.forget_keys(forgotten_to)
            for place, each in types.items():
                if each is not None:
                    self.model.types.setdefault(place, each)

    @rule(types=type_changes)
    def note(self, types: TypeChanges) -> None:
        self.run(self.buffer.note(types))
        self.model.note(types)

    @rule(together=st.lists(posts, min_size=2, max_size=4))
    def put_at_the_same_time(self, together: list[list[tuple[str, int]]]) -> None:
        """Others begin before the first are committed, and see what those take up, or what they are dropped for."""
        puts = [self.make(post) for post in together]

        async def put_all() -> list[PutAnswer]:
            return await asyncio.gather(*(self.put_with_keys(events) for events in puts))

        for answer, events in zip(self.run(put_all()), puts, strict=True):
            self.agree(answer, events)

    @precondition(lambda self: self.model.letters)
    @rule(places=st.lists(st.integers(0, 10), min_size=1, max_size=3))
    def replay(self, places: list[int]) -> None:
        letters = self.model.letters
        old = list({event.id: event for place in places for event in [letters[place % len(letters)]]}.values())
        new = self.make([(event.customer, event.size_bytes) for event in old])
        notes = Notes(keys=keys_of(new))
        answer = self.run(self.buffer.put(new, intake="replay", replayed=ids(old), notes=notes))
        self.agree(answer, new, ids(old))

    @rule(
        max_events=st.integers(1, 8),
        max_bytes=st.integers(1, 80),
        skip=st.frozensets(lanes),
        max_lane_events=st.none() | st.integers(1, 3),
    )
    def take(self, max_events: int, max_bytes: int, skip: frozenset[str], max_lane_events: int | None) -> None:
        expected = self.model.may_be_taken(self.now, max_events, max_bytes, skip, max_lane_events)
        if not expected and not self.takes_all_at_once and self.now % 4:
            return  # to see in so many turns that nothing comes takes long
        found = self.run(self.take_now(max_events, max_bytes, skip, max_lane_events))
        self.check_taken(found, expected)
        self.model.take(expected[: len(found)])

    @precondition(lambda self: self.model.taken and self.model.settings.when_full == "reject")
    @rule(
        post=posts,
        places=picks,
        rest_seconds=st.integers(-2, 5),
        max_events=st.integers(1, 8),
        skip=st.frozensets(lanes),
    )
    def take_while_others_put_and_release(
        self, post: list[tuple[str, int]], places: list[int], rest_seconds: int, max_events: int, skip: frozenset[str]
    ) -> None:
        """The take has begun and perhaps reads; what it hands out may be right before the others or after."""
        events, released = self.make(post), self.chosen(places)
        not_before = self.now + rest_seconds

        async def do_all() -> tuple[list[Event], PutAnswer]:
            taking = asyncio.create_task(self.take_now(max_events, 10**6, skip))
            await asyncio.sleep(0)
            putting = asyncio.create_task(self.put_with_keys(events))
            await asyncio.sleep(0)
            await self.buffer.release(released, not_before=not_before)
            await self.buffer.settle_acks()
            return await taking, await putting

        before = self.model.may_be_taken(self.now, max_events, 10**6, skip)
        found, answer = self.run(do_all())
        self.agree(answer, events)
        self.model.release(released, not_before)
        after = self.model.may_be_taken(self.now, max_events, 10**6, skip)
        assert ids(found) in (ids(before[: len(found)]), ids(after[: len(found)]))
        assert found or not (before and after)
        self.model.take([event for event in self.model.waiting if event.id in ids(found)])

    def check_taken(self, found: Sequence[Event], expected: Sequence[Event]) -> None:
        assert bool(found) == bool(expected)
        assert not self.takes_all_at_once or len(found) == len(expected)
        for event, original in zip(found, expected, strict=False):
            assert event.id == original.id
            assert (event.customer, event.name, event.body) == (original.customer, original.name, original.body)
            assert event.accepted_at == original.accepted_at
            self.handed_out[event.id] = event

    @precondition(lambda self: self.model.taken)
    @rule(places=picks, fates=st.lists(st.sampled_from([HandedOver(), REJECTED]), min_size=6, max_size=6))
    def ack(self, places: list[int], fates: list[Fate]) -> None:
        acked = list(zip(self.chosen(places), fates, strict=False))
        self.run(self.buffer.ack(acked))
        self.model.ack(acked)

    @precondition(lambda self: self.model.taken)
    @rule(places=picks, rest_seconds=st.integers(-2, 5))
    def release(self, places: list[int], rest_seconds: int) -> None:
        events = self.chosen(places)
        self.run(self.buffer.release(events, not_before=self.now + rest_seconds))
        self.run(self.buffer.settle_acks())
        self.model.release(events, self.now + rest_seconds)

    @rule(customer=lanes)
    def erase(self, customer: str) -> None:
        held = [event for event in self.model.taken if event.customer == customer]
        expected = Erased(
            up_to=0,
            events=sum(event.customer == customer for event in self.model.waiting),
            in_flight=len(held),
            dead_letters=sum(event.customer == customer for event in self.model.letters),
        )
        looked = self.run(self.buffer.erase(customer, dry_run=True))
        assert replace(looked, up_to=0) == replace(expected, events=expected.events + len(held), in_flight=0)
        assert replace(self.run(self.buffer.erase(customer)), up_to=0) == expected
        self.model.erase(customer)

    @precondition(lambda self: self.model.taken)
    @rule(place=st.integers(0, 50), places=picks)
    def erase_while_delivery_listens(self, place: int, places: list[int]) -> None:
        """What it has taken is gone at once, unless an attempt is under way. It may release that late."""
        customer, leaving = self.taken_at(place).customer, self.model.leaving
        under_way = {event.id for event in self.chosen(places)} | leaving
        held = [self.handed_out.get(event.id, event) for event in self.model.taken if event.customer == customer]
        gone = [event for event in held if event.id not in under_way]
        waiting = sum(event.customer == customer for event in self.model.waiting)
        self.buffer.listen(
            changed=lambda: None,
            left=lambda _: None,
            revoked=lambda _: [event for event in held if event.id in under_way - leaving],
        )
        found = self.run(self.buffer.erase(customer))
        self.buffer.listen(changed=lambda: None, left=lambda _: None)
        assert (found.events, found.in_flight) == (waiting + len(gone), len(held) - len(gone))
        self.model.ack([(event, HandedOver()) for event in gone])
        self.model.delivered -= len(gone)
        self.model.erased += len(gone)
        self.model.erase(customer)
        self.run(self.buffer.release(gone, not_before=self.now))

    @precondition(lambda self: self.model.waiting)
    @rule(place=st.integers(0, 50), fate=st.sampled_from([HandedOver(), REJECTED]))
    def pull(self, place: int, fate: Fate) -> None:
        expected = self.model.waiting[place % len(self.model.waiting)]
        pulled = self.run(self.buffer.pull(expected.id))
        assert pulled is not None
        self.check_taken([pulled], [expected])
        self.model.take([expected])
        self.run(self.buffer.ack([(pulled, fate)]))
        self.model.ack([(expected, fate)])

    @precondition(lambda self: self.model.taken)
    @rule(place=st.integers(0, 50))
    def pull_in_vain(self, place: int) -> None:
        assert self.run(self.buffer.pull(self.taken_at(place).id)) is None

    @precondition(lambda self: self.model.taken)
    @rule(places=picks, attempts=st.integers(1, 3))
    def mark(self, places: list[int], attempts: int) -> None:
        events = self.chosen(places)
        self.run(self.buffer.mark([(event, attempts) for event in events]))
        self.model.marked.update(ids(events))

    @precondition(lambda self: self.model.taken)
    @rule(places=picks)
    def unmark(self, places: list[int]) -> None:
        events = self.chosen(places)
        self.run(self.buffer.unmark(events))
        self.model.marked.difference_update(ids(events))

    @rule()
    def end_deferrals(self) -> None:
        self.buffer.end_deferrals()
        self.model.end_deferrals()

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(event_id=st.integers(1, 60))
    def holds(self, event_id: int) -> None:
        assert self.run(self.buffer.contains(event_id)) == (event_id in ids(self.model.held))

    @rule()
    def the_dead_letters_are_those_of_the_model(self) -> None:
        def all_letters(transaction: Any) -> list[DeadLetter]:
            page = stored_letters.page(transaction, after_place=-1, only=ALL_LETTERS, max_letters=1000, max_bytes=10**6)
            return page.letters

        letters = self.run(self.opened.database.run(all_letters))
        assert ids(letter.event for letter in letters) == ids(self.model.letters)
        by_reason = Counter(letter.reason for letter in letters)
        assert {why: number for why, number in self.buffer.dead_letters.by_reason.items() if number} == by_reason
        assert self.opened.database.ledger["dead_letters"] == len(self.model.letters)
        assert self.opened.database.ledger["dead_letters_bytes"] == self.model.letter_bytes()

    @invariant()
    def the_ledger_is_that_of_the_model(self) -> None:
        ledger = self.buffer.ledger()
        assert ledger.accepted == self.model.accepted
        assert ledger.delivered == self.model.delivered
        assert ledger.dead_lettered == {
            "rejected": self.model.dead_lettered,
            "expired": 0,
            "ambiguous": len(self.model.found_marked),
        }
        assert {reason: number for reason, number in ledger.dropped.items() if number} == {
            reason: number
            for reason, number in (("drop_oldest", self.model.dropped), ("erased", self.model.erased))
            if number
        }
        assert ledger.buffered == len(self.model.held)
        assert ledger.received == ledger.accepted
        assert ledger.unaccounted == 0

    @invariant()
    def the_occupancy_is_that_of_the_model(self) -> None:
        occupancy = self.buffer.occupancy()
        assert occupancy.events == len(self.model.held)
        assert occupancy.bytes == size(self.model.held)
        self.check_oldest(
            occupancy.oldest_accepted_at, min((event.accepted_at for event in self.model.held), default=None)
        )

    def check_oldest(self, said: float | None, expected: float | None) -> None:
        assert said == expected

    @invariant()
    def it_is_ready_no_later_than_the_model_is(self) -> None:
        """Too early costs a look in vain; too late, or never, would leave events where they are."""
        ready, expected = self.buffer.ready_at(self.now), self.model.ready_at(self.now)
        if expected is not None:
            assert ready is not None
            assert ready <= expected

    def teardown(self) -> None:
        try:
            if hasattr(self, "opened"):
                self.check_the_rest()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            close_databases()

    def check_the_rest(self) -> None:
        """Whatever happened, everything left comes out in order once all rests are over; the close balances."""
        self.now += 1000
        while expected := self.model.may_be_taken(self.now, 1000, 10**6, frozenset()):
            found = self.run(self.take_now(1000, 10**6, frozenset()))
            self.check_taken(found, expected)
            self.model.take(expected[: len(found)])
        self.check_close()

    def check_close(self) -> None:
        self.model.close()
        held = len(self.model.held)
        self.run(self.buffer.close())
        ledger = self.buffer.ledger()
        assert (ledger.dropped["shutdown"], ledger.buffered, ledger.unaccounted) == (held, 0, 0)
        assert self.buffer.dead_letters_lost == len(self.model.letters)


class DiskBufferAgainstModel(MemoryBufferAgainstModel):
    """The buffer on disk, with so small a window that most of its events are on disk only."""

    takes_all_at_once = False

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.directories = (Path(self.temporary.name) / str(number) for number in count())
        self.directory = next(self.directories)
        self.window_bytes = 0

    @initialize(window_bytes=st.sampled_from([1, 600, 1200, 4000]))
    def chooses_a_window(self, window_bytes: int) -> None:
        self.window_bytes = window_bytes
        if hasattr(self, "opened"):
            self.close_and_reopen()

    async def open(self, options: BufferSettings) -> Opened:
        database = inline_database(self.directory, reserve_bytes=4096)
        buffer = DiskBuffer(
            options,
            dead_letters=DEAD_LETTERS,
            database=database,
            telemetry=Telemetry(),
            receipts=Receipts(ReceiptsSettings(), clock=time.time),
            clock=lambda: self.now,
            next_id=self.ids.__next__,
            window_bytes=self.window_bytes,
        )
        await buffer.open()
        return Opened(buffer, database)

    @rule()
    def close_and_reopen(self) -> None:
        self.run(self.close())
        self.model.close()
        self.reopen()

    @rule(customer=lanes, turns=st.integers(0, 60))
    def crash_while_erasing(self, customer: str, turns: int) -> None:
        """Some of it is erased, or nothing; if who asked for it was told, all of it but what was in flight."""

        async def erase_and_crash() -> bool:
            erasing = asyncio.create_task(self.buffer.erase(customer))
            for _ in range(turns):
                await asyncio.sleep(0)
            self.directory = copy_of(self.directory, next(self.directories))
            was_told = erasing.done()
            await erasing
            return was_told

        async def there() -> set[int]:
            held = [event.id for event in self.model.waiting if await self.buffer.contains(event.id)]
            page = await self.buffer.dead_letters.page(after_place=0, max_letters=1000)
            return {*held, *(letter.event.id for letter in page.letters)}

        self.run(self.commit_what_waits())
        was_told = self.run(erase_and_crash())
        self.run(self.close())
        self.opened = self.run(self.open(self.model.settings))
        left = self.run(there())
        self.model.erase(customer, but=left)
        assert not was_told or not [event for event in self.model.waiting if event.customer == customer]
        self.restart()

    @rule(committing=posts, turns=st.integers(0, 5))
    def crash_and_reopen(self, committing: list[tuple[str, int]], turns: int) -> None:
        """Open what is on disk while the process that wrote it still runs, as it would be found if that were killed.

        It dies in the middle of a put: before its commit, before anybody was told, or after.
        """
        events = self.make(committing)

        async def put_and_crash() -> bool:
            putting = asyncio.create_task(self.put_with_keys(events))
            for _ in range(turns):
                await asyncio.sleep(0)
            self.directory = copy_of(self.directory, next(self.directories))
            was_told = putting.done() and putting.result() == Stored()
            await putting
            return was_told

        self.run(self.commit_what_waits())
        was_told = self.run(put_and_crash())
        self.run(self.close())
        accepted = self.model.accepted
        self.opened = self.run(self.open(self.model.settings))
        if was_told or self.buffer.ledger().accepted != accepted:
            assert self.model.put(events) == Stored()
        self.restart()

    @precondition(lambda self: self.model.taken)
    @rule(places=picks, turns=st.integers(0, 5))
    def crash_while_marking(self, places: list[int], turns: int) -> None:
        """An event is marked or not, and if the marker was told, it is."""
        events = self.chosen(places)

        async def mark_and_crash() -> bool:
            marking = asyncio.create_task(self.buffer.mark([(event, 1) for event in events]))
            for _ in range(turns):
                await asyncio.sleep(0)
            self.directory = copy_of(self.directory, next(self.directories))
            was_told = marking.done()
            await marking
            return was_told

        self.run(self.commit_what_waits())
        was_told = self.run(mark_and_crash())
        self.run(self.close())
        self.opened = self.run(self.open(self.model.settings))
        marked = self.model.marked | set(ids(events))
        found = self.buffer.ledger().dead_lettered["ambiguous"] - len(self.model.found_marked)
        if was_told or found == len(marked):
            self.model.marked = marked
        self.restart()

    async def commit_what_waits(self) -> None:
        """Nobody waits until the marks of what was released are removed."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self.buffer.close()

    @rule(types=type_changes, turns=st.integers(0, 5))
    def crash_while_noting(self, types: TypeChanges, turns: int) -> None:
        """All of it is kept or nothing, and if who noted it was told, it is."""

        async def note_and_crash() -> bool:
            noting = asyncio.create_task(self.buffer.note(types))
            for _ in range(turns):
                await asyncio.sleep(0)
            self.directory = copy_of(self.directory, next(self.directories))
            was_told = noting.done()
            await noting
            return was_told

        self.run(self.commit_what_waits())
        was_told = self.run(note_and_crash())
        self.run(self.close())
        self.opened = self.run(self.open(self.model.settings))
        before = dict(self.model.types)
        self.model.note(types)
        if not was_told and self.run(self.buffer.recall()).types == before:
            self.model.types = before
        self.restart()

    def reopen(self) -> None:
        self.opened = self.run(self.open(self.model.settings))
        self.restart()

    def restart(self) -> None:
        self.model.restart()
        self.kept_until = 0.0
        notes = self.run(self.buffer.recall())
        assert notes.types == self.model.types
        found = [key.event_id for key in notes.keys]
        assert found == sorted(found)
        assert {event_id for event_id in found if event_id > self.model.keys_forgotten_to} == self.model.keys

    def check_oldest(self, said: float | None, expected: float | None) -> None:
        assert (said is None) == (expected is None)
        assert said is None or expected is None or said <= expected

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.temporary.cleanup()

    def check_close(self) -> None:
        leaving = [event for event in self.model.taken if event.id in self.model.leaving]
        self.run(self.buffer.ack([(event, REJECTED) for event in leaving]))
        self.model.close()
        self.run(self.buffer.unmark(self.model.taken))
        self.model.marked.clear()
        before = self.buffer.ledger()
        self.close_and_reopen()
        assert self.buffer.ledger() == before
        self.the_ledger_is_that_of_the_model()
        self.the_dead_letters_are_those_of_the_model()
        self.run(self.close())


TestMemoryBufferAgainstModel = MemoryBufferAgainstModel.TestCase
TestDiskBufferAgainstModel = DiskBufferAgainstModel.TestCase
TestDiskBufferAgainstModel.settings = settings(max_examples=settings().max_examples // 2)  # they take longer
