"""How much of its disk the buffer takes: the sums of forwarder/buffer/upkeep.py at their worst; and space given back."""

import asyncio
import math
import os
import random
import re
from functools import partial
from pathlib import Path

import pytest

from forwarder.attribute import LearnedType
from forwarder.buffer.base import Full, Stored
from forwarder.buffer.commits import MAX_COMMIT_BYTES
from forwarder.buffer.sizes import max_file_bytes
from forwarder.buffer.upkeep import max_directory_bytes, max_log_bytes, reserve_bytes
from forwarder.database import attribute_types, duplicate_keys
from forwarder.event import DuplicateKey, Event
from forwarder.intake.datagram import MAX_PENDING_BYTES
from forwarder.settings import BufferSettings, DeadLettersSettings, Settings
from tests.fakes.databases import inline_database
from tests.fakes.disk_buffers import OpenDisk, open_disk

MIB = 1024 * 1024
CONCURRENCY = 64
LONG_CUSTOMER = "\U0001f600" * 127
LONG_NAME = "\uffff" * 48


def test_the_readme_says_what_the_directory_takes_with_the_defaults_keys_and_types_included() -> None:
    settings = Settings()
    intake, max_types = settings.intake, settings.contract.max_attribute_types
    # As app.py has it.
    max_put_bytes = max(intake.max_body_bytes, intake.max_line_bytes + MAX_PENDING_BYTES)
    whole = partial(
        max_directory_bytes,
        settings.buffer,
        settings.dead_letters,
        max_put_bytes=max_put_bytes,
        max_concurrency=settings.delivery.max_concurrency,
    )
    readme = " ".join((Path(__file__).parents[2] / "config/README.md").read_text(encoding="utf-8").split())
    found = re.search(
        r"for the log and the reserve (\d+) MiB.* (\d+) bytes for each of `intake.duplicate_max_keys` and (\d+) for each of "
        r"`contract.max_attribute_types`: (\d+) MiB with the defaults",
        readme,
    )
    assert found is not None
    log_mib, key_bytes, type_bytes, all_mib = map(int, found.groups())
    assert log_mib == math.ceil((whole() - max_file_bytes(settings.buffer, settings.dead_letters)) / MIB)
    assert (key_bytes, type_bytes) == (whole(max_keys=1) - whole(), whole(max_types=1) - whole())
    assert all_mib == math.ceil(whole(max_keys=intake.duplicate_max_keys, max_types=max_types) / MIB)


class Filling:
    """Puts events until the buffer is full, and has only some of them delivered, so that pages are left almost empty."""

    def __init__(self, disk: OpenDisk, directory: Path, sizes: tuple[int, ...]) -> None:
        self.disk = disk
        self.directory = directory
        self.sizes = sizes
        self.largest = {"buffer.db": 0, "buffer.db-wal": 0, "reserve": 0}
        self.held: list[Event] = []

    async def fill(self, *, per_put: int) -> None:
        while True:
            ids = [next(self.disk.ids) for _ in range(per_put)]
            events = [
                Event(each, f"{each % 10}{LONG_CUSTOMER}", LONG_NAME, b"x" * self.sizes[each % len(self.sizes)], 1e9)
                for each in ids
            ]
            answer = await self.disk.buffer.put(events, intake="http")
            self.measure()
            if answer == Full():
                return
            assert answer == Stored(), "SQLite was not told too little"
            self.held += events

    async def deliver_but_every(self, nth: int) -> None:
        """Deliver all that is buffered but every nth event."""
        taken = await self.disk.take_all()
        await self.disk.deliver([event for number, event in enumerate(taken) if number % nth])
        self.measure()
        await self.disk.buffer.release(taken[::nth], not_before=0.0)
        self.held = taken[::nth]

    async def reject_some(self, number: int) -> None:
        taken = await self.disk.take(number)
        await self.disk.reject(taken)
        self.measure()

    def measure(self) -> None:
        for name, size in self.largest.items():
            self.largest[name] = max(size, (self.directory / name).stat().st_size)


