"""The disk buffer when the disk refuses, loses or alters what is on it in the middle of something else."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from forwarder.buffer.base import Full, Stored, Unavailable
from forwarder.buffer.commits import ACK_SECONDS
from forwarder.buffer.disk import DiskBuffer
from forwarder.buffer.fates import HandedOver
from forwarder.buffer.lane import cost_bytes
from forwarder.buffer.writing import write
from forwarder.database import events as rows
from forwarder.database import marks
from forwarder.database.connection import Committed, Database, Job, Transaction
from forwarder.database.ledger import AlteredError
from forwarder.event import Event, EventIds
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings, ReceiptsSettings
from tests.fakes.disk_buffers import OpenDisk, open_disk
from tests.fakes.events import EventMaker, ids
from tests.fakes.virtual_time import in_virtual_time

TWO_EVENTS = 1200
"""A window in which there is room for about so many."""
DEADLINE_SECONDS = 30.0


def settings(max_events: int, when_full: Literal["reject", "drop_oldest"] = "drop_oldest") -> BufferSettings:
    return BufferSettings(max_events=max_events, when_full=when_full)


def alter(*event_ids: int) -> "Alteration":
    return Alteration(event_ids)


class Alteration:
    """A job that alters rows behind the buffer's back."""

    def __init__(self, event_ids: Sequence[int]) -> None:
        self._ids = event_ids

    def __call__(self, transaction: Transaction) -> None:
        for event_id in self._ids:
            transaction.connection.execute("UPDATE events SET body = x'00' WHERE id = ?", (event_id,))


def write_what_nobody_writes(transaction: Transaction) -> None:
    checksum = rows._checksum(99, b"\xff", b"n", b"{}", 0.0)
    transaction.connection.execute("INSERT INTO events VALUES (99, x'ff', ?, ?, 0.0, ?, NULL)", (b"n", b"{}", checksum))


def find_damage(_: Transaction) -> None:
    """A job that finds the file damaged, which can be read nevertheless."""
    raise AlteredError("the test says so")


def damage(disk: OpenDisk) -> None:
    disk.database.submit(find_damage, lambda _: None)


def bodies(events: Sequence[Event]) -> list[bytes]:
    return [event.body.strip() for event in events]


async def test_what_was_to_be_dropped_for_a_put_that_the_disk_refuses_stays_in_its_place(tmp_path: Path) -> None:
    make = EventMaker()
    events = make.of("ababab")
    async with open_disk(tmp_path, settings=settings(6), max_bytes=4 * 1024 * 1024) as disk:
        await disk.put(events)
        too_large = make("c", size_bytes=6 * 1024 * 1024)
        assert await disk.buffer.put([too_large], intake="http") == Unavailable()
        assert disk.buffer.ledger().dropped["drop_oldest"] == 0
        assert disk.buffer.ledger().buffered == 6
        assert ids(await disk.take()) == ids(events)


@pytest.mark.parametrize("turns", [1, 3, 6, 9, 15, 30])
async def test_nothing_is_lost_or_doubled_when_the_file_is_damaged_while_room_is_made(
    tmp_path: Path, turns: int
) -> None:
    make = EventMaker()
    old = make.of("abcd" * 10)
    async with open_disk(tmp_path, settings=settings(40)) as disk:
        await disk.put(old)
    async with open_disk(tmp_path, settings=settings(40), window_bytes=TWO_EVENTS, first_id=1000) as disk:
        puts = [
            [Event(next(disk.ids), "a", "n", b"new %d" % n, 0.0) for n in range(m, m + 10)] for m in range(0, 30, 10)
        ]
        putting = [asyncio.create_task(disk.buffer.put(events, intake="http")) for events in puts]
        for _ in range(turns):
            await asyncio.sleep(0)
        damage(disk)
        async with asyncio.timeout(DEADLINE_SECONDS):
            answers = await asyncio.gather(*putting)
        found = await disk.take_all()
        stored = [event for events, answer in zip(puts, answers, strict=True) if answer == Stored() for event in events]
        ledger = disk.buffer.ledger()
        assert ledger.unaccounted == 0
        assert ledger.dropped["corrupt"] == 0
        assert len(set(bodies(found))) == len(found), "an event came twice"
        assert len(found) == len(old) + len(stored) - ledger.dropped["drop_oldest"]
        assert set(bodies(found)) <= set(bodies(old)) | set(bodies(stored))


