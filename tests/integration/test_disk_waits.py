"""How long a put waits for a disk that fails to read, or does not answer at all; and what becomes of its events.

In virtual time: the jobs of the database run on the event loop's own thread.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from forwarder.buffer.base import PutAnswer, Stored, Unavailable
from forwarder.buffer.commits import PUT_SECONDS
from forwarder.event import Event
from forwarder.settings import BufferSettings
from tests.fakes.databases import StubbornDatabase
from tests.fakes.disk_buffers import OpenDisk, copy_of, open_disk
from tests.fakes.events import EventMaker, counted, ids, keys_of, notes_of
from tests.fakes.virtual_time import in_virtual_time, now

THREE_EVENTS = 1200
"""A window in which so many are in memory."""
DROPPING = BufferSettings(max_events=10, when_full="drop_oldest")
REFUSING = BufferSettings(max_events=10)
SLACK_SECONDS = 0.1


@asynccontextmanager
async def stubborn(
    directory: Path, settings: BufferSettings, window_bytes: int = THREE_EVENTS
) -> AsyncIterator[tuple[OpenDisk, StubbornDatabase]]:
    async with open_disk(
        directory, settings=settings, window_bytes=window_bytes, serve=False, of=StubbornDatabase
    ) as disk:
        database = cast("StubbornDatabase", disk.database)
        yield disk, database
        database.fails_to_read = False
        database.answer()


async def put_each(disk: OpenDisk, events: Sequence[Event]) -> None:
    """Put one after the other, so that no more are in memory than the window has room for."""
    for event in events:
        await disk.put([event])


async def timed(disk: OpenDisk, events: Sequence[Event]) -> tuple[PutAnswer, float]:
    """Put events; return the answer and how long that took."""
    began = now()
    return await disk.buffer.put(events, intake="http"), now() - began


async def taken(disk: OpenDisk) -> list[int]:
    """Return the ids of all that can be taken."""
    found: list[int] = []
    while len(found) < disk.buffer.ledger().buffered:
        found += ids(await disk.take())
    return found


async def available(disk: OpenDisk) -> None:
    async with asyncio.timeout(10):
        while not disk.buffer.available:
            await asyncio.sleep(0.1)


@in_virtual_time
async def test_a_put_that_must_drop_the_oldest_is_refused_at_once_when_that_cannot_be_read(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, DROPPING) as (disk, database):
        events = make.of("abcdefghij")
        await put_each(disk, events)
        database.fails_to_read = True
        handed_out = await disk.take(3)  # all that is in memory
        for _ in range(3):
            answer, seconds = await timed(disk, make.of("k"))
            assert (answer, seconds < SLACK_SECONDS) == (Unavailable(), True)
        assert counted(disk.telemetry, "buffer_errors_total", operation="read") >= 3
        database.fails_to_read = False
        newer = make.of("lm")
        await disk.put(newer)
        ledger = disk.buffer.ledger()
        assert (ledger.accepted, ledger.dropped["drop_oldest"], ledger.buffered, ledger.unaccounted) == (12, 2, 10, 0)
        await disk.deliver(handed_out)
        assert await taken(disk) == ids([*events[5:], *newer])


@in_virtual_time
async def test_a_put_that_fits_does_not_mind_that_the_disk_cannot_be_read(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, DROPPING) as (disk, database):
        await put_each(disk, make.of("abcdefgh"))
        database.fails_to_read = True
        await disk.put(make.of("ij"))


@in_virtual_time
async def test_a_taker_tries_a_read_that_failed_once_a_second_however_many_puts_are_refused(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, DROPPING) as (disk, database):
        await put_each(disk, make.of("abcdefghij"))
        database.fails_to_read = True
        await disk.take(3)
        taking = asyncio.create_task(disk.take())
        await asyncio.sleep(10.5)
        assert database.reads <= 15
        database.fails_to_read = False
        assert await taking


@pytest.mark.parametrize("settings", [DROPPING, REFUSING], ids=["dropping", "refusing"])
@pytest.mark.parametrize("window_bytes", [THREE_EVENTS, 1 << 20])
def test_a_put_waits_as_long_for_a_disk_that_hangs_whatever_it_waits_for(
    tmp_path: Path, settings: BufferSettings, window_bytes: int
) -> None:
    """For a read, for another put that waits for one, or for its own commit."""

    @in_virtual_time
    async def test() -> None:
        make = EventMaker()
        async with stubborn(tmp_path, settings, window_bytes) as (disk, database):
            full = settings is DROPPING
            events = make.of("abcdefghij" if full else "ab")
            await put_each(disk, events)
            database.hangs = "before the job"
            handed_out = await disk.take(2)
            putting = [asyncio.create_task(timed(disk, make.of("k"))) for _ in range(4)]
            await asyncio.sleep(1)
            putting.append(asyncio.create_task(timed(disk, make.of("l"))))
            for answer, seconds in await asyncio.gather(*putting):
                assert answer == Unavailable()
                assert seconds <= PUT_SECONDS + SLACK_SECONDS
            assert not disk.buffer.available
            assert (await timed(disk, make.of("m"))) == (Unavailable(), 0)
            database.answer()
            await available(disk)
            newer = make.of("n")
            await disk.put(newer)
            ledger = disk.buffer.ledger()
            assert (ledger.accepted, ledger.unaccounted) == (len(events) + 1, 0)
            assert ledger.dropped["drop_oldest"] == full
            await disk.deliver(handed_out)
            assert await taken(disk) == ids([*events[2 + full :], *newer])

    test()


@in_virtual_time
async def test_nothing_of_a_put_that_the_disk_had_not_begun_is_kept(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path / "live", REFUSING) as (disk, database):
        database.hangs = "before the job"
        refused = make.of("ab")
        assert await disk.buffer.put(refused, intake="http", notes=notes_of(refused)) == Unavailable()
        database.answer()
        await available(disk)
        kept = make.of("c")
        await disk.put(kept, notes_of(kept))
        copy = copy_of(tmp_path / "live", tmp_path / "killed")
        ledger = disk.buffer.ledger()
        assert (ledger.received, ledger.accepted, ledger.buffered, ledger.unaccounted) == (1, 1, 1, 0)
    async with open_disk(copy, serve=False) as disk:
        assert (await disk.buffer.recall()).keys == keys_of(kept)
        assert await taken(disk) == ids(kept)


@in_virtual_time
async def test_what_the_disk_had_begun_with_is_stored_once_if_it_is_committed_after_all(tmp_path: Path) -> None:
    """Nobody can know before; as with any answer that is lost, what is posted again may arrive twice."""
    make = EventMaker()
    async with stubborn(tmp_path, DROPPING) as (disk, database):
        events = make.of("abcdefghij")
        await disk.put(events)
        database.hangs = "after the job"
        late = make.of("k")
        answer, seconds = await timed(disk, late)
        assert answer == Unavailable()
        assert seconds <= PUT_SECONDS + SLACK_SECONDS
        assert disk.buffer.ledger().unaccounted == 0
        database.answer()
        await available(disk)
        ledger = disk.buffer.ledger()
        assert (ledger.accepted, ledger.dropped["drop_oldest"], ledger.buffered, ledger.unaccounted) == (11, 1, 10, 0)
        assert await taken(disk) == ids([*events[1:], *late])


@in_virtual_time
async def test_acks_wait_for_a_disk_that_hangs_and_are_committed_when_it_answers(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, REFUSING) as (disk, database):
        await disk.put(make.of("ab"))
        handed_out = await disk.take()
        database.hangs = "before the job"
        acking = asyncio.create_task(disk.deliver(handed_out))
        assert (await timed(disk, make.of("c")))[0] == Unavailable()
        await asyncio.sleep(60)
        assert not acking.done()
        database.answer()
        await acking
        await available(disk)
        assert (disk.buffer.ledger().delivered, disk.buffer.ledger().buffered) == (2, 0)


@in_virtual_time
async def test_a_disk_that_is_only_slow_refuses_nothing(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, REFUSING) as (disk, database):
        for _ in range(5):
            database.hangs = "before the job"
            putting = asyncio.create_task(disk.buffer.put(make.of("a"), intake="http"))
            await asyncio.sleep(PUT_SECONDS - 1)
            database.answer()
            assert await putting == Stored()
        assert disk.buffer.available
