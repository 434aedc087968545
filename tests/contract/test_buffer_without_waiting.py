"""Taking and acking without waiting, and what the listener is told, proved for each kind of buffer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from forwarder.buffer.base import Buffer
from forwarder.buffer.commits import MAX_WAITING_ACKS
from forwarder.buffer.fates import HandedOver
from forwarder.event import Event
from tests.contract.conftest import Kind, OpenBuffer, database_of
from tests.contract.steps import (
    DEADLINE_SECONDS,
    LONG_REST_SECONDS,
    REJECTED,
    REST_SECONDS,
    ledger_of,
    put,
    release,
)
from tests.fakes.events import EventMaker


class Listener:
    """Notes what it is told by a buffer, and takes from it when it is told that this may help."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.changes = 0
        self.left: list[Event] = []
        self._told = asyncio.Event()
        buffer.listen(changed=self._changed, left=self._have_left)

    def _changed(self) -> None:
        self.changes += 1
        self._told.set()

    def _have_left(self, events: Sequence[Event]) -> None:
        self.left += events
        self._told.set()

    def take_ready(self, max_events: int = 1000) -> list[Event]:
        return self.buffer.take_ready(max_events=max_events, max_bytes=1_000_000)

    async def take(self, number: int) -> list[Event]:
        """Take so many, asking again only when told that there may be more."""
        found = self.take_ready(number)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(found) < number:
                await self._told.wait()
                self._told.clear()
                found += self.take_ready(number - len(found))
        return found

    async def until_left(self, events: Sequence[Event]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.left) < len(events):
                self._told.clear()
                await self._told.wait()
        assert self.left == list(events)


@pytest.fixture
async def listener(buffer: Buffer) -> Listener:
    return Listener(buffer)


@pytest.fixture
async def failures() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop's exception handler is told."""
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    yield told
    loop.set_exception_handler(None)


async def test_an_empty_buffer_has_nothing_ready(listener: Listener) -> None:
    assert listener.take_ready() == []


async def test_whoever_takes_what_is_ready_gets_everything_in_order_and_once(
    listener: Listener, make: EventMaker
) -> None:
    events = make.of("abacabc")
    await put(listener.buffer, events)
    assert await listener.take(len(events)) == events
    assert listener.take_ready() == []


async def test_nothing_is_ready_beyond_the_bounds_that_the_taker_sets(listener: Listener, make: EventMaker) -> None:
    events = make.of("aabb")
    await put(listener.buffer, events)
    assert listener.take_ready(1) == events[:1]
    found = listener.buffer.take_ready(max_events=9, max_bytes=1, skip_lanes={"a"})
    while not found:
        await asyncio.sleep(0)
        found = listener.buffer.take_ready(max_events=9, max_bytes=1, skip_lanes={"a"})
    assert found == events[2:3]


async def test_the_listener_is_told_that_what_comes_next_is_larger_than_the_rest_of_what_it_asked_for(
    listener: Listener, make: EventMaker
) -> None:
    events = [make(size_bytes=1000), make(size_bytes=9_999)]
    await put(listener.buffer, events)
    assert listener.buffer.take_ready(max_events=9, max_bytes=10_000) == events[:1]
    before = listener.changes
    async with asyncio.timeout(DEADLINE_SECONDS):
        while listener.changes == before:
            await asyncio.sleep(0)
    assert listener.take_ready() == events[1:]


async def test_the_listener_is_told_of_a_put_once_it_is_committed(listener: Listener, make: EventMaker) -> None:
    [event] = make.of("a")
    await put(listener.buffer, [event])
    assert listener.changes
    assert listener.take_ready() == [event]


async def test_the_listener_is_told_when_events_are_given_back(listener: Listener, make: EventMaker) -> None:
    events = make.of("ab")
    await put(listener.buffer, events)
    assert await listener.take(2) == events
    before = listener.changes
    await release(listener.buffer, events)
    assert listener.changes > before
    assert await listener.take(2) == events


async def test_the_listener_is_told_when_a_rest_ends(listener: Listener, make: EventMaker) -> None:
    [event] = make.of("a")
    await put(listener.buffer, [event])
    assert await listener.take(1) == [event]
    end = await release(listener.buffer, [event], rest_seconds=REST_SECONDS)
    assert listener.take_ready() == []
    assert await listener.take(1) == [event]
    assert asyncio.get_running_loop().time() >= end - 0.01


async def test_the_listener_is_told_when_all_rests_are_ended(listener: Listener, make: EventMaker) -> None:
    [event] = make.of("a")
    await put(listener.buffer, [event])
    assert await listener.take(1) == [event]
    await release(listener.buffer, [event], rest_seconds=LONG_REST_SECONDS)
    assert listener.take_ready() == []
    before = listener.changes
    listener.buffer.end_deferrals()
    assert listener.changes > before
    assert await listener.take(1) == [event]


