"""What every Buffer promises of marks: what is found marked is a dead letter, and what is not any more comes again."""

import asyncio
import time

import pytest

from forwarder.buffer.base import Buffer
from forwarder.buffer.fates import HandedOver
from forwarder.event import Event
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import DeadLettersSettings
from tests.contract.conftest import Kind, OpenBuffer, database_of
from tests.contract.steps import (
    REJECTED,
    ack,
    ledger_of,
    nothing_to_take,
    put,
    release,
    take,
    take_all,
)
from tests.contract.test_buffer_commits import letters
from tests.fakes.events import EventMaker, counted, ids


async def mark(buffer: Buffer, events: list[Event], *, attempts: int = 1) -> None:
    await buffer.mark([(event, attempts) for event in events])


async def reopened(kind: Kind, buffer: Buffer, open_buffer: OpenBuffer, telemetry: Telemetry | None = None) -> Buffer:
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    await buffer.close()
    return await open_buffer(telemetry=telemetry or Telemetry())


async def test_what_is_found_marked_is_a_dead_letter_and_never_comes(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    before = time.time()
    await put(buffer, make.of("aabb"))
    taken = await take(buffer)
    await buffer.mark([(taken[1], 7), (taken[2], 1)])
    telemetry = Telemetry()
    again = await reopened(kind, buffer, open_buffer, telemetry)
    assert ids(await take_all(again)) == [1, 4]
    one, other = await letters(again)
    assert (one.event.id, one.reason, one.status, one.answer, one.attempts) == (2, "ambiguous", None, b"", 7)
    assert (one.event.customer, one.event.body) == (taken[1].customer, taken[1].body)
    assert (other.event.id, other.attempts) == (3, 1)
    assert before <= one.first_attempt_at == one.last_attempt_at <= time.time()
    ledger = again.ledger()
    assert ledger.dead_lettered == {"rejected": 0, "expired": 0, "ambiguous": 2}
    assert (ledger.accepted, ledger.buffered, ledger.unaccounted) == (4, 2, 0)
    assert counted(telemetry, "events_dead_lettered_total", reason="ambiguous") == 2
    assert not await again.contains(2)


async def test_it_becomes_that_once(kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("ab"))
    await mark(buffer, await take(buffer))
    for _ in range(3):
        buffer = await reopened(kind, buffer, open_buffer)
        assert await nothing_to_take(buffer)
        assert ids(letter.event for letter in await letters(buffer)) == [1, 2]
        assert buffer.ledger().dead_lettered["ambiguous"] == 2


async def test_what_was_unmarked_released_or_acked_is_not_found_marked(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    await put(buffer, make.of("abcde"))
    taken = await take(buffer)
    await mark(buffer, taken)
    await buffer.unmark(taken[:1])
    await release(buffer, taken[1:2])
    await buffer.ack([(taken[2], HandedOver()), (taken[3], REJECTED)])
    again = await reopened(kind, buffer, open_buffer)
    assert ids(await take_all(again)) == [1, 2]
    assert [(letter.event.id, letter.reason) for letter in await letters(again)] == [(4, "rejected"), (5, "ambiguous")]


async def test_the_last_word_counts_however_often_it_is_marked_and_unmarked(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    await put(buffer, make.of("ab"))
    taken = await take(buffer)
    for attempts in range(1, 4):
        await mark(buffer, taken, attempts=attempts)
        await release(buffer, taken)  # with its commit still to come when the next mark is made
        taken = await take(buffer)
        await mark(buffer, taken, attempts=10 * attempts)
        if attempts < 3:
            await buffer.unmark(taken)
    again = await reopened(kind, buffer, open_buffer)
    assert [(letter.event.id, letter.attempts) for letter in await letters(again)] == [(1, 30), (2, 30)]


async def test_marks_of_events_that_are_not_taken_are_mistakes(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("a"))
    (event,) = make.of("b")
    with pytest.raises(KeyError):
        await mark(buffer, [event])
    with pytest.raises(KeyError):
        await buffer.unmark([event])
    taken = await take(buffer)
    await buffer.unmark(taken)
    await mark(buffer, [])
    await ack(buffer, taken)
    with pytest.raises(KeyError):
        await mark(buffer, taken)


async def test_a_mark_changes_nothing_as_long_as_the_process_lives(buffer: Buffer, make: EventMaker) -> None:
    events = make.of("aab")
    await put(buffer, events)
    taken = await take(buffer)
    await mark(buffer, taken)
    assert buffer.ledger() == ledger_of(accepted=3, buffered=3)
    assert buffer.occupancy().events == 3
    await release(buffer, taken)
    assert await take(buffer) == events
    await ack(buffer, events)
    assert buffer.ledger() == ledger_of(accepted=3, delivered=3, buffered=0)


async def test_marks_at_the_same_time_share_their_commits(buffer: Buffer, make: EventMaker) -> None:
    await put(buffer, make.of("abcd" * 50))
    taken = await take(buffer)
    database = database_of(buffer)
    before = database.jobs
    await asyncio.gather(*(mark(buffer, [event]) for event in taken))
    await asyncio.gather(*(buffer.unmark([event]) for event in taken))
    assert database.jobs - before <= 4
    await buffer.unmark(taken)
    assert database.jobs - before <= 4, "there is nothing to commit"


@pytest.mark.parametrize("turns", [1, 2, 3, 6])
async def test_a_mark_that_is_cancelled_while_it_is_committed_leaves_none_behind_after_a_release(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker, turns: int
) -> None:
    await put(buffer, make.of("ab"))
    taken = await take(buffer)
    marking = asyncio.create_task(mark(buffer, taken))
    for _ in range(turns):
        await asyncio.sleep(0)
    marking.cancel()
    await asyncio.wait({marking})
    await release(buffer, taken)
    again = await reopened(kind, buffer, open_buffer)
    assert ids(await take_all(again)) == [1, 2]


async def test_what_is_found_marked_keeps_to_the_bounds_of_dead_letters(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    await put(buffer, make.of("abcde"))
    await mark(buffer, await take(buffer))
    await buffer.close()
    telemetry = Telemetry()
    again = await open_buffer(dead_letters=DeadLettersSettings(max_events=2), telemetry=telemetry)
    assert ids(letter.event for letter in await letters(again)) == [4, 5]
    assert again.ledger().dead_lettered["ambiguous"] == 5
    assert counted(telemetry, "dead_letters_evicted_total", reason="full") == 3
