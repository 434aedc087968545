"""Salvaging damaged files: what is read of them, the books that are kept, and that an interruption costs nothing."""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from forwarder.buffer.base import ALL_LETTERS
from forwarder.database import dead_letters, events, ledger, salvage, schema
from forwarder.database.connection import DamagedError, Database, Transaction
from forwarder.database.ledger import Counters
from forwarder.database.salvage import DamagedFile, Found, Salvage
from forwarder.event import DeadLetter, Event
from tests.fakes.databases import close_after_test
from tests.fakes.disk_buffers import OpenDisk, copy_of, open_disk
from tests.fakes.events import EventMaker, counted, ids

PAGE = schema.PAGE_BYTES
FILE = "buffer.db"
NAME = "buffer.db.damaged-20260101T000000.000000Z"
NUMBER = 3000
SIZE_BYTES = 300
EVENTS_ON_A_PAGE = PAGE // SIZE_BYTES + 1


def body_of(number: int) -> bytes:
    return str(number).encode().ljust(SIZE_BYTES, b" ")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed database with many events, and a tenth as many dead letters."""
    directory = tmp_path_factory.mktemp("original") / "buffer"

    async def fill() -> None:
        async with open_disk(directory, serve=False, reserve_bytes=PAGE) as disk:
            await disk.put(EventMaker().of("abcde" * (NUMBER // 5), size_bytes=SIZE_BYTES))
            await disk.reject(await disk.take(NUMBER // 10))

    asyncio.run(fill())
    return directory


@pytest.fixture
def directory(original: Path, tmp_path: Path) -> Path:
    return copy_of(original, tmp_path / "buffer")


def change(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def names_like(directory: Path, pattern: str) -> list[str]:
    return [path.name for path in directory.glob(pattern)]


def read_events(path: Path, *, max_rows: int = 500) -> list[int]:
    """Return the ids of all events that can be read, in batches."""
    file = DamagedFile(path)
    found: list[int] = []
    after: int | None = -1
    while after is not None:
        before = after
        some, after = file.events(after, max_rows=max_rows)
        found += ids(some)
        assert after is None or after > before, "it goes forward, whatever the file says"
    file.close()
    return found


def read_letters(path: Path) -> list[int]:
    file = DamagedFile(path)
    found: list[int] = []
    after: int | None = 0
    while after is not None:
        some, after = file.letters(after, max_rows=100)
        found += [letter.event.id for letter in some]
    file.close()
    return found


# Reading


@pytest.mark.parametrize("max_rows", [1, 7, 500, 10_000])
def test_all_of_a_sound_file_can_be_read(directory: Path, max_rows: int) -> None:
    assert read_events(directory / FILE, max_rows=max_rows) == list(range(NUMBER // 10 + 1, NUMBER + 1))


def test_its_dead_letters_can_be_read(directory: Path) -> None:
    assert read_letters(directory / FILE) == list(range(1, NUMBER // 10 + 1))


def test_pages_that_are_destroyed_are_passed_over_and_all_others_read(directory: Path) -> None:
    path = directory / FILE
    content = path.read_bytes()
    pages = [content.index(body_of(number)) // PAGE for number in (800, 1500, 1510, 2900)]
    for page in pages:
        change(path, page * PAGE, random.Random(page).randbytes(PAGE))
    found = set(read_events(path))
    assert {799 - EVENTS_ON_A_PAGE, 1000, 2000, NUMBER} <= found
    missing = NUMBER - NUMBER // 10 - len(found)
    assert len(set(pages)) <= missing <= len(set(pages)) * EVENTS_ON_A_PAGE
    assert not {800, 1500, 1510, 2900} & found


def test_a_run_of_events_that_are_all_altered_is_passed_over(directory: Path) -> None:
    path = directory / FILE
    content = bytearray(path.read_bytes())
    for number in range(1000, 2200):
        written = f"event {number}".encode() + body_of(number)
        content = content.replace(written, written[:-1] + b"!")  # also where SQLite moved it from
    path.write_bytes(content)
    assert read_events(path) == [*range(NUMBER // 10 + 1, 1000), *range(2200, NUMBER + 1)]


def test_a_file_whose_first_page_is_destroyed_is_read_all_the_same(directory: Path) -> None:
    change(directory / FILE, 0, bytes(PAGE))
    assert len(read_events(directory / FILE)) == NUMBER - NUMBER // 10
    assert len(read_letters(directory / FILE)) == NUMBER // 10
    assert salvage.look_at(directory, FILE).counters is not None


def test_a_log_whose_file_is_lost_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    async def make_log() -> None:
        make = EventMaker()
        async with open_disk(tmp_path / "buffer", serve=False, reserve_bytes=PAGE) as disk:
            await disk.put(make.of("abc" * 100))
            copy_of(tmp_path / "buffer", tmp_path / "killed")

    asyncio.run(make_log())
    (tmp_path / "killed" / FILE).unlink()
    assert read_events(tmp_path / "killed" / FILE) == list(range(1, 301))


def test_of_a_file_that_is_not_there_nothing_is_read_and_none_is_made(tmp_path: Path) -> None:
    assert read_events(tmp_path / FILE) == []
    assert salvage.look_at(tmp_path, FILE) == Found(FILE, None, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"x", b"text " * 5000, bytes(100_000)], ids=len)
def test_of_what_is_no_database_nothing_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert read_events(tmp_path / FILE) == []
    assert read_letters(tmp_path / FILE) == []
    assert salvage.look_at(tmp_path, FILE) == Found(FILE, None, [])


def test_rows_with_wild_ids_neither_end_the_reading_nor_repeat_it(tmp_path: Path) -> None:
    """Written by SQLite itself, so the order is sound; the rows are not, as their checksums are of other ids."""
    connection = schema.new_in_memory()
    transaction = Transaction(connection, Counters())
    events.insert(transaction, EventMaker().of("a" * 1200))
    connection.execute("UPDATE events SET id = 9000000000000000000 + id WHERE id BETWEEN 300 AND 400")
    connection.execute("UPDATE events SET id = -id WHERE id BETWEEN 500 AND 550")
    (tmp_path / FILE).write_bytes(connection.serialize())
    connection.close()
    found = read_events(tmp_path / FILE)
    assert found == [number for number in range(1, 1201) if not (300 <= number <= 400 or 500 <= number <= 550)]


# The books


class Books:
    """A new database, in which the books of a salvage are kept."""

    def __init__(self) -> None:
        connection = schema.new_in_memory()
        close_after_test(connection.close)
        self.transaction = Transaction(connection, Counters())
        self.ledger = self.transaction.ledger

    @property
    def unaccounted(self) -> int:
        gone = sum(number for name, number in self.ledger.items() if name.startswith(("delivered", "dropped.")))
        return self.ledger.get("accepted", 0) - gone - self.ledger.get("buffered", 0)


COUNTERS = {"accepted": 10, "delivered": 3, "buffered": 7, "buffered_bytes": 700, "dead_letters": 2, "last_id": 99}


def test_what_is_in_memory_is_kept_and_the_rest_is_to_be_salvaged() -> None:
    books = Books()
    kept = EventMaker().of("ab")
    salvage.begin(books.transaction, [Salvage(NAME, skip=frozenset(ids(kept)))], counters=COUNTERS, kept=kept)
    assert books.ledger == COUNTERS | {"unsalvaged": 5, "dead_letters": 0, "dead_letters_bytes": 0}
    assert salvage.pending(books.transaction) == [Salvage(NAME, -1, -1, frozenset(ids(kept)))]
    salvage.restore_events(books.transaction, NAME, EventMaker().of("cde")[2:], events_after=50)
    assert (books.ledger["buffered"], books.ledger["unsalvaged"], books.unaccounted) == (7, 4, 0)
    assert salvage.pending(books.transaction)[0].events_after == 50
    assert salvage.end(books.transaction, NAME) == 4
    assert (books.ledger["buffered"], books.ledger["dropped.corrupt"], books.unaccounted) == (3, 4, 0)
    assert salvage.pending(books.transaction) == []


def test_without_a_ledger_what_is_salvaged_is_accepted_only_now() -> None:
    books = Books()
    salvage.begin(books.transaction, [Salvage(NAME)], counters=None)
    salvage.restore_events(books.transaction, NAME, EventMaker().of("abc"), events_after=50)
    assert (books.ledger["accepted"], books.ledger["buffered"], books.ledger["buffered_bytes"]) == (3, 3, 60)
    assert salvage.end(books.transaction, NAME) == 0
    assert books.unaccounted == 0


def test_events_that_the_ledger_does_not_know_are_accepted_only_now() -> None:
    books = Books()
    salvage.begin(books.transaction, [Salvage(NAME)], counters=COUNTERS)
    salvage.restore_events(books.transaction, NAME, EventMaker().of("a" * 9), events_after=50)
    assert (books.ledger["accepted"], books.ledger["buffered"], books.ledger["unsalvaged"]) == (12, 9, 0)
    assert books.ledger["buffered_bytes"] == 700 + 2 * 20
    assert salvage.end(books.transaction, NAME) == 0
    assert books.unaccounted == 0


def test_what_is_erased_of_a_damaged_file_counts_once_however_late_some_of_it_was_restored() -> None:
    books = Books()
    salvage.begin(books.transaction, [Salvage(NAME)], counters=COUNTERS)
    salvage.restore_events(books.transaction, NAME, EventMaker().of("ab"), events_after=20)
    found = dict.fromkeys((10, 20, 30, 40), 100)
    assert salvage.leave_out(books.transaction, NAME, events=found, letters=[5]) == 2
    assert (books.ledger["buffered"], books.ledger["unsalvaged"], books.ledger["buffered_bytes"]) == (5, 3, 500)
    assert (books.ledger["dropped.erased"], books.unaccounted) == (2, 0)
    skip = frozenset({5, 10, 20, 30, 40})
    assert salvage.pending(books.transaction) == [Salvage(NAME, 20, -1, skip, has_erased=True)]
    many = dict.fromkeys(range(100, 110), 100)
    assert salvage.leave_out(books.transaction, NAME, events=many, letters=[]) == 3, "the ledger knows of no more"
    assert (books.ledger["unsalvaged"], books.unaccounted) == (0, 0)


def test_a_salvage_that_was_under_way_in_a_file_that_is_damaged_too_goes_on_where_it_was() -> None:
    books = Books()
    older = Salvage("buffer.db.damaged-1", 40, 4, frozenset({1, 2}))
    salvage.begin(books.transaction, [older, Salvage(NAME)], counters=COUNTERS)
    assert salvage.pending(books.transaction) == [older, Salvage(NAME, -1, -1, frozenset())]
    assert salvage.end(books.transaction, older.file) == 0, "what is missing may be in the other one"
    assert salvage.end(books.transaction, NAME) == 7
    assert books.unaccounted == 0


@pytest.mark.parametrize(
    "change", ["file = 7", "skip = x'00'", "skip = NULL", "events_after = x'41'", "letters_after = NULL"]
)
def test_books_that_were_altered_are_damage(change: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.text_factory = bytes
    connection.execute("CREATE TABLE salvages (file, events_after, letters_after, skip)")
    connection.execute("INSERT INTO salvages VALUES (?, 1, 1, ?)", (NAME.encode(), bytes(8)))
    transaction = Transaction(connection, Counters())
    assert salvage.pending(transaction) == [Salvage(NAME, 1, 1, frozenset({0}))]
    connection.execute(f"UPDATE salvages SET {change}")
    with pytest.raises(ledger.AlteredError):
        salvage.pending(transaction)
    connection.close()


def test_books_that_are_gone_are_damage() -> None:
    with pytest.raises(ledger.AlteredError, match="gone"):
        salvage.restore_events(Books().transaction, NAME, [], events_after=1)


# The whole way, in a buffer


def destroy_the_ledgers_neighbour(directory: Path) -> None:
    """Have SQLite find the file damaged as soon as events are read, with the ledger unharmed."""
    content = (directory / FILE).read_bytes()
    change(directory / FILE, content.index(body_of(1500)) // PAGE * PAGE, bytes(PAGE))


async def assert_nothing_is_left_to_salvage(disk: OpenDisk, *, lost: range) -> list[Event]:
    """Take and return everything, and check the ledger."""
    found = await disk.take_all()
    now = disk.buffer.ledger()
    assert now.unaccounted == 0
    assert now.accepted == NUMBER
    assert now.dead_lettered["rejected"] == NUMBER // 10
    assert now.dropped["corrupt"] in lost
    assert len(found) == now.buffered == NUMBER - NUMBER // 10 - now.dropped["corrupt"]
    assert len({event.body for event in found}) == len(found)
    assert disk.database.ledger["dead_letters"] == NUMBER // 10
    assert {event.body for event in found} <= {body_of(number) for number in range(NUMBER // 10 + 1, NUMBER + 1)}
    return found


async def test_a_salvage_brings_events_and_dead_letters_and_tells_what_is_lost(directory: Path) -> None:
    destroy_the_ledgers_neighbour(directory)
    async with open_disk(directory, reserve_bytes=PAGE) as disk:
        found = await assert_nothing_is_left_to_salvage(disk, lost=range(1, EVENTS_ON_A_PAGE + 1))
        lost = disk.buffer.ledger().dropped["corrupt"]
        assert counted(disk.telemetry, "events_dropped_total", reason="corrupt") == lost
        assert len(names_like(directory, "buffer.db.salvaged-*")) == 1
        await disk.deliver(found)
    async with open_disk(directory, reserve_bytes=PAGE) as disk:
        assert await disk.take_all() == []


async def test_killed_between_setting_aside_and_restoring_nothing_is_lost(directory: Path, tmp_path: Path) -> None:
    destroy_the_ledgers_neighbour(directory)
    name = directory / NAME
    (directory / FILE).rename(name)
    async with open_disk(directory, reserve_bytes=PAGE, first_id=5) as disk:
        assert disk.buffer.ledger().buffered == NUMBER - NUMBER // 10, "they count at once"
        found = await assert_nothing_is_left_to_salvage(disk, lost=range(1, EVENTS_ON_A_PAGE + 1))
        assert min(ids(found)) > NUMBER, "new ids rise above the old ones, whatever the clock says"


async def test_what_is_found_marked_in_a_damaged_file_becomes_a_dead_letter(original: Path, tmp_path: Path) -> None:
    """A process died during attempts, and the file is damaged besides."""
    directory = copy_of(original, tmp_path / "killed")
    async with open_disk(directory, serve=False, reserve_bytes=PAGE) as disk:
        taken = await disk.take(200)
        await disk.buffer.mark([(event, 4) for event in taken])
    destroy_the_ledgers_neighbour(directory)
    (directory / FILE).rename(directory / NAME)
    async with open_disk(directory, reserve_bytes=PAGE) as disk:
        found = await disk.take_all()
        now = disk.buffer.ledger()
        assert (now.dead_lettered["ambiguous"], now.accepted, now.unaccounted) == (len(taken), NUMBER, 0)
        assert counted(disk.telemetry, "events_dead_lettered_total", reason="ambiguous") == len(taken)
        assert not {event.body for event in taken} & {event.body for event in found}
        assert len(found) == NUMBER - NUMBER // 10 - len(taken) - now.dropped["corrupt"]
        assert disk.database.ledger["dead_letters"] == NUMBER // 10 + len(taken)
        await disk.deliver(found)
        assert await disk.rows() == 0


async def test_marks_are_kept_when_the_file_is_set_aside_under_them(tmp_path: Path) -> None:
    make = EventMaker()
    async with open_disk(tmp_path / "live", serve=False) as disk:
        await disk.put(make.of("abcde"))
        taken = await disk.take()
        await disk.buffer.mark([(event, 2) for event in taken[:2]])
        with pytest.raises(DamagedError):
            await disk.database.run(finds_damage)
        await disk.buffer.mark([(taken[2], 3)])
        await disk.buffer.unmark(taken[:1])
        copy = copy_of(tmp_path / "live", tmp_path / "killed")
    async with open_disk(copy, first_id=1000) as disk:
        assert ids(await disk.take_all()) == [1, 4, 5]
        assert disk.buffer.ledger().dead_lettered["ambiguous"] == 2
        assert disk.buffer.ledger().unaccounted == 0


def finds_damage(_: Transaction) -> None:
    raise ledger.AlteredError("the test says so")


@pytest.mark.parametrize("seed", range(6))
async def test_killed_in_the_middle_of_bringing_it_goes_on_where_it_was(
    directory: Path, tmp_path: Path, seed: int
) -> None:
    """The copies are what a kill after a random number of commits leaves; each is opened, and copied once more."""
    destroy_the_ledgers_neighbour(directory)
    rng = random.Random(seed)
    for generation in range(3):
        copy = tmp_path / f"killed {generation}"
        async with open_disk(directory, reserve_bytes=PAGE, first_id=5) as disk:
            left = rng.randrange(1, 12)
            while left:
                left -= 1
                with suppress(DamagedError):
                    await disk.database.run(lambda _: None)
                await asyncio.sleep(rng.choice([0, 0, 0.001]))
            copy_of(directory, copy)
        directory = copy
    async with open_disk(directory, reserve_bytes=PAGE, first_id=5) as disk:
        await assert_nothing_is_left_to_salvage(disk, lost=range(1, EVENTS_ON_A_PAGE + 1))


async def test_a_stop_in_the_middle_of_bringing_is_as_good(directory: Path) -> None:
    destroy_the_ledgers_neighbour(directory)
    for _ in range(5):
        async with open_disk(directory, reserve_bytes=PAGE, first_id=5, inline=False):
            pass
    async with open_disk(directory, reserve_bytes=PAGE, first_id=5) as disk:
        await assert_nothing_is_left_to_salvage(disk, lost=range(1, EVENTS_ON_A_PAGE + 1))


async def test_killed_at_the_very_end_it_is_not_done_once_more(directory: Path) -> None:
    """The file is renamed first: the books of a file that is not there end at once."""
    destroy_the_ledgers_neighbour(directory)
    async with open_disk(directory, reserve_bytes=PAGE) as disk:
        found = await assert_nothing_is_left_to_salvage(disk, lost=range(1, EVENTS_ON_A_PAGE + 1))
        await disk.deliver(found[:100])

        def reopen_books(transaction: Transaction) -> None:
            salvage.begin(transaction, [Salvage(NAME)], counters=None)

        await disk.database.run(reopen_books)
        shutil.copytree(directory, directory.with_name("killed"))
    async with open_disk(directory.with_name("killed"), reserve_bytes=PAGE) as disk:
        assert len(await disk.take_all()) == len(found) - 100
        assert disk.buffer.ledger().unaccounted == 0


async def test_an_old_file_with_its_ledger_lost_counts_anew_and_says_so(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(directory / FILE, 3 * PAGE, bytes(PAGE))  # the ledger's page
    async with open_disk(directory, reserve_bytes=PAGE) as disk:
        found = await disk.take_all()
        now = disk.buffer.ledger()
        assert len(found) == now.accepted == now.buffered == NUMBER - NUMBER // 10
        assert now.unaccounted == now.dropped["corrupt"] == 0
    messages = [record.getMessage() for record in caplog.records]
    assert "the ledger of the damaged file cannot be used: what is restored counts as new" in messages
    assert any("was renamed" in message and "may follow newer events" in message for message in messages)


async def test_dead_letters_are_salvaged_within_their_bounds_and_once(directory: Path) -> None:
    path = directory / FILE
    change(path, 0, bytes(100))
    database = Database(directory, reserve_bytes=PAGE)
    await database.open()
    (name,) = names_like(directory, "buffer.db.damaged-*")
    await database.run(lambda transaction: salvage.begin(transaction, [Salvage(name)], counters=None))

    def bring(letters: Sequence[DeadLetter], max_events: int) -> Callable[[Transaction], int]:
        return lambda transaction: salvage.restore_letters(
            transaction, name, letters, letters_after=7, max_events=max_events, max_bytes=1 << 30
        )

    file = DamagedFile(directory / name)
    letters, _ = file.letters(0, max_rows=50)
    file.close()
    assert await database.run(bring(letters, 100)) == 0
    assert await database.run(bring(letters, 100)) == 0
    assert database.ledger["dead_letters"] == 50, "the same letter is there once"
    assert await database.run(bring([], 40)) == 10
    page = await database.run(
        lambda transaction: dead_letters.page(
            transaction, after_place=0, only=ALL_LETTERS, max_letters=99, max_bytes=1 << 30
        )
    )
    assert [letter.event.id for letter in page.letters] == list(range(11, 51)), "oldest out first"
    assert (await database.run(salvage.pending))[0].letters_after == 7
    await database.close()
