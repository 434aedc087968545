"""What the order costs: a huge lane that may not be had must not make each take look at it again."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet

import pytest

from forwarder.buffer.ordering import Ordering
from forwarder.event import Event

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
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def test_a_huge_skipped_lane_is_looked_at_once_and_not_at_each_take() -> None:
    ordering = behind_a_huge_lane()
    skip = CountingLanes({"huge"})
    assert hand_out(ordering, skip)
    assert skip.asked <= HUGE + BATCH + 10
    skip.asked = 0
    takes = list(itertools.takewhile(bool, (hand_out(ordering, skip) for _ in itertools.count())))
    assert sum(len(batch) for batch in takes) == OTHERS * EVENTS_OF_EACH_OTHER - BATCH
    assert skip.asked <= (BATCH + 2) * (len(takes) + 1)


def test_a_huge_resting_lane_is_looked_at_once_and_not_at_each_take() -> None:
    ordering = behind_a_huge_lane()
    ordering.give_back(hand_out(ordering), not_before=1000.0)
    counting = CountingLanes()
    assert hand_out(ordering, counting)
    assert counting.asked <= HUGE + BATCH + 10
    counting.asked = 0
    takes = list(itertools.takewhile(bool, (hand_out(ordering, counting) for _ in itertools.count())))
    assert sum(len(batch) for batch in takes) == OTHERS * EVENTS_OF_EACH_OTHER - BATCH
    assert counting.asked <= (BATCH + 2) * (len(takes) + 1)


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


@pytest.mark.parametrize("how", ["skipped", "resting"])
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
        if how == "resting":
            ordering.give_back(hand_out(ordering), not_before=1000.0)
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

    assert takes_after_skipping(2_900) < 10 * takes_after_skipping(1) + 0.02


def test_each_of_many_lanes_gets_its_turn_as_cheaply_as_one_lane() -> None:
    """All events given back, each to a lane of its own, then handed out one by one: a heap, not a scan."""

    def all_again(lanes: int) -> float:
        ordering = Ordering()
        events = events_of([f"c{n % lanes}" for n in range(20_000)])
        ordering.add(events)
        back = hand_out(ordering, events=20_000)

        def give_back_and_hand_out() -> None:
            ordering.give_back(back[::-1], not_before=1.0)
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
                ordering.give_back([event], not_before=1.0)

        return seconds(give_back)

    assert give_back_one_by_one(1) < 10 * give_back_one_by_one(8_000) + 0.02
