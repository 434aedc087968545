"""What holds when commits fail, one after the other: the order of what they have, and what waits for room.

In virtual time: the jobs of the database run on the event loop's own thread.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from forwarder.buffer.base import Stored, Unavailable
from forwarder.buffer.commits import RETRY_SECONDS
from forwarder.buffer.fates import HandedOver
from forwarder.database.connection import Transaction
from forwarder.database.ledger import AlteredError
from forwarder.delivery.worker import Delivery
from forwarder.growlytics import outcome
from forwarder.growlytics.outcome import Outcome
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import DeliverySettings
from tests.fakes.databases import StubbornDatabase
from tests.fakes.disk_buffers import OpenDisk, copy_of, open_disk
from tests.fakes.events import EventMaker, ids, learned, notes_of
from tests.fakes.virtual_time import in_virtual_time, now

X, Y = ("n", "x"), ("n", "y")
MANY = 1000
"""Commits that fail: all of them until the test says otherwise."""
SOON_SECONDS = 0.001


@asynccontextmanager
async def stubborn(directory: Path) -> AsyncIterator[tuple[OpenDisk, StubbornDatabase]]:
    async with open_disk(directory, serve=False, of=StubbornDatabase) as disk:
        database = cast("StubbornDatabase", disk.database)
        yield disk, database
        database.fails_to_commit = 0
        database.answer()


def find_damage(_: Transaction) -> None:
    raise AlteredError("the test says so")


async def begin(coroutine: Any) -> "asyncio.Task[Any]":
    """Begin something, in a turn of its own, so that it is not in the same batch as what follows."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(SOON_SECONDS)
    return task


async def done(*tasks: "asyncio.Task[Any]", seconds: float = 10.0) -> list[Any]:
    async with asyncio.timeout(seconds):
        return await asyncio.gather(*tasks)


@in_virtual_time
async def test_puts_of_which_the_commit_met_damage_keep_their_order(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path) as (disk, database):
        database.hangs = "before the job"
        database.submit(find_damage, lambda _: None)
        events = make.of("aaa")
        putting = [await begin(disk.buffer.put([event], intake="http")) for event in events]
        database.answer()
        assert await done(*putting) == [Stored()] * 3
        assert ids(await disk.take()) == ids(events)


@pytest.mark.parametrize("fails", ["full", "damaged"])
@pytest.mark.parametrize("last", ["unmarked", "marked"])
def test_of_two_marks_the_later_one_counts_although_the_earlier_had_to_be_tried_again(
    tmp_path: Path, fails: str, last: str
) -> None:
    @in_virtual_time
    async def test() -> None:
        make = EventMaker()
        async with stubborn(tmp_path / "live") as (disk, database):
            await disk.put(make.of("a"))
            (event,) = await disk.take()
            if last == "marked":
                await disk.buffer.mark([(event, 1)])
            database.hangs = "before the job"
            if fails == "damaged":
                database.submit(find_damage, lambda _: None)
            changes = [disk.buffer.mark([(event, 1)]), disk.buffer.unmark([event])]
            if last == "marked":
                changes.reverse()
            changing = [await begin(change) for change in changes]
            database.fails_to_commit = fails == "full"
            database.answer()
            await done(*changing)
            copy_of(tmp_path / "live", tmp_path / "killed")
        async with open_disk(tmp_path / "killed", serve=False) as disk:
            assert disk.buffer.ledger().dead_lettered["ambiguous"] == (last == "marked")

    test()


@in_virtual_time
async def test_of_two_notes_the_later_one_counts_although_the_earlier_had_to_be_tried_again(tmp_path: Path) -> None:
    async with stubborn(tmp_path / "live") as (disk, database):
        database.hangs = "before the job"
        noting = [await begin(disk.buffer.note({X: learned(kind)})) for kind in ("number", "date", "string")]
        database.fails_to_commit = 1
        database.answer()
        await done(*noting)
        copy_of(tmp_path / "live", tmp_path / "killed")
    async with open_disk(tmp_path / "killed", serve=False) as disk:
        assert (await disk.buffer.recall()).types == {X: learned("string")}


