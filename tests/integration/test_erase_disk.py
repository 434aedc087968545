"""Erasing from the buffer on disk with something in the way: no order, a small window, a failing disk, damage, a kill."""

import asyncio
import random
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from forwarder.buffer.base import BufferUnavailableError, Notes
from forwarder.database import erasing
from forwarder.database import events as rows
from forwarder.database.connection import Committed, Database, Job, Transaction
from forwarder.event import Event, each_alone
from forwarder.settings import BufferSettings
from tests.fakes import dying_eraser
from tests.fakes.disk_buffers import open_disk
from tests.fakes.events import EventMaker, counted, ids, keys_of

VICTIM = "victim-of-erasure"
SMALL_WINDOW_BYTES = 2000


def body(event: Event) -> bytes:
    return event.body


def mixed(make: EventMaker, number: int, *, size_bytes: int = 60) -> list[Event]:
    """Return events, every third of which is hers."""
    return make.of([VICTIM if n % 3 == 0 else f"other {n % 5}" for n in range(number)], size_bytes=size_bytes)


def others(events: Sequence[Event]) -> list[int]:
    return [event.id for event in events if event.customer != VICTIM]


def shows(directory: Path) -> list[str]:
    """Return the files that show her id."""
    return [path.name for path in directory.iterdir() if path.is_file() and VICTIM.encode() in path.read_bytes()]


class FailingDatabase(Database):
    """A database on a disk that is full now and then, while something is erased."""

    fails = 0
    """How many of the next jobs of an erasure fail."""
    failed = 0

    def submit(self, job: Job[Any], then: Callable[[Committed[Any] | Exception], None], **how: bool) -> None:
        if self.fails and isinstance(job, partial) and job.func.__module__ == erasing.__name__:
            self.fails -= 1
            self.failed += 1
            job = partial(_run_and_fail, job)
        super().submit(job, then, **how)


def _run_and_fail(job: Job[Any], transaction: Transaction) -> None:
    job(transaction)
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = 13
    raise error


@pytest.mark.parametrize("window_bytes", [SMALL_WINDOW_BYTES, 1 << 20])
async def test_without_order_each_event_is_a_lane_and_hers_are_found_all_the_same(
    tmp_path: Path, window_bytes: int
) -> None:
    async with open_disk(tmp_path, lane_of=each_alone, window_bytes=window_bytes) as disk:
        events = mixed(EventMaker(), 300)
        await disk.put(events)
        taken = await disk.take(100)
        await disk.buffer.release(taken, not_before=0.0)
        found = await disk.buffer.erase(VICTIM)
        assert (found.events, found.in_flight) == (100, 0)
        assert sorted(ids(await disk.take_all())) == others(events)
        assert disk.buffer.ledger().unaccounted == 0
        assert shows(tmp_path) == []


async def test_others_are_taken_while_she_is_erased(tmp_path: Path) -> None:
    async with open_disk(tmp_path, window_bytes=SMALL_WINDOW_BYTES) as disk:
        events = mixed(EventMaker(), 1500)
        await disk.put(events)
        some: list[Event] = []
        found: list[Event] = []
        disk.buffer.listen(
            changed=lambda: None,
            left=lambda _: None,
            revoked=lambda lanes: [event for event in some if event.customer in lanes],
        )
        erasing_her = asyncio.create_task(disk.buffer.erase(VICTIM))
        while len(others(found)) < len(others(events)):
            async with asyncio.timeout(30):
                some = await disk.take(7)
            await disk.deliver(some)
            found += some
        erased = await erasing_her
        late = [event for event in found if event.customer == VICTIM]
        assert erased.events + len(late) == 500
        assert sorted(event.id for event in found if event.customer != VICTIM) == others(events)
        ledger = disk.buffer.ledger()
        assert (ledger.buffered, ledger.unaccounted) == (0, 0)
        assert shows(tmp_path) == []


