"""What every Buffer promises of erasing a customer, and of pulling one event out of its turn."""

import asyncio
from collections.abc import Sequence

import pytest

from forwarder.buffer.base import Buffer, Erased, Notes, Stored
from forwarder.buffer.fates import HandedOver
from forwarder.event import Event
from forwarder.observing.telemetry import Telemetry
from tests.contract.conftest import Kind, OpenBuffer
from tests.contract.steps import (
    DEADLINE_SECONDS,
    LONG_REST_SECONDS,
    REJECTED,
    ack,
    ledger_of,
    nothing_to_take,
    put,
    release,
    take,
    take_all,
)
from tests.fakes.events import EventMaker, counted, ids, keys_of


async def all_letters(buffer: Buffer) -> list[int]:
    page = await buffer.dead_letters.page(after_place=0, max_letters=1000)
    return [letter.event.id for letter in page.letters]


def listen(buffer: Buffer, under_way: Sequence[Event] = ()) -> list[int]:
    """Listen as delivery does, with an attempt under way of these events; return what was told to have left."""
    left: list[int] = []
    buffer.listen(
        changed=lambda: None,
        left=lambda events: left.extend(ids(events)),
        revoked=lambda lanes: [event for event in under_way if event.customer in lanes],
    )
    return left


async def told(left: list[int], expected: list[int]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(left) < len(expected):
            await asyncio.sleep(0)
    assert left == expected


async def test_an_erased_customer_has_no_events_and_no_dead_letters_and_others_keep_theirs(
    buffer: Buffer, make: EventMaker, telemetry: Telemetry
) -> None:
    await put(buffer, make.of("abab"))
    await ack(buffer, await take(buffer, 2), REJECTED)
    assert await buffer.erase("a") == Erased(up_to=4, events=1, in_flight=0, dead_letters=1)
    assert buffer.ledger() == ledger_of(accepted=4, dead_lettered=2, dropped={"erased": 1}, buffered=1)
    assert await all_letters(buffer) == [2]
    assert (buffer.occupancy().events, buffer.occupancy().bytes) == (1, 20)
    assert ids(await take_all(buffer)) == [4]
    assert not await buffer.contains(3)
    assert counted(telemetry, "events_dropped_total", reason="erased") == 1
    assert counted(telemetry, "dead_letters_evicted_total", reason="erased") == 1


async def test_a_dry_run_says_what_would_be_erased_and_changes_nothing(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("abab"))
    await ack(buffer, await take(buffer, 1), REJECTED)
    before = buffer.ledger()
    assert await buffer.erase("a", dry_run=True) == Erased(up_to=4, events=1, in_flight=0, dead_letters=1)
    assert buffer.ledger() == before
    assert await all_letters(buffer) == [1]
    assert ids(await take_all(buffer)) == [2, 3, 4]


async def test_what_comes_after_an_erasure_is_like_everything_else(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("aab"))
    first = await buffer.erase("a")
    later = make.of("aa")
    await put(buffer, later)
    again = await buffer.erase("a", up_to=first.up_to)
    assert (again.events, again.dead_letters) == (0, 0)
    assert ids(await take_all(buffer)) == [3, 4, 5]
    assert (await buffer.erase("a")).in_flight == 2


@pytest.mark.parametrize(
    "customer", ["c \ud800", "ä", "Robert'); DROP TABLE events;--", "a\x00b", '"', "%", "_", "x" * 128, " ", "A"]
)
async def test_only_the_very_same_id_is_erased(buffer: Buffer, make: EventMaker, customer: str) -> None:
    others = ["a", "b", "xx", customer + " ", customer[:-1] + "?", "", customer.swapcase() + "!"]
    await put(buffer, make.of([*others, customer]))
    await ack(buffer, await take(buffer), REJECTED)
    await put(buffer, make.of([customer, *others]))
    found = await buffer.erase(customer)
    assert (found.events, found.dead_letters) == (1, 1)
    assert await all_letters(buffer) == list(range(1, len(others) + 1))
    assert [event.customer for event in await take_all(buffer)] == others


async def test_events_that_wait_for_a_retry_are_erased(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("aabb"))
    await release(buffer, await take(buffer), rest_seconds=LONG_REST_SECONDS)
    assert (await buffer.erase("a")).events == 2
    assert buffer.occupancy().deferred == 2
    buffer.end_deferrals()
    assert ids(await take_all(buffer)) == [3, 4]


async def test_an_event_in_flight_that_is_delivered_counts_as_delivered(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("aa"))
    taken = await take(buffer)
    left = listen(buffer, taken[:1])
    assert await buffer.erase("a") == Erased(up_to=2, events=1, in_flight=1, dead_letters=0)
    assert buffer.ledger() == ledger_of(accepted=2, dropped={"erased": 1}, buffered=1)
    assert await buffer.contains(1)
    await buffer.ack([(taken[0], HandedOver())])
    await told(left, [1])
    assert buffer.ledger() == ledger_of(accepted=2, delivered=1, dropped={"erased": 1}, buffered=0)
    assert await buffer.erase("a", up_to=2) == Erased(up_to=2, events=0, in_flight=0, dead_letters=0)


async def test_an_event_in_flight_that_is_to_be_tried_again_is_dropped_and_nobody_waits_for_its_ack(
    buffer: Buffer, make: EventMaker
) -> None:
    await put(buffer, make.of("ab"))
    taken = await take(buffer)
    left = listen(buffer, taken)
    await buffer.mark([(taken[0], 1)])
    assert (await buffer.erase("a")).in_flight == 1
    await buffer.unmark(taken[:1])
    await release(buffer, taken[:1])
    await buffer.settle_acks()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await buffer.contains(1):
            await asyncio.sleep(0)
    assert buffer.ledger() == ledger_of(accepted=2, dropped={"erased": 1}, buffered=1)
    await ack(buffer, taken[1:])
    await told(left, [2])
    assert await nothing_to_take(buffer)


async def test_an_event_in_flight_does_not_become_a_dead_letter(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("aa"))
    taken = await take(buffer)
    left = listen(buffer, taken)
    assert (await buffer.erase("a")).in_flight == 2
    buffer.begin_ack(taken[0], REJECTED)
    await ack(buffer, taken[1:], REJECTED)
    await buffer.settle_acks()
    assert sorted(left) == [1, 2]
    assert await all_letters(buffer) == []
    assert buffer.ledger() == ledger_of(accepted=2, dropped={"erased": 2}, buffered=0)


async def test_an_ack_that_is_on_its_way_when_the_customer_is_erased_is_committed_as_it_is(
    buffer: Buffer, make: EventMaker
) -> None:
    await put(buffer, make.of("aab"))
    taken = await take(buffer)
    left = listen(buffer)
    buffer.begin_ack(taken[0], HandedOver())
    buffer.begin_ack(taken[1], REJECTED)
    await buffer.erase("a")
    await buffer.settle_acks()
    assert left == [1, 2]
    assert await all_letters(buffer) == []
    ledger = buffer.ledger()
    assert (ledger.delivered, ledger.buffered, ledger.unaccounted) == (1, 1, 0)


async def test_what_delivery_releases_late_of_an_erased_customer_is_gone(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("ab"))
    taken = await take(buffer)
    listen(buffer)
    assert (await buffer.erase("a")).events == 1
    await release(buffer, taken)
    assert ids(await take_all(buffer)) == [2]
    assert buffer.ledger() == ledger_of(accepted=2, dropped={"erased": 1}, buffered=1)


async def test_a_newer_event_of_the_lane_that_is_taken_comes_again(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("a"))
    first = await take(buffer)
    listen(buffer, first)
    assert (await buffer.erase("a")).in_flight == 1
    await put(buffer, make.of("ab"))
    newer = await take(buffer)
    assert ids(newer) == [2, 3]
    await buffer.erase("a", up_to=1)
    await ack(buffer, first)
    assert ids(await take_all(buffer)) in ([], [2])
    assert buffer.ledger() == ledger_of(accepted=3, delivered=1, buffered=2)


async def test_what_several_erasures_took_from_delivery_may_be_released_late(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("abc"))
    taken = await take(buffer)
    listen(buffer)
    await asyncio.gather(buffer.erase("a"), buffer.erase("b"))
    await release(buffer, taken)
    assert ids(await take_all(buffer)) == [3]
    assert buffer.ledger() == ledger_of(accepted=3, dropped={"erased": 2}, buffered=1)


async def test_events_that_are_put_while_a_customer_is_erased_are_stored(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("ab" * 50))
    erasing = asyncio.create_task(buffer.erase("a"))
    later = make.of("ab" * 20)
    for event in later:
        assert await buffer.put([event], intake="http") == Stored()
    found = await erasing
    assert found.events >= 50
    rest = ids(await take_all(buffer))
    assert set(range(2, 101, 2)) <= set(rest)
    assert set(rest) <= {*range(2, 101, 2), *ids(later)}
    ledger = buffer.ledger()
    assert (ledger.accepted, ledger.unaccounted, ledger.buffered) == (140, 0, len(rest))


async def test_room_that_an_erasure_makes_can_be_used(open_buffer: OpenBuffer, make: EventMaker) -> None:
    buffer = await open_buffer(max_events=4)
    await put(buffer, make.of("aaab"))
    await buffer.erase("a")
    await put(buffer, make.of("bbb"))
    assert ids(await take_all(buffer)) == [4, 5, 6, 7]


async def test_many_events_are_erased_in_portions(open_buffer: OpenBuffer, make: EventMaker) -> None:
    buffer = await open_buffer(max_events=20_000)
    await put(buffer, make.of("ab" * 3000))
    ledgers = []
    erasing = asyncio.create_task(buffer.erase("a"))
    while not erasing.done():
        ledgers.append(buffer.ledger())
        await asyncio.sleep(0)
    assert (await erasing).events == 3000
    assert all(ledger.unaccounted == 0 for ledger in ledgers)
    assert len(await take_all(buffer)) == 3000


async def test_an_erasure_is_there_after_the_buffer_is_opened_again(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker
) -> None:
    if not kind.outlives_close:
        return
    buffer = await open_buffer()
    await put(buffer, make.of("aab"))
    await ack(buffer, await take(buffer, 1), REJECTED)
    taken = await take(buffer, 1)
    listen(buffer, taken)
    assert (await buffer.erase("a")).in_flight == 1
    if kind.name != "a list behind a network":  # which has it until somebody says what became of the attempt
        await buffer.close()
        buffer = await open_buffer(telemetry=Telemetry())
        assert ids(await take_all(buffer)) == [3]
        assert buffer.ledger() == ledger_of(accepted=3, dead_lettered=1, dropped={"erased": 1}, buffered=1)
        assert await all_letters(buffer) == []


async def test_the_keys_of_erased_events_stay_so_that_a_repetition_is_still_a_duplicate(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    if not kind.outlives_close:
        return
    events = make.of("a")
    assert await buffer.put(events, intake="http", notes=Notes(keys=keys_of(events))) == Stored()
    await buffer.erase("a")
    await buffer.close()
    again = await open_buffer(telemetry=Telemetry())
    assert [key.event_id for key in (await again.recall()).keys] == [1]


async def test_a_pulled_event_is_taken_and_the_others_keep_their_order(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("aaab"))
    pulled = await buffer.pull(2)
    assert pulled is not None
    assert (pulled.id, pulled.customer, pulled.body) == (2, "a", b"2".ljust(20))
    assert await buffer.pull(2) is None, "it is taken"
    assert ids(await take_all(buffer)) == [1, 3, 4]
    await ack(buffer, [pulled], REJECTED)
    assert await all_letters(buffer) == [2]
    assert buffer.ledger() == ledger_of(accepted=4, dead_lettered=1, buffered=3)
    assert await buffer.pull(2) is None, "it has left"
    assert await buffer.pull(99) is None


@pytest.mark.parametrize("turns", range(4))
async def test_a_pulled_event_whose_customer_is_erased_before_it_is_acked_is_dropped(
    buffer: Buffer, make: EventMaker, turns: int
) -> None:
    await put(buffer, make.of("ab"))
    left = listen(buffer)
    pulling = asyncio.create_task(buffer.pull(1))
    for _ in range(turns):
        await asyncio.sleep(0)
    erasing = asyncio.create_task(buffer.erase("a"))
    if (pulled := await pulling) is not None:
        buffer.begin_ack(pulled, REJECTED)
    await erasing
    await buffer.settle_acks()
    while (await buffer.erase("a")).in_flight:
        await asyncio.sleep(0)
    assert left in ([], [1])
    assert await all_letters(buffer) == []
    ledger = buffer.ledger()
    assert (ledger.buffered, ledger.unaccounted, ledger.delivered) == (1, 0, 0)
    assert ids(await take_all(buffer)) == [2]


async def test_an_event_that_waits_for_a_retry_can_be_pulled(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("aab"))
    await release(buffer, await take(buffer), rest_seconds=LONG_REST_SECONDS)
    pulled = await buffer.pull(1)
    assert pulled is not None
    await ack(buffer, [pulled])
    buffer.end_deferrals()
    assert ids(await take_all(buffer)) == [2, 3]
