"""What every Buffer does when it is full and the oldest events are to be dropped."""

import asyncio
from collections.abc import Sequence

import pytest

from forwarder.buffer.base import Buffer, Full, NeverFits, Stored
from forwarder.event import Event
from forwarder.observing.telemetry import Telemetry
from tests.contract.conftest import Kind, OpenBuffer
from tests.contract.steps import (
    DEADLINE_SECONDS,
    LONG_REST_SECONDS,
    SILENCE_SECONDS,
    ack,
    ledger_of,
    loop_time,
    nothing_to_take,
    put,
    release,
    sizes,
    take,
    take_all,
)
from tests.fakes.events import EventMaker, counted, ids


async def dropping(open_buffer: OpenBuffer, *, max_events: int = 1000, max_bytes: int = 1_000_000) -> Buffer:
    return await open_buffer(max_events=max_events, max_bytes=max_bytes, when_full="drop_oldest")


async def test_the_oldest_go_whatever_their_lanes_and_are_counted(
    open_buffer: OpenBuffer, make: EventMaker, telemetry: Telemetry
) -> None:
    buffer = await dropping(open_buffer, max_events=5)
    events = make.of("abacb")
    await put(buffer, events)
    newer = make.of("ad")
    await put(buffer, newer)
    assert buffer.ledger() == ledger_of(accepted=7, dropped={"drop_oldest": 2}, buffered=5)
    assert counted(telemetry, "events_dropped_total", reason="drop_oldest") == 2
    assert buffer.occupancy().bytes == sizes(events[2:] + newer)
    assert await take_all(buffer) == events[2:] + newer


async def test_no_more_go_than_must_for_the_bytes(open_buffer: OpenBuffer, make: EventMaker) -> None:
    buffer = await dropping(open_buffer, max_bytes=1000)
    events = [make(size_bytes=size) for size in (100, 300, 500)]
    await put(buffer, events)
    newer = make(size_bytes=450)
    await put(buffer, [newer])
    assert await take_all(buffer) == [events[2], newer]


async def test_the_newest_may_be_all_that_is_left(open_buffer: OpenBuffer, make: EventMaker) -> None:
    buffer = await dropping(open_buffer, max_events=100)
    await put(buffer, make.of("ab" * 30))
    newer = make.of("ab" * 50)
    await put(buffer, newer)
    assert buffer.ledger() == ledger_of(accepted=160, dropped={"drop_oldest": 60}, buffered=100)
    assert await take_all(buffer) == newer


async def test_what_rests_and_what_is_skipped_goes_as_well_in_its_turn(
    open_buffer: OpenBuffer, make: EventMaker
) -> None:
    buffer = await dropping(open_buffer, max_events=6)
    events = make.of("abcabc")
    await put(buffer, events)
    await release(buffer, await take(buffer, 1), rest_seconds=LONG_REST_SECONDS)
    assert await take(buffer, skip={"a", "b"}) == [events[2], events[5]]
    await put(buffer, make.of("d"))
    await put(buffer, make.of("d"))
    assert await take_all(buffer, skip={"d"}) == [events[4]]
    assert ids(await take_all(buffer)) == [7, 8]
    buffer.end_deferrals()
    assert await take_all(buffer) == [events[3]]
    assert buffer.ledger().dropped["drop_oldest"] == 2


async def test_a_rest_goes_on_when_all_that_rested_was_dropped(open_buffer: OpenBuffer, make: EventMaker) -> None:
    buffer = await dropping(open_buffer, max_events=2)
    await put(buffer, make.of("ab"))
    rested, other = await take(buffer)
    await release(buffer, [rested], rest_seconds=LONG_REST_SECONDS)
    newer = make("a")
    await put(buffer, [newer])
    assert await nothing_to_take(buffer), "Growlytics asked for the rest, not the event that is gone"
    buffer.end_deferrals()
    assert await take(buffer) == [newer]
    await ack(buffer, [other, newer])


async def test_it_is_full_when_what_must_stay_leaves_too_little_room(open_buffer: OpenBuffer, make: EventMaker) -> None:
    buffer = await dropping(open_buffer, max_events=4)
    events = make.of("abab")
    await put(buffer, events)
    taken = await take(buffer, 2)
    await release(buffer, taken[:1], rest_seconds=LONG_REST_SECONDS)
    before = buffer.ledger(), buffer.occupancy().events
    assert await buffer.put(make.of("cccc"), intake="http") == Full()
    assert (buffer.ledger(), buffer.occupancy().events) == before
    assert await take_all(buffer) == [events[3]], "nothing was dropped, and a rests as before"
    buffer.end_deferrals()
    assert await take_all(buffer) == [events[0], events[2]]
    assert await buffer.put(make.of("c"), intake="http") == Full()


