"""What every Buffer promises of one step: dead letters with the ack, replays with the put, cancelled callers."""

import asyncio
from contextlib import suppress

import pytest

from forwarder.buffer.base import ALL_LETTERS, Buffer, Full, Stored
from forwarder.buffer.commits import MAX_COMMIT_BYTES
from forwarder.buffer.fates import DeadLettered, HandedOver
from forwarder.buffer.reading import READ_BYTES, READ_EVENTS
from forwarder.database import dead_letters as stored
from forwarder.database.connection import Transaction
from forwarder.event import DeadLetter, Event, EventIds
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import DeadLettersSettings
from tests.contract.conftest import Kind, OpenBuffer, database_of
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
from tests.fakes.events import EventMaker, counted, ids


async def letters(buffer: Buffer) -> list[DeadLetter]:
    def read_all(transaction: Transaction) -> list[DeadLetter]:
        return stored.page(transaction, after_place=-1, only=ALL_LETTERS, max_letters=1000, max_bytes=1 << 30).letters

    return await database_of(buffer).run(read_all)


async def take_number(buffer: Buffer, number: int, *, max_events: int) -> list[Event]:
    """Take so many events, up to `max_events` at a time."""
    events: list[Event] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(events) < number:
            events += await buffer.take(max_events=max_events, max_bytes=1 << 30)
    return events


# Dead letters


async def test_a_dead_letter_is_kept_with_all_that_is_known_of_it(buffer: Buffer, make: EventMaker) -> None:
    first, second, third = make.of(["c \ud800", "ä", "c"])
    await put(buffer, [first, second, third])
    taken = await take(buffer)
    fate = DeadLettered("rejected", 422, b"\x00\xff no", attempts=7, first_attempt_at=1e9 + 0.25, last_attempt_at=2e9)
    silent = DeadLettered("rejected", None, b"", attempts=1, first_attempt_at=3e9, last_attempt_at=3e9)
    await buffer.ack([(taken[0], fate), (taken[1], HandedOver()), (taken[2], silent)])
    one, other = await letters(buffer)
    for letter, event in ((one, first), (other, third)):
        for name in ("id", "customer", "name", "body", "accepted_at"):
            assert getattr(letter.event, name) == getattr(event, name)
    assert (one.reason, one.status, one.answer) == ("rejected", 422, b"\x00\xff no")
    assert (one.attempts, one.first_attempt_at, one.last_attempt_at) == (7, 1e9 + 0.25, 2e9)
    assert (other.reason, other.status, other.answer) == ("rejected", None, b"")
    assert buffer.ledger() == ledger_of(accepted=3, delivered=1, dead_lettered=2, buffered=0)


@pytest.mark.parametrize("bounds", [DeadLettersSettings(max_events=2), DeadLettersSettings(max_bytes=2 * 22 + 21)])
@pytest.mark.parametrize("together", [True, False])
async def test_beyond_either_bound_the_oldest_dead_letters_go(
    open_buffer: OpenBuffer, make: EventMaker, telemetry: Telemetry, bounds: DeadLettersSettings, together: bool
) -> None:
    buffer = await open_buffer(dead_letters=bounds)
    await put(buffer, make.of("abcde"))
    taken = await take(buffer)
    for part in [taken] if together else [[event] for event in taken]:
        await ack(buffer, part, REJECTED)
    assert ids(letter.event for letter in await letters(buffer)) == [4, 5]
    assert counted(telemetry, "dead_letters_evicted_total", reason="full") == 3
    assert buffer.ledger() == ledger_of(accepted=5, dead_lettered=5, buffered=0)


async def test_what_is_replayed_is_a_dead_letter_no_more(
    open_buffer: OpenBuffer, make: EventMaker, telemetry: Telemetry
) -> None:
    buffer = await open_buffer(max_events=3)
    await put(buffer, make.of("abc"))
    taken = await take(buffer)
    await ack(buffer, taken[:2], REJECTED)
    assert await buffer.put(make.of("ddd"), intake="replay", replayed=[1, 2]) == Full()
    assert ids(letter.event for letter in await letters(buffer)) == [1, 2], "it was not stored"
    again = make.of("b")
    assert await buffer.put(again, intake="replay", replayed=[2, 99]) == Stored()
    assert ids(letter.event for letter in await letters(buffer)) == [1]
    assert await take(buffer) == again
    assert counted(telemetry, "events_accepted_total", intake="replay") == 1


async def test_a_buffer_that_does_not_outlive_its_close_says_how_many_dead_letters_that_costs(
    kind: Kind, buffer: Buffer, make: EventMaker
) -> None:
    await put(buffer, make.of("abc"))
    await ack(buffer, (await take(buffer))[:2], REJECTED)
    await buffer.close()
    assert buffer.dead_letters_lost == (0 if kind.outlives_close else 2)
    await buffer.close()
    assert buffer.dead_letters_lost == (0 if kind.outlives_close else 2)


# Whether an event is in


