"""What every Buffer promises, proved for each kind there is: see forwarder/buffer/base.py for the promises."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

from forwarder.buffer.base import Buffer, Full, NeverFits, Occupancy, Stored
from forwarder.buffer.fates import HandedOver
from forwarder.event import Event
from forwarder.observing.telemetry import Telemetry
from tests.contract.conftest import Kind, OpenBuffer
from tests.contract.steps import (
    DEADLINE_SECONDS,
    LONG_REST_SECONDS,
    REJECTED,
    REST_SECONDS,
    SILENCE_SECONDS,
    ack,
    expect,
    is_oldest,
    ledger_of,
    loop_time,
    nothing_to_take,
    put,
    release,
    sizes,
    take,
    take_all,
    waiting_taker,
)
from tests.fakes.events import EventMaker, counted, ids

# Putting, all or nothing, within both bounds


async def test_a_buffer_may_be_exactly_full_of_events_and_one_more_is_refused(
    open_buffer: OpenBuffer, make: EventMaker
) -> None:
    buffer = await open_buffer(max_events=3)
    await put(buffer, make.of("ab"))
    await put(buffer, make.of("c"))
    assert await buffer.put(make.of("d"), intake="http") == Full()
    assert buffer.occupancy().events == 3


async def test_a_buffer_may_be_exactly_full_of_bytes_and_one_more_is_refused(
    open_buffer: OpenBuffer, make: EventMaker
) -> None:
    buffer = await open_buffer(max_bytes=2048)
    await put(buffer, [make(size_bytes=1000), make(size_bytes=47)])
    assert await buffer.put([make(size_bytes=1002)], intake="http") == Full()
    await put(buffer, [make(size_bytes=1001)])
    assert await buffer.put([make(size_bytes=1)], intake="http") == Full()
    assert buffer.occupancy().bytes == 2048


@pytest.mark.parametrize(("max_events", "max_bytes"), [(4, 1_000_000), (1000, 80)])
async def test_events_that_do_not_all_fit_are_refused_together_and_leave_no_trace(
    open_buffer: OpenBuffer, make: EventMaker, telemetry: Telemetry, max_events: int, max_bytes: int
) -> None:
    buffer = await open_buffer(max_events=max_events, max_bytes=max_bytes)
    kept = make.of("abc")
    await put(buffer, kept)
    before = buffer.ledger(), buffer.occupancy()
    assert await buffer.put(make.of("ab"), intake="http") == Full()
    assert (buffer.ledger(), buffer.occupancy()) == before
    assert counted(telemetry, "events_accepted_total", intake="http") == 3
    fits = make.of("a")
    await put(buffer, fits)
    assert await take_all(buffer) == kept + fits


@pytest.mark.parametrize("already_in", [0, 2])
async def test_more_events_than_an_empty_buffer_holds_never_fit(
    open_buffer: OpenBuffer, make: EventMaker, already_in: int
) -> None:
    buffer = await open_buffer(max_events=3)
    await put(buffer, make.of("a" * already_in))
    assert await buffer.put(make.of("bbbb"), intake="http") == NeverFits()
    assert buffer.ledger().accepted == buffer.occupancy().events == already_in


@pytest.mark.parametrize("already_in", [0, 1])
async def test_more_bytes_than_an_empty_buffer_holds_never_fit(
    open_buffer: OpenBuffer, make: EventMaker, already_in: int
) -> None:
    buffer = await open_buffer(max_bytes=1024)
    await put(buffer, make.of("a" * already_in))
    assert await buffer.put([make(size_bytes=1025)], intake="http") == NeverFits()
    assert await buffer.put([make(size_bytes=1000), make(size_bytes=25)], intake="http") == NeverFits()
    assert buffer.ledger().accepted == buffer.occupancy().events == already_in


async def test_one_event_as_large_as_the_whole_buffer_fits(open_buffer: OpenBuffer, make: EventMaker) -> None:
    buffer = await open_buffer(max_events=1, max_bytes=1024)
    largest = make(size_bytes=1024)
    await put(buffer, [largest])
    assert await take(buffer) == [largest]


async def test_putting_nothing_is_stored_and_changes_nothing(buffer: Buffer) -> None:
    await put(buffer, [])
    assert buffer.ledger() == ledger_of(accepted=0, buffered=0)
    assert await nothing_to_take(buffer)


@pytest.mark.parametrize(("max_events", "max_bytes"), [(3, 1_000_000), (1000, 60)])
async def test_the_bounds_count_events_that_are_taken_or_released_until_they_are_acked(
    open_buffer: OpenBuffer, make: EventMaker, max_events: int, max_bytes: int
) -> None:
    buffer = await open_buffer(max_events=max_events, max_bytes=max_bytes)
    await put(buffer, make.of("abc"))
    taken = await take(buffer)
    assert await buffer.put(make.of("d"), intake="http") == Full()
    await release(buffer, taken[:1], rest_seconds=LONG_REST_SECONDS)
    assert await buffer.put(make.of("d"), intake="http") == Full()
    await ack(buffer, taken[1:2])
    assert await buffer.put(make.of("de"), intake="http") == Full()
    await put(buffer, make.of("d"))
    assert await buffer.put(make.of("e"), intake="http") == Full()


async def test_what_is_accepted_is_counted_for_its_intake(
    open_buffer: OpenBuffer, make: EventMaker, telemetry: Telemetry
) -> None:
    buffer = await open_buffer(max_events=3)
    assert await buffer.put(make.of("a"), intake="http") == Stored()
    assert await buffer.put(make.of("bc"), intake="unix") == Stored()
    assert await buffer.put(make.of("d"), intake="unix") == Full()
    assert counted(telemetry, "events_accepted_total", intake="http") == 1
    assert counted(telemetry, "events_accepted_total", intake="unix") == 2


# Taking, order and limits


async def test_events_come_in_the_order_they_were_put_whatever_the_batches(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("abacbbcaca")
    await put(buffer, events[:1])
    await put(buffer, events[1:7])
    await put(buffer, events[7:])
    assert await take(buffer, 4) == events[:4]
    assert await take(buffer, 1) == events[4:5]
    assert await take(buffer, 100) == events[5:]


async def test_an_event_comes_out_as_it_went_in(buffer: Buffer) -> None:
    event = Event(2**53 + 1, "c 1", "näme\n", b'{"a": "\\ud800\xc3\xa4",  "b":1e400}', 1.7e9 + 0.123456)
    await put(buffer, [event])
    (taken,) = await take(buffer)
    assert taken.id == event.id
    assert taken.customer == event.customer
    assert taken.name == event.name
    assert taken.body == event.body
    assert taken.accepted_at == event.accepted_at


async def test_a_take_returns_at_most_the_bytes_asked_for(buffer: Buffer, make: EventMaker) -> None:
    events = [make(size_bytes=size) for size in (400, 600, 1, 999, 2)]
    await put(buffer, events)
    await expect(buffer, events[:2], max_bytes=1000)  # exactly max_bytes is allowed
    await expect(buffer, events[2:4], max_bytes=1000)
    await expect(buffer, events[4:], max_bytes=1000)


async def test_a_small_event_does_not_overtake_one_that_is_too_large_for_the_batch(
    buffer: Buffer, make: EventMaker
) -> None:
    events = [make("a", size_bytes=10), make("b", size_bytes=100), make("a", size_bytes=10)]
    await put(buffer, events)
    await expect(buffer, events[:1], max_bytes=50)
    await expect(buffer, events[1:], max_bytes=150)


async def test_an_event_larger_than_max_bytes_is_handed_out_alone(buffer: Buffer, make: EventMaker) -> None:
    events = [make(size_bytes=5000), make(size_bytes=5000), make(size_bytes=5), make(size_bytes=5)]
    await put(buffer, events)
    await expect(buffer, events[:1], max_bytes=10)
    await expect(buffer, events[1:2], max_bytes=10)
    await expect(buffer, events[2:], max_bytes=10)


async def test_an_event_larger_than_max_bytes_is_handed_out_from_a_lane_that_was_released(
    buffer: Buffer, make: EventMaker
) -> None:
    events = [make(size_bytes=5000), make(size_bytes=5)]
    await put(buffer, events)
    await release(buffer, await take(buffer))
    await expect(buffer, events[:1], max_bytes=10)
    await expect(buffer, events[1:], max_bytes=10)


async def test_what_is_taken_is_hidden_from_later_takes(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("aab")
    await put(buffer, events)
    assert await take(buffer, 2) == events[:2]
    assert await take_all(buffer) == events[2:]


@pytest.mark.parametrize("takers", [2, 20])
async def test_each_event_goes_to_one_of_many_concurrent_takers(buffer: Buffer, make: EventMaker, takers: int) -> None:
    events = make.of("abcde" * 60)
    taken: list[Event] = []
    everything_is_taken = asyncio.Event()

    async def keep_taking(max_events: int) -> None:
        while True:
            taken.extend(await buffer.take(max_events=max_events, max_bytes=1_000_000))
            if len(taken) >= len(events):
                everything_is_taken.set()

    async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        tasks = [group.create_task(keep_taking(1 + number % 3)) for number in range(takers)]
        for start in range(0, len(events), 30):
            await put(buffer, events[start : start + 30])
            await asyncio.sleep(0)
        await everything_is_taken.wait()
        for task in tasks:
            task.cancel()
    assert Counter(ids(taken)) == Counter(ids(events))
    assert buffer.occupancy().events == len(events)


async def test_two_takers_with_different_lanes_to_skip_both_get_what_is_theirs(
    buffer: Buffer, make: EventMaker
) -> None:
    without_a = await waiting_taker(buffer, skip={"a"})
    without_b = await waiting_taker(buffer, skip={"b"})
    events = make.of("ab")
    await put(buffer, events)
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await without_a == events[1:]
        assert await without_b == events[:1]


# Taking while there is nothing


async def test_a_take_waits_for_an_event_and_returns_it(buffer: Buffer, make: EventMaker) -> None:
    taker = await waiting_taker(buffer)
    event = make()
    await put(buffer, [event])
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await taker == [event]


async def test_one_put_wakes_every_taker_for_whom_there_is_an_event(buffer: Buffer, make: EventMaker) -> None:
    takers = [await waiting_taker(buffer, 1) for _ in range(3)]
    events = make.of("aaa")
    await put(buffer, events)
    async with asyncio.timeout(DEADLINE_SECONDS):
        taken = [event for taker in takers for event in await taker]
    assert sorted(ids(taken)) == ids(events)


async def test_a_release_wakes_a_waiting_take(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("ab"))
    events = await take(buffer)
    taker = await waiting_taker(buffer)
    await release(buffer, events)
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await taker == events


async def test_the_end_of_a_rest_wakes_a_waiting_take_and_not_before(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("aa"))
    events = await take(buffer)
    not_before = await release(buffer, events, rest_seconds=REST_SECONDS)
    taken = await take(buffer)
    assert not_before <= loop_time() < not_before + 0.5
    assert taken == events


async def test_a_take_that_waits_for_a_long_rest_is_woken_by_a_shorter_one(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("ab"))
    first, second = await take(buffer)
    await release(buffer, [first], rest_seconds=LONG_REST_SECONDS)
    taker = await waiting_taker(buffer)
    await release(buffer, [second], rest_seconds=REST_SECONDS)
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await taker == [second]


async def test_a_waiting_take_goes_on_waiting_while_only_skipped_lanes_get_events(
    buffer: Buffer, make: EventMaker
) -> None:
    taker = await waiting_taker(buffer, skip={"a"})
    await put(buffer, make.of("aa"))
    done, _ = await asyncio.wait({taker}, timeout=SILENCE_SECONDS)
    assert not done
    other = make("b")
    await put(buffer, [other])
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await taker == [other]


async def test_a_cancelled_take_hands_out_nothing(buffer: Buffer, make: EventMaker) -> None:
    taker = await waiting_taker(buffer)
    taker.cancel()
    events = make.of("ab")
    await put(buffer, events)
    with pytest.raises(asyncio.CancelledError):
        await taker
    assert await take_all(buffer) == events


@pytest.mark.parametrize("turns", range(6))
async def test_a_take_that_is_cancelled_while_it_wakes_either_returns_the_event_or_leaves_it(
    buffer: Buffer, make: EventMaker, turns: int
) -> None:
    taker = await waiting_taker(buffer)
    event = make()
    await put(buffer, [event])
    for _ in range(turns):
        await asyncio.sleep(0)
    taker.cancel()
    await asyncio.wait({taker}, timeout=DEADLINE_SECONDS)
    by_the_taker = [] if taker.cancelled() else taker.result()
    assert by_the_taker + await take_all(buffer) == [event]
    assert buffer.occupancy().events == 1


async def test_cancelling_one_of_two_waiting_takers_does_not_keep_the_event_from_the_other(
    buffer: Buffer, make: EventMaker
) -> None:
    first, second = await waiting_taker(buffer), await waiting_taker(buffer)
    event = make()
    await put(buffer, [event])
    first.cancel()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.wait({first})
        if first.cancelled():
            assert await second == [event]
        else:  # it had the event before it was cancelled
            assert first.result() == [event]
            second.cancel()


# Skipping lanes


async def test_order_holds_before_while_and_after_lanes_are_skipped(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("abcabcabcabc")
    await put(buffer, events)
    assert await take(buffer, 2) == events[:2]
    assert await take(buffer, 3, skip={"a"}) == [events[n] for n in (2, 4, 5)]
    assert await take(buffer, 2, skip={"a", "b"}) == [events[n] for n in (8, 11)]
    assert await nothing_to_take(buffer, skip={"a", "b"})
    assert await take(buffer, 1, skip={"b"}) == [events[3]]
    assert await take(buffer, 3) == [events[n] for n in (6, 7, 9)]
    assert await take(buffer) == [events[10]]


async def test_a_skipped_lane_comes_back_in_order_together_with_what_was_put_meanwhile(
    buffer: Buffer, make: EventMaker
) -> None:
    before = make.of("aba")
    await put(buffer, before)
    assert await take(buffer, skip={"a"}) == before[1:2]
    meanwhile = make.of("bab")
    await put(buffer, meanwhile)
    assert await take(buffer, 1, skip={"a"}) == meanwhile[:1]
    assert await take(buffer) == [before[0], before[2], *meanwhile[1:]]


async def test_a_lane_that_is_skipped_in_front_of_many_others_stops_none_of_them(
    buffer: Buffer, make: EventMaker
) -> None:
    blocked = make.of(["a"] * 300)
    others = make.of([f"c{number % 100}" for number in range(300)])
    await put(buffer, blocked)
    await put(buffer, others)
    assert [event for _ in range(3) for event in await take(buffer, 100, skip={"a"})] == others
    assert await nothing_to_take(buffer, skip={"a"})
    assert await take_all(buffer, batch=7) == blocked


async def test_skipping_lanes_of_which_there_is_nothing_changes_nothing(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("ab")
    await put(buffer, events)
    assert await take(buffer, skip={"x", "y"}) == events


async def test_a_skipped_lane_is_skipped_for_one_taker_only(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("ab")
    await put(buffer, events)
    assert await take(buffer, 1, skip={"a"}) == events[1:]
    assert await take(buffer, 1, skip={"b"}) == events[:1]


async def test_lanes_are_told_apart_by_the_exact_text_of_the_customer(buffer: Buffer, make: EventMaker) -> None:
    customers = ["", " ", "a", "A", "a\x00", "a\x00b", "\u00e4", "a\u0308", "\ud800", "\ud801", "💥", "'; --", "%"]
    events = make.of(customers)
    await put(buffer, events)
    for customer, event in zip(customers, events, strict=True):
        assert await take(buffer, skip=set(customers) - {customer}) == [event]


# Releasing


async def test_a_released_event_goes_before_the_later_ones_of_its_lane(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("aabab")
    await put(buffer, events)
    taken = await take(buffer, 1)
    await release(buffer, taken)
    assert await take(buffer) == events


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
@pytest.mark.parametrize("together", [True, False])
async def test_events_of_a_lane_find_their_places_whatever_the_order_of_their_release(
    buffer: Buffer, make: EventMaker, order: Sequence[int], together: bool
) -> None:
    events = make.of("aaaaaa")
    await put(buffer, events)
    taken = await take(buffer, 4)
    back = [taken[place] for place in order]
    for part in [back] if together else [[event] for event in back]:
        await release(buffer, part)
    assert await take(buffer) == events


async def test_an_event_taken_from_the_middle_of_a_lane_goes_back_there(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("aaaa")
    await put(buffer, events)
    first, middle = await take(buffer, 1), await take(buffer, 1)
    await release(buffer, middle)
    await release(buffer, first)
    assert await take(buffer, 1) == first
    assert await take(buffer, 1) == middle
    assert await take(buffer) == events[2:]


async def test_a_rest_holds_back_the_whole_lane_and_no_other(buffer: Buffer, make: EventMaker) -> None:
    before = make.of("aabab")
    await put(buffer, before)
    not_before = await release(buffer, await take(buffer, 1), rest_seconds=REST_SECONDS * 5)
    after = make.of("abba")
    await put(buffer, after)
    assert await take(buffer) == [event for event in before + after if event.customer == "b"]
    assert loop_time() < not_before, "the test was too slow to see the rest"
    taken = await take(buffer)
    assert loop_time() >= not_before
    assert taken == [event for event in before + after if event.customer == "a"]


async def test_ending_the_rests_lets_all_be_taken_at_once_and_in_order(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("abcab")
    await put(buffer, events)
    await release(buffer, await take(buffer, 3), rest_seconds=3600)
    assert await nothing_to_take(buffer)
    assert buffer.occupancy().deferred == 5, "those behind a released one rest with it"
    waiting = asyncio.create_task(take(buffer))
    await asyncio.sleep(0)
    buffer.end_deferrals()
    assert await waiting == events
    assert buffer.occupancy().deferred == 0
    await release(buffer, events[:1], rest_seconds=3600)
    assert await nothing_to_take(buffer), "a rest that begins later holds"


async def test_the_longest_of_several_rests_of_a_lane_counts(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("aaa"))
    events = await take(buffer)
    await release(buffer, events[:1], rest_seconds=0.0)
    not_before = await release(buffer, events[1:2], rest_seconds=REST_SECONDS)
    await release(buffer, events[2:], rest_seconds=0.0)
    assert await take(buffer) == events
    assert loop_time() >= not_before


async def test_a_later_release_can_lengthen_the_rest(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("aa"))
    events = await take(buffer)
    await release(buffer, events[:1], rest_seconds=REST_SECONDS / 2)
    not_before = await release(buffer, events[1:], rest_seconds=REST_SECONDS)
    assert await take(buffer) == events
    assert loop_time() >= not_before


async def test_a_rest_in_the_past_is_no_rest(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("a"))
    events = await take(buffer)
    await release(buffer, events, rest_seconds=-1000.0)
    assert await take(buffer) == events


async def test_a_rest_goes_on_although_its_lane_is_skipped_and_no_longer_skipped(
    buffer: Buffer, make: EventMaker
) -> None:
    await put(buffer, make.of("ab"))
    events = await take(buffer)
    not_before = await release(buffer, events[:1], rest_seconds=REST_SECONDS)
    await release(buffer, events[1:])
    assert await take(buffer, 1, skip={"a"}) == events[1:]
    assert await take(buffer) == events[:1]
    assert loop_time() >= not_before


async def test_a_lane_whose_rest_ends_while_it_is_skipped_stays_skipped(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("a"))
    events = await take(buffer)
    await release(buffer, events, rest_seconds=SILENCE_SECONDS / 2)
    taker = await waiting_taker(buffer, skip={"a"})
    other = make("b")
    await put(buffer, [other])
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await taker == [other]
    assert await take(buffer) == events


async def test_a_released_event_can_be_taken_released_and_acked_again(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("ab"))
    for _ in range(5):
        events = await take(buffer)
        assert ids(events) == [1, 2]
        await release(buffer, events)
    events = await take(buffer)
    await ack(buffer, events)
    assert buffer.ledger() == ledger_of(accepted=2, delivered=2, buffered=0)


# The ledger and the occupancy


async def test_ledger_and_occupancy_are_right_at_every_step(
    kind: Kind, buffer: Buffer, make: EventMaker, telemetry: Telemetry
) -> None:
    def is_right(accepted: int, delivered: int, rejected: int, left: Sequence[Event]) -> bool:
        assert buffer.ledger() == ledger_of(
            accepted=accepted, delivered=delivered, dead_lettered=rejected, buffered=len(left)
        )
        assert buffer.ledger().unaccounted == 0
        oldest = min((event.accepted_at for event in left), default=None)
        occupancy = buffer.occupancy()
        assert (occupancy.events, occupancy.bytes) == (len(left), sizes(left))
        assert is_oldest(kind, occupancy, oldest)
        assert counted(telemetry, "events_delivered_total") == delivered
        assert counted(telemetry, "events_dead_lettered_total", reason="rejected") == rejected
        return True

    assert is_right(0, 0, 0, [])
    events = [make(customer, size_bytes=size) for customer, size in zip("ababc", (20, 30, 50, 70, 110), strict=True)]
    await put(buffer, events)
    assert is_right(5, 0, 0, events)
    first = await take(buffer, 1)
    assert is_right(5, 0, 0, events)
    await release(buffer, first, rest_seconds=LONG_REST_SECONDS)
    assert is_right(5, 0, 0, events)
    taken = await take(buffer)
    assert taken == [events[1], events[3], events[4]]
    assert is_right(5, 0, 0, events)
    await ack(buffer, taken[:1])
    assert is_right(5, 1, 0, [events[0], *events[2:]])
    await buffer.ack([(taken[1], REJECTED), (taken[2], HandedOver())])
    assert is_right(5, 2, 1, [events[0], events[2]])


@pytest.mark.parametrize("where", ["waiting", "taken", "deferred", "skipped"])
async def test_the_oldest_event_counts_wherever_it_is(kind: Kind, buffer: Buffer, make: EventMaker, where: str) -> None:
    oldest, younger, other = events = make.of("aab")
    await put(buffer, events)
    if where == "skipped":
        assert await take(buffer, skip={"a"}) == [other]
    elif where != "waiting":
        taken = await take(buffer, 1)
        if where == "deferred":
            await release(buffer, taken, rest_seconds=LONG_REST_SECONDS)
    assert is_oldest(kind, buffer.occupancy(), oldest.accepted_at)
    if where == "taken":
        await ack(buffer, [oldest])
        assert is_oldest(kind, buffer.occupancy(), younger.accepted_at)


async def test_an_ack_of_nothing_changes_nothing(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("a"))
    await buffer.ack([])
    await release(buffer, [])
    assert buffer.ledger() == ledger_of(accepted=1, buffered=1)


async def test_an_acked_event_never_comes_again(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("aaabbb")
    await put(buffer, events)
    taken = await take(buffer, 4)
    await ack(buffer, [taken[1], taken[3]])
    await release(buffer, [taken[2], taken[0]])
    assert await take_all(buffer) == [events[0], events[2], events[4], events[5]]


# When something may be taken


async def test_a_buffer_without_waiting_events_is_never_ready(buffer: Buffer, make: EventMaker) -> None:
    assert buffer.ready_at(loop_time()) is None
    await put(buffer, make.of("ab"))
    taken = await take(buffer)
    assert buffer.ready_at(loop_time()) is None
    await ack(buffer, taken)
    assert buffer.ready_at(loop_time()) is None


async def test_a_buffer_with_a_waiting_event_is_ready_now(buffer: Buffer, make: EventMaker) -> None:
    now = loop_time()
    await put(buffer, make.of("ab"))
    assert buffer.ready_at(now) == now
    await release(buffer, await take(buffer, 1), rest_seconds=LONG_REST_SECONDS)
    assert buffer.ready_at(now) == now, "b is ready although a rests"


async def test_a_buffer_of_resting_lanes_is_ready_when_the_first_rest_ends(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("ab"))
    first, second = await take(buffer)
    late = await release(buffer, [first], rest_seconds=2 * LONG_REST_SECONDS)
    assert buffer.ready_at(loop_time()) == late
    early = await release(buffer, [second], rest_seconds=LONG_REST_SECONDS)
    assert buffer.ready_at(loop_time()) == early
    assert buffer.ready_at(early + 1.0) == early + 1.0, "a rest that is over means now"


async def test_a_buffer_is_ready_although_the_last_taker_skipped_every_lane(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("ab"))
    assert await nothing_to_take(buffer, skip={"a", "b"})
    now = loop_time()
    assert buffer.ready_at(now) == now


async def test_a_buffer_whose_skipped_lanes_were_taken_after_all_is_never_ready(
    buffer: Buffer, make: EventMaker
) -> None:
    events = make.of("aab")
    await put(buffer, events)
    assert await take(buffer, skip={"a"}) == events[2:]
    assert await take(buffer) == events[:2]
    assert buffer.ready_at(loop_time()) is None


# Closing


async def test_closing_drops_what_the_buffer_cannot_keep_wherever_it_is(
    kind: Kind, buffer: Buffer, make: EventMaker, telemetry: Telemetry
) -> None:
    if kind.outlives_close:
        pytest.skip("it keeps everything")
    events = make.of("abacad")
    await put(buffer, events)
    assert await take(buffer, 1, skip={"a"}) == [events[1]]  # a is skipped, b is taken
    first, last = await take(buffer, 2)
    await release(buffer, [first], rest_seconds=LONG_REST_SECONDS)
    await ack(buffer, [last])
    await buffer.close()
    closed = ledger_of(accepted=6, delivered=1, dropped={"shutdown": 5}, buffered=0)
    assert buffer.ledger() == closed
    assert buffer.occupancy() == Occupancy(events=0, bytes=0, deferred=0, oldest_accepted_at=None)
    assert counted(telemetry, "events_dropped_total", reason="shutdown") == 5
    await buffer.close()
    assert buffer.ledger() == closed


async def test_an_empty_buffer_closes_without_a_drop_and_may_be_closed_again(
    buffer: Buffer, make: EventMaker, telemetry: Telemetry
) -> None:
    await put(buffer, make.of("ab"))
    await ack(buffer, await take(buffer))
    await buffer.close()
    await buffer.close()
    assert counted(telemetry, "events_dropped_total", reason="shutdown") == 0


async def test_a_buffer_that_outlives_its_close_holds_everything_unacked_in_order_when_opened_again(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker
) -> None:
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    buffer = await open_buffer()
    events = make.of("abacad")
    await put(buffer, events)
    taken = await take(buffer, 3)
    await release(buffer, taken[:1], rest_seconds=LONG_REST_SECONDS)
    await ack(buffer, taken[1:2])
    await buffer.close()
    again = await open_buffer()
    left = await take_all(again)
    assert ids(left) == [events[n].id for n in (0, 2, 3, 4, 5)]
    assert again.ledger().unaccounted == 0


async def test_ids_handed_out_always_rise_within_each_lane(buffer: Buffer, make: EventMaker) -> None:
    """A long mixed run: whatever is skipped and released, a lane without releases never goes backwards."""
    seen: dict[str, list[int]] = {}
    for turn in range(60):
        await put(buffer, make.of("abcabcd"))
        skip = [frozenset[str](), frozenset("a"), frozenset("bc"), frozenset("acd")][turn % 4]
        taken = await take(buffer, 1 + turn % 5, skip=skip)
        assert all(event.customer not in skip for event in taken)
        back = [event for event in taken if event.customer == "d" and turn % 3 == 0]
        await release(buffer, back)
        for event in taken:
            if event not in back:
                seen.setdefault(event.customer, []).append(event.id)
        await ack(buffer, [event for event in taken if event not in back])
    for numbers in seen.values():
        assert all(before < after for before, after in pairwise(numbers))