@in_virtual_time
async def test_of_two_puts_that_learned_a_type_the_first_counts_although_its_commit_met_damage(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path / "live") as (disk, database):
        database.hangs = "before the job"
        database.submit(find_damage, lambda _: None)
        putting = []
        for event, learned_type in zip(make.of("ab"), (learned("number"), learned("date")), strict=True):
            notes = notes_of([event], x=learned_type)
            putting.append(await begin(disk.buffer.put([event], intake="http", notes=notes)))
        database.answer()
        assert await done(*putting) == [Stored()] * 2
        copy_of(tmp_path / "live", tmp_path / "killed")
    async with open_disk(tmp_path / "killed", serve=False) as disk:
        assert (await disk.buffer.recall()).types == {X: learned("number")}


@in_virtual_time
async def test_a_new_file_is_restored_at_once_although_the_damaged_one_took_not_even_acks(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path) as (disk, database):
        await disk.put(make.of("ab"))
        taken = await disk.take()
        database.fails_to_commit = MANY
        acking = await begin(disk.buffer.ack([(event, HandedOver()) for event in taken]))
        tries = database.commits
        await asyncio.sleep(0.3)
        assert not acking.done()
        assert database.commits == tries, "it is not tried again before its time"
        database.fails_to_commit = 0
        before = now()
        database.submit(find_damage, lambda _: None)
        await done(acking)
        assert now() - before < 0.1
        assert disk.buffer.ledger().delivered == 2


@in_virtual_time
async def test_what_cannot_be_committed_is_tried_again_every_second_and_no_more(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path) as (disk, database):
        await disk.put(make.of("a"))
        database.fails_to_commit = MANY
        acking = await begin(disk.deliver(await disk.take()))
        tries = database.commits
        await asyncio.sleep(20)
        assert 15 <= database.commits - tries <= 50
        database.fails_to_commit = 0
        await done(acking, seconds=1.1)


@in_virtual_time
async def test_begun_acks_that_cannot_be_committed_are_committed_as_soon_as_they_can_be(tmp_path: Path) -> None:
    make = EventMaker()
    left: list[int] = []
    async with stubborn(tmp_path) as (disk, database):
        disk.buffer.listen(changed=lambda: None, left=lambda events: left.extend(ids(events)))
        await disk.put(make.of("abc"))
        first, second, third = await disk.take()
        database.fails_to_commit = MANY
        disk.buffer.begin_ack(first, HandedOver())
        await asyncio.sleep(20)
        disk.buffer.begin_ack(second, HandedOver())
        await asyncio.sleep(20)
        assert (left, disk.buffer.ledger().buffered) == ([], 3)
        database.fails_to_commit = 0
        disk.buffer.begin_ack(third, HandedOver())
        await asyncio.sleep(1.2)
        assert sorted(left) == ids([first, second, third])
        ledger = disk.buffer.ledger()
        assert (ledger.delivered, ledger.buffered, ledger.unaccounted) == (3, 0, 0)


@in_virtual_time
async def test_acks_are_committed_when_the_disk_recovers_while_it_still_looks_for_the_reserve(tmp_path: Path) -> None:
    """The next try comes while the commits wait for the space of a reserve that is gone; it finds that there is room."""
    make = EventMaker()
    async with stubborn(tmp_path) as (disk, database):
        await disk.put(make.of("a"))
        taken = await disk.take()
        assert database.directory is not None
        database.directory.free_reserve()
        database.fails_to_commit = 1
        database.reserve_hangs = True
        acking = await begin(disk.deliver(taken))
        await asyncio.sleep(RETRY_SECONDS + 0.5)
        database.answer()
        await done(acking, seconds=0.1)
        assert (disk.buffer.available, disk.buffer.stalled) == (True, False)


@in_virtual_time
async def test_begun_acks_that_are_hurried_are_committed_at_once(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path) as (disk, _):
        await disk.put(make.of("ab"))
        for delivered, event in enumerate(await disk.take(), 1):
            disk.buffer.begin_ack(event, HandedOver())
            disk.buffer.hurry_acks()
            await asyncio.sleep(SOON_SECONDS)
            assert disk.buffer.ledger().delivered == delivered


