"""What must not go on for ever: a bug in the database's jobs, damage again and again, refusals that nobody writes down."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from forwarder.buffer.base import Stored, Unavailable
from forwarder.buffer.commits import MAX_DAMAGES_IN_A_ROW, PUT_SECONDS
from forwarder.buffer.fates import HandedOver
from forwarder.database import dead_letters
from forwarder.database.connection import Committed, Database, Job, Transaction
from forwarder.database.ledger import AlteredError
from forwarder.event import DeadLetter
from forwarder.settings import BufferSettings
from tests.fakes.databases import StubbornDatabase
from tests.fakes.disk_buffers import OpenDisk, copy_of, open_disk
from tests.fakes.events import EventMaker, counted, ids
from tests.fakes.virtual_time import in_virtual_time

DEADLINE_SECONDS = 20.0


def serving(disk: OpenDisk) -> "asyncio.Task[None]":
    return asyncio.create_task(disk.buffer.serve(), name="buffer under test")


def damaged_files(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if "damaged" in path.name]


async def until_available(disk: OpenDisk) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not disk.buffer.available:
            await asyncio.sleep(0.01)


async def test_a_bug_in_a_job_ends_what_serves_and_answers_all_who_wait(tmp_path: Path) -> None:
    make = EventMaker()
    async with open_disk(tmp_path, serve=False) as disk:
        task = serving(disk)
        (event,) = make.of("a")
        await disk.put([event])
        with pytest.raises(sqlite3.IntegrityError):
            await disk.buffer.put([event], intake="http")  # the same id again, which no intake does
        with pytest.raises(ExceptionGroup) as ended:
            await asyncio.wait_for(task, DEADLINE_SECONDS)
        assert ended.value.split(sqlite3.IntegrityError)[0] is not None
        with pytest.raises(sqlite3.IntegrityError):
            await disk.buffer.put(make.of("b"), intake="http")


async def test_a_bug_while_a_commit_is_applied_ends_what_serves_and_answers_who_waits(tmp_path: Path) -> None:
    make = EventMaker()
    async with open_disk(tmp_path, serve=False) as disk:
        task = serving(disk)
        events = make.of("ab")
        await disk.put(events)
        taken = await disk.take()
        disk.buffer._taken.clear()  # so that the ack cannot be applied
        with pytest.raises(KeyError):
            await disk.buffer.ack([(taken[0], HandedOver())])
        with pytest.raises(ExceptionGroup):
            await asyncio.wait_for(task, DEADLINE_SECONDS)


@pytest.mark.parametrize("where", ["_job_of", "_refuse", "_apply"])
async def test_a_bug_before_or_after_a_commit_ends_what_serves_with_its_reason(tmp_path: Path, where: str) -> None:
    def bug(*_: object) -> None:
        raise LookupError("the test says so")

    make = EventMaker()
    async with open_disk(tmp_path, serve=False, of=StubbornDatabase) as disk:
        database = cast("StubbornDatabase", disk.database)
        task = serving(disk)
        await disk.put(make.of("a"))
        (taken,) = await disk.take()
        setattr(disk.buffer._commits, where, bug)
        database.fails_to_commit = where == "_refuse"
        disk.buffer.begin_ack(taken, HandedOver())
        putting = asyncio.create_task(disk.buffer.put(make.of("b"), intake="http"))
        with pytest.raises(ExceptionGroup) as ended:
            await asyncio.wait_for(task, DEADLINE_SECONDS)
        assert ended.value.split(LookupError)[0] is not None
        putting.cancel()
        await asyncio.wait({putting})
        with pytest.raises(LookupError):
            await disk.buffer.settle_acks() if disk.buffer._commits.has_acks else await disk.put(make.of("c"))


async def test_an_ack_that_was_begun_before_a_bug_failed_its_commit_is_committed_by_the_close(tmp_path: Path) -> None:
    make = EventMaker()
    async with open_disk(tmp_path, serve=False) as disk:
        task = serving(disk)
        await disk.put(make.of("abc"))
        first, second, third = await disk.take()
        disk.buffer.begin_ack(first, HandedOver())
        with pytest.raises(sqlite3.IntegrityError):
            await disk.buffer.put([second], intake="http")  # the same id again, which no intake does
        disk.buffer.begin_ack(third, HandedOver())
        with pytest.raises(ExceptionGroup):
            await asyncio.wait_for(task, DEADLINE_SECONDS)
    async with open_disk(tmp_path) as disk:
        assert ids(await disk.take_all()) == [second.id]
        assert disk.buffer.ledger().delivered == 2


async def test_a_put_that_waited_behind_a_bug_is_not_stored_by_the_close(tmp_path: Path) -> None:
    """Its caller was told of the bug, and may try again."""
    make = EventMaker()
    async with open_disk(tmp_path, serve=False, of=StubbornDatabase) as disk:
        database = cast("StubbornDatabase", disk.database)
        first, second = make.of("ab")
        await disk.put([first])
        database.hangs = "after the job"
        puts = []
        for event in (first, second):  # the same id again, which no intake does
            puts.append(asyncio.create_task(disk.buffer.put([event], intake="http")))
            await asyncio.sleep(0.01)
        database.answer()
        told = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(each) for each in told] == [sqlite3.IntegrityError, sqlite3.IntegrityError]
    async with open_disk(tmp_path) as disk:
        assert ids(await disk.take_all()) == [first.id]


async def test_an_ack_of_a_marked_event_that_is_begun_after_a_bug_is_committed_by_the_close(tmp_path: Path) -> None:
    make = EventMaker()
    async with open_disk(tmp_path, serve=False) as disk:
        await disk.put(make.of("ab"))
        marked, other = await disk.take()
        await disk.buffer.mark([(marked, 1)])
        with pytest.raises(sqlite3.IntegrityError):
            await disk.buffer.put([other], intake="http")  # the same id again, which no intake does
        disk.buffer.begin_ack(marked, HandedOver())
    async with open_disk(tmp_path) as disk:
        assert ids(await disk.take_all()) == [other.id]
        ledger = disk.buffer.ledger()
        assert (ledger.delivered, ledger.dead_lettered["ambiguous"]) == (1, 0)


async def test_a_mark_whose_commit_met_a_bug_is_not_committed_by_the_close(tmp_path: Path) -> None:
    """Its attempt never began, so the event is delivered later and does not become a dead letter."""
    make = EventMaker()
    async with open_disk(tmp_path, serve=False, of=StubbornDatabase) as disk:
        database = cast("StubbornDatabase", disk.database)
        await disk.put(make.of("abc"))
        first, second, third = await disk.take()
        database.hangs = "after the job"
        calls = [  # the same id again, which no intake does
            asyncio.create_task(disk.buffer.put([third], intake="http")),
            asyncio.create_task(disk.buffer.mark([(first, 1)])),
        ]
        await asyncio.sleep(0.01)
        calls.append(asyncio.create_task(disk.buffer.mark([(second, 1)])))
        await asyncio.sleep(0.01)
        database.answer()
        told = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in told} == {sqlite3.IntegrityError}
        with pytest.raises(sqlite3.IntegrityError):
            await disk.buffer.mark([(third, 1)])
    async with open_disk(tmp_path) as disk:
        assert ids(await disk.take_all()) == ids([first, second, third])


async def test_damage_in_every_new_file_ends_what_serves_and_does_not_fill_the_directory(tmp_path: Path) -> None:
    def never_sound(*_: object) -> int:
        raise AlteredError("the test says so")

    async with open_disk(tmp_path, serve=False) as disk:
        task = serving(disk)
        disk.buffer._commits._job_of = lambda _: never_sound
        with pytest.raises(Exception, match="damaged"):
            await asyncio.wait_for(disk.buffer.put(EventMaker().of("a"), intake="http"), DEADLINE_SECONDS)
        with pytest.raises(ExceptionGroup):
            await asyncio.wait_for(task, DEADLINE_SECONDS)
        left = damaged_files(tmp_path)
        assert 1 <= len(left) <= 3 * (MAX_DAMAGES_IN_A_ROW + 1)


async def test_damage_in_every_new_file_before_it_is_restored_ends_what_serves_too(tmp_path: Path) -> None:
    def never_sound(_: Transaction) -> None:
        raise AlteredError("the test says so")

    class NeverRestored(Database):
        def submit(self, job: Job[Any], then: Callable[[Committed[Any] | Exception], None], **how: bool) -> None:
            super().submit(never_sound if how.get("restores") else job, then, **how)

    async with open_disk(tmp_path, serve=False, of=NeverRestored) as disk:
        task = serving(disk)
        disk.database.submit(never_sound, lambda _: None)
        with pytest.raises(ExceptionGroup):
            await asyncio.wait_for(task, DEADLINE_SECONDS)
    assert 1 <= len(damaged_files(tmp_path)) <= 3 * (MAX_DAMAGES_IN_A_ROW + 3)


@in_virtual_time
async def test_a_bug_while_a_put_is_refused_in_time_ends_what_serves(tmp_path: Path) -> None:
    def bug(_: object) -> None:
        raise LookupError("the test says so")

    make = EventMaker()
    async with open_disk(tmp_path, serve=False, of=StubbornDatabase) as disk:
        database = cast("StubbornDatabase", disk.database)
        watching = asyncio.create_task(disk.buffer._commits.watch())
        disk.buffer._commits._refuse = bug
        database.hangs = "before the job"
        puts = []
        for event in make.of("ab"):
            puts.append(asyncio.create_task(disk.buffer.put([event], intake="http")))
            await asyncio.sleep(0.01)
        with pytest.raises(LookupError):
            await asyncio.wait_for(watching, PUT_SECONDS + 1)
        database.answer()
        await asyncio.wait(puts, timeout=1)


async def test_refusals_are_written_to_the_ledger_although_nothing_is_accepted(tmp_path: Path) -> None:
    async with open_disk(tmp_path / "live") as disk:
        disk.telemetry.events_refused(7, intake="http", reason="empty")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not disk.database.ledger["rejected"]:
                await asyncio.sleep(0.01)
        copy = copy_of(tmp_path / "live", tmp_path / "killed")
    async with open_disk(copy) as disk:
        ledger = disk.buffer.ledger()
        assert (ledger.received, ledger.rejected, ledger.accepted) == (7, 7, 0)


async def test_a_replay_that_meets_damage_is_refused_and_the_dead_letter_stays_one(tmp_path: Path) -> None:
    make = EventMaker()
    async with open_disk(tmp_path, first_id=1000) as disk:
        events = make.of("ab")
        await disk.put(events)
        await disk.reject(await disk.take())
        real = disk.buffer._commits._job_of
        damages = iter([True])

        def job_of(batch: object) -> object:
            job = real(batch)  # type: ignore[arg-type]  # it is a batch

            def damaged_once(transaction: Transaction) -> int:
                if next(damages, False):
                    raise AlteredError("the test says so")
                return job(transaction)

            return damaged_once

        disk.buffer._commits._job_of = job_of  # type: ignore[assignment]  # as above
        (again,) = make.of("a")
        assert await disk.buffer.put([again], intake="replay", replayed=[events[0].id]) == Unavailable()
        assert await disk.take_all() == []
        async with asyncio.timeout(DEADLINE_SECONDS):
            while disk.database.ledger["dead_letters"] != 2:
                await asyncio.sleep(0.01)
        assert await disk.buffer.put([again], intake="replay", replayed=[events[0].id]) == Stored()
        assert disk.database.ledger["dead_letters"] == 1
        assert disk.buffer.ledger().unaccounted == 0


async def test_puts_that_come_or_wait_when_the_file_is_gone_are_refused_and_acks_are_not(tmp_path: Path) -> None:
    make = EventMaker()
    directory = tmp_path / "buffer"
    async with open_disk(directory) as disk:
        await disk.put(make.of("ab"))
        first, second = await disk.take()
        directory.rename(tmp_path / "elsewhere")
        assert (await disk.database.look()).moved is not None
        # In one batch, before anybody here has been told.
        ack = asyncio.ensure_future(disk.deliver([first]))
        put = disk.buffer.put(make.of("c"), intake="http")
        assert await put == Unavailable()
        await ack
        assert not disk.buffer.available
        failure = disk.telemetry.recent.buffer_failure()
        assert failure is not None, "the status can say why at once"
        assert failure["operation"] == "directory"
        assert await disk.buffer.put(make.of("c"), intake="http") == Unavailable()
        assert counted(disk.telemetry, "buffer_errors_total", operation="commit") == 0
        (tmp_path / "elsewhere").rename(directory)
        await until_available(disk)
        (third,) = make.of("c")
        await disk.put([third])
        copy = copy_of(directory, tmp_path / "killed")
    async with open_disk(copy) as disk:
        assert ids(await disk.take_all()) == [second.id, third.id]
        assert disk.buffer.ledger().unaccounted == 0


async def test_oldest_events_are_not_dropped_for_a_put_that_a_missing_file_refuses(tmp_path: Path) -> None:
    make = EventMaker()
    settings = BufferSettings(max_events=2, when_full="drop_oldest")
    async with open_disk(tmp_path / "buffer", settings=settings) as disk:
        made = make.of("ab")
        await disk.put(made)
        shutil.rmtree(tmp_path / "buffer")
        await disk.database.look()
        assert await disk.buffer.put(make.of("c"), intake="http") == Unavailable()
        assert ids(await disk.take()) == ids(made)
        assert disk.buffer.ledger().dropped["drop_oldest"] == 0


async def test_a_disk_without_room_for_the_reserve_says_so_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", no_room)
    async with open_disk(tmp_path) as disk:
        assert not disk.buffer.available
        assert await disk.buffer.put(EventMaker().of("a"), intake="http") == Unavailable()
        assert counted(disk.telemetry, "buffer_errors_total", operation="commit") == 1
        monkeypatch.undo()
        await until_available(disk)
        await disk.put(EventMaker().of("a"))


async def test_dead_letters_are_read_up_to_a_size(tmp_path: Path) -> None:
    make = EventMaker()
    database = Database(None)
    await database.open()
    letters = [DeadLetter(make("c", size_bytes=1000), "rejected", 422, b"", 1, 1.0, 1.0) for _ in range(5)]
    await database.run(lambda each: dead_letters.insert(each, letters, max_events=10, max_bytes=1 << 20))
    found = await database.run(
        lambda each: dead_letters.find(each, [letter.event.id for letter in letters], max_bytes=2500)
    )
    assert len(found) == 3, "until they are beyond it"
    await database.close()
