"""How long a put waits for a disk that fails to read, or does not answer at all; and what becomes of its events.

In virtual time: the jobs of the database run on the event loop's own thread.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, cast

import pytest

from forwarder.buffer.base import PutAnswer, Stored, Unavailable
from forwarder.buffer.batch import Batch, Put
from forwarder.buffer.commits import PUT_SECONDS, GroupCommit
from forwarder.buffer.fates import HandedOver
from forwarder.database.connection import Job, Transaction, UnavailableError
from forwarder.database.ledger import AlteredError
from forwarder.event import Event
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings
from tests.fakes.databases import StubbornDatabase, inline_database
from tests.fakes.disk_buffers import OpenDisk, copy_of, open_disk
from tests.fakes.events import EventMaker, counted, ids, keys_of, learned, notes_of
from tests.fakes.virtual_time import VirtualTimeLoop, in_virtual_time, now

THREE_EVENTS = 1200
"""A window in which so many are in memory."""
DROPPING = BufferSettings(max_events=10, when_full="drop_oldest")
REFUSING = BufferSettings(max_events=10)
SLACK_SECONDS = 0.1
Hanging = Literal["before the job", "after the job"]
LARGE_BYTES = 600_000
"""Of an event of which two do not go into one transaction."""


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


def fail(*_: object) -> None:
    raise UnavailableError("the test says so")


def find_damage(_: Transaction) -> None:
    raise AlteredError("the test says so")


async def refused_in_time(disk: OpenDisk, make: EventMaker) -> None:
    """Put events one after the other; none is stored, and none waits longer than it may."""
    putting = []
    for _ in range(8):
        putting.append(asyncio.create_task(timed(disk, make.of("x"))))
        await asyncio.sleep(1)
    async with asyncio.timeout(60):
        for answer, seconds in await asyncio.gather(*putting):
            assert answer == Unavailable()
            assert seconds <= PUT_SECONDS
    assert not disk.buffer.available


async def answer_every(database: StubbornDatabase, seconds: float, how: Hanging) -> None:
    """Be a disk that takes so long for each batch."""
    while True:
        database.hangs = how
        await asyncio.sleep(seconds)
        database.answer()


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
async def test_begun_acks_wait_for_a_disk_that_hangs_while_puts_are_refused_in_time(tmp_path: Path) -> None:
    make = EventMaker()
    left: list[int] = []
    async with stubborn(tmp_path, REFUSING) as (disk, database):
        disk.buffer.listen(changed=lambda: None, left=lambda events: left.extend(ids(events)))
        await disk.put(make.of("ab"))
        handed_out = await disk.take()
        database.hangs = "before the job"
        for event in handed_out:
            disk.buffer.begin_ack(event, HandedOver())
        await asyncio.sleep(30)
        assert (await timed(disk, make.of("c")))[0] == Unavailable()
        assert left == []
        database.answer()
        await available(disk)
        await disk.buffer.settle_acks()
        assert sorted(left) == ids(handed_out)
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


Begins = Callable[[OpenDisk, Sequence[Event]], Awaitable[None]]
BEFORE_A_PUT: dict[str, Begins] = {
    "acks": lambda disk, events: disk.deliver(events),
    "dead letters": lambda disk, events: disk.reject(events),
    "marks": lambda disk, events: disk.buffer.mark([(event, 1) for event in events]),
    "types": lambda disk, _: disk.buffer.note({("n", "x"): learned()}),
}


@pytest.mark.parametrize("what", BEFORE_A_PUT)
@pytest.mark.parametrize("how", ["before the job", "after the job"])
def test_a_put_is_refused_in_time_whatever_the_disk_that_hangs_was_given_before_it(
    tmp_path: Path, what: str, how: Hanging
) -> None:
    @in_virtual_time
    async def test() -> None:
        make = EventMaker()
        async with stubborn(tmp_path, REFUSING) as (disk, database):
            await disk.put(make.of("ab"))
            handed_out = await disk.take()
            database.hangs = how
            before = asyncio.ensure_future(BEFORE_A_PUT[what](disk, handed_out))
            await asyncio.sleep(1)
            await refused_in_time(disk, make)
            assert not before.done()
            database.answer()
            await before
            await available(disk)
            await disk.put(make.of("c"))
            ledger = disk.buffer.ledger()
            assert (ledger.received, ledger.accepted, ledger.unaccounted) == (3, 3, 0)

    test()


@in_virtual_time
async def test_a_put_is_refused_in_time_while_a_new_file_cannot_be_restored_as_the_disk_hangs(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, REFUSING) as (disk, database):
        await disk.put(make.of("ab"))
        database.submit(find_damage, lambda _: None)
        database.hangs = "before the job"
        await asyncio.sleep(1)
        await refused_in_time(disk, make)
        database.answer()
        await available(disk)
        await disk.put(make.of("c"))
        assert (disk.buffer.ledger().accepted, disk.buffer.ledger().unaccounted) == (3, 0)
        assert len(await taken(disk)) == 3


@in_virtual_time
async def test_a_put_is_refused_in_time_while_the_disk_hangs_as_the_reserve_is_given_up(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, REFUSING) as (disk, database):
        await disk.put(make.of("ab"))
        database.fails_to_commit = 1
        database.reserve_hangs = True
        acking = asyncio.create_task(disk.deliver(await disk.take()))
        await asyncio.sleep(1)
        await refused_in_time(disk, make)
        assert not acking.done()
        database.answer()
        await acking
        await available(disk)
        await disk.put(make.of("c"))
        ledger = disk.buffer.ledger()
        assert (ledger.accepted, ledger.delivered, ledger.unaccounted) == (3, 2, 0)


@in_virtual_time
async def test_a_put_that_comes_to_the_commits_while_the_reserve_is_given_up_has_its_deadline_too(
    tmp_path: Path,
) -> None:
    """The buffer takes none then; but one may have waited in its queue since before."""
    database = cast("StubbornDatabase", inline_database(tmp_path, of=StubbornDatabase))
    await database.open()

    def refuse(put: Put) -> None:
        put.done.set_result(Unavailable())

    def job_of(_: Batch) -> Job[None]:
        return fail

    commits = GroupCommit(database, job_of=job_of, apply=fail, refuse=refuse, telemetry=Telemetry())
    database.reserve_hangs = True
    loop = asyncio.get_running_loop()
    commits.ack([], loop.create_future())
    await asyncio.sleep(1)
    put = Put(EventMaker().of("a"), 20, "http", loop.create_future(), now() + PUT_SECONDS)
    commits.put(put)
    async with asyncio.timeout(PUT_SECONDS + SLACK_SECONDS):
        assert await put.done == Unavailable()
    commits.close()


@pytest.mark.parametrize("how", ["before the job", "after the job"])
def test_puts_behind_several_slow_ones_are_refused_in_time_and_the_disk_is_tried_again(
    tmp_path: Path, how: Hanging
) -> None:
    @in_virtual_time
    async def test() -> None:
        make = EventMaker()
        async with stubborn(tmp_path, REFUSING) as (disk, database):
            slow = asyncio.create_task(answer_every(database, 2, how))
            events = [make.of("a", size_bytes=LARGE_BYTES) for _ in range(5)]
            answers = await asyncio.gather(*(timed(disk, each) for each in events))
            assert [answer for answer, _ in answers] == [Stored()] * 2 + [Unavailable()] * 3
            assert max(seconds for _, seconds in answers) <= PUT_SECONDS
            slow.cancel()
            database.answer()
            await available(disk)
            begun = how == "after the job"
            assert disk.buffer.ledger().accepted == 2 + begun
            assert await taken(disk) == [1, 2, 3][: 2 + begun]

    test()


@in_virtual_time
async def test_of_puts_in_one_slow_transaction_only_those_are_refused_that_waited_too_long(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, REFUSING) as (disk, database):
        await disk.put(make.of("a"))
        database.hangs = "before the job"
        acking = asyncio.create_task(disk.deliver(await disk.take()))
        await asyncio.sleep(1)
        old = asyncio.create_task(timed(disk, make.of("b")))
        await asyncio.sleep(3)
        young = asyncio.create_task(timed(disk, make.of("c")))
        await asyncio.sleep(1)
        database.answer()
        database.hangs = "before the job"
        answer, seconds = await old
        assert (answer, seconds <= PUT_SECONDS) == (Unavailable(), True)
        await asyncio.sleep(1)
        database.answer()
        assert (await young)[0] == Stored()
        await acking
        assert await taken(disk) == [3]


@in_virtual_time
async def test_many_puts_of_different_times_in_one_transaction_are_each_refused_in_time(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, BufferSettings()) as (disk, database):
        await disk.put(make.of("a"))
        database.hangs = "before the job"
        acking = asyncio.create_task(disk.deliver(await disk.take()))
        putting = []
        for _ in range(400):
            await asyncio.sleep(0.01)
            putting.append(asyncio.create_task(timed(disk, make.of("b"))))
        database.answer()
        database.hangs = "before the job"
        for answer, seconds in await asyncio.gather(*putting):
            assert answer == Unavailable()
            assert PUT_SECONDS - SLACK_SECONDS <= seconds <= PUT_SECONDS + 0.001
        await acking


@in_virtual_time
async def test_a_pause_of_the_process_is_not_taken_for_a_disk_that_hangs(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, REFUSING) as (disk, database):
        database.hangs = "before the job"
        putting = [asyncio.create_task(disk.buffer.put(make.of("a"), intake="http"))]
        await asyncio.sleep(0.5)
        putting.append(asyncio.create_task(disk.buffer.put(make.of("b"), intake="http")))
        await asyncio.sleep(0.5)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.stand_still(600)
        await asyncio.sleep(0.5)
        database.answer()
        assert await asyncio.gather(*putting) == [Stored()] * 2
        assert disk.buffer.available


@in_virtual_time
async def test_a_disk_that_hangs_across_a_pause_of_the_process_is_found_soon_after_it(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path, REFUSING) as (disk, database):
        database.hangs = "before the job"
        putting = asyncio.create_task(timed(disk, make.of("a")))
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.stand_still(600)
        answer, seconds = await putting
        assert (answer, seconds <= 603) == (Unavailable(), True)


@in_virtual_time
async def test_a_disk_that_answers_in_time_has_no_put_refused_however_long_they_keep_coming(tmp_path: Path) -> None:
    """Each has its own time, so the first of them says nothing of the later ones."""
    make = EventMaker()
    async with stubborn(tmp_path, BufferSettings()) as (disk, database):
        slow = asyncio.create_task(answer_every(database, 2, "before the job"))
        putting = []
        for _ in range(60):
            putting.append(asyncio.create_task(disk.buffer.put(make.of("a"), intake="http")))
            await asyncio.sleep(0.5)
        assert await asyncio.gather(*putting) == [Stored()] * 60
        slow.cancel()


@in_virtual_time
async def test_a_put_that_waited_for_another_to_find_room_has_time_left_for_its_commit(tmp_path: Path) -> None:
    """And is no sign of a disk that hangs, where there was only much to read."""
    make = EventMaker()
    async with stubborn(tmp_path, DROPPING) as (disk, database):
        await put_each(disk, make.of("abcdefghij"))
        slow = asyncio.create_task(answer_every(database, 2, "before the job"))
        await asyncio.sleep(0)
        much = asyncio.create_task(timed(disk, make.of("k" * 10)))
        little = asyncio.create_task(timed(disk, make.of("l")))
        answer, seconds = await much
        assert (answer, seconds <= PUT_SECONDS) == (Unavailable(), True)
        slow.cancel()
        database.answer()
        answer, seconds = await little
        assert (answer, seconds <= PUT_SECONDS) == (Stored(), True)
        assert disk.buffer.available
        await disk.put(make.of("m"))
