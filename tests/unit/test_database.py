"""The database: jobs, its ledger, versions, space, and what it does with a file that is damaged. On real files."""

import asyncio
import sqlite3
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from forwarder.attribute import LearnedType
from forwarder.buffer.base import ALL_LETTERS
from forwarder.database import attribute_types, dead_letters, duplicate_keys, events, ledger, marks, salvage, schema
from forwarder.database.connection import (
    Committed,
    DamagedError,
    Database,
    Transaction,
    UnavailableError,
    is_sound,
    return_space,
)
from forwarder.database.directory import DirectoryError, DirectoryInUseError
from forwarder.database.events import Read, RowCount
from forwarder.database.ledger import AlteredError, Counters
from forwarder.database.marks import Mark
from forwarder.event import DeadLetter, DuplicateKey, Event
from tests.fakes.events import EventMaker, ids, keys_of, learned

MIB = 1024 * 1024


async def opened(directory: Path | None, *, max_bytes: int = 1 << 40) -> Database:
    database = Database(directory, max_bytes=max_bytes, reserve_bytes=64 * 1024)
    await database.open()
    return database


def storing(stored: Sequence[Event]) -> Callable[[Transaction], None]:
    """Return a job that stores events as a put does."""

    def job(transaction: Transaction) -> None:
        events.insert(transaction, stored)
        transaction.count("accepted", len(stored))
        transaction.count("buffered", len(stored))

    return job


def read_all(transaction: Transaction) -> Read:
    return events.read_after(transaction, -1, max_events=1 << 30, max_bytes=1 << 40)


def letter(event: Event, *, answer: bytes = b"no") -> DeadLetter:
    return DeadLetter(event, "rejected", 422, answer, 1, 1.0, 2.0)


def file_of(database: Database) -> Path:
    assert database.directory is not None
    return database.directory.file


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"lock", "reserve"}


def plain(path: Path) -> sqlite3.Connection:
    """Return a connection of somebody else, who knows SQLite only."""
    return sqlite3.connect(path, isolation_level=None)


# Jobs


async def test_what_is_committed_is_there_after_a_close_and_after_none(tmp_path: Path, make: EventMaker) -> None:
    database = await opened(tmp_path)
    stored = make.of("abc")
    await database.run(storing(stored))
    assert database.ledger == {"accepted": 3, "buffered": 3}
    await database.close()
    await database.close()
    database = await opened(tmp_path)
    assert database.ledger == {"accepted": 3, "buffered": 3}
    read = await database.run(read_all)
    assert [(e.id, e.customer, e.name, e.body, e.accepted_at) for e in read.events] == [
        (e.id, e.customer, e.name, e.body, e.accepted_at) for e in stored
    ]
    await database.close()


