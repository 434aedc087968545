"""The window: lanes in order, retries beside first attempts, and its bounds."""

from collections.abc import Iterable, Iterator, Sequence

import pytest

from forwarder.delivery.lanes import Lane, Lanes
from forwarder.delivery.suspects import RefusalHistory
from forwarder.event import Event
from tests.fakes.events import EventMaker, ids


@pytest.fixture
def make() -> EventMaker:
    return EventMaker()


def window(*, ordered: bool = True, max_events: int = 1000, max_bytes: int = 100_000, max_lanes: int = 10) -> Lanes:
    return Lanes(ordered=ordered, max_events=max_events, max_bytes=max_bytes, max_lanes=max_lanes)


def holding(events: Iterable[Event], *, ordered: bool = True, max_events: int = 1000) -> Lanes:
    lanes = window(ordered=ordered, max_events=max_events)
    assert lanes.add(list(events)) == []
    return lanes


def started(lanes: Lanes) -> Lane:
    lane = lanes.start()
    assert lane is not None
    return lane


def probe(lanes: Lanes) -> Lane:
    lane = lanes.start_probe()
    assert lane is not None
    return lane


def take(lanes: Lanes, events: Sequence[Event]) -> list[int]:
    """Have events come from the buffer; what must go back is there at once."""
    back = lanes.add(events)
    lanes.were_released(back)
    return ids(back)


def go_back(lanes: Lanes, lane: Lane) -> list[int]:
    """Park a lane that must go back, and is there at once."""
    back = lanes.park(lane, until=1.0)
    lanes.were_released(back)
    return ids(back)


def all_ready(lanes: Lanes) -> list[Lane]:
    return list(iter(lanes.start, None))


def tried(lanes: Iterable[Lane]) -> list[int]:
    return ids(lane.first.event for lane in lanes)


def one_by_one(lanes: Lanes) -> Iterator[int]:
    """End each event as soon as it is started."""
    while lane := lanes.start():
        yield lane.first.event.id
        lanes.end(lane)


def park_all(lanes: Lanes, *, until: float) -> None:
    for lane in all_ready(lanes):
        assert lanes.park(lane, until=until) == []


# Order


def test_lanes_start_in_the_order_in_which_they_came_each_with_its_first_event(make: EventMaker) -> None:
    lanes = holding(make.of("abacba"))
    assert tried(all_ready(lanes)) == [1, 2, 4]


def test_nothing_of_a_lane_starts_while_one_event_of_it_is_on_its_way(make: EventMaker) -> None:
    lanes = holding(make.of("aa"))
    lane = started(lanes)
    lanes.add(make.of("aa"))
    assert lanes.start() is None
    assert lanes.start_probe() is None
    lanes.end(lane)
    assert list(one_by_one(lanes)) == [2, 3, 4]


def test_a_lane_goes_on_behind_the_lanes_that_wait(make: EventMaker) -> None:
    assert list(one_by_one(holding(make.of("aaabbc")))) == [1, 4, 6, 2, 5, 3]


def test_where_order_is_not_wanted_each_event_is_a_lane(make: EventMaker) -> None:
    lanes = holding(make.of("aaa"), ordered=False)
    first, *_ = all_ready(lanes)
    assert lanes.started == 3
    lanes.park(first, until=5.0)
    lanes.unpark_due(5.0)
    assert tried(all_ready(lanes)) == [1]


def test_a_lane_that_is_empty_begins_anew(make: EventMaker) -> None:
    lanes = holding(make.of("a"))
    assert list(one_by_one(lanes)) == [1]
    lanes.add(make.of("a"))
    assert list(one_by_one(lanes)) == [2]


def test_a_lane_that_was_put_back_starts_again_behind_the_others(make: EventMaker) -> None:
    lanes = holding(make.of("abca"))
    lanes.put_back(started(lanes))
    assert tried(all_ready(lanes)) == [2, 3, 1]


# Parking