async def test_it_holds_an_event_from_the_put_to_the_ack(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("aab")
    assert not await buffer.contains(1)
    await put(buffer, events)
    assert [await buffer.contains(number) for number in (0, 1, 2, 3, 4)] == [False, True, True, True, False]
    taken = await take(buffer)
    assert [await buffer.contains(number) for number in (1, 2, 3)] == [True, True, True]
    await release(buffer, taken[:1], rest_seconds=LONG_REST_SECONDS)
    await ack(buffer, taken[1:2])
    await ack(buffer, taken[2:], REJECTED)
    assert [await buffer.contains(number) for number in (1, 2, 3)] == [True, False, False]


# Cancelled callers


@pytest.mark.parametrize("turns", [1, 2, 3, 6])
async def test_a_put_that_is_cancelled_while_it_is_committed_is_stored_and_counted(
    buffer: Buffer, make: EventMaker, telemetry: Telemetry, turns: int
) -> None:
    events = make.of("ab")
    putting = asyncio.create_task(buffer.put(events, intake="http"))
    for _ in range(turns):
        await asyncio.sleep(0)
    putting.cancel()
    assert await take(buffer) == events
    assert buffer.ledger() == ledger_of(accepted=2, buffered=2)
    assert counted(telemetry, "events_accepted_total", intake="http") == 2


@pytest.mark.parametrize("turns", [1, 2, 3, 6])
@pytest.mark.parametrize("fate", [HandedOver(), REJECTED], ids=["delivered", "dead-lettered"])
async def test_an_ack_that_is_cancelled_while_it_is_committed_holds(
    buffer: Buffer, make: EventMaker, turns: int, fate: HandedOver | DeadLettered
) -> None:
    await put(buffer, make.of("ab"))
    taken = await take(buffer)
    acking = asyncio.create_task(ack(buffer, taken, fate))
    for _ in range(turns):
        await asyncio.sleep(0)
    acking.cancel()
    await asyncio.wait({acking})
    async with asyncio.timeout(DEADLINE_SECONDS):
        while buffer.ledger().buffered:
            await asyncio.sleep(0.001)
    assert len(await letters(buffer)) == buffer.ledger().dead_lettered["rejected"] == (0 if fate == HandedOver() else 2)
    assert await nothing_to_take(buffer)


async def test_closing_while_acks_are_committed_counts_each_event_once(
    kind: Kind, buffer: Buffer, make: EventMaker
) -> None:
    await put(buffer, make.of("abc"))
    taken = await take(buffer)
    acking = asyncio.create_task(ack(buffer, taken[:2], REJECTED))
    await asyncio.sleep(0)
    await buffer.close()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await acking
    lost = 0 if kind.outlives_close else 1
    assert buffer.ledger() == ledger_of(accepted=3, dead_lettered=2, dropped={"shutdown": lost}, buffered=1 - lost)


# Commits


async def test_puts_at_the_same_time_share_their_commits(kind: Kind, buffer: Buffer, make: EventMaker) -> None:
    if not kind.outlives_close:
        pytest.skip("it commits nothing")
    database = database_of(buffer)
    before = database.jobs
    puts = [make.of("ab") for _ in range(200)]
    answers = await asyncio.gather(*(buffer.put(events, intake="http") for events in puts))
    assert answers == [Stored()] * 200
    assert database.jobs - before <= 3
    assert await take_all(buffer) == [event for events in puts for event in events]


async def test_acks_at_the_same_time_share_their_commits(kind: Kind, buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("abcd" * 50))
    taken = await take(buffer)
    database = database_of(buffer)
    before = database.jobs
    await asyncio.gather(*(ack(buffer, [event]) for event in taken))
    assert database.jobs - before <= 3
    assert buffer.ledger() == ledger_of(accepted=200, delivered=200, buffered=0)


async def test_puts_that_are_together_too_large_for_one_commit_are_stored_in_order(
    open_buffer: OpenBuffer, make: EventMaker
) -> None:
    buffer = await open_buffer(max_bytes=20 * MAX_COMMIT_BYTES)
    large = MAX_COMMIT_BYTES // 2 - 10
    puts = [[make(size_bytes=size)] for size in (10, large, large, 2 * large, 30, 3 * large, large, large, large, 5)]
    answers = await asyncio.gather(*(buffer.put(events, intake="http") for events in puts))
    assert answers == [Stored()] * len(puts)
    left = await take_number(buffer, len(puts), max_events=3)
    assert ids(left) == list(range(1, len(puts) + 1))
    assert buffer.ledger() == ledger_of(accepted=len(puts), buffered=len(puts))


# Reading what is on disk only


@pytest.mark.parametrize("number", [1, 2, 3, 4, READ_EVENTS - 1, READ_EVENTS, READ_EVENTS + 1, 2 * READ_EVENTS])
async def test_everything_comes_after_a_restart_and_then_what_is_new(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker, number: int
) -> None:
    """Whether or not the last read has just found all there is."""
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    buffer = await open_buffer(max_events=2000)
    events = make.of("abc"[n % 3] for n in range(number))
    await put(buffer, events)
    await buffer.close()
    again = await open_buffer(max_events=2000)
    newer = make.of("ab")
    await put(again, newer)
    left = await take_number(again, number + 2, max_events=500)
    assert left == events + newer
    newest = make.of("c")
    await put(again, newest)
    assert await take(again, 1) == newest
    assert again.ready_at(asyncio.get_running_loop().time()) is None


async def test_events_as_large_as_all_that_is_read_at_a_time_come_one_by_one(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker
) -> None:
    """In the order they were put, and again after they were given back: what is not read yet is not gone."""
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    sizes = (READ_BYTES, 10, READ_BYTES - 1, 1, 1, 2 * READ_BYTES, READ_BYTES // 2, READ_BYTES // 2, 5)
    events = [make("ab"[n % 2], size_bytes=size) for n, size in enumerate(sizes)]
    buffer = await open_buffer(max_bytes=20 * READ_BYTES)
    await put(buffer, events)
    await buffer.close()
    again = await open_buffer(max_bytes=20 * READ_BYTES)
    for _ in range(2):
        taken = await take_number(again, len(events), max_events=2)
        assert taken == events
        await release(again, taken)
    assert again.ledger() == ledger_of(accepted=len(events), buffered=len(events))


async def test_new_events_are_not_read_from_disk_once_all_that_was_there_is(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker
) -> None:
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    buffer = await open_buffer()
    await put(buffer, make.of("abc"))
    await buffer.close()
    again = await open_buffer()
    await take_all(again)
    before = database_of(again).jobs
    for _ in range(10):
        events = make.of("a")
        await put(again, events)
        assert await take(again, 1) == events
    assert database_of(again).jobs - before == 10


@pytest.mark.parametrize("when_full", ["reject", "drop_oldest"])
async def test_nothing_stalls_while_puts_takes_and_releases_interleave_in_every_way(
    open_buffer: OpenBuffer, make: EventMaker, when_full: str
) -> None:
    """At each turn of the event loop something else: a read's result before, after and between commits."""
    buffer = await open_buffer(max_events=100_000, when_full="reject" if when_full == "reject" else "drop_oldest")
    delivered: list[int] = []
    total = 1500

    async def keep_taking(number: int) -> None:
        turn = 0
        while True:
            turn += 1
            skip = {"abc"[turn % 3]} if turn % 4 == 0 else set()
            events: list[Event] = []
            with suppress(TimeoutError):  # or all takers might wait for lanes of which nothing comes any more
                async with asyncio.timeout(0.002 if skip else None):
                    events = await buffer.take(max_events=1 + (turn + number) % 7, max_bytes=200, skip_lanes=skip)
            back = events[1:] if (turn + number) % 5 == 0 else []
            await release(buffer, back, rest_seconds=0.001 * (turn % 3))
            gone = [event for event in events if event not in back]
            delivered.extend(ids(gone))
            await ack(buffer, gone)

    async def keep_putting() -> None:
        made = 0
        while made < total:
            number = min(1 + made % 13, total - made)
            await put(buffer, make.of("abc"[(made + n) % 3] for n in range(number)))
            made += number
            for _ in range(made % 4):
                await asyncio.sleep(0)

    async with asyncio.timeout(4 * DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        takers = [group.create_task(keep_taking(number)) for number in range(3)]
        await keep_putting()
        while buffer.occupancy().events:
            await asyncio.sleep(0.001)
        for taker in takers:
            taker.cancel()
    assert sorted(delivered) == list(range(1, total + 1))
    assert buffer.ledger() == ledger_of(accepted=total, delivered=total, buffered=0)


# Closing and opening again


async def test_the_ledger_and_the_dead_letters_are_the_same_when_it_is_opened_again(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker, telemetry: Telemetry
) -> None:
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    buffer = await open_buffer(max_events=6, when_full="drop_oldest")
    await put(buffer, make.of("abcabc"))
    await put(buffer, make.of("ab"))
    telemetry.events_refused(3, intake="http", reason="malformed_json")
    taken = await take(buffer, 3)
    await buffer.ack([(taken[0], HandedOver()), (taken[1], REJECTED)])
    before, kept = buffer.ledger(), ids(letter.event for letter in await letters(buffer))
    assert (before.received, before.accepted, before.rejected, before.buffered) == (11, 8, 3, 4)
    await buffer.close()
    again = await open_buffer(telemetry=Telemetry())
    assert again.ledger() == before
    assert ids(letter.event for letter in await letters(again)) == kept
    assert len(await take_all(again)) == 4


async def test_ids_rise_above_all_earlier_ones_when_it_is_opened_again(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker
) -> None:
    """Also above those of events that are long gone, whatever the clock says."""
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    buffer = await open_buffer()
    far = 1 << 60
    await put(buffer, [Event(far, "a", "n", b"{}", 0.0)])
    await ack(buffer, await take(buffer))
    await put(buffer, [])
    await buffer.close()
    again = await open_buffer()
    ids_after = EventIds(first=5)
    ids_after.rise_above(database_of(again).ledger["last_id"])
    assert next(ids_after) == far + 1