async def test_jobs_run_and_are_told_in_the_order_in_which_they_are_submitted(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    ran: list[int] = []
    told: list[int] = []

    def job(number: int, _: Transaction) -> int:
        ran.append(number)
        return number

    def tell(result: Committed[int] | Exception) -> None:
        assert isinstance(result, Committed)
        told.append(result.value)

    for number in range(50):
        database.submit(partial(job, number), tell)
    assert await database.run(lambda _: len(ran)) == 50
    assert ran == told == list(range(50))
    await database.close()


async def test_a_bug_in_a_job_is_told_and_leaves_no_trace(tmp_path: Path, make: EventMaker) -> None:
    database = await opened(tmp_path)

    def job(transaction: Transaction) -> None:
        storing(make.of("a"))(transaction)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.run(job)
    assert not database.ledger
    assert (await database.run(read_all)).events == []
    assert database.generation == 0, "a bug is no damage"
    await database.close()


async def test_a_mistake_in_a_statement_is_a_bug_and_not_damage(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        await database.run(lambda transaction: transaction.connection.execute("SELECT missing FROM events"))
    assert database.generation == 0
    await database.close()


async def test_who_is_cancelled_does_not_stop_the_job(tmp_path: Path, make: EventMaker) -> None:
    database = await opened(tmp_path)
    waiting = asyncio.create_task(database.run(storing(make.of("a"))))
    await asyncio.sleep(0)
    waiting.cancel()
    assert len((await database.run(read_all)).events) == 1
    assert waiting.cancelled() or waiting.done()
    await database.close()


async def test_after_the_close_and_before_the_open_nothing_can_be_had(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with pytest.raises(UnavailableError, match="closed"):
        await database.run(read_all)
    await database.open()
    await database.close()
    with pytest.raises(UnavailableError, match="closed"):
        await database.run(read_all)


async def test_a_database_in_memory_needs_no_directory_and_forgets(make: EventMaker) -> None:
    database = await opened(None)
    await database.run(storing(make.of("ab")))
    assert (await database.run(read_all)).looked_at == 2
    assert database.ledger["accepted"] == 2
    with pytest.raises(AlteredError):  # there is nothing to set aside
        await database.run(fails_with(AlteredError("damaged")))
    await database.close()


async def test_a_second_database_in_the_directory_is_refused(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    with pytest.raises(DirectoryInUseError):
        await opened(tmp_path)
    await database.close()


# Versions


def make_version(version: int, directory: Path, stored: Sequence[Event]) -> None:
    """Make a file as an earlier version did, with events in it."""
    directory.mkdir()
    connection = plain(directory / "buffer.db")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    for statement in ";".join(schema.SCRIPTS[:version]).split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("BEGIN")
    transaction = Transaction(connection, Counters())
    storing(stored)(transaction)
    ledger.store(connection, transaction.ledger)
    connection.execute("COMMIT")
    connection.close()


@pytest.mark.parametrize("number", [1, 500])
@pytest.mark.parametrize("version", range(1, schema.VERSION))
async def test_a_file_of_an_earlier_version_is_migrated_with_its_events(
    tmp_path: Path, make: EventMaker, number: int, version: int
) -> None:
    stored = make.of("a" * number, size_bytes=900)
    make_version(version, tmp_path / "buffer", stored)
    database = await opened(tmp_path / "buffer")
    assert database.generation == 0
    assert database.ledger == {"accepted": number, "buffered": number}
    assert ids((await database.run(read_all)).events) == ids(stored)
    bounds = {"max_events": 10, "max_bytes": MIB}
    await database.run(lambda transaction: dead_letters.insert(transaction, [letter(stored[0])], **bounds))
    await database.run(partial(marks.write, changes={stored[0].id: Mark(1, 2.0)}))
    await database.run(partial(attribute_types.write, changes={("n", "x"): learned()}))
    await database.run(partial(duplicate_keys.insert, keys=keys_of(stored)))
    assert await database.run(is_sound)
    await database.close()
    database = await opened(tmp_path / "buffer")
    assert database.ledger["dead_letters"] == 1
    assert (await database.run(marks.find))[0] == {stored[0].id: Mark(1, 2.0)}
    assert await database.run(attribute_types.load) == ({("n", "x"): learned()}, [])
    assert await database.run(duplicate_keys.load) == (list(keys_of(stored)), [])
    await database.close()


@pytest.mark.parametrize("version", range(1, schema.VERSION))
async def test_a_damaged_file_of_an_earlier_version_is_set_aside_and_salvaged(
    tmp_path: Path, make: EventMaker, version: int
) -> None:
    stored = make.of("a" * 500, size_bytes=900)
    make_version(version, tmp_path / "buffer", stored)
    path = tmp_path / "buffer" / "buffer.db"
    page_of_the_ledger = 3 * schema.PAGE_BYTES
    damage(path, page_of_the_ledger, bytes(schema.PAGE_BYTES))
    database = await opened(tmp_path / "buffer")
    assert database.generation == 1
    assert database.directory is not None
    file = salvage.DamagedFile(tmp_path / "buffer" / database.directory.damaged()[0])
    assert file.counters() is None
    assert ids(file.events(-1, max_rows=1000)[0]) == ids(stored)
    assert file.letters(-1, max_rows=1000) == ([], None)
    assert (file.marks(), file.types(), file.keys()) == ({}, {}, {})
    file.close()
    await database.close()


def write_notes_of_version_4(path: Path) -> None:
    """Write a key and a type into a file as version 0.1.0 did, which knew nothing of the columns that came later."""
    connection = plain(path)
    key = struct.Struct("<qd16s")
    connection.execute(
        "INSERT INTO duplicate_keys (id, key, accepted_at, checksum) VALUES (?, ?, ?, ?)",
        (7, b"k" * 16, 2.5, zlib.crc32(key.pack(7, 2.5, b"k" * 16))),
    )
    checked = struct.pack("<dII", 1.5, 1, 1) + b"n" + b"x" + b"number"
    connection.execute(
        "INSERT INTO attribute_types (name, attribute, type, first_seen, checksum) VALUES (?, ?, ?, ?, ?)",
        (b"n", b"x", b"number", 1.5, zlib.crc32(checked)),
    )
    connection.commit()
    connection.close()


OF_VERSION_4 = ({("n", "x"): LearnedType("number", 1.5)}, [DuplicateKey(7, b"k" * 16, 2.5, None)])


async def test_what_version_0_1_0_kept_for_intake_is_there_after_the_migration_beside_what_is_kept_now(
    tmp_path: Path, make: EventMaker
) -> None:
    make_version(4, tmp_path / "buffer", make.of("a"))
    write_notes_of_version_4(tmp_path / "buffer" / "buffer.db")
    types, keys = OF_VERSION_4
    database = await opened(tmp_path / "buffer")
    assert await database.run(attribute_types.load) == (types, [])
    assert await database.run(duplicate_keys.load) == (keys, [])
    new_key, again = DuplicateKey(9, b"n" * 16, 3.5, (1 << 64) - 1), LearnedType("string", 2.5, seen_again=True)
    await database.run(partial(duplicate_keys.insert, keys=[new_key]))
    await database.run(partial(attribute_types.write, changes={("n", "y"): again}))
    await database.close()
    database = await opened(tmp_path / "buffer")
    assert await database.run(attribute_types.load) == (types | {("n", "y"): again}, [])
    assert await database.run(duplicate_keys.load) == ([*keys, new_key], [])
    await database.close()


@pytest.mark.parametrize("page", [None, 0], ids=["nothing damaged", "the first page"])
def test_what_version_0_1_0_kept_for_intake_can_be_salvaged(tmp_path: Path, make: EventMaker, page: int | None) -> None:
    make_version(4, tmp_path / "buffer", make.of("a"))
    path = tmp_path / "buffer" / "buffer.db"
    write_notes_of_version_4(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    if page is not None:
        damage(path, page, b"\xff" * schema.PAGE_BYTES)
    types, keys = OF_VERSION_4
    assert salvage.notes_in(path.parent, path.name) == (types, {7: keys[0]})


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE duplicate_keys SET event = x'0000000000000001'",
        "UPDATE duplicate_keys SET event = x'00'",
        "UPDATE duplicate_keys SET event = NULL",
        "UPDATE attribute_types SET seen_again = NULL",
        "UPDATE attribute_types SET seen_again = 1 - seen_again",
        "UPDATE attribute_types SET seen_again = 'x'",
    ],
)
async def test_a_row_of_notes_that_was_altered_is_passed_over(tmp_path: Path, statement: str) -> None:
    database = await opened(tmp_path)
    await database.run(partial(duplicate_keys.insert, keys=[DuplicateKey(9, b"n" * 16, 3.5, 77)]))
    await database.run(partial(attribute_types.write, changes={("n", "y"): LearnedType("string", 2.5)}))
    await database.run(lambda transaction: transaction.connection.execute(statement).fetchall())
    types, keys = await database.run(attribute_types.load), await database.run(duplicate_keys.load)
    altered = ([(b"n", b"y")], []) if "attribute_types" in statement else ([], [9])
    assert (types[1], keys[1]) == altered
    await database.close()


def test_the_layout_of_every_version_is_known_by_its_tables() -> None:
    for version in range(1, schema.VERSION + 1):
        connection = schema.new_in_memory(version)
        assert schema.version_of(connection) == version
        connection.close()


def test_the_first_page_names_all_tables_so_that_it_can_be_written_anew() -> None:
    connection = schema.new_in_memory()
    (size,) = connection.execute("SELECT sum(length(sql)) + 50 * count(*) FROM sqlite_master").fetchone()
    assert size < schema.PAGE_BYTES - 100
    connection.close()


async def test_a_newer_file_is_refused_with_the_mend_and_left_untouched(tmp_path: Path, make: EventMaker) -> None:
    database = await opened(tmp_path)
    await database.run(storing(make.of("a")))
    await database.close()
    connection = plain(tmp_path / "buffer.db")
    connection.execute("CREATE TABLE of_the_future (x)")
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    before = (tmp_path / "buffer.db").read_bytes()
    with pytest.raises(
        DirectoryError, match=r"was written by a newer growlytics-forwarder .* run that version, or name"
    ):
        await opened(tmp_path)
    assert (tmp_path / "buffer.db").read_bytes() == before
    assert names_in(tmp_path) == {"buffer.db"}


@pytest.mark.parametrize("version", [0, 1, 2, 7])
@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
async def test_a_database_of_another_program_is_refused_and_left_untouched(
    tmp_path: Path, version: int, journal_mode: str
) -> None:
    connection = plain(tmp_path / "buffer.db")
    connection.execute(f"PRAGMA journal_mode = {journal_mode}")
    connection.execute("CREATE TABLE events (something INTEGER)")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = (tmp_path / "buffer.db").read_bytes()
    with pytest.raises(DirectoryError, match="is a database of another program; name another directory"):
        await opened(tmp_path)
    assert (tmp_path / "buffer.db").read_bytes() == before
    assert names_in(tmp_path) == {"buffer.db"}


async def test_a_directory_in_the_place_of_the_file_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "buffer.db").mkdir()
    (tmp_path / "buffer.db" / "x").touch()
    with pytest.raises(DirectoryError, match=r"buffer.directory: .*buffer.db is a directory; remove or rename it"):
        await opened(tmp_path)


# Damage


def damage(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def fails_with(error: Exception) -> Callable[[Transaction], None]:
    def job(_: Transaction) -> None:
        raise error

    return job


async def closed_with(directory: Path, stored: Sequence[Event]) -> Path:
    """Make a directory with events in it, and return the database's file."""
    database = await opened(directory)
    await database.run(storing(stored))
    await database.close()
    return file_of(database)


async def test_a_ledger_that_was_altered_is_not_believed(tmp_path: Path, make: EventMaker) -> None:
    path = await closed_with(tmp_path, make.of("abc"))
    connection = plain(path)
    connection.execute("UPDATE ledger SET content = replace(content, '3', '4')")
    connection.close()
    database = await opened(tmp_path)
    assert database.generation == 1
    assert not database.ledger
    await database.close()


async def test_a_ledger_that_is_gone_while_there_are_events_is_damage(tmp_path: Path, make: EventMaker) -> None:
    path = await closed_with(tmp_path, make.of("abc"))
    connection = plain(path)
    connection.execute("DELETE FROM ledger")
    connection.close()
    database = await opened(tmp_path)
    assert database.generation == 1
    await database.close()


@pytest.mark.parametrize(
    ("at", "content"),
    [
        pytest.param(0, b"no database", id="magic"),
        pytest.param(18, b"\x07", id="write version, which makes it read-only"),
        pytest.param(44, b"\0\0\0\x09", id="format"),
        pytest.param(56, b"\0\0\0\2", id="encoding"),
        pytest.param(60, b"\x40", id="version far beyond any"),
        pytest.param(63, b"\0", id="version 0"),
        pytest.param(63, b"\1", id="an earlier version"),
        pytest.param(68, b"\xff", id="application"),
        pytest.param(100, bytes(12), id="no tables"),
        pytest.param(None, b"\xe9", id="a table's name, which is no UTF-8 then"),
    ],
)
async def test_a_header_that_was_altered_costs_nothing_but_a_salvage(
    tmp_path: Path, make: EventMaker, at: int | None, content: bytes
) -> None:
    stored = make.of("abc")
    path = await closed_with(tmp_path, stored)
    damage(path, path.read_bytes().index(b"CREATE TABLE salvages") if at is None else at, content)
    database = await opened(tmp_path)
    if at == 18:  # SQLite sees it when it writes, and opening writes nothing, for which a full disk would have no room
        with pytest.raises(DamagedError):
            await database.run(storing(make.of("d")))
    assert database.generation == 1
    assert database.directory is not None
    (name,) = database.directory.damaged()
    file = salvage.DamagedFile(tmp_path / name)
    assert file.counters() == {"accepted": 3, "buffered": 3}
    assert ids(file.events(-1, max_rows=10)[0]) == ids(stored)
    file.close()
    await database.close()


@pytest.mark.parametrize(
    "error", [AlteredError("altered"), "database disk image is malformed", "file is not a database"]
)
async def test_damage_found_by_a_job_is_told_once_and_nothing_else_runs_before_what_restores(
    tmp_path: Path, make: EventMaker, error: AlteredError | str
) -> None:
    database = await opened(tmp_path)
    told: list[str] = []
    database.on_damaged = told.append
    await database.run(storing(make.of("ab")))
    if isinstance(error, str):
        damaged = sqlite3.DatabaseError(error)
        damaged.sqlite_errorcode = 11 if "malformed" in error else 26
    else:
        damaged = error
    results: list[Exception | Committed[None]] = []
    database.submit(fails_with(damaged), results.append)
    database.submit(storing(make.of("c")), results.append)  # submitted before the damage is told
    with pytest.raises(DamagedError) as raised:
        await database.run(storing(make.of("d")))
    assert [type(result) for result in results] == [DamagedError, DamagedError]
    assert told == [raised.value.name]
    assert (tmp_path / told[0]).exists()
    assert database.generation == 1
    assert database.ledger["accepted"] == 2, "what was committed last is still known"
    with pytest.raises(DamagedError):  # submitted later, but nobody has restored yet
        await database.run(storing(make.of("e")))
    restored: asyncio.Future[Committed[None] | Exception] = asyncio.get_running_loop().create_future()
    database.submit(storing(make.of("f")), restored.set_result, restores=True)
    assert isinstance(await restored, Committed)
    await database.run(storing(make.of("g")))
    assert [event.customer for event in (await database.run(read_all)).events] == ["f", "g"]
    await database.close()


async def test_damage_that_is_found_while_the_file_is_elsewhere_closes_nothing_and_touches_no_other_file(
    tmp_path: Path, make: EventMaker
) -> None:
    database = await opened(tmp_path)
    await database.run(storing(make.of("ab")))
    place = file_of(database)
    take_away = place.rename
    hidden = take_away(tmp_path / "hidden")
    place.write_bytes(b"of somebody else")
    with pytest.raises(UnavailableError, match=r"damaged, and no new one can be made: .* is another file now"):
        await database.run(fails_with(AlteredError("damaged")))
    assert len((await database.run(read_all)).events) == 2
    assert place.read_bytes() == b"of somebody else"
    bring_back = hidden.rename
    bring_back(place)
    assert len((await database.run(read_all)).events) == 2
    await database.close()


# Events, and their count


async def test_an_event_that_was_altered_is_unreadable_and_its_neighbours_are_not(
    tmp_path: Path, make: EventMaker
) -> None:
    stored = make.of("abcde", size_bytes=100)
    path = await closed_with(tmp_path, stored)
    content = path.read_bytes()
    damage(path, content.index(stored[2].body) + 50, b"!")
    database = await opened(tmp_path)
    read = await database.run(read_all)
    assert (ids(read.events), read.unreadable, read.looked_at) == ([1, 2, 4, 5], [3], 5)
    read = await database.run(lambda transaction: events.read_ids(transaction, [3, 4, 99], max_bytes=MIB))
    assert (ids(read.events), read.unreadable) == ([4], [3, 99])
    await database.close()


@pytest.mark.parametrize(
    "change",
    [
        "customer = 'x'",
        "customer = x'78'",
        "name = x'78'",
        "body = x'7b7d'",
        "body = NULL",
        "body = 5",
        "accepted_at = 5",
        "accepted_at = 'soon'",
        "checksum = checksum + 1",
        "checksum = NULL",
        "id = 77",
        "kind = x'637573746f6d6572'",
        "kind = x'6576656e74'",
        "kind = 'customer'",
        "kind = 5",
    ],
)
async def test_whatever_of_a_row_is_altered_it_is_not_believed(tmp_path: Path, make: EventMaker, change: str) -> None:
    path = await closed_with(tmp_path, make.of("a"))
    connection = plain(path)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
    connection.close()
    connection = plain(path)
    connection.execute(f"UPDATE events SET {change}")
    rows = connection.execute(f"SELECT {events.COLUMNS} FROM events").fetchall()
    connection.close()
    assert [events.event_of(row) for row in rows] == [None]


@pytest.mark.parametrize("number", [1, 7, 200])
async def test_marks_are_set_replaced_and_removed(tmp_path: Path, make: EventMaker, number: int) -> None:
    database = await opened(tmp_path)
    stored = make.of("a" * number)
    await database.run(storing(stored))
    wanted = {event.id: Mark(3, 1e9 + event.id) for event in stored}
    await database.run(partial(marks.write, changes=dict.fromkeys(wanted, Mark(1, 1.0))))
    await database.run(partial(marks.write, changes=wanted))
    found, marked = await database.run(marks.find)
    assert (found, ids(marked)) == (wanted, ids(stored))
    await database.run(partial(marks.write, changes=dict.fromkeys([*wanted, 9999])))
    assert await database.run(marks.find) == ({}, [])
    await database.close()


@pytest.mark.parametrize("change", ["id = 77", "attempts = 2", "attempts = x'01'", "marked_at = 5", "checksum = 1"])
async def test_a_mark_that_was_altered_is_damage_and_not_believed(
    tmp_path: Path, make: EventMaker, change: str
) -> None:
    database = await opened(tmp_path)
    await database.run(partial(marks.write, changes={event.id: Mark(1, 2.0) for event in make.of("abc")}))
    await database.close()
    connection = plain(tmp_path / "buffer.db")
    connection.execute(f"UPDATE marks SET {change} WHERE id = 2")
    connection.close()
    database = await opened(tmp_path)
    with pytest.raises(DamagedError) as raised:
        await database.run(marks.find)
    file = salvage.DamagedFile(tmp_path / raised.value.name)
    assert file.marks() == {1: Mark(1, 2.0), 3: Mark(1, 2.0)}
    file.close()
    await database.close()


async def test_rows_out_of_order_are_damage(tmp_path: Path) -> None:
    database = await opened(tmp_path)

    class Disordered:
        def execute(self, *_: object) -> list[tuple[object, ...]]:
            return [(event_id, None, None, None, None, None) for event_id in (7, 5)]

    transaction = Transaction(Disordered(), Counters())  # type: ignore[arg-type]  # SQLite cannot be made to say so
    with pytest.raises(AlteredError, match="not in order"):
        events.read_after(transaction, 1, max_events=10, max_bytes=10)
    await database.close()


async def test_rows_are_counted_right_while_events_come_and_go(tmp_path: Path, make: EventMaker) -> None:
    database = await opened(tmp_path)
    count = RowCount(rows_at_once=10)
    stored = make.of("a" * 35, size_bytes=30)
    await database.run(storing(stored))

    def removing(*removed: Event) -> Callable[[Transaction], None]:
        return lambda transaction: count.removing(transaction, [(event.id, event.size_bytes) for event in removed])

    def and_fail(transaction: Transaction) -> None:
        removing(stored[0], stored[30])(transaction)
        raise ZeroDivisionError

    await database.run(removing(stored[1]))
    assert await database.run(count.step) is None  # up to number 11
    await database.run(removing(stored[2], stored[33]))
    assert await database.run(count.step) is None
    await database.run(storing(make.of("a", size_bytes=30)))
    found = None
    while found is None:
        found = await database.run(count.step)
    assert found == (33, 33 * 30)
    assert await database.run(count.step) is None
    with pytest.raises(ZeroDivisionError):
        await database.run(and_fail)
    steps = 0
    while (found := await database.run(count.step)) is None:
        steps += 1
    assert found == (33, 33 * 30)
    assert steps == 3, "what was rolled back makes it begin anew"
    await database.run(count.start_again)
    assert await database.run(count.step) is None
    await database.close()


@pytest.mark.parametrize("counting", [False, True])
async def test_removing_what_is_not_there_is_damage(tmp_path: Path, make: EventMaker, counting: bool) -> None:
    database = await opened(tmp_path)
    stored = make.of("ab")
    count = RowCount()
    await database.run(storing(stored))
    if counting:
        await database.run(count.step)
    await database.run(lambda transaction: count.removing(transaction, [(stored[0].id, 20)]))
    with pytest.raises(DamagedError):
        await database.run(lambda transaction: count.removing(transaction, [(stored[0].id, 20), (stored[1].id, 20)]))
    await database.close()


@pytest.mark.parametrize("number", [0, 1, 7, 8, 9, 31, 127, 128, 129, 300])
async def test_any_number_of_events_is_stored_and_removed(tmp_path: Path, make: EventMaker, number: int) -> None:
    database = await opened(tmp_path)
    stored = make.of("a" * number)
    await database.run(storing(stored))
    assert ids((await database.run(read_all)).events) == ids(stored)
    assert await database.run(lambda transaction: events.remove(transaction, ids(stored))) == number
    assert (await database.run(read_all)).looked_at == 0
    await database.close()


async def test_customers_and_names_that_are_no_utf8_come_back_as_they_were(tmp_path: Path) -> None:
    odd = Event(5, "\ud800 lone", "\udfff", b'{"x":"\\ud800"}', 1.5)
    database = await opened(tmp_path)
    await database.run(storing([odd]))
    await database.run(lambda transaction: dead_letters.insert(transaction, [letter(odd)], max_events=5, max_bytes=MIB))
    (read,) = (await database.run(read_all)).events
    (kept,) = await database.run(lambda transaction: dead_letters.find(transaction, [5], max_bytes=1))
    for event in (read, kept.event):
        assert (event.customer, event.name, event.body, event.accepted_at) == (odd.customer, odd.name, odd.body, 1.5)
    await database.close()


async def test_the_kinds_of_events_and_dead_letters_are_read_from_a_damaged_file(
    tmp_path: Path, make: EventMaker
) -> None:
    stored = [
        replace(event, kind="customer") if event.id % 3 else event for event in make.of("a" * 300, size_bytes=900)
    ]
    letters = [letter(event) for event in stored[:3]]
    database = await opened(tmp_path / "buffer")
    await database.run(storing(stored))
    await database.run(lambda transaction: dead_letters.insert(transaction, letters, max_events=5, max_bytes=MIB))
    await database.close()
    damage(file_of(database), 3 * schema.PAGE_BYTES, bytes(schema.PAGE_BYTES))
    database = await opened(tmp_path / "buffer")
    assert database.directory is not None
    file = salvage.DamagedFile(tmp_path / "buffer" / database.directory.damaged()[0])
    found, _ = file.events(-1, max_rows=1000)
    assert [(event.id, event.kind) for event in found] == [(event.id, event.kind) for event in stored]
    assert [each.event.kind for each in file.letters(-1, max_rows=10)[0]] == ["customer", "customer", "event"]
    file.close()
    await database.close()


@pytest.mark.parametrize("change", ["NULL", "x'6576656e74'", "5"])
async def test_the_kind_of_an_event_cannot_be_altered_unseen(tmp_path: Path, make: EventMaker, change: str) -> None:
    stored = [replace(event, kind="customer") for event in make.of("ab")]
    database = await opened(tmp_path)
    await database.run(storing(stored))
    await database.run(
        lambda transaction: dead_letters.insert(transaction, [letter(stored[0])], max_events=5, max_bytes=MIB)
    )
    assert [event.kind for event in (await database.run(read_all)).events] == ["customer", "customer"]
    await database.close()
    connection = plain(file_of(database))
    connection.execute(f"UPDATE events SET kind = {change} WHERE id = 1")
    connection.execute(f"UPDATE dead_letters SET kind = {change}")
    connection.close()
    database = await opened(tmp_path)
    read = await database.run(read_all)
    assert (ids(read.events), read.unreadable) == ([2], [1])
    assert await database.run(lambda transaction: dead_letters.find(transaction, [1], max_bytes=1)) == []
    await database.close()


# Dead letters


async def test_a_dead_letter_that_was_altered_is_left_out(tmp_path: Path, make: EventMaker) -> None:
    letters = [letter(event) for event in make.of("abc")]
    database = await opened(tmp_path)
    bounds = {"max_events": 10, "max_bytes": MIB}
    await database.run(lambda transaction: dead_letters.insert(transaction, letters, **bounds))
    await database.close()
    connection = plain(file_of(database))
    connection.execute("UPDATE dead_letters SET answer = x'00' WHERE id = 2")
    connection.close()
    database = await opened(tmp_path)
    page = await database.run(
        lambda transaction: dead_letters.page(
            transaction, after_place=0, only=ALL_LETTERS, max_letters=10, max_bytes=MIB
        )
    )
    assert [each.event.id for each in page.letters] == [1, 3]
    assert [each.event.id for each in await database.run(lambda t: dead_letters.find(t, [1, 2, 3], max_bytes=MIB))] == [
        1,
        3,
    ]
    assert await database.run(lambda transaction: dead_letters.remove(transaction, [2, 7])) == [2]
    assert database.ledger["dead_letters"] == 2
    await database.close()


async def test_dead_letters_beyond_their_bounds_go_oldest_first(tmp_path: Path, make: EventMaker) -> None:
    database = await opened(tmp_path)
    letters = [letter(event) for event in make.of("a" * 30, size_bytes=98)]  # with the answer, 100 bytes each

    def insert(number: int, *, max_events: int, max_bytes: int) -> Callable[[Transaction], int]:
        some = [letters.pop(0) for _ in range(number)]
        return lambda transaction: dead_letters.insert(transaction, some, max_events=max_events, max_bytes=max_bytes)

    assert await database.run(insert(10, max_events=10, max_bytes=1000)) == 0
    assert await database.run(insert(1, max_events=10, max_bytes=MIB)) == 1
    assert await database.run(insert(2, max_events=100, max_bytes=1000)) == 2
    assert await database.run(insert(1, max_events=100, max_bytes=50)) == 11, "not even the newest fits"
    assert (database.ledger["dead_letters"], database.ledger["dead_letters_bytes"]) == (0, 0)
    await database.close()


# Space


async def pages_of(database: Database) -> tuple[int, int]:
    """Return how many pages the file has, and how many of them are free."""

    def job(transaction: Transaction) -> tuple[int, int]:
        (pages,) = transaction.connection.execute("PRAGMA page_count").fetchone()
        (free,) = transaction.connection.execute("PRAGMA freelist_count").fetchone()
        return pages, free

    return await database.run(job)


async def test_space_is_given_back_so_that_the_file_shrinks(tmp_path: Path, make: EventMaker) -> None:
    database = await opened(tmp_path)
    stored = make.of("a" * 2000, size_bytes=8000)
    await database.run(storing(stored))
    await database.run(lambda transaction: events.remove(transaction, ids(stored[:1990])))
    before = file_of(database).stat().st_size
    assert before > 15 * MIB
    for _ in range(20):
        await database.run(return_space)
    assert file_of(database).stat().st_size < 5 * MIB, "the file itself, with no close and no other commit"
    assert await database.run(is_sound)
    assert ids((await database.run(read_all)).events) == ids(stored[1990:])
    pages, free = await pages_of(database)
    await database.run(return_space)
    assert await pages_of(database) == (pages, free), "a little that is free is kept, for what comes next"
    await database.close()


async def test_the_file_stays_below_its_bound_and_what_is_in_it_stays(tmp_path: Path, make: EventMaker) -> None:
    database = await opened(tmp_path, max_bytes=5 * MIB)
    put = 0

    async def fill() -> None:
        nonlocal put
        while True:
            await database.run(storing(make.of("a" * 10, size_bytes=10_000)))
            put += 10

    with pytest.raises(UnavailableError, match="full"):
        await fill()
    assert put > 300
    assert database.generation == 0
    read = await database.run(read_all)
    assert len(read.events) == put == database.ledger["buffered"]
    await database.run(lambda transaction: events.remove(transaction, ids(read.events[:50])))
    await database.run(storing(make.of("a" * 10, size_bytes=10_000)))
    await database.close()
    assert file_of(database).stat().st_size <= 5 * MIB


async def test_a_bound_below_what_the_file_has_already_does_not_keep_it_from_opening(
    tmp_path: Path, make: EventMaker
) -> None:
    await closed_with(tmp_path, make.of("a" * 800, size_bytes=10_000))
    database = await opened(tmp_path, max_bytes=5 * MIB)
    assert (await database.run(read_all)).looked_at == 800
    await database.close()


@pytest.fixture
def make() -> EventMaker:
    return EventMaker()