def test_a_parked_event_holds_up_its_own_lane_only(make: EventMaker) -> None:
    lanes = holding(make.of("aabb"))
    lanes.park(started(lanes), until=5.0)
    assert list(one_by_one(lanes)) == [3, 4]
    assert lanes.next_due == 5.0
    lanes.unpark_due(5.0)
    assert list(one_by_one(lanes)) == [1, 2]
    assert lanes.next_due is None


def test_a_lane_is_ready_at_its_time_and_not_before(make: EventMaker) -> None:
    lanes = holding(make.of("a"))
    lanes.park(started(lanes), until=5.0)
    lanes.unpark_due(4.999)
    assert lanes.ready == 0
    lanes.unpark_due(5.0)
    assert lanes.ready == 1


def test_lanes_become_ready_in_the_order_of_their_times(make: EventMaker) -> None:
    lanes = holding(make.of("abcd"))
    for lane, until in zip(all_ready(lanes), [3.0, 1.0, 4.0, 2.0], strict=True):
        lanes.park(lane, until=until)
    lanes.unpark_due(3.0)
    assert tried(all_ready(lanes)) == [2, 4, 1]
    lanes.end_waits()
    assert tried(all_ready(lanes)) == [3]


def test_events_that_come_to_a_parked_lane_count_as_parked(make: EventMaker) -> None:
    lanes = holding(make.of("a"))
    lanes.park(started(lanes), until=5.0)
    lanes.add(make.of("aa"))
    assert (lanes.parked_events, lanes.ready) == (3, 0)
    lanes.unpark_due(5.0)
    assert lanes.parked_events == 0


def test_it_tells_until_when_an_event_waits_that_waits_for_its_retry(make: EventMaker) -> None:
    lanes = holding(make.of("aab"))
    lanes.park(started(lanes), until=5.0)
    assert [lanes.parked_until(event_id) for event_id in (1, 2, 3, 99)] == [5.0, None, None, None]
    lanes.unpark_due(5.0)
    assert lanes.parked_until(1) is None


def test_only_lanes_that_begin_with_a_suspect_are_ready_once_something_was_delivered(make: EventMaker) -> None:
    lanes = holding(make.of("abcd"))
    for lane, until in zip(all_ready(lanes), [1.0, 3.0, 2.0, 4.0], strict=True):
        lane.first.story.suspect = lane.key in ("b", "c")
        lanes.park(lane, until=until)
    lanes.unpark_suspects()
    assert tried(all_ready(lanes)) == [3, 2], "those due first go first"
    assert lanes.next_due == 1.0


def test_a_time_from_before_a_suspect_was_tried_early_makes_nothing_ready_later(make: EventMaker) -> None:
    lanes = holding(make.of("a"))
    lane = started(lanes)
    lane.first.story.suspect = True
    lanes.park(lane, until=5.0)
    lanes.unpark_suspects()
    lanes.park(started(lanes), until=50.0)
    assert lanes.next_due == 50.0
    assert lanes.parked_until(1) == 50.0
    lanes.unpark_due(49.0)
    assert lanes.ready == 0
    lanes.unpark_due(50.0)
    assert lanes.ready == 1


# Retries beside first attempts


def test_where_both_wait_retries_and_first_attempts_take_turns(make: EventMaker) -> None:
    lanes = holding(make.of("abc"))
    park_all(lanes, until=1.0)
    lanes.unpark_due(1.0)
    lanes.add(make.of("defgh"))
    retries = [lane.retried for lane in all_ready(lanes)]
    assert retries == [True, False, True, False, True, False, False, False]


def test_after_a_retry_the_next_is_a_first_attempt_even_if_that_came_later(make: EventMaker) -> None:
    lanes = holding(make.of("abc"))
    park_all(lanes, until=1.0)
    lanes.unpark_due(1.0)
    assert started(lanes).retried
    lanes.add(make.of("d"))
    assert [lane.retried for lane in all_ready(lanes)] == [False, True, True]


