"""What the order costs: a huge lane that may not be had must not make each take look at it again.

And, one by one, what matters when part of the events are in a store only; test_ordering_model.py has them all together.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet

import pytest

from forwarder.buffer.lane import OVERHEAD_BYTES
from forwarder.buffer.ordering import Ordering
from forwarder.event import Event
from tests.fakes.events import ids

HUGE = 60_000
OTHERS = 1_000
EVENTS_OF_EACH_OTHER = 5
BATCH = 5
NOBODY: AbstractSet[str] = frozenset()


class CountingLanes(AbstractSet[str]):
    """Lanes to skip, which counts how often it is asked about an event's lane: once for each event that is looked at."""

    def __init__(self, lanes: Iterable[str] = ()) -> None:
        self._lanes = frozenset(lanes)
        self.asked = 0

    def __contains__(self, lane: object) -> bool:
        self.asked += 1
        return lane in self._lanes

    def __iter__(self) -> Iterator[str]:
        return iter(self._lanes)

    def __len__(self) -> int:
        return len(self._lanes)


def events_of(customers: list[str], *, first_id: int = 1) -> list[Event]:
    return [Event(number, customer, "n", b"{}", 0.0) for number, customer in enumerate(customers, first_id)]


def others() -> list[Event]:
    """Events of a thousand other customers, one after the other, all behind the huge lane."""
    return events_of([f"c{n}" for n in range(OTHERS)] * EVENTS_OF_EACH_OTHER, first_id=HUGE + 1)


def behind_a_huge_lane() -> Ordering:
    ordering = Ordering()
    ordering.add(events_of(["huge"] * HUGE))
    ordering.add(others())
    return ordering


def hand_out(
    ordering: Ordering, skip: AbstractSet[str] = NOBODY, *, now: float = 0.0, events: int = BATCH
) -> list[Event]:
    return ordering.hand_out(now=now, max_events=events, max_bytes=10**9, skip_lanes=skip)


def seconds(action: Callable[[], object]) -> float:
    """Return how long the processor worked on this, whatever else it did meanwhile."""
    started = time.thread_time()
    action()
    return time.thread_time() - started


def test_a_huge_skipped_lane_is_looked_at_once_and_not_at_each_take() -> None:
    ordering = behind_a_huge_lane()
    skip = CountingLanes({"huge"})
    first = hand_out(ordering, skip)
    assert first
    assert skip.asked <= HUGE + BATCH + 10
    skip.asked = 0
    takes = list(itertools.takewhile(bool, (hand_out(ordering, skip) for _ in itertools.count())))
    assert sum(len(batch) for batch in takes) == OTHERS * EVENTS_OF_EACH_OTHER - len(first)
    assert skip.asked <= (BATCH + 2) * (len(takes) + 1)


def test_a_huge_resting_lane_is_looked_at_once_and_not_at_each_take() -> None:
    ordering = behind_a_huge_lane()
    ordering.release(hand_out(ordering), not_before=1000.0)
    counting = CountingLanes()
    first = hand_out(ordering, counting)
    assert first
    assert counting.asked <= HUGE + BATCH + 10
    counting.asked = 0
    takes = list(itertools.takewhile(bool, (hand_out(ordering, counting) for _ in itertools.count())))
    assert sum(len(batch) for batch in takes) == OTHERS * EVENTS_OF_EACH_OTHER - len(first)
    assert counting.asked <= (BATCH + 2) * (len(takes) + 1)


def test_a_batch_that_has_something_is_not_filled_by_a_long_search() -> None:
    ordering = Ordering()
    ordering.add(events_of([*"ab", *["huge"] * 1000, "c"]))
    skip = CountingLanes({"huge"})
    assert [event.customer for event in hand_out(ordering, skip)] == ["a", "b"]
    assert skip.asked < 200
    assert [event.customer for event in hand_out(ordering, skip)] == ["c"]


def test_takers_that_skip_a_huge_lane_by_turns_do_not_look_at_all_of_it_again() -> None:
    ordering = behind_a_huge_lane()
    hand_out(ordering, CountingLanes({"huge"}))
    skip, nobody = CountingLanes({"huge"}), CountingLanes()
    for _ in range(500):
        assert {event.customer for event in hand_out(ordering, nobody)} == {"huge"}
        assert "huge" not in {event.customer for event in hand_out(ordering, skip)}
    assert skip.asked + nobody.asked <= 1000 * (BATCH + 4)


