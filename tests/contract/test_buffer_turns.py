"""Who gets what becomes free in a full buffer: batches, single posts and lines a fair share each, whoever asks how often.

In virtual time. Growlytics takes 200 events a second.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from forwarder.buffer.base import Buffer, Full, NeverFits, Stored
from forwarder.buffer.fates import HandedOver
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings
from forwarder.words import Intake
from tests.fakes.buffers import memory_buffer
from tests.fakes.disk_buffers import open_disk
from tests.fakes.events import EventMaker
from tests.fakes.virtual_time import in_virtual_time, now

PER_SECOND = 200
AT_ONCE_SECONDS = 0.021
"""How soon who ignores Retry-After asks again."""
Opens = Callable[[BufferSettings, Path], AbstractAsyncContextManager[Buffer]]


@asynccontextmanager
async def in_memory(settings: BufferSettings, _: Path) -> AsyncIterator[Buffer]:
    buffer = memory_buffer(Telemetry(), asyncio.get_running_loop().time, settings)
    yield buffer
    await buffer.close()


@asynccontextmanager
async def on_disk(settings: BufferSettings, directory: Path) -> AsyncIterator[Buffer]:
    async with open_disk(directory, settings=settings, serve=False) as disk:
        yield disk.buffer


class Contest:
    """Clients of several kinds at one buffer, which is full and drained."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.make = EventMaker()
        self.got: Counter[str] = Counter()
        """Events stored, by the kind of client."""
        self.tries: Counter[str] = Counter()
        self._customers = count()

    async def fill(self, events: int, *, size_bytes: int = 20) -> None:
        for _ in range(events):
            assert await self.buffer.put([self.make("x", size_bytes=size_bytes)], intake="http") == Stored()

    async def put(self, kind: str, events: int, *, intake: Intake, customer: str, size_bytes: int) -> Full | None:
        self.tries[kind] += 1
        made = [replace(self.make(customer, size_bytes=size_bytes), name="n") for _ in range(events)]
        answer = await self.buffer.put(made, intake=intake)
        if answer == Stored():
            self.got[kind] += events
            return None
        assert isinstance(answer, Full)
        return answer

    async def posts(
        self,
        kind: str,
        events: int,
        *,
        obeys: bool,
        gives_up: bool = False,
        size_bytes: int = 20,
        intake: Intake = "http",
    ) -> None:
        """Post one request after the other; again, when it was refused, until it is stored, or `gives_up`."""
        while True:
            customer = f"customer {next(self._customers)}"
            while full := await self.put(kind, events, intake=intake, customer=customer, size_bytes=size_bytes):
                await asyncio.sleep(full.retry_after_seconds if obeys else AT_ONCE_SECONDS)
                if gives_up:
                    break
            await asyncio.sleep(0.001)

    async def writes_lines(self, kind: str = "lines") -> None:
        """Put lines as `intake.line_acceptor` does: as many as there is room for, and one as soon as there is."""
        size = 500
        while True:
            answer = await self.buffer.put(self.make.of("l" * size), intake="lines")
            seconds = 0.01
            while size == 1 and answer == Full():
                await asyncio.sleep(seconds)
                seconds = min(2 * seconds, 0.1)
                answer = await self.buffer.put(self.make.of("l"), intake="lines")
            if answer == Stored():
                self.got[kind] += size
            size = min(500, 2 * size) if answer == Stored() else size // 2
            await asyncio.sleep(0.001)

    async def drain(self, per_second: int = PER_SECOND) -> None:
        while True:
            await asyncio.sleep(1 / per_second)
            for event in await self.buffer.take(max_events=1, max_bytes=1):
                await self.buffer.ack([(event, HandedOver())])

    async def run(self, *clients: object, seconds: float, per_second: int = PER_SECOND) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.drain(per_second))]
            tasks += [group.create_task(client) for client in clients]  # type: ignore[arg-type]  # coroutines
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()

    def shares(self) -> dict[str, float]:
        return {kind: number / self.got.total() for kind, number in self.got.items()}