def test_the_event_behind_one_that_was_retried_is_a_first_attempt(make: EventMaker) -> None:
    lanes = holding(make.of("aa"))
    park_all(lanes, until=1.0)
    lanes.unpark_due(1.0)
    lane = started(lanes)
    assert lane.retried
    lanes.end(lane)
    assert not started(lanes).retried


# Probes


def fail_probes(lanes: Lanes, number: int) -> list[str | int]:
    """Have so many probes fail, one after the other, and return their lanes."""
    order = []
    for _ in range(number):
        lane = probe(lanes)
        order.append(lane.key)
        lanes.put_back_probed(lane)
    return order


def test_probes_are_the_oldest_and_the_newest_lane_not_yet_tried_in_turn_and_then_those_again(make: EventMaker) -> None:
    """The oldest may all be refused, as those that came in a row."""
    lanes = holding(make.of("abcd"))
    assert fail_probes(lanes, 8) == ["a", "d", "b", "c"] * 2


def test_a_lane_not_yet_tried_is_probed_before_those_to_be_retried_and_these_before_those_probed(
    make: EventMaker,
) -> None:
    lanes = holding(make.of("abc"))
    park_all(lanes, until=60.0)
    lanes.unpark_due(60.0)
    seen = [lanes.has_fresh]
    assert fail_probes(lanes, 2) == ["a", "b"]
    lanes.add(make.of("d"))
    seen.append(lanes.has_fresh)
    assert fail_probes(lanes, 3) == ["d", "c", "a"]
    assert seen == [False, True]


def test_an_event_that_is_to_be_spared_is_a_probe_only_if_there_is_no_other(make: EventMaker) -> None:
    lanes = holding(make.of("abc"))
    park_all(lanes, until=60.0)
    lanes.add(make.of("d"))
    order = []
    for spared in ("ad", "abd", "abcd", ""):
        lane = lanes.start_probe(spare=lambda event, spared=spared: event.customer in spared)  # type: ignore[misc]
        assert lane is not None
        order.append(lane.key)
        lanes.put_back_probed(lane)
    assert order == ["b", "c", "d", "a"]


def test_when_the_hold_ends_refused_probes_are_retried_and_the_others_are_as_if_not_tried(make: EventMaker) -> None:
    lanes = holding(make.of("ab"))
    lanes.hold_begins()
    for lane in (probe(lanes), probe(lanes)):
        if lane.key == "a":
            lane.first.story.refusals = RefusalHistory(0, 1, suspect=True)
        lanes.put_back_probed(lane)
    assert (lanes.ready, lanes.has_fresh) == (2, False)
    lanes.hold_ends()
    assert lanes.has_fresh
    assert [lane.key for lane in lanes._lanes.values() if lane.retried] == ["a"]
    assert sorted(str(lane.key) for lane in all_ready(lanes)) == ["a", "b"]


def test_in_a_hold_there_are_never_enough_lanes(make: EventMaker) -> None:
    lanes = window(max_events=64, max_lanes=4)
    lanes.add(make.of([f"c{number}" for number in range(6)]))
    assert lanes.room() == (0, 0)
    lanes.hold_begins()
    assert lanes.room()[0] == 58
    lanes.hold_ends()
    assert lanes.room() == (0, 0)


def test_where_none_is_ready_the_probe_is_the_parked_lane_due_first(make: EventMaker) -> None:
    lanes = holding(make.of("ab"))
    for lane, until in zip(all_ready(lanes), [9.0, 7.0], strict=True):
        lanes.park(lane, until=until)
    lane = probe(lanes)
    assert (lane.key, lane.state, lanes.parked_events, lanes.next_due) == ("b", "started", 1, 9.0)


def test_the_probe_after_one_that_failed_takes_another_lane_even_if_that_is_parked(make: EventMaker) -> None:
    lanes = holding(make.of("ab"))
    park_all(lanes, until=60.0)
    assert fail_probes(lanes, 4) == ["a", "b", "a", "b"]