def test_events_put_behind_a_skipped_lane_cost_one_look_each() -> None:
    ordering = Ordering()
    skip = CountingLanes({"huge"})
    ordering.add(events_of(["huge"]))
    rounds = 2000
    for number in range(rounds):
        ordering.add(events_of(["huge"] * 10 + ["other"], first_id=10 + 11 * number))
        assert len(hand_out(ordering, skip)) == 1
    assert skip.asked <= rounds * 15


@pytest.mark.parametrize("how", ["skipped", "deferred"])
def test_takes_behind_a_huge_lane_take_as_long_as_without_it(how: str) -> None:
    """Looks at events are counted above; this sees whatever else grows, but only widely."""

    def takes(ordering: Ordering, skip: AbstractSet[str]) -> float:
        return seconds(lambda: list(itertools.takewhile(bool, (hand_out(ordering, skip) for _ in itertools.count()))))

    def without() -> float:
        ordering = Ordering()
        ordering.add(others())
        return takes(ordering, NOBODY)

    def behind() -> float:
        ordering = behind_a_huge_lane()
        skip: AbstractSet[str] = frozenset({"huge"}) if how == "skipped" else NOBODY
        if how == "deferred":
            ordering.release(hand_out(ordering), not_before=1000.0)
        hand_out(ordering, skip)
        return takes(ordering, skip)

    assert min(behind() for _ in range(3)) < 6 * min(without() for _ in range(3)) + 0.01


def test_lanes_that_were_skipped_once_cost_nothing_after() -> None:
    """A customer is unwanted now and then; its takes must not be paid for ever."""

    def takes_after_skipping(lanes: int) -> float:
        ordering = Ordering()
        ordering.add(events_of([f"c{n}" for n in range(3_000)]))
        hand_out(ordering, {f"c{n}" for n in range(lanes)}, events=1)
        hand_out(ordering, events=1)
        return seconds(lambda: [hand_out(ordering, events=1) for _ in range(2_000)])

    many, one = (min(takes_after_skipping(lanes) for _ in range(3)) for lanes in (2_900, 1))
    assert many < 10 * one + 0.02


def test_each_of_many_lanes_gets_its_turn_as_cheaply_as_one_lane() -> None:
    """All events given back, each to a lane of its own, then handed out one by one: a heap, not a scan."""

    def all_again(lanes: int) -> float:
        ordering = Ordering()
        events = events_of([f"c{n % lanes}" for n in range(20_000)])
        ordering.add(events)
        back = hand_out(ordering, events=20_000)

        def give_back_and_hand_out() -> None:
            ordering.release(back[::-1], not_before=1.0)
            while hand_out(ordering, now=2.0, events=1):
                pass

        return seconds(give_back_and_hand_out)

    assert all_again(20_000) < 25 * all_again(1) + 0.02


def test_giving_back_costs_the_same_however_many_of_the_lane_were_given_back_before() -> None:
    """An outage of one customer's events, which fail and come back one after the other, in order."""

    def give_back_one_by_one(lanes: int) -> float:
        ordering = Ordering()
        events = events_of([f"c{n % lanes}" for n in range(8_000)])
        ordering.add(events)
        back = hand_out(ordering, events=8_000)

        def give_back() -> None:
            for event in back:
                ordering.release([event], not_before=1.0)

        return seconds(give_back)

    assert give_back_one_by_one(1) < 10 * give_back_one_by_one(8_000) + 0.02


def test_dropping_the_oldest_is_as_cheap_with_many_lanes_aside_as_with_one() -> None:
    def drop_all(lanes: int) -> float:
        ordering = Ordering()
        ordering.add(events_of([f"c{n % lanes}" for n in range(8_000)]))
        ordering.release(hand_out(ordering, events=8_000), not_before=1.0)
        return seconds(lambda: list(iter(ordering.take_oldest, None)))

    assert drop_all(8_000) < 10 * drop_all(1) + 0.02


def test_what_is_given_back_again_and_again_leaves_nothing_behind() -> None:
    ordering = Ordering()
    ordering.add(events_of(["a", "b", "c"]))
    for now in range(5_000):
        ordering.release(hand_out(ordering, now=now), not_before=now + 1)
    assert max(len(ordering._oldest), len(ordering._offers), len(ordering._deferred)) < 200


