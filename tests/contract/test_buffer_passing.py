"""What every Buffer promises where a huge lane is skipped: it neither keeps the event loop nor loses its place."""

import asyncio

import pytest

from forwarder.buffer.ordering import MAX_STEPS
from tests.contract.conftest import OpenBuffer
from tests.contract.steps import DEADLINE_SECONDS, put, take, take_all
from tests.fakes.events import EventMaker, ids

HUGE = 4 * MAX_STEPS


async def test_a_take_that_passes_over_a_huge_lane_lets_others_have_their_turn(
    open_buffer: OpenBuffer, make: EventMaker
) -> None:
    """And it finds what is behind; when the lane is wanted again, its events come in order."""
    buffer = await open_buffer(max_events=HUGE + 100)
    await put(buffer, make.of(["huge"] * HUGE))
    behind = make.of("abc")
    await put(buffer, behind)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count_turns())
    async with asyncio.timeout(DEADLINE_SECONDS):
        first = await buffer.take(max_events=1, max_bytes=1000, skip_lanes={"huge"})
    counting.cancel()
    assert first == behind[:1]
    assert turns >= HUGE // MAX_STEPS - 1
    assert await take_all(buffer, skip={"huge"}) == behind[1:]
    found = await take(buffer, 100)
    assert ids(found) == list(range(1, 101))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_take_that_is_cancelled_while_it_passes_over_events_hands_out_nothing(
    open_buffer: OpenBuffer, make: EventMaker, turns: int
) -> None:
    buffer = await open_buffer(max_events=HUGE + 100)
    await put(buffer, make.of(["huge"] * HUGE))
    behind = make.of("abc")
    await put(buffer, behind)
    taking = asyncio.create_task(buffer.take(max_events=10, max_bytes=1000, skip_lanes={"huge"}))
    for _ in range(turns):
        await asyncio.sleep(0)
    assert not taking.done(), "it cannot be through so soon"
    taking.cancel()
    await asyncio.wait({taking})
    assert await take(buffer, 3, skip={"huge"}) == behind
    assert buffer.ledger().buffered == HUGE + 3