async def test_nothing_is_dropped_for_what_never_fits(open_buffer: OpenBuffer, make: EventMaker) -> None:
    buffer = await dropping(open_buffer, max_events=3)
    events = make.of("abc")
    await put(buffer, events)
    assert await buffer.put(make.of("dddd"), intake="http") == NeverFits()
    assert buffer.ledger() == ledger_of(accepted=3, buffered=3)
    assert await take_all(buffer) == events


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 50])
async def test_a_put_that_is_cancelled_while_it_makes_room_is_stored_or_loses_nothing(
    open_buffer: OpenBuffer, make: EventMaker, turns: int
) -> None:
    buffer = await dropping(open_buffer, max_events=40)
    events = make.of("abcd" * 10)
    await put(buffer, events)
    await release(buffer, await take(buffer, 10), rest_seconds=LONG_REST_SECONDS)
    newer = make.of("ab" * 15)
    putting = asyncio.create_task(buffer.put(newer, intake="http"))
    for _ in range(turns):
        await asyncio.sleep(0)
    putting.cancel()
    await asyncio.wait({putting})
    await put(buffer, [])  # whatever was being committed is so after this
    assert not await take_all(buffer, skip=set("abcd"))
    buffer.end_deferrals()
    left = await take_all(buffer)
    assert left in (events, [*events[30:], *newer])
    assert buffer.ledger().unaccounted == 0
    assert buffer.ledger().dropped["drop_oldest"] == (0 if left == events else 30)


async def test_puts_at_the_same_time_drop_what_they_would_have_dropped_one_after_the_other(
    open_buffer: OpenBuffer, make: EventMaker
) -> None:
    """Also what another one has just put, which is not committed yet."""
    buffer = await dropping(open_buffer, max_events=10)
    puts = [make.of("abc") for _ in range(30)]
    async with asyncio.timeout(DEADLINE_SECONDS):
        answers = await asyncio.gather(*(buffer.put(events, intake="http") for events in puts))
    assert answers == [Stored()] * 30
    assert ids(await take_all(buffer)) == list(range(81, 91))
    assert buffer.ledger() == ledger_of(accepted=90, dropped={"drop_oldest": 80}, buffered=10)


async def test_what_is_dropped_is_never_handed_out_and_what_is_handed_out_is_never_dropped(
    open_buffer: OpenBuffer, make: EventMaker
) -> None:
    """Takers who ack and release while the buffer overflows."""
    buffer = await dropping(open_buffer, max_events=30)
    delivered: list[int] = []

    async def keep_taking(max_events: int) -> None:
        for turn in range(10_000):
            events = await buffer.take(max_events=max_events, max_bytes=1_000_000)
            back = events[:1] if turn % 3 == 0 else []
            await release(buffer, back, rest_seconds=turn % 2 * SILENCE_SECONDS / 10)
            gone = [event for event in events if event not in back]
            delivered.extend(ids(gone))
            await ack(buffer, gone)

    async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        takers = [group.create_task(keep_taking(number)) for number in (1, 2, 5)]
        for _ in range(60):
            await asyncio.gather(*(put(buffer, make.of("abcd")) for _ in range(3)))
        while buffer.occupancy().events:
            await asyncio.sleep(0.001)
        for taker in takers:
            taker.cancel()
    assert len(set(delivered)) == len(delivered)
    dropped = buffer.ledger().dropped["drop_oldest"]
    assert buffer.ledger() == ledger_of(
        accepted=720, delivered=len(delivered), dropped={"drop_oldest": dropped}, buffered=0
    )
    assert dropped == 720 - len(delivered)


async def test_the_oldest_on_disk_only_are_dropped_after_a_restart_too(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker
) -> None:
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    events: Sequence[Event] = make.of("abc" * 20)
    buffer = await dropping(open_buffer, max_events=60)
    await put(buffer, events)
    await buffer.close()
    again = await dropping(open_buffer, max_events=60)
    newer = make.of("ab")
    await put(again, newer)
    assert await take_all(again) == [*events[2:], *newer]
    await again.close()
    assert again.ledger() == ledger_of(accepted=62, dropped={"drop_oldest": 2}, buffered=60)


async def test_a_put_does_not_wait_for_a_rest_to_end(open_buffer: OpenBuffer, make: EventMaker) -> None:
    """Nor does one that waits for the disk look again and again, when the time of a rest has come and nobody takes."""
    buffer = await dropping(open_buffer, max_events=20)
    await put(buffer, make.of("ab" * 10))
    taken = await take(buffer, 10)
    await release(buffer, taken, rest_seconds=-1.0)
    before = loop_time()
    await put(buffer, make.of("c" * 15))
    assert loop_time() - before < DEADLINE_SECONDS
    assert buffer.ledger().dropped["drop_oldest"] == 15