async def test_what_is_salvaged_among_puts_that_make_room_comes_in_the_order_of_its_new_ids(tmp_path: Path) -> None:
    """Ids must be committed as they rise, or what is on disk only would be passed over, or read twice."""
    make = EventMaker()
    old = make.of("abcd" * 25)
    async with open_disk(tmp_path, settings=settings(100)) as disk:
        await disk.put(old)
    async with open_disk(tmp_path, settings=settings(100), window_bytes=TWO_EVENTS, first_id=1000) as disk:

        async def keep_putting() -> None:
            for number in range(30):
                await disk.buffer.put([Event(next(disk.ids), "e", "n", b"new %d" % number, 0.0)], intake="http")

        async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(keep_putting())
            await asyncio.sleep(0)
            damage(disk)
        found = await disk.take_all()
        assert ids(found) == sorted(set(ids(found)))
        assert disk.buffer.ledger().unaccounted == 0


async def test_puts_after_dropping_was_ended_wait_for_those_that_make_room_or_ids_would_not_rise(
    tmp_path: Path,
) -> None:
    make = EventMaker()
    window = 3 * cost_bytes(make("a"))
    async with open_disk(tmp_path, settings=settings(10), window_bytes=window) as disk:
        await disk.put(make.of("abcdefg"))
        found = await disk.take()
        assert len(found) == 7
        puts = [make.of("hi"), make.of("jk"), make.of("l"), make.of("m")]
        putting = [asyncio.create_task(disk.buffer.put(events, intake="http")) for events in puts[:2]]
        await asyncio.sleep(0)
        disk.buffer.use("reject")
        putting += [asyncio.create_task(disk.buffer.put(events, intake="http")) for events in puts[2:]]
        async with asyncio.timeout(DEADLINE_SECONDS):
            answers = await asyncio.gather(*putting)
        await disk.deliver(found)
        stored = [ids(events) for events, answer in zip(puts, answers, strict=True) if answer == Stored()]
        last = make.of("nopqrs")
        for event in last:
            await disk.put([event])
        found = await disk.take_all()
        assert ids(found) == sorted(set(ids(found)))
        dropped = disk.buffer.ledger().dropped["drop_oldest"]
        assert len(found) + dropped == sum(map(len, stored)) + len(last)
        assert disk.buffer.ledger().unaccounted == 0


@pytest.mark.parametrize("window_bytes", [TWO_EVENTS, 1 << 20])
async def test_a_row_that_was_altered_is_dropped_and_counted_once(tmp_path: Path, window_bytes: int) -> None:
    make = EventMaker()
    async with open_disk(tmp_path) as disk:
        await disk.put(make.of("abc" * 10))
        await disk.database.run(alter(1, 7, 30))
    async with open_disk(tmp_path, window_bytes=window_bytes, serve=False) as disk:
        found: list[Event] = []
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(found) < 27:
                found += await disk.take()
            while disk.buffer.ledger().dropped["corrupt"] < 3:
                await asyncio.sleep(0)
        assert ids(found) == [number for number in range(1, 31) if number not in (1, 7, 30)]
        assert (disk.buffer.ledger().buffered, disk.buffer.ledger().unaccounted) == (27, 0)


async def test_a_row_that_was_altered_after_its_event_was_given_back_is_dropped_and_counted_once(
    tmp_path: Path,
) -> None:
    async with open_disk(tmp_path, window_bytes=TWO_EVENTS, serve=False) as disk:
        await disk.put(EventMaker().of("aab" * 4))
        taken: list[Event] = []
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(taken) < 12:
                taken += await disk.take()
            await disk.buffer.release(taken, not_before=0.0)
            await disk.database.run(alter(*range(4, 13)))
            found = await disk.take()
            while disk.buffer.ledger().buffered + disk.buffer.ledger().dropped["corrupt"] != 12 or len(found) < 3:
                found += await disk.take()
        assert ids(found) == [1, 2, 3]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await disk.take()
        assert disk.buffer.ledger().unaccounted == 0
        kept = disk.buffer.ledger().buffered
        assert kept + disk.buffer.ledger().dropped["corrupt"] == 12


async def test_a_row_that_is_found_altered_just_before_the_file_is_found_damaged_is_counted_once(
    tmp_path: Path,
) -> None:
    make = EventMaker()
    async with open_disk(tmp_path) as disk:
        await disk.put(make.of("abc" * 10))
        await disk.database.run(alter(7))
    async with open_disk(tmp_path, first_id=1000) as disk:
        taking = asyncio.create_task(disk.take())
        await asyncio.sleep(0)
        damage(disk)  # behind the read, and before what comes of it
        async with asyncio.timeout(DEADLINE_SECONDS):
            found = await taking
            while not disk.quiet(len(found)):
                try:
                    async with asyncio.timeout(0.01):
                        found += await disk.take()
                except TimeoutError:
                    pass
        ledger = disk.buffer.ledger()
        assert len(set(bodies(found))) == len(found) == 29
        assert (ledger.buffered, ledger.dropped["corrupt"], ledger.unaccounted) == (29, 1, 0)