def test_the_only_lane_is_probed_again_and_again(make: EventMaker) -> None:
    lanes = holding(make.of("a"))
    for _ in range(3):
        lanes.put_back(probe(lanes))
    lanes.park(probe(lanes), until=60.0)
    assert probe(lanes).key == "a"


# Lanes that go back


def test_a_lane_that_is_one_too_many_to_be_retried_goes_back_whole(make: EventMaker) -> None:
    lanes = holding(make.of("aabbcc"), max_events=8)
    a, b, c = all_ready(lanes)
    assert lanes.park(a, until=1.0) == []
    assert lanes.park(b, until=1.0) == []
    assert ids(lanes.park(c, until=1.0)) == [5, 6]
    assert (lanes.events, lanes.bytes, lanes.parked_events, lanes.started) == (4, 80, 4, 0)


def test_half_of_the_bytes_is_the_bound_as_well(make: EventMaker) -> None:
    lanes = window(max_bytes=1000)
    lanes.add([make("a", size_bytes=400), make("b", size_bytes=100), make("c", size_bytes=1)])
    a, b, c = all_ready(lanes)
    assert lanes.park(a, until=1.0) == []
    assert lanes.park(b, until=1.0) == []
    assert ids(lanes.park(c, until=1.0)) == [3]


def test_a_lane_that_is_more_than_half_of_the_window_goes_back_even_if_it_is_the_only_one(make: EventMaker) -> None:
    lanes = holding(make.of("aaa"), max_events=4)
    events = lanes.park(started(lanes), until=1.0)
    assert ids(events) == [1, 2, 3]
    lanes.were_released(events)
    assert take(lanes, events) == [3], "it comes again as far as there is room"
    assert started(lanes).retried


def test_an_event_that_is_larger_than_half_of_the_window_is_tried_again_nevertheless(make: EventMaker) -> None:
    events = [make("a", size_bytes=60)]
    lanes = window(max_bytes=100)
    lanes.add(events)
    assert go_back(lanes, started(lanes)) == [1]
    assert take(lanes, events) == []
    assert lanes.end(started(lanes))


def test_a_lane_that_is_retried_already_stays(make: EventMaker) -> None:
    lanes = holding(make.of("aab"), max_events=4)
    lanes.park(started(lanes), until=1.0)
    lanes.unpark_due(1.0)
    assert lanes.park(started(lanes), until=2.0) == []


def test_how_often_an_event_was_tried_is_known_when_it_comes_again(make: EventMaker) -> None:
    events = make.of("ab")
    lanes = holding(events, max_events=2)
    a, b = all_ready(lanes)
    b.first.story.attempts = 7
    lanes.park(a, until=1.0)
    assert go_back(lanes, b) == [2]
    lanes.unpark_due(1.0)
    lanes.end(started(lanes))
    assert take(lanes, events[1:]) == []
    lane = started(lanes)
    assert (lane.first.event, lane.first.story.attempts, lane.retried) == (events[1], 7, True)
    assert lanes.full_lanes == {"b"}
    assert not lanes._stories, "it is known in one place"


def test_while_there_is_no_room_for_it_an_event_tried_before_goes_back_with_those_behind_it(make: EventMaker) -> None:
    events = make.of("abb")
    lanes = holding(events, max_events=2)
    a, b = all_ready(lanes)
    lanes.park(a, until=1.0)
    assert go_back(lanes, b) == [2, 3]
    assert take(lanes, [*events[1:], *make.of("c")]) == [2, 3]
    assert tried(all_ready(lanes)) == [4]
    assert take(lanes, events[1:]) == [2, 3], "it is still known to have been tried"


def test_only_so_many_events_are_remembered_as_tried(make: EventMaker) -> None:
    lanes = window(max_events=2)
    lanes.add(make.of("a"))
    park_all(lanes, until=1.0)
    for _ in range(10_001):
        assert take(lanes, make.of("b")) == []
        assert go_back(lanes, started(lanes))
    assert len(lanes._stories) == 10_000
    assert min(lanes._stories) == 3, "the oldest went"


