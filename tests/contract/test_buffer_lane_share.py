"""What every Buffer promises where a take wants only so many events of any lane: the rest comes later, in order."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import pytest

from forwarder.buffer.base import Buffer
from forwarder.buffer.ordering import MAX_STEPS_FOR_MORE
from forwarder.event import Event
from tests.contract.conftest import Kind, OpenBuffer
from tests.contract.steps import (
    DEADLINE_SECONDS,
    LONG_REST_SECONDS,
    ack,
    ledger_of,
    loop_time,
    nothing_to_take,
    put,
    release,
    take_all,
)
from tests.fakes.events import EventMaker, ids

ROOMY = ("memory", "disk")
"""The kinds of which one take hands out all that it may."""


async def take_share(
    buffer: Buffer, most: int, *, max_events: int = 1000, skip: AbstractSet[str] = frozenset()
) -> list[Event]:
    """Take once, at most so many of any lane, and check that."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        events = await buffer.take(max_events=max_events, max_bytes=1_000_000, skip_lanes=skip, max_lane_events=most)
    assert 1 <= len(events) <= max_events
    assert max(Counter(event.customer for event in events).values()) <= most
    return events


async def take_shares(buffer: Buffer, most: int, count: int) -> list[list[Event]]:
    """Take again and again, until there are so many events."""
    takes: list[list[Event]] = []
    while sum(map(len, takes)) < count:
        takes.append(await take_share(buffer, most))
    assert sum(map(len, takes)) == count
    return takes


def by_lane(events: Sequence[Event]) -> dict[str, list[int]]:
    lanes: dict[str, list[int]] = defaultdict(list)
    for event in events:
        lanes[event.customer].append(event.id)
    return lanes


@pytest.mark.parametrize("most", [1, 2, 3, 100])
@pytest.mark.parametrize("customers", ["aaaaaaaa", "aaaaaaabacabca", "abcabcabcabc", "cbaaabbbccca"])
async def test_one_take_has_at_most_so_many_of_a_lane_and_later_ones_bring_the_rest_in_order_losing_none(
    kind: Kind, buffer: Buffer, make: EventMaker, customers: str, most: int
) -> None:
    events = make.of(customers)
    await put(buffer, events)
    takes = await take_shares(buffer, most, len(events))
    if kind.name in ROOMY:
        left = events
        for each in takes:
            seen: Counter[str] = Counter()
            expected = [event for event in left if not seen.update(event.customer) and seen[event.customer] <= most]
            assert ids(each) == ids(expected), "all that it may, in the order they were put"
            left = [event for event in left if event not in expected]
    together = [event for each in takes for event in each]
    assert by_lane(together) == by_lane(events)
    assert await nothing_to_take(buffer)
    assert buffer.occupancy().events == len(events)
    await ack(buffer, together)
    assert buffer.ledger() == ledger_of(accepted=len(events), delivered=len(events), buffered=0)


async def test_a_lane_with_many_events_in_front_keeps_nobody_from_the_same_take_unless_they_are_very_many(
    kind: Kind, buffer: Buffer, make: EventMaker
) -> None:
    many, others = make.of("a" * (MAX_STEPS_FOR_MORE + 1)), make.of([f"c{number}" for number in range(20)])
    await put(buffer, many)
    await put(buffer, others)
    first = await take_share(buffer, 2, max_events=30)
    if kind.name in ROOMY:
        assert first == [*many[:2], *others]


async def test_a_lane_with_very_many_events_in_front_keeps_nobody_waiting_for_most_of_them(
    buffer: Buffer, make: EventMaker
) -> None:
    many, others = make.of("a" * 500), make.of([f"c{number}" for number in range(20)])
    await put(buffer, many)
    await put(buffer, others)
    takes: list[list[Event]] = []
    while not {event.customer for each in takes for event in each} >= {event.customer for event in others}:
        takes.append(await take_share(buffer, 2, max_events=30))
    of_many = [event for each in takes for event in each if event.customer == "a"]
    assert len(of_many) < 50, "they did not have to wait for most of it"
    assert of_many + await take_all(buffer) == many


async def test_what_the_limit_left_can_be_had_at_once_also_by_a_taker_that_waits(
    buffer: Buffer, make: EventMaker
) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        takers = [asyncio.create_task(take_share(buffer, 2)) for _ in range(3)]
        await asyncio.sleep(0)
        events = make.of("aaaaaa")
        await put(buffer, events)
        found = [event for each in await asyncio.gather(*takers) for event in each]
        while len(found) < len(events):
            now = loop_time()
            assert buffer.ready_at(now) == now
            found += await take_share(buffer, 2)
    assert sorted(ids(found)) == ids(events)


async def test_a_lane_that_was_released_comes_back_in_shares_too_and_what_was_put_meanwhile_behind_it(
    buffer: Buffer, make: EventMaker
) -> None:
    before = make.of("aaaab")
    await put(buffer, before)
    async with asyncio.timeout(DEADLINE_SECONDS):
        taken = await take_all(buffer)
    assert taken == before
    await release(buffer, taken)
    meanwhile = make.of("aaab")
    await put(buffer, meanwhile)
    takes = await take_shares(buffer, 2, len(before) + len(meanwhile))
    assert by_lane([event for each in takes for event in each]) == by_lane([*before, *meanwhile])


async def test_lanes_that_are_skipped_or_rest_stay_out_of_every_share(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("abcabcabcabc")
    await put(buffer, events)
    first = await take_share(buffer, 1, max_events=1)
    assert first == events[:1]
    await release(buffer, first, rest_seconds=LONG_REST_SECONDS)
    of_c = [event for event in events if event.customer == "c"]
    found: list[Event] = []
    while len(found) < len(of_c):
        found += await take_share(buffer, 3, skip={"b"})
    assert found == of_c
    assert await nothing_to_take(buffer, skip={"b"})
    buffer.end_deferrals()
    takes = await take_shares(buffer, 3, 8)
    assert by_lane([event for each in takes for event in each]) == by_lane([e for e in events if e.customer != "c"])


async def test_what_the_limit_left_is_there_after_a_restart_behind_what_was_taken(
    open_buffer: OpenBuffer, kind: Kind, make: EventMaker
) -> None:
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    buffer = await open_buffer()
    events = make.of("aaaabb")
    await put(buffer, events)
    await take_share(buffer, 1)
    await buffer.close()
    buffer = await open_buffer()
    takes = await take_shares(buffer, 1, len(events))
    assert by_lane([event for each in takes for event in each]) == by_lane(events)
