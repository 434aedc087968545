"""The window: its bounds, whose turn it is, and parking."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.delivery.window import Taken, Window
from tests.fakes.events import EventMaker

NO_ROOM = (0, 0)


@pytest.fixture
def make() -> EventMaker:
    return EventMaker()


def window(max_events: int = 8, max_bytes: int = 1_000_000) -> Window:
    return Window(max_events=max_events, max_bytes=max_bytes)


def started(of: Window, make: EventMaker, events: int, *, size_bytes: int = 20) -> list[Taken]:
    """Add events and start them all."""
    of.add([make(size_bytes=size_bytes) for _ in range(events)])
    return [of.start() for _ in range(events)]


# Bounds


@pytest.mark.parametrize("max_events", [1, 2, 3, 4, 5, 16, 1024])
def test_an_empty_window_asks_for_all_that_it_holds(max_events: int) -> None:
    assert window(max_events, 5000).room() == (max_events, 5000)


def test_room_shrinks_by_what_is_added_and_grows_by_what_is_removed(make: EventMaker) -> None:
    some = window(8, 1000)
    first, *_ = started(some, make, 3, size_bytes=100)
    assert some.room() == (5, 700)
    some.remove(first)
    assert some.room() == (6, 800)


def test_a_window_asks_for_nothing_until_a_quarter_of_it_is_free(make: EventMaker) -> None:
    some = window(8)
    taken = started(some, make, 8)
    assert some.room() == NO_ROOM
    some.remove(taken[0])
    assert some.room() == NO_ROOM
    some.remove(taken[1])
    assert some.room()[0] == 2


def test_events_that_wait_parked_or_are_on_the_wire_all_take_room(make: EventMaker) -> None:
    some = window(8, 1000)
    first, _, _ = started(some, make, 3)
    some.park(first, until=1.0)
    some.add([make()])
    assert some.room() == (4, 920)


@pytest.mark.parametrize("size_bytes", [500, 501, 900])
def test_a_window_full_of_bytes_asks_for_nothing_even_if_one_event_made_it_overfull(
    make: EventMaker, size_bytes: int
) -> None:
    some = window(8, 1000)
    first, second = started(some, make, 2, size_bytes=size_bytes)
    assert some.room() == NO_ROOM
    some.remove(first)
    assert some.room() == (7, 1000 - size_bytes)
    some.remove(second)
    assert some.room() == (8, 1000)


# Turns


def test_first_attempts_start_in_the_order_they_were_added(make: EventMaker) -> None:
    some = window()
    events = make.of("abca")
    some.add(events[:1])
    some.add(events[1:])
    assert [some.start().event for _ in events] == events


def test_a_new_event_has_no_attempts_and_a_parked_one_keeps_its_own(make: EventMaker) -> None:
    some = window()
    (taken,) = started(some, make, 1)
    assert taken.attempts == 0
    taken.attempts = 7
    some.park(taken, until=1.0)
    some.unpark_due(1.0)
    assert some.start() is taken
    assert taken.attempts == 7


@pytest.mark.parametrize("firsts", [1, 2, 5])
@pytest.mark.parametrize("retries", [1, 2, 4])
def test_retries_and_first_attempts_take_turns_until_one_kind_is_used_up(
    make: EventMaker, firsts: int, retries: int
) -> None:
    some = window(16)
    again = started(some, make, retries)
    for taken in again:
        some.park(taken, until=1.0)
    some.unpark_due(1.0)
    some.add(make.of("n" * firsts))
    kinds = ["again" if some.start() in again else "first" for _ in range(firsts + retries)]
    both_waited = kinds[: 2 * min(firsts, retries)]
    assert all(one != next_one for one, next_one in pairwise(both_waited))
    assert kinds.count("again") == retries


def test_starting_what_is_not_there_raises_index_error(make: EventMaker) -> None:
    some = window()
    with pytest.raises(IndexError):
        some.start()
    (taken,) = started(some, make, 1)
    some.park(taken, until=1.0)
    with pytest.raises(IndexError):
        some.start()


# Parking


@pytest.mark.parametrize(("max_events", "most"), [(1, 1), (2, 1), (3, 1), (8, 4), (9, 4)])
def test_at_most_half_of_the_window_is_parked_and_at_least_one_event(
    make: EventMaker, max_events: int, most: int
) -> None:
    some = window(max_events)
    answers = [some.park(taken, until=1.0) for taken in started(some, make, max_events)]
    assert answers == [True] * most + [False] * (max_events - most)
    assert some.parked == most


def test_an_event_that_may_not_be_parked_stays_started_until_it_is_removed(make: EventMaker) -> None:
    some = window(2)
    parked, refused = started(some, make, 2)
    assert some.park(parked, until=1.0)
    assert not some.park(refused, until=0.5)
    assert (some.parked, some.started, some.next_due) == (1, 1, 1.0)
    some.remove(refused)
    assert (some.parked, some.started) == (1, 0)


def is_crowded(some: Window) -> bool:
    return some.crowded


def test_only_half_of_the_window_is_retried_and_the_other_half_still_asks_for_events(make: EventMaker) -> None:
    some = window(8)
    first, *others, last = started(some, make, 5)
    for taken in (first, *others):
        assert not is_crowded(some)
        assert some.park(taken, until=1.0)
    assert is_crowded(some)
    assert not some.park(last, until=1.0)
    some.remove(last)
    assert some.room() != NO_ROOM
    some.unpark_due(1.0)
    assert is_crowded(some), "what is tried again is still retried"
    some.remove(some.start())
    assert not is_crowded(some)
    assert some.park(some.start(), until=2.0), "it has its place already"


def test_only_half_of_the_bytes_is_retried_until_some_of_it_leaves(make: EventMaker) -> None:
    some = window(100, 1000)
    first, second, third = started(some, make, 3, size_bytes=250)
    assert some.park(first, until=1.0)
    assert some.park(second, until=1.0)
    assert not some.park(third, until=1.0)
    some.unpark_due(1.0)
    some.remove(some.start())
    assert some.park(third, until=1.0)


def test_a_window_is_crowded_by_a_quarter_of_its_bytes_too(make: EventMaker) -> None:
    """Large events are few: half of the bytes may never be reached exactly."""
    some = window(100, 1000)
    quarter, more = started(some, make, 1, size_bytes=250)[0], started(some, make, 1, size_bytes=10)[0]
    some.park(quarter, until=1.0)
    crowded = [some.crowded]
    some.park(more, until=2.0)
    crowded.append(some.crowded)
    some.unpark_due(1.0)
    some.remove(some.start())
    assert [*crowded, some.crowded] == [False, True, False]


def test_parked_events_are_due_at_their_time_in_its_order(make: EventMaker) -> None:
    some = window(16)
    taken = started(some, make, 5)
    for one, until in zip(taken, (30.0, 10.0, 20.0, 10.0, 40.0), strict=True):
        some.park(one, until=until)
    assert some.next_due == 10.0
    assert some.unpark_due(9.999) == 0
    assert some.startable == 0
    assert some.unpark_due(20.0) == 3
    assert (some.parked, some.startable, some.next_due) == (2, 3, 30.0)
    assert [some.start() for _ in range(3)] == [taken[1], taken[3], taken[2]]
    assert some.unpark_due(1000.0) == 2
    assert some.next_due is None


def test_unparking_counts_only_what_became_startable_now(make: EventMaker) -> None:
    some = window(16)
    for one, until in zip(started(some, make, 4), (1.0, 2.0, 2.0, 3.0), strict=True):
        some.park(one, until=until)
    assert [some.unpark_due(now) for now in (1.0, 1.5, 2.5, 2.5, 9.0)] == [1, 0, 2, 0, 1]


@given(st.data(), st.integers(1, 12), st.integers(50, 200))
def test_every_event_is_in_one_state_and_the_bounds_hold_whatever_happens(
    data: st.DataObject, max_events: int, max_bytes: int
) -> None:
    make, some, now = EventMaker(), Window(max_events=max_events, max_bytes=max_bytes), 0.0
    on_wire: list[Taken] = []
    inside = 0
    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["add", "start", "park", "remove", "unpark"])):
            case "add":
                events, size = some.room()
                if events:
                    sizes = data.draw(st.lists(st.integers(3, 90), min_size=1, max_size=events))
                    while len(sizes) > 1 and sum(sizes) > size:
                        sizes.pop()  # as a buffer's take does: within what was asked, but for one
                    some.add([make(size_bytes=size_bytes) for size_bytes in sizes])
                    inside += len(sizes)
            case "start" if some.startable:
                on_wire.append(some.start())
            case "park" if on_wire:
                taken = on_wire.pop()
                if not some.park(taken, until=now + data.draw(st.integers(0, 5))):
                    some.remove(taken)
                    inside -= 1
            case "remove" if on_wire:
                some.remove(on_wire.pop())
                inside -= 1
            case "unpark":
                now += 1.0
                some.unpark_due(now)
                assert some.next_due is None or some.next_due > now
        assert some.started == len(on_wire)
        assert some.startable + some.parked + some.started == inside <= max_events
        assert some.parked <= max(1, max_events // 2)