def test_lanes_that_are_retried_get_no_more_events_until_the_first_is_done_with(make: EventMaker) -> None:
    lanes = holding(make.of("ab"))
    a, b = all_ready(lanes)
    lanes.park(a, until=1.0)
    assert lanes.full_lanes == {"a"}
    lanes.unpark_due(1.0)
    assert lanes.end(started(lanes)), "there is room for it again"
    assert not lanes.end(b)
    assert lanes.full_lanes == frozenset()


@pytest.mark.parametrize("order", ["aabbccdd", "abcdabcd"])
def test_lanes_that_come_again_and_are_retried_never_are_more_than_half_of_the_window(
    order: str, make: EventMaker
) -> None:
    events = make.of(order)
    lanes = window(max_events=4)
    lanes.add(make.of("ee"))
    lanes.park(started(lanes), until=1.0)
    for customer in "abcd":
        first = [events[order.index(customer)]]
        assert take(lanes, first) == []
        assert go_back(lanes, started(lanes)) == ids(first)
    lanes.unpark_due(1.0)
    lanes.end(started(lanes))
    lanes.end(started(lanes))
    back = take(lanes, events)
    assert lanes.events == 2
    assert back == sorted(set(ids(events)) - {taken.event.id for lane in all_ready(lanes) for taken in lane.events})


def test_what_comes_of_lanes_that_are_retried_goes_back_as_far_as_there_is_no_room(
    make: EventMaker,
) -> None:
    lanes = holding(make.of("ab"), max_events=4)
    park_all(lanes, until=1.0)
    assert take(lanes, make.of("abca")) == [3, 4, 6]


def test_what_comes_behind_an_event_that_went_back_goes_back_as_well_until_that_may_come_again(
    make: EventMaker,
) -> None:
    lanes = holding([make("a", size_bytes=49_999)])
    assert lanes.park(started(lanes), until=1.0) == []
    large, small, behind = make("a", size_bytes=2), make("a", size_bytes=1), make("a", size_bytes=1)
    assert lanes.add([large]) == [large]
    assert lanes.add([small]) == [small], "there would be room for it, but it is behind"
    lanes.were_released([large])
    assert lanes.add([behind]) == [behind], "what is ahead of it is still on its way"
    lanes.were_released([small, behind])
    assert lanes.add([small]) == []


def test_what_comes_of_a_lane_that_is_on_its_way_back_goes_back_as_well(make: EventMaker) -> None:
    lanes = holding(make.of("abb"), max_events=2)
    a, b = all_ready(lanes)
    lanes.park(a, until=1.0)
    first, second = lanes.park(b, until=1.0)
    lanes.unpark_due(1.0)
    lanes.end(started(lanes))
    third = make("b")
    assert lanes.add([third]) == [third]
    lanes.were_released([first, second])
    assert lanes.add([first]) == [first], "what is behind it is still on its way"
    lanes.were_released([first, third])
    assert lanes.add([first]) == []


def test_when_there_is_no_time_to_wait_all_become_ready_and_what_was_tried_before_may_come_in(make: EventMaker) -> None:
    events = make.of("abc")
    lanes = holding(events, max_events=4)
    a, b, c = all_ready(lanes)
    lanes.park(a, until=60.0)
    lanes.park(b, until=50.0)
    assert go_back(lanes, c) == [3]
    lanes.end_waits()
    assert take(lanes, events[2:]) == []
    assert tried(all_ready(lanes)) == [2, 1, 3]


# Its bounds


def test_it_asks_for_events_only_when_a_quarter_of_it_is_free(make: EventMaker) -> None:
    lanes = holding(make.of("abcdef"), max_events=8)
    assert lanes.room() == (2, 100_000 - 120)
    lanes.add(make.of("g"))
    assert lanes.room() == (0, 0)
    lanes.end(started(lanes))
    assert lanes.room() == (2, 100_000 - 120)