@in_virtual_time
async def test_delivery_with_one_permit_does_not_wait_for_acks_to_have_company(tmp_path: Path) -> None:
    """At most two events are on the wire or wait for their ack; if each waited 0.1 s, 100 would take 5 s."""

    async def post(_: bytes, _may_leave: object = None, /) -> Outcome:
        await asyncio.sleep(SOON_SECONDS)
        return outcome.Delivered()

    make = EventMaker()
    async with stubborn(tmp_path) as (disk, _):
        settings = DeliverySettings(max_concurrency=1)
        delivery = Delivery(settings, buffer=disk.buffer, post=post, telemetry=Telemetry())
        serving = asyncio.create_task(delivery.serve())
        await disk.put(make.of("a" * 100))
        before = now()
        async with asyncio.timeout(60):
            while disk.buffer.ledger().delivered < 100:
                await asyncio.sleep(SOON_SECONDS)
        assert now() - before < 1
        serving.cancel()
        await asyncio.wait([serving])


@in_virtual_time
async def test_a_new_file_is_restored_from_the_reserve_at_once_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    """Although nothing else waits to be committed."""
    make = EventMaker()
    async with stubborn(tmp_path / "live") as (disk, database):
        await disk.put(make.of("ab"))
        database.fails_to_restore = 1
        database.submit(find_damage, lambda _: None)
        await asyncio.sleep(0.1)
        assert database.commits == 3, "the put, and two tries to restore"
        copy_of(tmp_path / "live", tmp_path / "killed")
    async with open_disk(tmp_path / "killed", serve=False) as disk:
        assert len(await disk.take()) == 2


@in_virtual_time
async def test_a_new_file_that_cannot_be_restored_is_tried_every_second_and_no_more(tmp_path: Path) -> None:
    make = EventMaker()
    async with stubborn(tmp_path) as (disk, database):
        await disk.put(make.of("a"))
        database.fails_to_restore = MANY
        database.submit(find_damage, lambda _: None)
        await asyncio.sleep(20)
        assert 15 <= database.commits <= 50
        assert not disk.buffer.available
        database.fails_to_restore = 0
        await asyncio.sleep(2.5)
        await disk.put(make.of("b"))
        assert len(await disk.take()) == 2


@in_virtual_time
async def test_files_that_are_damaged_now_and_then_end_nothing(tmp_path: Path) -> None:
    """Only damage again and again, with nothing committed in between, does."""
    make = EventMaker()
    async with stubborn(tmp_path) as (disk, database):
        for number in range(1, 7):
            database.hangs = "before the job"
            database.submit(find_damage, lambda _: None)
            putting = await begin(disk.buffer.put(make.of("a"), intake="http"))
            database.answer()
            assert await done(putting) == [Stored()]
            assert disk.buffer.ledger().accepted == number


def test_notes_are_not_written_where_there_is_no_room_in_reserve_but_acks_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the disk would take them now: what there is left is for acks."""

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    @in_virtual_time
    async def test() -> None:
        make = EventMaker()
        async with stubborn(tmp_path / "live") as (disk, database):
            await disk.put(make.of("abc"))
            taken = await disk.take()
            database.fails_to_commit = 1
            monkeypatch.setattr("os.posix_fallocate", no_room)
            assert database.directory is not None
            database.directory.free_reserve()
            assert await disk.buffer.put(make.of("d"), intake="http") == Unavailable()
            commits = database.commits
            noting = await begin(disk.buffer.note({X: learned()}))
            for event in taken:
                await asyncio.sleep(2)
                await disk.deliver([event])
            assert not noting.done()
            assert database.commits - commits <= 10, "only the acks are committed"
            copy_of(tmp_path / "live", tmp_path / "killed")
            monkeypatch.undo()
            await done(noting, seconds=1.1)
            assert disk.buffer.available
        async with open_disk(tmp_path / "killed", serve=False) as disk:
            assert disk.buffer.ledger().delivered == 3
            assert (await disk.buffer.recall()).types == {}

    test()