def test_what_is_passed_over_in_several_goes_is_no_more_than_asked_for_in_each() -> None:
    ordering = behind_a_huge_lane()
    skip = CountingLanes({"huge"})
    goes = 0
    while not (found := ordering.hand_out(now=0.0, max_events=BATCH, max_bytes=10**9, skip_lanes=skip, max_steps=1000)):
        goes += 1
        assert ordering.unfinished
        assert skip.asked <= 1001 * goes
    assert goes == HUGE // 1000
    assert not ordering.unfinished
    assert ids(found) == list(range(HUGE + 1, HUGE + 1 + BATCH))
    skip.asked = 0
    assert ids(hand_out(ordering, skip)) == list(range(HUGE + 1 + BATCH, HUGE + 1 + 2 * BATCH))
    assert skip.asked <= BATCH + 1
    assert ids(hand_out(ordering)) == list(range(1, BATCH + 1))


def test_rests_that_all_end_at_once_are_ended_in_several_goes_and_the_order_is_kept() -> None:
    ordering = Ordering()
    events = events_of([f"c{n}" for n in range(3_500)])
    ordering.add(events)
    ordering.release(hand_out(ordering, events=3_500)[::-1], not_before=1.0)
    for _ in range(3):
        assert ordering.hand_out(now=2.0, max_events=9, max_bytes=10**9, skip_lanes=NOBODY, max_steps=1000) == []
        assert ordering.unfinished
    assert ordering.hand_out(now=2.0, max_events=9, max_bytes=10**9, skip_lanes=NOBODY, max_steps=1000) == events[:9]


# Where part of the events are in a store only


def test_reading_costs_the_same_however_many_lanes_are_aside() -> None:
    """Room for what was read is found among the lanes that keep events, and not by looking at all the others."""

    def read_all(lanes: int) -> float:
        ordering = Ordering(max_aside_bytes=20 * OVERHEAD_BYTES)
        customers = [f"c{n}" for n in range(lanes)]
        events = events_of(customers)
        ordering.add(events)
        hand_out(ordering, set(customers), events=1)
        hand_out(ordering, events=20)

        def read() -> None:
            for _ in range(50):
                wanted = ordering.wanted(10)
                ordering.add_read(wanted, [events[event_id - 1] for event_id in wanted])
                assert len(hand_out(ordering, events=10)) == len(wanted) == 10

        return seconds(read)

    many, few = (min(read_all(lanes) for _ in range(3)) for lanes in (20_000, 1_000))
    assert many < 10 * few + 0.01


def test_reading_the_first_of_many_that_are_unread_costs_the_same_however_many_there_are() -> None:
    def read_some(number: int) -> float:
        ordering = Ordering(max_aside_bytes=0)
        events = events_of(["a"] * number)
        ordering.add(events)
        hand_out(ordering, {"a"}, events=1)
        assert hand_out(ordering) == []

        def read() -> None:
            for event in events[:2_000]:
                ordering.add_read([event.id], [event])
                assert hand_out(ordering) == [event]

        return seconds(read)

    many, few = (min(read_some(number) for _ in range(3)) for number in (100_000, 3_000))
    assert many < 5 * few + 0.01


def aside_without_room(customers: str, *, skip: str) -> tuple[Ordering, dict[int, Event]]:
    """Return an ordering that keeps ids only of what it passed over, and all events by id; `skip` is passed over."""
    events = events_of(list(customers))
    ordering = Ordering(max_aside_bytes=0)
    ordering.add(events)
    hand_out(ordering, set(skip), events=100)
    return ordering, {event.id: event for event in events}


def test_what_was_passed_over_beyond_the_bound_must_be_read_before_it_is_handed_out() -> None:
    ordering, events = aside_without_room("aab", skip="a")
    assert list(ordering) == []
    assert len(ordering) == 2
    assert hand_out(ordering) == []
    assert ordering.wanted(10) == [1, 2]
    assert ordering.wanted(1) == [1]
    assert ordering.add_read([1], [events[1]]) == []
    assert hand_out(ordering) == [events[1]]
    assert ordering.wanted(10) == [2]