def test_it_asks_for_none_while_there_are_enough_lanes_besides_those_that_are_retried(make: EventMaker) -> None:
    """Whoever is asked might search behind very many events of those lanes; but retries must not shut out new events."""
    lanes = window(max_events=80, max_lanes=2)
    lanes.add(make.of("ab"))
    assert lanes.room() != (0, 0)
    lanes.add(make.of("c"))
    assert lanes.room() == (0, 0)
    lane = started(lanes)
    assert lanes.room() == (0, 0), "it is still there"
    lanes.park(lane, until=10.0)
    assert lanes.room() != (0, 0)
    lanes.unpark_due(10.0)
    assert lanes.room() != (0, 0)
    lanes.put_back(started(lanes))
    lanes.end(started(lanes))
    assert lanes.room() != (0, 0)


@pytest.mark.parametrize(("size_bytes", "room"), [(99, (7, 1)), (100, (0, 0)), (101, (0, 0))])
def test_it_asks_for_none_while_its_bytes_are_used_up(size_bytes: int, room: tuple[int, int], make: EventMaker) -> None:
    lanes = window(max_events=8, max_bytes=100)
    lanes.add([make(size_bytes=size_bytes)])
    assert lanes.room() == room


def test_a_window_of_one_event_is_filled_when_it_is_empty(make: EventMaker) -> None:
    lanes = window(max_events=1, max_lanes=1)
    assert lanes.room() == (1, 100_000)
    lanes.add(make.of("a"))
    assert lanes.room() == (0, 0)


def test_a_lane_that_has_its_share_gets_no_more_until_half_of_that_is_gone(make: EventMaker) -> None:
    lanes = window(max_events=80, max_lanes=10)
    assert lanes.max_new_of_lane == 4
    lanes.add(make.of("aaab"))
    assert lanes.full_lanes == frozenset()
    lanes.add(make.of("a"))
    assert lanes.full_lanes == {"a"}
    more = []
    for _ in range(5):
        lane = started(lanes)
        more.append((lane.key, lanes.end(lane)))
    assert more == [("a", False), ("b", False), ("a", True), ("a", False), ("a", False)]


def test_a_lane_with_its_share_of_the_bytes_gets_no_more_until_half_of_those_are_gone(make: EventMaker) -> None:
    lanes = window(max_events=80, max_bytes=1000, max_lanes=10)
    lanes.add([make("a", size_bytes=1), make("a", size_bytes=49), make("a", size_bytes=51)])
    assert lanes.full_lanes == {"a"}
    more = []
    while lane := lanes.start():
        more.append(lanes.end(lane))
    assert more == [False, False, True]


def test_where_order_is_not_wanted_no_lane_is_ever_full(make: EventMaker) -> None:
    lanes = window(ordered=False, max_events=8, max_lanes=4)
    lanes.add(make.of("aaaaaa"))
    assert lanes.max_new_of_lane == 8
    assert lanes.full_lanes == frozenset()
    lanes.park(started(lanes), until=1.0)
    assert lanes.full_lanes == frozenset()


def test_a_full_lane_that_went_back_is_not_full_any_more(make: EventMaker) -> None:
    lanes = window(max_events=8, max_lanes=2)
    lanes.add(make.of("aaabb"))
    a, b = all_ready(lanes)
    lanes.park(a, until=1.0)
    assert lanes.full_lanes == {"a", "b"}
    assert ids(lanes.park(b, until=1.0)) == [4, 5]
    assert lanes.full_lanes == {"a"}


def test_another_size_lets_more_in_and_a_smaller_one_keeps_what_is_in(make: EventMaker) -> None:
    lanes = window(max_events=100, max_lanes=2)
    assert lanes.room() == (100, 100_000)
    lanes.change_max(max_events=1000, max_lanes=20)
    assert lanes.room() == (1000, 100_000)
    assert lanes.add([make(f"c{number}") for number in range(20)]) == []
    lanes.change_max(max_events=10, max_lanes=1)
    assert (lanes.room(), lanes.events) == ((0, 0), 20)
    assert len(all_ready(lanes)) == 20