async def test_what_is_there_from_before_is_read_and_the_listener_told(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker
) -> None:
    if not kind.outlives_close:
        pytest.skip("nothing is there from before")
    before = await open_buffer()
    events = make.of("abcabc")
    await put(before, events)
    await before.close()
    assert await Listener(await open_buffer()).take(len(events)) == events


async def test_many_events_that_are_passed_over_end_no_take_for_good(open_buffer: OpenBuffer, make: EventMaker) -> None:
    """The search for one of another lane goes on after others had their turn."""
    buffer = await open_buffer(max_events=3000)
    listener = Listener(buffer)
    *many, wanted = make.of("a" * 2500 + "b")
    for start in range(0, len(many), 250):
        await put(buffer, many[start : start + 250])
    await put(buffer, [wanted])
    found: list[Event] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not found:
            before = listener.changes
            found = buffer.take_ready(max_events=1, max_bytes=1_000_000, skip_lanes={"a"})
            while not found and listener.changes == before:
                await asyncio.sleep(0)
    assert found == [wanted]


async def test_an_event_whose_ack_has_begun_leaves_with_its_fate(listener: Listener, make: EventMaker) -> None:
    events = make.of("abc")
    await put(listener.buffer, events)
    delivered, rejected, kept = await listener.take(3)
    listener.buffer.begin_ack(delivered, HandedOver())
    listener.buffer.begin_ack(rejected, REJECTED)
    await listener.buffer.settle_acks()
    assert sorted(event.id for event in listener.left) == [delivered.id, rejected.id]
    assert listener.buffer.ledger() == ledger_of(accepted=3, delivered=1, dead_lettered=1, buffered=1)
    assert not await listener.buffer.contains(delivered.id)
    assert await listener.buffer.contains(kept.id)


async def test_the_listener_is_told_which_events_have_left_although_nobody_settles(
    listener: Listener, make: EventMaker
) -> None:
    events = make.of("ab")
    await put(listener.buffer, events)
    for event in await listener.take(2):
        listener.buffer.begin_ack(event, HandedOver())
    await listener.until_left(events)
    assert listener.buffer.occupancy().events == 0


async def test_an_ack_that_has_begun_is_committed_with_the_next_put(
    kind: Kind, listener: Listener, make: EventMaker
) -> None:
    if not kind.outlives_close:
        pytest.skip("nothing is committed")
    first, second = make.of("ab")
    await put(listener.buffer, [first])
    assert await listener.take(1) == [first]
    before = database_of(listener.buffer).jobs
    listener.buffer.begin_ack(first, HandedOver())
    await put(listener.buffer, [second])
    assert listener.left == [first]
    assert database_of(listener.buffer).jobs == before + 1


async def test_many_acks_that_have_begun_are_committed_together_at_once(
    kind: Kind, listener: Listener, make: EventMaker
) -> None:
    if not kind.outlives_close:
        pytest.skip("nothing is committed")
    events = make.of("a" * MAX_WAITING_ACKS)
    await put(listener.buffer, events)
    assert await listener.take(len(events)) == events
    before = database_of(listener.buffer).jobs
    for event in events:
        listener.buffer.begin_ack(event, HandedOver())
    await listener.until_left(events)
    assert database_of(listener.buffer).jobs == before + 1


async def test_the_listener_is_told_of_acks_that_somebody_waits_for(listener: Listener, make: EventMaker) -> None:
    [event] = make.of("a")
    await put(listener.buffer, [event])
    await listener.take(1)
    await listener.buffer.ack([(event, HandedOver())])
    await listener.until_left([event])


async def test_there_is_nothing_to_settle_where_no_ack_has_begun(listener: Listener, make: EventMaker) -> None:
    await listener.buffer.settle_acks()
    await put(listener.buffer, make.of("a"))
    await listener.buffer.settle_acks()
    assert listener.left == []


async def test_acks_that_have_begun_are_committed_when_the_buffer_is_closed(
    listener: Listener, make: EventMaker
) -> None:
    events = make.of("ab")
    await put(listener.buffer, events)
    for event in await listener.take(2):
        listener.buffer.begin_ack(event, HandedOver())
    await listener.buffer.close()
    assert listener.buffer.ledger() == ledger_of(accepted=2, delivered=2, buffered=0)
    assert listener.left == events


async def test_a_listener_that_fails_harms_neither_puts_nor_acks(
    buffer: Buffer, make: EventMaker, failures: list[dict[str, Any]]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    [event] = make.of("a")
    buffer.listen(changed=fail, left=fail)
    await put(buffer, [event])
    assert buffer.take_ready(max_events=1, max_bytes=1000) == [event]
    buffer.begin_ack(event, HandedOver())
    await buffer.settle_acks()
    assert buffer.ledger() == ledger_of(accepted=1, delivered=1, buffered=0)
    await put(buffer, make.of("b"))
    assert {type(told["exception"]) for told in failures} == {ZeroDivisionError}