async def test_a_row_that_was_altered_while_it_was_marked_is_dropped_as_corrupt(tmp_path: Path) -> None:
    async with open_disk(tmp_path, serve=False) as disk:
        await disk.put(EventMaker().of("abcd"))
        taken = await disk.take()
        await disk.buffer.mark([(event, 1) for event in taken[1:]])
        await disk.database.run(alter(3))
        await disk.database.run(lambda transaction: transaction.connection.execute("DELETE FROM events WHERE id = 4"))
    async with open_disk(tmp_path) as disk:
        assert ids(await disk.take_all()) == [1]
        ledger = disk.buffer.ledger()
        assert (ledger.dead_lettered["ambiguous"], ledger.dropped["corrupt"], ledger.unaccounted) == (1, 2, 0)
        assert await disk.database.run(marks.find) == ({}, [])


async def test_what_is_found_marked_is_kept_back_as_long_as_the_disk_is_full(tmp_path: Path) -> None:
    make = EventMaker()
    async with open_disk(tmp_path, serve=False) as disk:
        await disk.put(make.of("abcd"))
        await disk.buffer.mark([(event, 1) for event in await disk.take(2)])
    database = FullDatabase(tmp_path)
    buffer = DiskBuffer(
        BufferSettings(),
        dead_letters=DeadLettersSettings(),
        database=database,
        telemetry=Telemetry(),
        receipts=Receipts(ReceiptsSettings(), clock=time.time),
        clock=asyncio.get_running_loop().time,
        next_id=EventIds().__next__,
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        await buffer.open()
        assert ids(await buffer.take(max_events=10, max_bytes=1000)) == [3, 4]
        assert buffer.ledger().buffered == 4
        database.is_full = False
        while buffer.ledger().dead_lettered["ambiguous"] < 2:
            await asyncio.sleep(0.01)
    assert (buffer.ledger().buffered, buffer.ledger().unaccounted) == (2, 0)
    await buffer.close()


class FullDatabase(Database):
    """A database that can be read, while nothing can be committed that a buffer writes."""

    is_full = True

    def submit(self, job: Job[Any], then: Callable[[Committed[Any] | Exception], None], **how: bool) -> None:
        def full(_: Transaction) -> None:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = 10
            raise error

        writes = isinstance(job, partial) and job.func is write
        super().submit(full if writes and self.is_full else job, then, **how)


async def test_a_taker_is_told_of_an_error_that_nobody_expects(tmp_path: Path) -> None:
    """Rather than wait for ever: the process ends and says why."""
    async with open_disk(tmp_path) as disk:
        await disk.put(EventMaker().of("ab"))
    async with open_disk(tmp_path, serve=False) as disk:
        await disk.database.run(write_what_nobody_writes)
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(UnicodeDecodeError):
                await disk.take()


async def test_rows_are_counted_on_the_thread_of_the_database_alone(tmp_path: Path) -> None:
    """It reads the count for each removal: what the event loop changed meanwhile could be None in the middle of it."""
    threads: set[str] = set()

    class Watched(rows.RowCount):
        def __setattr__(self, name: str, value: object) -> None:
            threads.add(threading.current_thread().name)
            super().__setattr__(name, value)

    async with open_disk(tmp_path, inline=False, serve=False) as disk:
        disk.buffer._upkeep._count = Watched()
        threads.clear()
        await disk.buffer._upkeep._compare_rows(as_found=True)
        assert threads == {"database"}


async def test_a_single_event_has_its_short_way_again_when_the_oldest_are_dropped_from_now_on(tmp_path: Path) -> None:
    """Nothing is kept any more for the put that was refused before."""
    make = EventMaker()
    async with open_disk(tmp_path, settings=settings(2, "reject"), serve=False) as disk:
        await disk.put(make.of("ab"))
        assert await disk.buffer.put(make.of("c"), intake="http") == Full()
        disk.buffer.use("drop_oldest")
        await disk.put(make.of("d"))
        await disk.deliver(await disk.take())
        assert disk.buffer.begin_put(make("e"), intake="http") is not None


@in_virtual_time
async def test_what_was_delivered_makes_room_at_once_when_a_put_needs_it(tmp_path: Path) -> None:
    """Its ack may wait for company, but not while somebody is refused for want of room."""
    make = EventMaker()
    async with open_disk(tmp_path, settings=settings(2, "reject"), serve=False) as disk:
        await disk.put(make.of("ab"))
        left = asyncio.Event()
        disk.buffer.listen(changed=lambda: None, left=lambda _: left.set())
        for event in await disk.take():
            disk.buffer.begin_ack(event, HandedOver())
        assert await disk.buffer.put(make.of("c"), intake="http") == Full()
        await asyncio.wait_for(left.wait(), ACK_SECONDS / 2)
        await disk.put(make.of("c"))