@asynccontextmanager
async def contest(opens: Opens, directory: Path, settings: BufferSettings) -> AsyncIterator[Contest]:
    async with opens(settings, directory) as buffer:
        yield Contest(buffer)
        assert buffer.occupancy().events <= settings.max_events
        assert buffer.occupancy().bytes <= settings.max_bytes
        assert buffer.ledger().unaccounted == 0


MANY = [(clients, obedient) for clients in (2, 10) for obedient in ("all", "none", "half")]


@pytest.mark.parametrize(
    ("opens", "clients", "obedient"),
    [*((in_memory, *each) for each in MANY), (on_disk, 2, "half")],
)
def test_single_posts_batches_and_lines_each_get_a_fair_share(
    opens: Opens, tmp_path: Path, clients: int, obedient: str
) -> None:
    """Also where some obey Retry-After, and others ask again at once."""

    @in_virtual_time
    async def test() -> None:
        async with contest(opens, tmp_path, BufferSettings(max_events=2000)) as each:
            await each.fill(2000)
            obeys = [{"all": True, "none": False, "half": number % 2 == 0}[obedient] for number in range(clients)]
            singles = [each.posts(f"single {obeying}", 1, obeys=obeying) for obeying in obeys]
            batches = [each.posts(f"batch {obeying}", 100, obeys=obeying) for obeying in obeys]
            await each.run(*singles, *batches, each.writes_lines(), seconds=12)
            got = each.got
            assert got.total() >= 0.85 * 12 * PER_SECOND, "little of what becomes free stays free"
            assert got["single True"] + got["single False"] >= 0.25 * got.total()
            assert got["batch True"] + got["batch False"] >= 0.25 * got.total()
            assert got["lines"] >= 0.25 * got.total()
            if obedient == "half":
                assert got["batch True"] >= 0.4 * got["batch False"]
                assert got["single True"] >= 0.05 * each.tries["single True"], "none of them starves"

    test()


@in_virtual_time
async def test_batches_of_very_different_sizes_all_get_in(tmp_path: Path) -> None:
    async with contest(in_memory, tmp_path, BufferSettings(max_events=3000)) as each:
        await each.fill(3000)
        sizes = (1, 2, 3, 10, 37, 120, 1000)
        await each.run(*(each.posts(f"{size}", size, obeys=size % 2 == 0) for size in sizes), seconds=30)
        for size in sizes:  # one that obeys may have no use for more than one each second
            got, tries = each.got[f"{size}"], each.tries[f"{size}"]
            assert got >= 0.05 * 30 * PER_SECOND or got >= 0.3 * tries * size


@in_virtual_time
async def test_a_large_event_gets_in_beside_small_ones_where_the_bytes_are_what_is_full(tmp_path: Path) -> None:
    async with contest(in_memory, tmp_path, BufferSettings(max_events=100_000, max_bytes=200_000)) as each:
        await each.fill(2000, size_bytes=100)
        small = [each.posts("small", 1, obeys=False, size_bytes=100) for _ in range(5)]
        large = each.posts("large", 1, obeys=True, size_bytes=20_000)
        await each.run(*small, large, seconds=20)
        assert each.got["large"] * 20_000 >= 0.3 * 20 * PER_SECOND * 100
        assert each.got["small"] * 100 >= 0.3 * 20 * PER_SECOND * 100


@in_virtual_time
async def test_of_unequal_batches_of_one_kind_the_larger_one_gets_its_turn(tmp_path: Path) -> None:
    async with contest(in_memory, tmp_path, BufferSettings(max_events=2000)) as each:
        await each.fill(2000)
        less = [each.posts("70", 70, obeys=False) for _ in range(3)]
        await each.run(*less, each.posts("120", 120, obeys=True), seconds=15)
        assert each.got["120"] >= 0.2 * each.got.total()