def test_of_what_was_read_at_least_one_is_kept_and_no_more_than_there_is_room_for() -> None:
    ordering, events = aside_without_room("abcabc", skip="abc")
    hand_out(ordering, events=0)
    assert ordering.wanted(10) == [1, 4, 2, 5, 3, 6]
    ordering.add_read([1, 4, 2, 5, 3, 6], [events[n] for n in (1, 4, 2, 5, 3, 6)])
    assert ids(ordering) == [1]
    assert ids(hand_out(ordering)) == [1]
    assert ordering.wanted(2) == [2, 5]


def test_room_for_what_was_read_is_found_among_the_lanes_that_are_not_read() -> None:
    ordering = Ordering(max_aside_bytes=3 * (OVERHEAD_BYTES + 2))
    events = events_of(list("aabbcc"))
    ordering.add(events)
    hand_out(ordering, set("abc"))
    assert ids(ordering) == [1, 2, 3]
    hand_out(ordering, set("ab"))
    assert ordering.wanted(10) == [5, 6]
    ordering.add_read([5, 6], events[4:])
    assert ids(ordering) == [5, 6]
    assert ids(hand_out(ordering, set("ab"))) == [5, 6]


def test_what_was_read_while_an_earlier_one_was_given_back_is_read_again_in_its_turn() -> None:
    ordering, events = aside_without_room("aaa", skip="")
    ordering.release([events[2], events[3]], not_before=0.0)
    hand_out(ordering)
    read = ordering.wanted(10)
    assert read == [2, 3]
    ordering.release([events[1]], not_before=0.0)
    ordering.add_read(read, [events[2], events[3]])
    hand_out(ordering)
    assert ordering.wanted(10) == [1, 2, 3]
    ordering.add_read([1, 2, 3], [events[1]])
    assert ids(hand_out(ordering)) == [1]


def test_an_id_that_was_offered_twice_is_wanted_once() -> None:
    ordering, _ = aside_without_room("aa", skip="a")
    for _ in range(3):
        assert hand_out(ordering) == []
        assert hand_out(ordering, {"a"}) == []
    assert hand_out(ordering) == []
    assert ordering.wanted(10) == [1, 2]


def test_nothing_is_wanted_of_a_lane_that_is_not_offered_any_more() -> None:
    ordering, events = aside_without_room("baaba", skip="")
    ordering.release([events[n] for n in (1, 2, 4, 5)], not_before=0.0)
    assert hand_out(ordering) == []
    assert ordering.wanted(10) == [1, 4, 2, 5]
    ordering.release([events[3]], not_before=10.0)
    assert ordering.wanted(10) == [1, 4]


def test_what_turns_out_not_to_be_readable_is_told_and_forgotten() -> None:
    ordering, events = aside_without_room("aabb", skip="ab")
    assert hand_out(ordering) == []
    assert ordering.add_read([1, 2, 3, 4], [events[4]]) == [1, 2, 3]
    assert ids(hand_out(ordering)) == [4]
    assert len(ordering) == 0
    assert ordering.ready_at(0.0) is None


def test_the_oldest_event_is_not_said_to_be_younger_than_it_is_when_only_its_id_is_known() -> None:
    events = [Event(number, "a", "n", b"{}", float(number)) for number in (1, 2, 3)]
    ordering = Ordering(max_aside_bytes=0)
    ordering.add(events)
    hand_out(ordering, {"a"})
    for number in (1, 2, 3):
        oldest = ordering.oldest_accepted_at()
        assert oldest is not None
        assert number - 1 <= oldest <= number
        hand_out(ordering)
        ordering.add_read([number], [events[number - 1]])
        assert ordering.oldest_accepted_at() == number
        assert ids(hand_out(ordering)) == [number]


def test_a_lane_goes_on_resting_when_its_last_event_is_dropped() -> None:
    """That one may be given back, or others come: Growlytics asked for the rest."""
    ordering = Ordering()
    (event,) = events_of(["a"])
    ordering.add([event])
    ordering.release(hand_out(ordering), not_before=10.0)
    assert ordering.take_oldest() is event
    later = events_of(["a"], first_id=2)
    ordering.add(later)
    assert hand_out(ordering, now=9.0) == []
    assert hand_out(ordering, now=10.0) == later
