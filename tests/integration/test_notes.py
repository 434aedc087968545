"""What is kept for intake, through crashes, damage and a full disk: keys exactly with their events, hints in no way."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path

import pytest

from forwarder.buffer import commits
from forwarder.buffer.base import NO_NOTES, Notes, Stored, Unavailable
from forwarder.buffer.batch import Batch
from forwarder.buffer.fates import HandedOver
from forwarder.database import events, schema
from forwarder.database.connection import DamagedError, Job, Transaction
from forwarder.database.ledger import AlteredError
from forwarder.event import DuplicateKey, Event
from tests.fakes.disk_buffers import OpenDisk, copy_of, open_disk
from tests.fakes.events import EventMaker, ids, keys_of, learned, notes_of

DEADLINE_SECONDS = 20.0
FILE, NAME = "buffer.db", "buffer.db.damaged-20260101T000000.000000Z"
X, Y, Z = ("n", "x"), ("n", "y"), ("n", "z")
PAGE = schema.PAGE_BYTES
TYPES = {("n", f"attribute {number:05}"): learned() for number in range(300)}


async def recalled(directory: Path) -> Notes:
    async with open_disk(directory, serve=False, first_id=10**6) as disk:
        return await disk.buffer.recall()


def find_damage(_: Transaction) -> None:
    raise AlteredError("the test says so")


async def damage(disk: OpenDisk) -> None:
    with pytest.raises(DamagedError):
        await disk.database.run(find_damage)


def change_file(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / FILE)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def rows_in(directory: Path, table: str) -> int:
    with closing(sqlite3.connect(directory / FILE)) as connection:
        (number,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(number)


def damaged_files(directory: Path) -> list[str]:
    return [path.name for path in directory.glob("*.damaged-*Z")]


def has_brought(disk: OpenDisk) -> bool:
    """Whether the file has all that damaged files had for intake."""
    return bool(disk.database.ledger["notes_brought"])


def destroy(directory: Path, table: str) -> None:
    """Destroy the first page of a table of a closed buffer."""
    (page,) = (row[3] for row in schema.tables(schema.VERSION) if row[1] == table.encode())
    with (directory / FILE).open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xff" * PAGE)


async def written(directory: Path, stored: Sequence[Event], notes: Notes) -> None:
    """Make a buffer, and close it."""
    async with open_disk(directory, serve=False) as disk:
        await disk.put(stored, notes)


# Crashes


@pytest.mark.parametrize("turns", range(12))
async def test_a_key_is_there_exactly_if_its_event_is_whenever_it_dies(tmp_path: Path, turns: int) -> None:
    """Three puts together are more than one transaction takes."""
    make = EventMaker()
    puts = [[make("a", size_bytes=700_000)], [make("b", size_bytes=700_000), make("c")], [make("d")]]
    async with open_disk(tmp_path / "live", serve=False) as disk:
        putting = [asyncio.create_task(disk.put(each, notes_of(each))) for each in puts]
        for _ in range(turns):
            await asyncio.sleep(0)
        copy = copy_of(tmp_path / "live", tmp_path / "killed")
        told = [each for each, task in zip(puts, putting, strict=True) if task.done()]
        await asyncio.gather(*putting)
    async with open_disk(copy, serve=False) as disk:
        found = await disk.buffer.recall()
        stored = await disk.database.run(
            lambda transaction: events.read_after(transaction, -1, max_events=10, max_bytes=1 << 30).events
        )
    assert found.keys == keys_of(stored)
    assert set(ids(chain.from_iterable(told))) <= set(ids(stored))


async def test_a_key_is_forgotten_although_its_put_came_in_a_later_transaction(tmp_path: Path) -> None:
    make = EventMaker()
    first, second = [make("a", size_bytes=700_000)], [make("b", size_bytes=700_000)]
    async with open_disk(tmp_path, serve=False) as disk:
        await asyncio.gather(
            disk.put(first, notes_of(first)), disk.put(second, notes_of(second, keys_forgotten_to=second[0].id))
        )
    assert (await recalled(tmp_path)).keys == ()


# Damage while running


async def test_a_new_file_in_the_place_of_a_damaged_one_gets_all_that_intake_remembers(tmp_path: Path) -> None:
    make = EventMaker()
    memory = {X: learned("number")}, list[Event]()

    def remembered() -> Notes:
        return Notes(dict(memory[0]), keys_of(memory[1]))

    async with open_disk(tmp_path / "live", remembered=remembered) as disk:
        assert await disk.buffer.recall() == NO_NOTES
        stored = make.of("ab")
        await disk.put(stored, notes_of(stored, x=learned("number"), y=learned()))
        memory[1].extend(stored)
        await disk.deliver(await disk.take())  # nothing of them is left to salvage
        await disk.buffer.note({Y: None})
        await damage(disk)
        more = make.of("c")
        memory[0][Z] = learned("date")
        await disk.put(more, notes_of(more, z=learned("date")))
        copy = copy_of(tmp_path / "live", tmp_path / "killed")
    expected = Notes({X: learned("number"), Z: learned("date")}, keys_of([*stored, *more]))
    assert await recalled(copy) == expected
    assert await recalled(tmp_path / "live") == expected


async def test_the_key_of_a_put_that_was_told_just_before_the_damage_is_in_the_new_file(tmp_path: Path) -> None:
    make = EventMaker()
    committed: list[Event] = []

    async def put(disk: OpenDisk, stored: list[Event]) -> None:
        await disk.put(stored, notes_of(stored))
        committed.extend(stored)

    for turns in range(12):
        directory = tmp_path / str(turns)
        committed.clear()
        async with open_disk(directory, remembered=lambda: Notes(keys=keys_of(committed)), serve=False) as disk:
            await disk.buffer.recall()
            putting = asyncio.create_task(put(disk, make.of("ab")))
            for _ in range(turns):
                await asyncio.sleep(0)
            with suppress(DamagedError):
                await disk.database.run(find_damage)
            await putting
            await put(disk, make.of("c"))
        assert (await recalled(directory)).keys == keys_of(committed)
        assert len(committed) == 3


async def test_what_was_forgotten_since_does_not_come_back_from_the_damaged_file(tmp_path: Path) -> None:
    """Its salvage is not ended, so it is there at the next start."""
    make = EventMaker()
    stored = make.of("ab")
    async with open_disk(tmp_path, serve=False, remembered=lambda: Notes({X: learned()}, keys_of(stored[1:]))) as disk:
        await disk.buffer.recall()
        await disk.put(stored, notes_of(stored, x=learned(), y=learned()))
        await damage(disk)
        await disk.buffer.note({Y: None})
    assert damaged_files(tmp_path), "or the test proves nothing"
    assert await recalled(tmp_path) == Notes({X: learned()}, keys_of(stored[1:]))


# Damage at the start


async def test_what_a_file_has_that_is_found_damaged_at_the_start_is_brought_over_once(tmp_path: Path) -> None:
    stored = EventMaker().of("ab" * 50)
    await written(tmp_path, stored, Notes(TYPES, keys_of(stored)))
    destroy(tmp_path, "ledger")
    assert await recalled(tmp_path) == Notes(TYPES, keys_of(stored))
    async with open_disk(tmp_path, serve=False, first_id=10**6) as disk:
        assert disk.database.generation == 0
        assert has_brought(disk)
        assert await disk.buffer.recall() == Notes(TYPES, keys_of(stored))
        place = next(iter(TYPES))
        await disk.buffer.note({place: None})
    left = {each: TYPES[each] for each in TYPES if each != place}
    async with open_disk(tmp_path, first_id=10**6) as disk:
        assert (await disk.buffer.recall()).types == left, "the damaged file has it still"
        assert len(await disk.take_all()) == len(stored)
    assert await recalled(tmp_path) == Notes(left, keys_of(stored)), "also when that is salvaged"


async def test_what_was_brought_over_is_so_once_more_when_the_new_file_is_damaged_too(tmp_path: Path) -> None:
    stored = EventMaker().of("ab")
    await written(tmp_path, stored, notes_of(stored, x=learned()))
    destroy(tmp_path, "ledger")
    for table in ("marks", "ledger", "marks"):
        assert await recalled(tmp_path) == notes_of(stored, x=learned())
        destroy(tmp_path, table)
    assert await recalled(tmp_path) == notes_of(stored, x=learned())


async def test_the_new_file_is_believed_rather_than_damaged_ones_and_newer_ones_first(tmp_path: Path) -> None:
    make = EventMaker()
    oldest, older, newest = make.of("a"), make.of("b"), make.of("c")
    for number, (stored, notes) in enumerate(
        [
            (oldest, notes_of(oldest, x=learned("string"), y=learned("string"), z=learned("string"))),
            (older, notes_of(older, x=learned("number"), y=learned("number"))),
        ]
    ):
        await written(tmp_path, stored, notes)
        (tmp_path / FILE).rename(tmp_path / NAME.replace("2026", f"202{number}"))
    await written(tmp_path, newest, notes_of(newest, x=learned("date")))
    for _ in range(2):
        assert await recalled(tmp_path) == Notes(
            {X: learned("date"), Y: learned("number"), Z: learned("string")}, keys_of([*oldest, *older, *newest])
        )


@pytest.mark.parametrize("table", ["attribute_types", "duplicate_keys"])
async def test_a_table_that_cannot_be_read_costs_what_is_in_it(tmp_path: Path, table: str) -> None:
    stored = EventMaker().of("ab")
    await written(tmp_path, stored, notes_of(stored, x=learned()))
    destroy(tmp_path, table)
    keeps_types = table == "duplicate_keys"
    expected = Notes({X: learned()}, ()) if keeps_types else Notes({}, keys_of(stored))
    async with open_disk(tmp_path, serve=False) as disk:
        assert await disk.buffer.recall() == expected
        assert disk.database.generation == 1
    async with open_disk(tmp_path, serve=True, first_id=10**6) as disk:
        assert await disk.buffer.recall() == expected
        assert len(await disk.take_all()) == 2, "no event is lost by it"


async def test_a_page_that_cannot_be_read_costs_no_more_than_is_on_it(tmp_path: Path) -> None:
    stored = EventMaker().of("ab" * 500)
    await written(tmp_path, stored, Notes(TYPES, keys_of(stored)))
    content = bytearray((tmp_path / FILE).read_bytes())
    for middle in (b"attribute 00150", (500).to_bytes(16, "big")):
        page = content.rindex(middle) // PAGE * PAGE
        content[page : page + PAGE] = b"\xff" * PAGE
    (tmp_path / FILE).write_bytes(content)
    found = await recalled(tmp_path)
    assert len(TYPES) - PAGE // 40 < len(found.types) < len(TYPES)
    assert found.types.items() <= TYPES.items()
    assert len(stored) - PAGE // 30 < len(found.keys) < len(stored)
    assert set(found.keys) <= set(keys_of(stored))
    assert ids_of(found) == sorted(ids_of(found))


def ids_of(notes: Notes) -> list[int]:
    return [key.event_id for key in notes.keys]


async def test_rows_that_were_altered_are_passed_over_and_removed(tmp_path: Path) -> None:
    stored = EventMaker().of("abcdefg")
    types = {("n", str(number)): learned() for number in range(6)}
    await written(tmp_path, stored, Notes(types, keys_of(stored)))
    change_file(
        tmp_path,
        "UPDATE attribute_types SET first_seen = first_seen + 1 WHERE attribute = x'30'",
        "UPDATE attribute_types SET type = x'00' WHERE attribute = x'31'",
        "UPDATE attribute_types SET attribute = x'ff' WHERE attribute = x'32'",
        "UPDATE attribute_types SET type = 7 WHERE attribute = x'33'",
        "UPDATE attribute_types SET name = 7.5 WHERE attribute = x'34'",
        "UPDATE duplicate_keys SET key = x'00' WHERE id = 1",
        "UPDATE duplicate_keys SET accepted_at = 'then' WHERE id = 2",
        "UPDATE duplicate_keys SET id = 99 WHERE id = 3",
        "UPDATE duplicate_keys SET checksum = checksum + 1 WHERE id = 4",
        "UPDATE duplicate_keys SET id = -5 WHERE id = 5",
        f"UPDATE duplicate_keys SET key = x'{16 * '00'}' WHERE id = 6",
    )
    async with open_disk(tmp_path, serve=False) as disk:
        assert await disk.buffer.recall() == Notes({("n", "5"): learned()}, keys_of(stored[6:]))
        assert disk.database.generation == 0, "the file is not set aside for that"
    assert (rows_in(tmp_path, "attribute_types"), rows_in(tmp_path, "duplicate_keys")) == (1, 1)


# A full disk


class FullDisk:
    """Makes transactions fail as on a full disk, by what is in them, as long as `refuses` says so."""

    def __init__(self, disk: OpenDisk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses: Callable[[Batch], bool] = lambda _: False
        self.batches: list[Batch] = []
        self._job_of = disk.buffer._commits._job_of
        monkeypatch.setattr(disk.buffer._commits, "_job_of", self._failing)
        monkeypatch.setattr(commits, "RETRY_SECONDS", 0.05)

    def _failing(self, batch: Batch) -> Job[int]:
        job = self._job_of(batch)
        self.batches.append(batch)
        refused = self.refuses(batch)

        def failing(transaction: Transaction) -> int:
            if refused:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = 13
                raise error
            return job(transaction)

        return failing


def puts_or_notes(batch: Batch) -> bool:
    return bool(batch.puts or batch.noted)


async def test_acks_are_committed_on_a_full_disk_and_notes_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = EventMaker()
    async with open_disk(tmp_path) as disk:
        full = FullDisk(disk, monkeypatch)
        await disk.put(make.of("ab"))
        first, second = await disk.take()
        full.refuses = puts_or_notes
        refused = make.of("c")
        noting = asyncio.create_task(disk.buffer.note({X: learned()}))
        putting = asyncio.create_task(
            disk.buffer.put(refused, intake="http", notes=notes_of(refused, x=learned("date"), y=learned("number")))
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            await disk.buffer.ack([(first, HandedOver())])
            assert await putting == Unavailable()
            await disk.buffer.ack([(second, HandedOver())])
        assert not noting.done()
        assert disk.database.directory is not None
        assert disk.database.directory.has_reserve, "notes do not take it up"
        assert len(full.batches) < 10, "it is not tried again at once"
        full.refuses = lambda _: False
        async with asyncio.timeout(DEADLINE_SECONDS):
            await noting
        assert disk.buffer.available
        copy = copy_of(tmp_path, tmp_path.with_name("killed"))
    assert await recalled(copy) == Notes({X: learned()}, ()), "what was not stored taught nothing"


async def test_an_ack_is_tried_without_the_notes_before_the_reserve_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_disk(tmp_path) as disk:
        full = FullDisk(disk, monkeypatch)
        await disk.put(EventMaker().of("a"))
        taken = await disk.take()
        full.refuses = puts_or_notes
        noting = asyncio.create_task(disk.buffer.note({X: learned()}))
        await disk.deliver(taken)
        assert disk.database.directory is not None
        assert disk.database.directory.has_reserve
        assert not noting.done()
        full.refuses = lambda _: False
        async with asyncio.timeout(DEADLINE_SECONDS):
            await noting


async def test_notes_alone_wait_for_room_and_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_disk(tmp_path) as disk:
        full = FullDisk(disk, monkeypatch)
        full.refuses = puts_or_notes
        noting = [asyncio.create_task(disk.buffer.note({X: learned(), Y: learned()}))]
        await asyncio.sleep(0.02)
        noting.append(asyncio.create_task(disk.buffer.note({X: None})))
        await asyncio.sleep(0.02)
        noting.append(asyncio.create_task(disk.buffer.note({Y: learned("date")})))
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in noting)
        assert len(full.batches) < 10, "it is tried now and then"
        full.refuses = lambda _: False
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.gather(*noting)
    assert await recalled(tmp_path) == Notes({Y: learned("date")}, ())


async def test_a_file_damaged_on_a_full_disk_is_restored_without_waiting_for_the_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = EventMaker()
    stored = make.of("ab")
    async with open_disk(tmp_path, remembered=lambda: Notes({X: learned()}, keys_of(stored)), serve=False) as disk:
        await disk.buffer.recall()
        full = FullDisk(disk, monkeypatch)
        await disk.put(stored, notes_of(stored))
        taken = await disk.take()
        full.refuses = puts_or_notes
        await damage(disk)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await disk.deliver(taken)
        assert not has_brought(disk)
        full.refuses = lambda _: False
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not has_brought(disk):
                await asyncio.sleep(0.01)
    assert await recalled(tmp_path) == Notes({X: learned()}, keys_of(stored))


async def test_a_put_that_a_really_full_file_refuses_leaves_no_key(tmp_path: Path) -> None:
    make = EventMaker()
    async with open_disk(tmp_path, max_bytes=4 * 1024 * 1024) as disk:
        too_large = [make("c", size_bytes=6 * 1024 * 1024)]
        assert await disk.buffer.put(too_large, intake="http", notes=notes_of(too_large, x=learned())) == Unavailable()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await disk.buffer.note({X: None, Y: learned()})
        assert await disk.buffer.put(make.of("a"), intake="http") == Stored()
    assert await recalled(tmp_path) == Notes({Y: learned()}, ())


# The ledger, bugs


async def test_duplicates_are_written_to_the_ledger_although_nothing_is_accepted(tmp_path: Path) -> None:
    async with open_disk(tmp_path / "live") as disk:
        disk.telemetry.events_duplicate(7, intake="http")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not disk.database.ledger["duplicates"]:
                await asyncio.sleep(0.01)
        assert disk.buffer.ledger().received == 7
        copy = copy_of(tmp_path / "live", tmp_path / "killed")
    async with open_disk(copy) as disk:
        ledger = disk.buffer.ledger()
        assert (ledger.received, ledger.duplicates, ledger.rejected, ledger.accepted) == (7, 7, 0, 0)


async def test_a_bug_is_told_to_who_waits_for_a_note(tmp_path: Path) -> None:
    def bug(*_: object) -> int:
        raise LookupError("the test says so")

    async with open_disk(tmp_path, serve=False) as disk:
        disk.buffer._commits._job_of = lambda _: bug
        with pytest.raises(LookupError):
            await asyncio.wait_for(disk.buffer.note({X: learned()}), DEADLINE_SECONDS)


async def test_what_is_recalled_is_read_fast(tmp_path: Path) -> None:
    """100,000 keys and 10,000 types; the time is printed, and the bound is of what the processor works."""
    keys = tuple(DuplicateKey(number, number.to_bytes(16, "big"), 1e9) for number in range(100_000))
    types = {(f"event {number % 100}", f"attribute {number}"): learned() for number in range(10_000)}
    await written(tmp_path, [], Notes(types, keys))
    async with open_disk(tmp_path, serve=False) as disk:
        before = time.process_time()
        found = await disk.buffer.recall()
        seconds = time.process_time() - before
    assert found == Notes(types, keys)
    print(f"{seconds:.3f} s")
    assert seconds < 3