@in_virtual_time
async def test_what_is_kept_for_who_does_not_come_again_is_soon_for_all(tmp_path: Path) -> None:
    async with contest(in_memory, tmp_path, BufferSettings(max_events=1000)) as each:
        await each.fill(1000)
        assert isinstance(await each.put("gone", 500, intake="http", customer="g", size_bytes=20), Full)
        singles = [each.posts("single", 1, obeys=False) for _ in range(3)]
        await each.run(*singles, seconds=20)
        assert each.got["single"] >= 0.95 * 20 * PER_SECOND
        assert each.buffer.occupancy().events >= 995


@in_virtual_time
async def test_a_turn_that_nobody_takes_ends_although_others_of_its_kind_go_on_asking(tmp_path: Path) -> None:
    async with contest(in_memory, tmp_path, BufferSettings(max_events=10)) as each:
        await each.fill(10)
        await each.buffer.take(max_events=1, max_bytes=1)  # and never acked, so that the buffer is never empty
        assert isinstance(await each.put("gone", 9, intake="http", customer="g", size_bytes=20), Full)
        await each.run(each.posts("stays", 6, obeys=True), seconds=10)
        assert each.got["stays"] >= 12


@in_virtual_time
async def test_clients_that_post_no_refused_request_again_do_not_keep_others_out(tmp_path: Path) -> None:
    async with contest(in_memory, tmp_path, BufferSettings(max_events=1000)) as each:
        await each.fill(1000)
        clients = [each.posts(f"{size}", size, obeys=False, gives_up=True) for size in (1, 1, 1, 1, 50, 50)]
        await each.run(*clients, seconds=20)
        assert each.got.total() >= 0.9 * 20 * PER_SECOND
        assert each.got["50"] >= 0.3 * each.got.total()


@pytest.mark.parametrize("max_events", [1, 2, 5, 10])
def test_a_small_buffer_takes_batches_as_large_as_itself_and_single_posts(tmp_path: Path, max_events: int) -> None:
    @in_virtual_time
    async def test() -> None:
        async with contest(in_memory, tmp_path, BufferSettings(max_events=max_events)) as each:
            await each.fill(max_events)
            assert await each.buffer.put(each.make.of("c" * (max_events + 1)), intake="http") == NeverFits()
            clients = (each.posts(kind, size, obeys=True) for kind, size in (("one", 1), ("all", max_events)))
            await each.run(*clients, seconds=30, per_second=20)
            assert each.got["one"] >= 15, "about one a second, as it obeys"
            assert each.got["all"] >= 15

    test()


@in_virtual_time
async def test_a_request_is_told_to_come_again_when_its_share_will_do(tmp_path: Path) -> None:
    async with contest(in_memory, tmp_path, BufferSettings(max_events=5000)) as each:
        await each.fill(5000)
        singles = [each.posts("single", 1, obeys=False) for _ in range(3)]
        told: list[int] = []

        async def asks() -> None:
            while full := await each.put("batch", 500, intake="http", customer="b", size_bytes=20):
                told.append(full.retry_after_seconds)
                await asyncio.sleep(full.retry_after_seconds)
            told.append(0)

        await each.run(*singles, asks(), seconds=12)
        assert told[0] == 1, "nobody knows yet"
        assert told[-1] == 0, "it was stored"
        assert len(told) <= 5
        assert now() > 5, "half of 200 events a second for 500 events"


@in_virtual_time
async def test_nothing_is_kept_where_the_oldest_events_are_dropped(tmp_path: Path) -> None:
    async with contest(in_memory, tmp_path, BufferSettings(max_events=100, when_full="drop_oldest")) as each:
        await each.fill(100)
        for size in (50, 1, 100, 1):
            assert await each.put("any", size, intake="http", customer="c", size_bytes=20) is None


@in_virtual_time
async def test_an_empty_buffer_keeps_nothing_for_anybody(tmp_path: Path) -> None:
    async with contest(in_memory, tmp_path, BufferSettings(max_events=10)) as each:
        await each.fill(10)
        assert isinstance(await each.put("gone", 10, intake="http", customer="g", size_bytes=20), Full)
        for event in await each.buffer.take(max_events=10, max_bytes=1000):
            await each.buffer.ack([(event, HandedOver())])
        assert await each.put("other", 1, intake="http", customer="c", size_bytes=20) is None
