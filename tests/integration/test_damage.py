"""Damaged files, at the start and while running: nothing that was altered is sent, nothing is sent twice, all is counted.

What cannot be promised: where the write-ahead log loses its end, so do the events that were committed last; nothing knows of
them, and what was delivered last comes again. Where the file's ledger is lost, what was lost with it cannot be counted.
"""

import asyncio
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from forwarder.buffer.base import Stored
from forwarder.database import schema
from forwarder.database.connection import DamagedError, Transaction
from forwarder.database.directory import DirectoryError
from forwarder.event import Event
from tests.fakes.disk_buffers import OpenDisk, copy_of, open_disk

PAGE = schema.PAGE_BYTES
FRAME = 24 + PAGE
FILE, LOG = "buffer.db", "buffer.db-wal"
EVENTS = 400
SIZES = (20, 60, 200, 200, 200, 700, 2500, 9000)
DELIVERED, REJECTED = 80, 50
BUFFERED = EVENTS - DELIVERED - REJECTED


@dataclass(frozen=True)
class Found:
    """What came of a damaged directory."""

    taken: int
    corrupt: int
    accepted: int
    salvaged: bool


@dataclass(frozen=True)
class Original:
    """A directory with events, some delivered, some dead letters: closed, and as a kill leaves it."""

    closed: Path
    killed: Path
    bodies: frozenset[bytes]

    def path(self, name: str) -> Path:
        return (self.closed if name == FILE else self.killed) / name

    def size(self, name: str) -> int:
        return self.path(name).stat().st_size


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    root = tmp_path_factory.mktemp("original")
    rng = random.Random(1)
    bodies = [(b"%d " % number).ljust(rng.choice(SIZES), b"%c" % (65 + number % 26)) for number in range(EVENTS)]
    made = [Event(1000 + n, f"customer {n % 13}", f"event {n % 5}", body, 1e9) for n, body in enumerate(bodies)]

    async def end_some(disk: OpenDisk, delivered: int, rejected: int) -> None:
        some = await disk.take(delivered + rejected + 20)
        await disk.deliver(some[:delivered])
        await disk.reject(some[delivered : delivered + rejected])
        await disk.buffer.release(some[delivered + rejected :], not_before=0.0)

    async def fill() -> None:
        async with open_disk(root / "closed", serve=False, reserve_bytes=PAGE) as disk:
            for first in range(0, EVENTS // 2, 20):
                await disk.put(made[first : first + 20])
            await end_some(disk, 60, 30)
            assert disk.database._connection is not None
            disk.database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            for first in range(EVENTS // 2, EVENTS, 20):
                await disk.put(made[first : first + 20])
            await end_some(disk, 20, 20)
            copy_of(root / "closed", root / "killed")

    asyncio.run(fill())
    return Original(root / "closed", root / "killed", frozenset(bodies))


def case(original: Original, name: str, content: bytes, directory: Path) -> Path:
    """Make a directory in which one file has this content."""
    source = original.path(name).parent
    shutil.rmtree(directory, ignore_errors=True)
    copy_of(source, directory)
    (directory / name).write_bytes(content)
    return directory


async def take_and_check_everything(directory: Path, bodies: frozenset[bytes]) -> Found:
    async with open_disk(directory, reserve_bytes=PAGE, first_id=10**6) as disk:
        taken = await disk.take_all()
        assert {event.body for event in taken} <= bodies, "an event was altered"
        assert len({event.body for event in taken}) == len(taken), "an event came twice"
        before = disk.buffer.ledger()
        assert before.unaccounted == 0
        assert before.buffered == len(taken)
        await disk.deliver(taken)
        after = disk.buffer.ledger()
        assert (after.unaccounted, after.buffered, await disk.rows()) == (0, 0, 0)
        return Found(len(taken), after.dropped["corrupt"], after.accepted, disk.database.generation > 0)


def assert_counted(found: Found) -> None:
    """All that was buffered came or is counted, unless the ledger is lost."""
    assert found.taken + found.corrupt == BUFFERED
    assert found.accepted in (EVENTS, found.taken), "all that there were, or, without a ledger, all that came"


async def test_without_damage_everything_comes(original: Original, tmp_path: Path) -> None:
    for source in (original.closed, original.killed):
        found = await take_and_check_everything(copy_of(source, tmp_path / source.name), original.bodies)
        assert found == Found(BUFFERED, 0, EVENTS, salvaged=False)


async def test_a_byte_of_a_body_costs_exactly_its_event(original: Original, tmp_path: Path) -> None:
    content = original.path(FILE).read_bytes()
    async with open_disk(copy_of(original.closed, tmp_path / "whole"), reserve_bytes=PAGE) as disk:
        buffered = [event.body for event in await disk.take_all()]
    rng = random.Random(2)
    for body in rng.sample([body for body in buffered if len(body) > 30], 20):
        start = content.rindex(body[:30])
        altered = flipped(content, start + rng.randrange(30), rng)
        found = await take_and_check_everything(case(original, FILE, altered, tmp_path / "case"), original.bodies)
        assert found == Found(BUFFERED - 1, 1, EVENTS, salvaged=False)


def flipped(content: bytes, at: int, rng: random.Random) -> bytes:
    """Return it with one bit of a byte flipped."""
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def flips(content: bytes, rng: random.Random, number: int, below: int | None = None) -> Iterator[bytes]:
    for _ in range(number):
        yield flipped(content, rng.randrange(below or len(content)), rng)


def damaged_pages(content: bytes, rng: random.Random, every: int) -> Iterator[bytes]:
    """Yield it with each page in turn zeroed, overwritten, in the place of another one, and with its head altered."""
    pages = range(0, len(content), PAGE)
    for page in pages[rng.randrange(every) :: every]:
        other = rng.choice(pages)
        head = bytearray(content[page : page + 16])
        head[rng.randrange(16)] = rng.randrange(256)
        for new in (bytes(PAGE), rng.randbytes(PAGE), content[other : other + PAGE], bytes(head)):
            yield content[:page] + new + content[page + len(new) :]


async def check_flipped_file(original: Original, tmp_path: Path, *, seed: int, times: int) -> None:
    rng = random.Random(seed)
    content = original.path(FILE).read_bytes()
    refusals: list[str] = []
    for altered in [*flips(content, rng, 60 * times), *flips(content, rng, 20 * times, below=PAGE)]:
        directory = case(original, FILE, altered, tmp_path / "case")
        try:
            found = await take_and_check_everything(directory, original.bodies)
        except DirectoryError as error:  # where one bit makes it the file of a newer version, a person has to decide
            refusals.append(str(error))
            assert (directory / FILE).read_bytes() == altered
        else:
            assert_counted(found)
    assert all("a newer growlytics-forwarder" in refusal for refusal in refusals)


async def check_damaged_pages(original: Original, tmp_path: Path, *, seed: int, every: int) -> None:
    for altered in damaged_pages(original.path(FILE).read_bytes(), random.Random(seed), every):
        assert_counted(
            await take_and_check_everything(case(original, FILE, altered, tmp_path / "case"), original.bodies)
        )


async def check_truncated_file(original: Original, tmp_path: Path, *, every: int) -> None:
    content = original.path(FILE).read_bytes()
    for page in range(0, len(content), every * PAGE):
        for length in (page - 1, page, page + 1):
            if length < 0:
                continue
            directory = case(original, FILE, content[:length], tmp_path / "case")
            found = await take_and_check_everything(directory, original.bodies)
            assert found.accepted in (EVENTS, found.taken)
            assert found.salvaged == (length > 0), "an empty file is a new one"


async def check_damaged_log(original: Original, tmp_path: Path, *, seed: int, every: int) -> None:
    """Truncate it around each frame's end and anywhere, and flip its bits: what comes was committed once."""
    rng = random.Random(seed)
    content = original.path(LOG).read_bytes()
    ends = [32 + number * FRAME for number in range(0, len(content) // FRAME + 1, every)]
    lengths = {end + by for end in ends for by in (-1, 0, 1)} | {0} | {rng.randrange(len(content)) for _ in ends}
    altered = [content[:length] for length in sorted(lengths) if 0 <= length <= len(content)]
    altered += flips(content, rng, len(ends))
    for log in altered:
        await take_and_check_everything(case(original, LOG, log, tmp_path / "case"), original.bodies)


async def test_bits_that_flipped_anywhere_in_the_file_are_survived(original: Original, tmp_path: Path) -> None:
    await check_flipped_file(original, tmp_path, seed=3, times=1)


async def test_pages_that_are_zeroed_overwritten_or_misplaced_are_survived(original: Original, tmp_path: Path) -> None:
    await check_damaged_pages(original, tmp_path, seed=4, every=10)


async def test_a_file_that_was_cut_off_anywhere_is_survived(original: Original, tmp_path: Path) -> None:
    await check_truncated_file(original, tmp_path, every=6)


async def test_a_log_that_was_cut_off_or_altered_anywhere_is_survived(original: Original, tmp_path: Path) -> None:
    await check_damaged_log(original, tmp_path, seed=5, every=5)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
async def test_much_damage_of_every_kind_is_survived(original: Original, tmp_path: Path, seed: int) -> None:
    await check_flipped_file(original, tmp_path, seed=seed, times=10)
    await check_damaged_pages(original, tmp_path, seed=seed, every=1)
    await check_truncated_file(original, tmp_path, every=1)
    await check_damaged_log(original, tmp_path, seed=seed, every=1)


async def test_a_first_page_that_is_gone_costs_nothing(original: Original, tmp_path: Path) -> None:
    content = bytes(PAGE) + original.path(FILE).read_bytes()[PAGE:]
    found = await take_and_check_everything(case(original, FILE, content, tmp_path / "case"), original.bodies)
    assert found == Found(BUFFERED, 0, EVENTS, salvaged=True)


async def test_a_file_that_fell_back_to_an_earlier_state_is_counted_and_told(
    original: Original, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a disk lost some writes: sound, but its rows are not those of its ledger."""
    directory = copy_of(original.closed, tmp_path / "case")
    async with open_disk(directory, serve=False, reserve_bytes=PAGE) as disk:

        def lose(transaction: Transaction) -> None:
            transaction.connection.execute("DELETE FROM events WHERE id IN (SELECT id FROM events LIMIT 7)")

        await disk.database.run(lose)
    found = await take_and_check_everything(directory, original.bodies)
    assert found == Found(BUFFERED - 7, 7, EVENTS, salvaged=False)
    assert "the buffer's disk has an old state of the file" in caplog.text


# While running


class Running:
    """A buffer that is put to, taken from, acked and released at random, while its file is damaged under it."""

    def __init__(self, disk: OpenDisk, directory: Path, rng: random.Random) -> None:
        self.disk = disk
        self.directory = directory
        self.rng = rng
        self.stored: set[bytes] = set()
        self.ended: set[bytes] = set()
        self.taken: dict[bytes, Event] = {}
        self.log_damaged = False
        self.marks = False
        """Whether every third event is marked when it is taken."""

    async def step(self) -> None:
        match self.rng.random():
            case chance if chance < 0.5:
                await self.put()
            case chance if chance < 0.75:
                await self.take()
            case chance if chance < 0.9:
                await self.end()
            case _:
                await self.release()

    async def put(self) -> None:
        number = self.rng.randrange(1, 25)
        ids = [next(self.disk.ids) for _ in range(number)]
        bodies = [(b"%d " % each).ljust(self.rng.choice(SIZES), b"x") for each in ids]
        events = [Event(each, f"c{each % 17}", "n", body, 1e9) for each, body in zip(ids, bodies, strict=True)]
        assert await self.disk.buffer.put(events, intake="http") == Stored()
        self.stored.update(bodies)

    async def take(self) -> None:
        try:
            async with asyncio.timeout(0.01):
                events = await self.disk.take(self.rng.randrange(1, 60))
        except TimeoutError:
            return
        for event in events:
            assert event.body in self.stored, "an event was altered"
            assert event.body not in self.taken, "an event in flight came again"
            assert self.log_damaged or event.body not in self.ended, "an event came again after its ack"
            self.taken[event.body] = event
        if self.marks:
            await self.disk.buffer.mark([(event, 1) for event in events if event.id % 3 == 0])

    async def end(self) -> None:
        some = self.some()
        await (self.disk.deliver(some) if self.rng.random() < 0.8 else self.disk.reject(some))
        self.ended.update(event.body for event in some)

    async def release(self) -> None:
        await self.disk.buffer.release(self.some(), not_before=0.0)

    def some(self) -> list[Event]:
        bodies = self.rng.sample(sorted(self.taken), min(len(self.taken), self.rng.randrange(1, 20)))
        return [self.taken.pop(body) for body in bodies]

    async def damage(self) -> None:
        def forget_pages(transaction: Transaction) -> None:
            transaction.connection.execute("PRAGMA cache_size = 5")
            transaction.connection.execute("PRAGMA shrink_memory")
            transaction.then_shrink = self.rng.random() < 0.8

        with suppress(DamagedError):
            await self.disk.database.run(forget_pages)
        name = self.rng.choice([FILE, FILE, FILE, LOG])
        file = os.open(self.directory / name, os.O_RDWR | os.O_CREAT)
        size = os.fstat(file).st_size
        if size < 2 * PAGE:  # it is a new one, as the last one was damaged just now
            os.close(file)
            return
        self.log_damaged |= name == LOG
        match self.rng.choice(["bit", "pages", "cut"]):
            case "bit":
                at = self.rng.randrange(size)
                (byte,) = os.pread(file, 1, at)
                os.pwrite(file, bytes([byte ^ 1 << self.rng.randrange(8)]), at)
            case "pages":
                for _ in range(self.rng.choice([1, 1, 5])):
                    os.pwrite(file, self.rng.randbytes(PAGE), self.rng.randrange(size // PAGE) * PAGE)
            case "cut":
                os.truncate(file, self.rng.randrange(size))
        os.close(file)


async def run_while_damaged(directory: Path, seed: int, *, marks: bool = False) -> int:
    """Return how often the file was set aside."""
    rng = random.Random(seed)
    window_bytes = rng.choice([2000, 20_000, 6 << 20])
    async with (
        asyncio.timeout(30),
        open_disk(directory, reserve_bytes=PAGE, window_bytes=window_bytes, inline=False, first_id=1000) as disk,
    ):
        running = Running(disk, directory, rng)
        running.marks = marks
        hits = {rng.randrange(10, 60) for _ in range(rng.choice([1, 1, 2, 3]))}
        for step in range(70):
            if step in hits:
                await running.damage()
            await running.step()
        times = 0
        while not disk.quiet(len(running.taken)):
            await running.take()
            times += 1
            await disk.count_now_and_then(times)
        await disk.deliver(list(running.taken.values()))
        ledger = disk.buffer.ledger()
        assert (ledger.unaccounted, ledger.buffered, await disk.rows()) == (0, 0, 0)
        if not running.log_damaged:
            assert ledger.accepted == len(running.stored)
            lost = len(running.stored - running.ended - set(running.taken))
            # What was given back just when the file was damaged may be found marked in it.
            assert ledger.dropped["corrupt"] + ledger.dead_lettered["ambiguous"] == lost
            assert marks or not ledger.dead_lettered["ambiguous"]
        return disk.database.generation


async def test_damage_while_it_runs_costs_only_what_was_on_the_damaged_pages(tmp_path: Path) -> None:
    set_aside = [await run_while_damaged(tmp_path / str(seed), seed) for seed in range(40)]
    assert sum(set_aside) > 10, "the damage was found"


async def test_rows_that_no_read_finds_although_they_can_be_counted_are_salvaged(tmp_path: Path) -> None:
    """A page says that its first child ends five rows before it does: who looks for those goes to the next child."""
    async with open_disk(tmp_path, serve=False, reserve_bytes=PAGE) as disk:
        await disk.put([Event(1000 + number, "c", "n", b"%d" % number, 1e9) for number in range(400)])
    (page,) = (row[3] for row in schema.tables(schema.VERSION) if row[1] == b"events")
    with (tmp_path / FILE).open("r+b") as file:
        file.seek((page - 1) * PAGE)
        root = file.read(PAGE)
        assert root[0] == 5, "it has children"
        key = int.from_bytes(root[12:14], "big") + 4  # behind the number of the child
        last = (root[key] & 0x7F) << 7 | root[key + 1]
        assert 1000 < last < 1400
        file.seek((page - 1) * PAGE + key)
        file.write(bytes([0x80 | (last - 5) >> 7, (last - 5) & 0x7F]))
    async with open_disk(tmp_path, reserve_bytes=PAGE, window_bytes=1200, first_id=5000) as disk:
        taken = await disk.take_all()
        assert sorted(int(event.body) for event in taken) == list(range(400))
        assert disk.database.generation == 1
        assert disk.buffer.ledger().unaccounted == 0


async def test_damage_while_events_are_marked_costs_no_more(tmp_path: Path) -> None:
    set_aside = [await run_while_damaged(tmp_path / str(seed), seed, marks=True) for seed in range(100, 115)]
    assert sum(set_aside) > 5, "the damage was found"


@pytest.mark.soak
async def test_much_damage_while_it_runs_costs_only_what_was_on_the_damaged_pages(tmp_path: Path) -> None:
    for seed in range(1000, 2000):
        await run_while_damaged(tmp_path / "buffer", seed)
        shutil.rmtree(tmp_path / "buffer")