@pytest.mark.parametrize(
    ("sizes", "max_events", "max_bytes"),
    [
        pytest.param((60,), 4000, MIB, id="smaller than customer and name", marks=pytest.mark.soak),
        pytest.param((600,), 6000, 3 * MIB, id="three on a page"),
        pytest.param((1380,), 4000, 4 * MIB, id="two on a page"),
        pytest.param((3400,), 4000, 6 * MIB, id="a page and a byte", marks=pytest.mark.soak),
        pytest.param((4000, 8200), 4000, 6 * MIB, id="two and three pages", marks=pytest.mark.soak),
        pytest.param((30, 250_000, 700, 60), 4000, 6 * MIB, id="the largest among small ones"),
    ],
)
async def test_the_files_stay_within_their_bounds_however_awkward_the_events(
    tmp_path: Path, sizes: tuple[int, ...], max_events: int, max_bytes: int
) -> None:
    settings = BufferSettings(max_events=max_events, max_bytes=max_bytes)
    letters = DeadLettersSettings(max_events=200, max_bytes=MIB // 2)
    async with open_disk(
        tmp_path,
        settings=settings,
        dead_letters=letters,
        max_bytes=max_file_bytes(settings, letters),
        reserve_bytes=reserve_bytes(max_put_bytes=MIB),
        serve=False,
    ) as disk:
        disk.buffer._upkeep.counted = True  # nobody serves
        filling = Filling(disk, tmp_path, sizes)
        for round_of in range(4):
            await filling.fill(per_put=1 + 40 * (round_of % 2))
            await filling.reject_some(2 * CONCURRENCY)
            await filling.deliver_but_every(3)
        await filling.fill(per_put=1)
        log_bytes = max_log_bytes(max_put_bytes=MIB, max_concurrency=CONCURRENCY)
        assert filling.largest["buffer.db"] <= max_file_bytes(settings, letters)
        assert filling.largest["reserve"] == reserve_bytes(max_put_bytes=MIB)
        everything = max_directory_bytes(settings, letters, max_put_bytes=MIB, max_concurrency=CONCURRENCY)
        assert sum(filling.largest.values()) <= everything
        assert filling.largest["buffer.db-wal"] <= log_bytes + len(filling.held) * 4096, "the test acks more at once"
        print({name: f"{size / MIB:.1f}" for name, size in filling.largest.items()}, f"{everything / MIB:.1f} MiB")


async def test_the_log_stays_within_its_bound_whatever_is_put_at_once(tmp_path: Path) -> None:
    """Many puts wait together, among them one of the largest; acks come with them."""
    async with open_disk(tmp_path, inline=False, serve=False) as disk:
        largest = 0
        for round_of in range(12):
            sizes = [2100] * 3000 if round_of % 2 else [30] * 3000
            events = [Event(next(disk.ids), "c" * 30, "n", b"x" * size, 1e9) for size in sizes]
            largest_put = [Event(next(disk.ids), "c", "n", b"x" * MIB, 1e9)]
            taken = await disk.take(2 * CONCURRENCY) if round_of else []
            puts = [disk.buffer.put(events[first : first + 10], intake="http") for first in range(0, 3000, 10)]
            answers = await asyncio.gather(*puts, disk.buffer.put(largest_put, intake="http"), disk.deliver(taken))
            assert set(answers) <= {Stored(), None}
            largest = max(largest, (tmp_path / "buffer.db-wal").stat().st_size)
        print(f"{largest / MIB:.1f} MiB")
        assert MAX_COMMIT_BYTES < largest <= max_log_bytes(max_put_bytes=MIB, max_concurrency=CONCURRENCY)


async def test_what_is_delivered_frees_its_space_while_it_runs(tmp_path: Path) -> None:
    async with open_disk(tmp_path, inline=False) as disk:
        for _ in range(8):
            await disk.put([Event(next(disk.ids), "c", "n", b"x" * 10_000, 1e9) for _ in range(100)])
        taken = await disk.take_all()
        assert (tmp_path / "buffer.db").stat().st_size > 7 * MIB
        await disk.deliver(taken)
        async with asyncio.timeout(20):
            while (tmp_path / "buffer.db").stat().st_size > 6 * MIB:
                await asyncio.sleep(0.01)


def longest_place(number: int) -> tuple[str, str]:
    """Return a name of 49 UTF-16 units and an attribute of 256 bytes, the longest there are in UTF-8."""
    return chr(0x8000 + number % 1000) + LONG_NAME, f"{number:08}" + "\U0001f600" * 62


async def test_types_and_keys_stay_within_their_part_of_the_bound(tmp_path: Path) -> None:
    """Pages are left almost empty: most is forgotten here and there, and as much is learned elsewhere."""
    max_types, max_keys = 2000, 20_000
    settings, letters = BufferSettings(max_events=1, max_bytes=1024), DeadLettersSettings(max_events=1, max_bytes=1024)
    max_bytes = max_file_bytes(settings, letters, max_keys=max_keys, max_types=max_types)
    database = inline_database(tmp_path, max_bytes=max_bytes, reserve_bytes=4096)
    await database.open()
    rng = random.Random(1)
    numbers = iter(rng.sample(range(10**6), 50_000))
    learned = LearnedType("boolean", 1e9 + 0.1)
    types: list[tuple[str, str]] = []
    keys: list[int] = []
    largest = largest_together = 0
    for round_of in range(10):
        while len(types) < max_types:
            new = [longest_place(next(numbers)) for _ in range(min(100, max_types - len(types)))]
            await database.run(partial(attribute_types.write, changes=dict.fromkeys(new, learned)))
            types += new
        while len(keys) < max_keys:
            ids = [(1 << 62) + number * 100 + round_of for number in rng.sample(range(10**6), 500)]
            new_ids = list(set(ids) - set(keys))[: max_keys - len(keys)]
            await database.run(
                partial(duplicate_keys.insert, keys=[DuplicateKey(each, b"\xff" * 16, 1e9 + 0.1) for each in new_ids])
            )
            keys += new_ids
        found = await database.run(lambda each: (attribute_types.load(each), duplicate_keys.load(each)))
        assert (len(found[0][0]), len(found[1][0])) == (max_types, max_keys)
        largest = max(largest, (tmp_path / "buffer.db").stat().st_size)
        files = os.scandir(tmp_path)
        largest_together = max(largest_together, sum(each.stat().st_size for each in files))
        types.sort()
        keys.sort()
        gone = [place for number, place in enumerate(types) if number % 3 and number % (round_of + 5)]
        await database.run(partial(attribute_types.write, changes=dict.fromkeys(gone)))
        gone_ids = [each for number, each in enumerate(keys) if number % 3]
        await database.run(partial(duplicate_keys.remove, ids=gone_ids))
        types, keys = sorted(set(types) - set(gone)), sorted(set(keys) - set(gone_ids))
    await database.close()
    largest = max(largest, (tmp_path / "buffer.db").stat().st_size)
    everything = max_directory_bytes(
        settings, letters, max_put_bytes=MIB, max_concurrency=CONCURRENCY, max_keys=max_keys, max_types=max_types
    )
    assert largest_together <= everything
    print(f"{largest / MIB:.1f} of {max_bytes / MIB:.1f} MiB")
    assert max_bytes > 1024 * 4096, "SQLite is told this bound, and not the least there is"
    assert largest <= max_bytes