@pytest.mark.parametrize("fails", [1, 3])
async def test_what_the_disk_does_not_commit_is_tried_again(
    tmp_path: Path, fails: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_disk(tmp_path, of=FailingDatabase) as disk:
        assert isinstance(disk.database, FailingDatabase)
        events = mixed(EventMaker(), 60)
        await disk.put(events)
        disk.database.fails = fails
        async with asyncio.timeout(60):
            found = await disk.buffer.erase(VICTIM)
        assert (found.events, disk.database.failed) == (20, fails)
        assert counted(disk.telemetry, "buffer_errors_total", operation="commit") == fails
        assert ids(await disk.take_all()) == others(events)
        assert disk.buffer.ledger().dropped["erased"] == 20
        assert disk.buffer.ledger().unaccounted == 0


async def test_a_close_in_the_middle_ends_an_erasure_that_the_disk_holds_up(tmp_path: Path) -> None:
    async with open_disk(tmp_path, of=FailingDatabase, serve=False) as disk:
        assert isinstance(disk.database, FailingDatabase)
        events = mixed(EventMaker(), 60)
        await disk.put(events)
        disk.database.fails = 1_000_000
        erasing_her = asyncio.create_task(disk.buffer.erase(VICTIM))
        while not disk.database.failed:
            await asyncio.sleep(0)
        await disk.buffer.close()
        with pytest.raises(BufferUnavailableError):
            await erasing_her
    async with open_disk(tmp_path) as disk:
        assert ids(await disk.take_all()) == ids(events), "nothing was removed"


async def test_a_file_that_is_found_damaged_meanwhile_ends_the_erasure_and_the_next_one_is_complete(
    tmp_path: Path,
) -> None:
    class DamagedOnce(Database):
        is_damaged = False

        def submit(self, job: Job[Any], then: Callable[[Committed[Any] | Exception], None], **how: bool) -> None:
            if self.is_damaged and isinstance(job, partial) and job.func is erasing.remove_events:
                self.is_damaged = False
                job = _find_damage
            super().submit(job, then, **how)

    async with open_disk(tmp_path, of=DamagedOnce) as disk:
        assert isinstance(disk.database, DamagedOnce)
        events = mixed(EventMaker(), 60)
        await disk.put(events)
        disk.database.is_damaged = True
        with pytest.raises(BufferUnavailableError):
            await disk.buffer.erase(VICTIM)
        await disk.buffer.erase(VICTIM)
        while disk.database.directory and disk.database.directory.damaged():
            await asyncio.sleep(0.01)
        await disk.buffer.erase(VICTIM)
        found = await disk.take_all()
        assert sorted(body(event) for event in found) == sorted(
            event.body for event in events if event.customer != VICTIM
        )
        assert disk.buffer.ledger().unaccounted == 0
        assert shows(tmp_path) == []


def _find_damage(_: Transaction) -> None:
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = 11
    raise error


async def filled(directory: Path, number: int) -> list[Event]:
    """Fill a buffer with events, of which 30 are dead letters."""
    async with open_disk(directory, serve=False) as disk:
        events = mixed(EventMaker(), number)
        await disk.put(events)
        await disk.reject(await disk.take(30))
    return events


async def damaged(directory: Path, number: int) -> list[Event]:
    """Fill a buffer and damage its ledger, so that it is quarantined when it is opened."""
    events = await filled(directory, number)
    path = directory / "buffer.db"
    content = path.read_bytes()
    at = content.index(b'{"')
    path.write_bytes(content[:at] + b"XX" + content[at + 2 :])
    return events


@pytest.mark.parametrize("turns", [0, 5, 40, 300, 3000, 1_000_000])
@pytest.mark.parametrize("is_damaged", [False, True])
async def test_a_kill_while_she_is_erased_costs_the_others_nothing_and_the_erasure_can_be_repeated(
    tmp_path: Path, turns: int, *, is_damaged: bool
) -> None:
    """With a damaged file, the process is killed while that is being salvaged, too."""
    events = await (damaged if is_damaged else filled)(tmp_path, 1500)
    process = await asyncio.create_subprocess_exec(
        sys.executable, dying_eraser.__file__, str(tmp_path), VICTIM, str(turns)
    )
    async with asyncio.timeout(100):
        assert await process.wait() == -signal.SIGKILL
    async with open_disk(tmp_path, first_id=20_000) as disk:
        await disk.buffer.erase(VICTIM)
        found = await disk.take_all(seconds=60)
        await disk.buffer.erase(VICTIM)
        letters = (await disk.buffer.dead_letters.page(after_place=0, max_letters=1000)).letters
        assert sorted(body(event) for event in [*found, *(letter.event for letter in letters)]) == sorted(
            event.body for event in events if event.customer != VICTIM
        )
        ledger = disk.buffer.ledger()
        assert (ledger.unaccounted, ledger.buffered) == (0, len(found))
        assert shows(tmp_path) == []


async def test_what_was_salvaged_before_is_erased_under_its_new_id(tmp_path: Path) -> None:
    events = await damaged(tmp_path, 300)
    async with open_disk(tmp_path, first_id=10_000) as disk:
        taken = await disk.take_all(seconds=30)
        await disk.buffer.release(taken, not_before=0.0)
        assert shows(tmp_path)
        found = await disk.buffer.erase(VICTIM)
        assert (found.events, found.dead_letters, found.files) == (90, 10, 1)
        assert shows(tmp_path) == []
        assert len(await disk.take_all()) == len(others(events)) - 20


async def test_keys_and_marks_of_others_stay(tmp_path: Path) -> None:
    make = EventMaker()
    async with open_disk(tmp_path, serve=False) as disk:
        events = mixed(make, 9)
        await disk.put(events, Notes(keys=keys_of(events)))
        taken = await disk.take(3)
        await disk.buffer.mark([(event, 1) for event in taken])
        await disk.buffer.release(taken[:1], not_before=0.0)
        disk.buffer.listen(changed=lambda: None, left=lambda _: None, revoked=lambda _: [])
        await disk.buffer.erase(VICTIM)
    async with open_disk(tmp_path) as disk:
        assert disk.buffer.ledger().dead_lettered["ambiguous"] == 2, "those that were found marked"
        assert len((await disk.buffer.recall()).keys) == 9


async def test_whatever_was_deleted_in_which_order_no_trace_of_her_is_left(tmp_path: Path) -> None:
    """Rows of all sizes come and go at random, so that SQLite joins and splits pages."""
    for seed in range(4):
        chance, make = random.Random(seed), EventMaker()
        directory = tmp_path / str(seed)
        async with open_disk(directory, settings=BufferSettings(max_bytes=1 << 28), serve=False) as disk:
            for _ in range(40):
                events = [
                    make(
                        VICTIM if chance.random() < 0.4 else "other",
                        size_bytes=chance.choice([60, 200, 900, 5000]) if chance.random() < 0.4 else 100,
                    )
                    for _ in range(chance.randint(1, 50))
                ]
                await disk.put(events)
                taken = await disk.take(chance.randint(1, 40))
                gone = chance.sample(taken, len(taken) * 2 // 3)
                await disk.deliver(gone[::2])
                await disk.reject(gone[1::2])
                await disk.buffer.release([event for event in taken if event not in gone], not_before=0.0)
            await disk.buffer.erase(VICTIM)
            assert shows(directory) == []
            assert disk.buffer.ledger().unaccounted == 0


class ToldTogether(Database):
    """It tells of removed events with the next read, in the same turn of the event loop, as when that was busy."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.held: list[Callable[[], None]] = []

    def submit(self, job: Job[Any], then: Callable[[Committed[Any] | Exception], None], **how: bool) -> None:
        function = job.func if isinstance(job, partial) else None

        def hold(result: Committed[Any] | Exception) -> None:
            self.held.append(partial(then, result))

        def tell(result: Committed[Any] | Exception) -> None:
            held, self.held = self.held, []
            for each in held:
                each()
            then(result)

        super().submit(
            job, hold if function is erasing.remove_events else tell if function is rows.read_ids else then, **how
        )


async def test_a_read_that_finds_removed_rows_gone_before_anybody_was_told_does_not_take_that_for_damage(
    tmp_path: Path,
) -> None:
    async with open_disk(tmp_path, of=ToldTogether, window_bytes=SMALL_WINDOW_BYTES, serve=False) as disk:
        assert isinstance(disk.database, ToldTogether)
        events = mixed(EventMaker(), 90)
        await disk.put(events)
        taken = [event for _ in range(9) for event in await disk.take(10)]
        await disk.buffer.release(taken, not_before=0.0)
        erasing_her = asyncio.create_task(disk.buffer.erase(VICTIM))
        async with asyncio.timeout(30):
            while not disk.database.held:
                await asyncio.sleep(0)
            found: list[Event] = []
            while len(found) < 60:
                found += await disk.take(10)
            assert (await erasing_her).events == 30
        assert sorted(ids(found)) == others(events)
        assert disk.buffer.ledger().unaccounted == 0
        assert disk.buffer.ledger().dropped["corrupt"] == 0
        assert shows(tmp_path) == []
        assert disk.database.directory is not None
        assert disk.database.directory.damaged() == []


async def test_a_late_release_of_a_newer_event_that_came_again_does_nothing(tmp_path: Path) -> None:
    async with open_disk(tmp_path, serve=False) as disk:
        await disk.put(EventMaker().of([VICTIM, VICTIM, VICTIM, "other"]))
        taken = await disk.take()
        disk.buffer.listen(changed=lambda: None, left=lambda _: None, revoked=lambda _: [])
        assert (await disk.buffer.erase(VICTIM, up_to=2)).events == 2
        again = await disk.take()
        assert ids(again) == [3]
        await disk.buffer.release(taken[:3], not_before=0.0)
        await disk.buffer.unmark(taken[:3])
        assert disk.buffer.take_ready(max_events=10, max_bytes=1 << 20) == []
        await disk.deliver([*again, taken[3]])
        ledger = disk.buffer.ledger()
        assert (ledger.delivered, ledger.dropped["erased"], ledger.buffered, ledger.unaccounted) == (2, 2, 0, 0)
