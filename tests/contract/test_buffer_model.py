"""Every Buffer against a naive model, in runs that hypothesis makes up: the same answers, events, order and ledger."""

import asyncio
from collections.abc import Coroutine, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forwarder.buffer.base import Buffer, Full, NeverFits, PutAnswer, Stored
from forwarder.buffer.fates import Delivered, Dropped, Fate
from forwarder.buffer.memory import MemoryBuffer
from forwarder.event import Clock, Event
from forwarder.settings import BufferSettings
from forwarder.telemetry import Telemetry
from tests.fakes.events import ids

T = TypeVar("T")

LANES = ("a", "b", "c", "d")
START_SECONDS = 100.0

lanes = st.sampled_from(LANES)
picks = st.lists(st.integers(0, 50), max_size=6)
"""Places in the list of taken events, wrapped around its length."""


class Model:
    """A buffer that is obviously right: lists, scanned from the start at each question."""

    def __init__(self, *, max_events: int, max_bytes: int) -> None:
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.waiting: list[Event] = []
        self.taken: list[Event] = []
        self.rests: dict[str, float] = {}
        self.accepted = 0
        self.delivered = 0
        self.rejected = 0

    @property
    def held(self) -> list[Event]:
        return self.waiting + self.taken

    def put(self, events: Sequence[Event]) -> PutAnswer:
        if len(events) > self.max_events or size(events) > self.max_bytes:
            return NeverFits()
        if len(self.held) + len(events) > self.max_events or size(self.held) + size(events) > self.max_bytes:
            return Full()
        self.waiting += events
        self.accepted += len(events)
        return Stored()

    def take(self, now: float, max_events: int, max_bytes: int, skip: AbstractSet[str]) -> list[Event]:
        batch: list[Event] = []
        for event in sorted(self.waiting, key=lambda event: event.id):
            if event.customer in skip or now < self.rests.get(event.customer, 0.0):
                continue
            if len(batch) == max_events or (batch and size(batch) + event.size_bytes > max_bytes):
                break
            batch.append(event)
        for event in batch:
            self.waiting.remove(event)
            self.taken.append(event)
        return batch

    def ready_at(self, now: float) -> float | None:
        return min((max(now, self.rests.get(event.customer, now)) for event in self.waiting), default=None)

    def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        for event, fate in fates:
            self.taken.remove(event)
            if fate == Delivered():
                self.delivered += 1
            else:
                self.rejected += 1

    def release(self, events: Sequence[Event], not_before: float) -> None:
        for event in events:
            self.taken.remove(event)
            self.waiting.append(event)
            self.rests[event.customer] = max(self.rests.get(event.customer, 0.0), not_before)


def size(events: Sequence[Event]) -> int:
    return sum(event.size_bytes for event in events)


class MemoryBufferAgainstModel(RuleBasedStateMachine):
    """The buffer in memory. Another kind overrides `open`, and `take_now` if its takes need more than a turn of the loop."""

    buffer: Buffer
    model: Model
    telemetry = Telemetry()

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = START_SECONDS
        self.next_id = 1

    def open(self, settings: BufferSettings, clock: Clock) -> Buffer:
        return MemoryBuffer(settings, telemetry=self.telemetry, clock=clock)

    async def take_now(self, max_events: int, max_bytes: int, skip: AbstractSet[str]) -> list[Event]:
        """Take what may be had at once."""
        try:
            async with asyncio.timeout(0):
                return await self.buffer.take(max_events=max_events, max_bytes=max_bytes, skip_lanes=skip)
        except TimeoutError:
            return []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def chosen(self, places: Sequence[int]) -> list[Event]:
        """Return different taken events, in any order."""
        return list({event.id: event for place in places for event in [self.taken_at(place)]}.values())

    def taken_at(self, place: int) -> Event:
        return self.model.taken[place % len(self.model.taken)]

    @initialize(max_events=st.integers(1, 25), max_bytes=st.integers(1, 250))
    def opened(self, max_events: int, max_bytes: int) -> None:
        self.model = Model(max_events=max_events, max_bytes=max_bytes)
        self.buffer = self.open(BufferSettings(max_events=max_events, max_bytes=max_bytes), lambda: self.now)

    @rule(customers=st.lists(lanes, max_size=8), sizes=st.lists(st.integers(0, 40), min_size=8, max_size=8))
    def put(self, customers: list[str], sizes: list[int]) -> None:
        events = []
        for customer, size_bytes in zip(customers, sizes, strict=False):
            events.append(Event(self.next_id, customer, "n", b" " * size_bytes, self.now))
            self.next_id += 1
        assert self.run(self.buffer.put(events, intake="http")) == self.model.put(events)

    @rule(max_events=st.integers(1, 8), max_bytes=st.integers(1, 80), skip=st.frozensets(lanes))
    def take(self, max_events: int, max_bytes: int, skip: frozenset[str]) -> None:
        expected = self.model.take(self.now, max_events, max_bytes, skip)
        assert ids(self.run(self.take_now(max_events, max_bytes, skip))) == ids(expected)

    @precondition(lambda self: self.model.taken)
    @rule(places=picks, fates=st.lists(st.sampled_from([Delivered(), Dropped("rejected")]), min_size=6, max_size=6))
    def ack(self, places: list[int], fates: list[Fate]) -> None:
        acked = list(zip(self.chosen(places), fates, strict=False))
        self.run(self.buffer.ack(acked))
        self.model.ack(acked)

    @precondition(lambda self: self.model.taken)
    @rule(places=picks, rest_seconds=st.integers(-2, 5))
    def release(self, places: list[int], rest_seconds: int) -> None:
        events = self.chosen(places)
        self.run(self.buffer.release(events, not_before=self.now + rest_seconds))
        self.model.release(events, self.now + rest_seconds)

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def the_ledger_is_that_of_the_model(self) -> None:
        ledger = self.buffer.ledger()
        dropped = {reason: number for reason, number in ledger.dropped.items() if number}
        assert ledger.accepted == self.model.accepted
        assert ledger.delivered == self.model.delivered
        assert dropped == ({"rejected": self.model.rejected} if self.model.rejected else {})
        assert ledger.buffered == len(self.model.held)
        assert ledger.unaccounted == 0

    @invariant()
    def the_occupancy_is_that_of_the_model(self) -> None:
        occupancy = self.buffer.occupancy()
        assert occupancy.events == len(self.model.held)
        assert occupancy.bytes == size(self.model.held)
        assert occupancy.oldest_accepted_at == min((event.accepted_at for event in self.model.held), default=None)

    @invariant()
    def it_is_ready_no_later_than_the_model_is(self) -> None:
        """Too early costs a look in vain; too late, or never, would leave events where they are."""
        ready, expected = self.buffer.ready_at(self.now), self.model.ready_at(self.now)
        if expected is not None:
            assert ready is not None
            assert ready <= expected

    def teardown(self) -> None:
        """Whatever happened, everything left comes out in order once all rests are over; the close balances."""
        if hasattr(self, "buffer"):
            self.now += 1000
            everything = self.model.take(self.now, 10**6, 10**9, frozenset())
            assert ids(self.run(self.take_now(10**6, 10**9, frozenset()))) == ids(everything)
            held = len(self.model.held)
            self.run(self.buffer.close())
            ledger = self.buffer.ledger()
            assert (ledger.dropped.get("shutdown", 0), ledger.buffered, ledger.unaccounted) == (held, 0, 0)
        self.loop.close()


TestMemoryBufferAgainstModel = MemoryBufferAgainstModel.TestCase
