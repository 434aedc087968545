"""The ordering against a naive model, in runs that hypothesis makes up: part of the events in a store, reads under way."""

from collections.abc import Set as AbstractSet

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forwarder.buffer.lane import OVERHEAD_BYTES, cost_bytes
from forwarder.buffer.ordering import Ordering
from forwarder.event import Event
from tests.fakes.events import ids

NOBODY: AbstractSet[str] = frozenset()
LANES = ("a", "b", "c")
MAX_EVENT_BYTES = 40

lanes = st.sampled_from(LANES)
places = st.integers(0, 50)
"""A place in some list, wrapped around its length."""


class OrderingAgainstModel(RuleBasedStateMachine):
    """The store keeps every event until it is acked, or vanishes; `up_to` is the id up to which the ordering knows them."""

    ordering: Ordering
    max_aside_bytes: float

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.next_id = 1
        self.up_to = 0
        self.waiting: dict[int, Event] = {}
        self.taken: list[Event] = []
        self.vanished: set[int] = set()
        self.rests: dict[str, float] = {}
        self.under_way: list[int] | None = None

    @property
    def known(self) -> list[Event]:
        return [self.waiting[event_id] for event_id in sorted(self.waiting) if event_id <= self.up_to]

    def expected(self, max_events: int, max_bytes: int, skip: AbstractSet[str]) -> list[Event]:
        batch: list[Event] = []
        size = 0
        for event in [self.waiting[event_id] for event_id in sorted(self.waiting)]:
            if event.customer in skip or self.now < self.rests.get(event.customer, 0.0):
                continue
            if len(batch) == max_events or (batch and size + event.size_bytes > max_bytes):
                break
            batch.append(event)
            size += event.size_bytes
        return batch

    @initialize(max_aside_events=st.sampled_from([0.0, 1.0, 2.5, 5.0, float("inf")]))
    def opened(self, max_aside_events: float) -> None:
        self.max_aside_bytes = max_aside_events * OVERHEAD_BYTES
        self.ordering = Ordering(max_aside_bytes=self.max_aside_bytes)

    @rule(
        customers=st.lists(lanes, min_size=1, max_size=6), sizes=st.lists(st.integers(0, MAX_EVENT_BYTES), min_size=6)
    )
    def put(self, customers: list[str], sizes: list[int]) -> None:
        events = []
        for customer, size_bytes in zip(customers, sizes, strict=False):
            events.append(Event(self.next_id, customer, "n", b" " * size_bytes, float(self.next_id)))
            self.next_id += 1
        self.waiting |= {event.id: event for event in events}
        if not self.ordering.more_fresh:
            self.ordering.add(events)
            self.up_to = events[-1].id

    @rule(customers=st.lists(lanes, min_size=1, max_size=6))
    def put_in_the_store_only(self, customers: list[str]) -> None:
        for customer in customers:
            self.waiting[self.next_id] = Event(self.next_id, customer, "n", b"{}", float(self.next_id))
            self.next_id += 1
        self.ordering.more_fresh = True

    @precondition(lambda self: self.ordering.more_fresh)
    @rule(max_events=st.integers(1, 6))
    def read_next(self, max_events: int) -> None:
        newer = sorted(event_id for event_id in self.waiting if event_id > self.up_to)
        read = newer[:max_events]
        self.ordering.add([self.waiting[event_id] for event_id in read if event_id not in self.vanished])
        self.up_to = max(self.up_to, *read) if read else self.up_to
        self.ordering.more_fresh = len(newer) >= max_events
        for event_id in self.vanished & set(read):
            del self.waiting[event_id]

    @rule(
        max_events=st.integers(1, 8),
        max_bytes=st.integers(1, 80),
        skip=st.frozensets(lanes),
        max_steps=st.sampled_from([1, 2, 3, float("inf")]),
    )
    def hand_out(self, max_events: int, max_bytes: int, skip: frozenset[str], max_steps: float) -> None:
        expected = self.expected(max_events, max_bytes, skip)

        def some() -> list[Event]:
            return self.ordering.hand_out(
                now=self.now, max_events=max_events, max_bytes=max_bytes, skip_lanes=skip, max_steps=max_steps
            )

        found = some()
        while not found and self.ordering.unfinished:
            found = some()
        if self.ordering.unfinished:
            expected = expected[: len(found)]
        assert ids(found) == ids(expected[: len(found)])
        if len(found) < len(expected):
            missing = expected[len(found)]
            assert missing.id > self.up_to or self.ordering.wanted(1) == [missing.id], "it would never be read"
            assert missing.id <= self.up_to or self.ordering.more_fresh, "it would never be read"
        for event in found:
            self.taken.append(self.waiting.pop(event.id))

    @rule()
    def take_oldest(self) -> None:
        expected = self.waiting[min(self.waiting)] if self.waiting else None
        event = self.ordering.take_oldest()
        if event is not None:
            assert event is expected
            self.taken.append(self.waiting.pop(event.id))
        elif expected is not None:
            assert self.ordering.oldest_wanted(1) == ([expected.id] if expected.id <= self.up_to else [])
            assert expected.id <= self.up_to or self.ordering.more_fresh

    @precondition(lambda self: self.under_way is None)
    @rule(oldest=st.booleans(), max_events=st.integers(1, 6), looked_at=st.integers(1, 6))
    def begin_to_read(self, oldest: bool, max_events: int, looked_at: int) -> None:
        wanted = self.ordering.oldest_wanted(max_events) if oldest else self.ordering.wanted(max_events)
        assert len(wanted) <= max_events
        assert len(set(wanted)) == len(wanted)
        self.under_way = wanted[:looked_at] or None

    @precondition(lambda self: self.under_way is not None)
    @rule()
    def end_reading(self) -> None:
        assert self.under_way is not None
        read, self.under_way = self.under_way, None
        held = self.waiting | {event.id: event for event in self.taken}
        found = [held[event_id] for event_id in read if event_id not in self.vanished and event_id in held]
        for event_id in self.ordering.add_read(read, found):
            assert event_id in self.vanished
            del self.waiting[event_id]

    @precondition(lambda self: self.waiting)
    @rule(place=places)
    def one_vanishes(self, place: int) -> None:
        self.vanished.add(sorted(self.waiting)[place % len(self.waiting)])

    @precondition(lambda self: self.taken)
    @rule(chosen=st.lists(places, min_size=1, max_size=6), rest_seconds=st.integers(-2, 5))
    def give_back(self, chosen: list[int], rest_seconds: int) -> None:
        events = list({event.id: event for place in chosen for event in [self.taken[place % len(self.taken)]]}.values())
        self.ordering.release(events, not_before=self.now + rest_seconds)
        for event in events:
            self.taken.remove(event)
            self.waiting[event.id] = event
            self.rests[event.customer] = max(self.rests.get(event.customer, 0.0), self.now + rest_seconds)

    @rule()
    def end_deferrals(self) -> None:
        self.ordering.end_deferrals()
        self.rests.clear()

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def the_store_is_lost(self) -> None:
        self.ordering.forget_unread()
        assert not self.ordering.more_fresh
        self.waiting = {event.id: event for event in self.ordering}
        self.up_to = self.next_id
        self.next_id += 1
        self.under_way = None

    @invariant()
    def it_knows_all_up_to_there(self) -> None:
        assert len(self.ordering) == len(self.known)
        assert {event.id for event in self.ordering} <= {event.id for event in self.known}

    @invariant()
    def what_is_kept_is_counted_and_bounded(self) -> None:
        ordering = self.ordering
        aside = sum(cost_bytes(event) for lane in ordering._aside.values() for event in lane.kept())
        assert aside == ordering._aside_bytes
        assert aside <= self.max_aside_bytes + OVERHEAD_BYTES + MAX_EVENT_BYTES
        assert sum(map(cost_bytes, ordering._fresh)) == ordering.fresh_bytes
        assert ordering._keeping == {customer: lane for customer, lane in ordering._aside.items() if list(lane.kept())}

    @invariant()
    def each_lane_is_where_it_will_be_found(self) -> None:
        ordering = self.ordering
        for customer, lane in ordering._aside.items():
            if lane.offered:
                assert (lane.first_id(), customer) in ordering._offers
            else:
                assert customer in ordering._skipped or (lane.not_before, customer) in ordering._deferred

    @invariant()
    def the_oldest_is_no_older_than_it_says(self) -> None:
        oldest = self.ordering.oldest_accepted_at()
        if self.known:
            assert oldest is not None
            assert oldest <= self.known[0].accepted_at

    @invariant()
    def it_is_ready_no_later_than_it_can_hand_out(self) -> None:
        starts = [max(self.now, self.rests.get(event.customer, self.now)) for event in self.waiting.values()]
        if starts:
            ready = self.ordering.ready_at(self.now)
            assert ready is not None
            assert ready <= min(starts)

    def teardown(self) -> None:
        """Whatever happened, everything left comes out in order, as far as it did not vanish."""
        if not hasattr(self, "ordering"):
            return
        self.now += 1000
        found: list[int] = []
        for _ in range(1000):
            events = self.ordering.hand_out(now=self.now, max_events=100, max_bytes=10**9, skip_lanes=NOBODY)
            found += ids(self.waiting.pop(event.id) for event in events)
            self.under_way = self.under_way or self.ordering.wanted(3) or None
            if self.under_way:
                self.end_reading()
            elif self.ordering.more_fresh:
                self.read_next(5)
            elif not events:
                break
        assert not self.waiting, "some were never handed out"
        assert found == sorted(found)


TestOrderingAgainstModel = OrderingAgainstModel.TestCase
