"""Every kind of Buffer there is, behind one way to open it; the contract tests run once for each kind.

A new kind is one more entry in `KINDS`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import pytest

from forwarder.buffer.base import NO_NOTES, Buffer, Notes, PutAnswer
from forwarder.buffer.disk import WINDOW_BYTES, DiskBuffer
from forwarder.buffer.memory import MemoryBuffer
from forwarder.database.connection import Committed, Database, Job
from forwarder.event import Event, EventIds
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings, ReceiptsSettings
from forwarder.words import Intake
from tests.fakes.events import EventMaker
from tests.fakes.far_store import FarBuffer, FarStore


class CountingDatabase(Database):
    """A database that counts its jobs, each of which is one transaction."""

    jobs = 0

    def submit(self, job: Job[Any], then: Callable[[Committed[Any] | Exception], None], **how: bool) -> None:
        self.jobs += 1
        super().submit(job, then, **how)


@dataclass(frozen=True)
class Kind:
    """One kind of buffer."""

    name: str
    open: Callable[["Options", Telemetry, Path], Awaitable[tuple[Buffer, CountingDatabase | None]]]
    """Opens the buffer that is kept in the directory, with the running loop's clock, on a database that it opens, too.

    None stands for a buffer that has no database.
    """
    outlives_close: bool
    """Whether what it holds is there again when it is opened anew; if not, close drops it."""


@dataclass(frozen=True)
class Options:
    """What a test wants of its buffer; by default room for everything."""

    buffer: BufferSettings
    dead_letters: DeadLettersSettings


async def _open_memory(options: Options, telemetry: Telemetry, _: Path) -> tuple[Buffer, CountingDatabase]:
    database = CountingDatabase(None)
    buffer = MemoryBuffer(
        options.buffer,
        dead_letters=options.dead_letters,
        database=database,
        telemetry=telemetry,
        receipts=Receipts(ReceiptsSettings(), clock=time.time),
        clock=asyncio.get_running_loop().time,
    )
    await buffer.open()
    return buffer, database


async def _open_disk(
    options: Options, telemetry: Telemetry, directory: Path, *, window_bytes: int = WINDOW_BYTES
) -> tuple[Buffer, CountingDatabase]:
    database = CountingDatabase(directory)
    ids = EventIds()
    buffer = DiskBuffer(
        options.buffer,
        dead_letters=options.dead_letters,
        database=database,
        telemetry=telemetry,
        receipts=Receipts(ReceiptsSettings(), clock=time.time),
        clock=asyncio.get_running_loop().time,
        next_id=ids.__next__,
        window_bytes=window_bytes,
    )
    await buffer.open()
    ids.rise_above(buffer.last_id)
    return buffer, database


@lru_cache(maxsize=2)
def _far_store(directory: Path) -> FarStore:
    """Return the store of one test, which a directory names."""
    return FarStore()


async def _open_far(options: Options, telemetry: Telemetry, directory: Path) -> tuple[Buffer, None]:
    buffer = FarBuffer(
        _far_store(directory),
        options.buffer,
        dead_letters=options.dead_letters,
        telemetry=telemetry,
        receipts=Receipts(ReceiptsSettings(), clock=time.time),
        clock=asyncio.get_running_loop().time,
    )
    await buffer.open()
    return buffer, None


KINDS = (
    Kind("memory", _open_memory, outlives_close=False),
    Kind("disk", _open_disk, outlives_close=True),
    Kind("disk, window of two events", partial(_open_disk, window_bytes=1200), outlives_close=True),
    Kind("a list behind a network", _open_far, outlives_close=True),
)


CANNOT = {
    "a list behind a network": {
        "test_marks_of_events_that_are_not_taken_are_mistakes": "it cannot tell mistakes from lanes that were revoked",
        "test_a_take_that_passes_over_a_huge_lane_lets_others_have_their_turn": "it looks at its whole list at once",
        "test_a_take_that_is_cancelled_while_it_passes_over_events_hands_out_nothing": "it looks at its list at once",
        "test_puts_at_the_same_time_drop_what_they_would_have_dropped_one_after_the_other": (
            "what is on its way to the store cannot be dropped"
        ),
    }
}
"""What a kind does not promise, by the names of the tests, and why. `test_kinds.py` counts them."""


class Originals:
    """A Buffer around another one: in the place of what was read from disk it hands out what was put.

    So tests may compare events; that all of them are as they were put is proved here.
    """

    def __init__(self, inner: Buffer, database: CountingDatabase | None, originals: dict[int, Event]) -> None:
        self.inner = inner
        self.database = database
        """What the buffer keeps its dead letters in, and on disk its events."""
        self._originals = originals

    async def put(
        self, events: Sequence[Event], *, intake: Intake, replayed: Sequence[int] = (), notes: Notes = NO_NOTES
    ) -> PutAnswer:
        self._originals |= {event.id: event for event in events}
        return await self.inner.put(events, intake=intake, replayed=replayed, notes=notes)

    def begin_put(self, event: Event, *, intake: Intake) -> asyncio.Future[PutAnswer] | None:
        self._originals[event.id] = event
        return self.inner.begin_put(event, intake=intake)

    async def take(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        events = await self.inner.take(
            max_events=max_events, max_bytes=max_bytes, skip_lanes=skip_lanes, max_lane_events=max_lane_events
        )
        return [self._original(event) for event in events]

    def take_ready(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        events = self.inner.take_ready(
            max_events=max_events, max_bytes=max_bytes, skip_lanes=skip_lanes, max_lane_events=max_lane_events
        )
        return [self._original(event) for event in events]

    def listen(
        self,
        *,
        changed: Callable[[], None],
        left: Callable[[Sequence[Event]], None],
        revoked: Callable[[AbstractSet[str]], Sequence[Event]] | None = None,
    ) -> None:
        def originals_left(events: Sequence[Event]) -> None:
            left([self._original(event) for event in events])

        self.inner.listen(changed=changed, left=originals_left, revoked=revoked)

    def _original(self, event: Event) -> Event:
        original = self._originals[event.id]
        for name in ("id", "customer", "name", "body", "accepted_at", "kind"):
            assert getattr(event, name) == getattr(original, name), name
        return original

    async def close(self) -> None:
        await self.inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class OpenBuffer(Protocol):
    """Opens the buffer of this test, anew if it was open before; by default with room for everything."""

    async def __call__(
        self,
        *,
        max_events: int = 1000,
        max_bytes: int = 1_000_000,
        when_full: Literal["reject", "drop_oldest"] = "reject",
        dead_letters: DeadLettersSettings | None = None,
        telemetry: Telemetry | None = None,
    ) -> Buffer: ...


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(autouse=True)
def skip_what_a_kind_cannot(request: pytest.FixtureRequest) -> None:
    if "kind" in request.fixturenames:
        name = request.node.originalname
        if reason := CANNOT.get(request.getfixturevalue("kind").name, {}).get(name):
            pytest.skip(reason)


@pytest.fixture
def make() -> EventMaker:
    return EventMaker()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
async def open_buffer(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[OpenBuffer]:
    opened: list[Buffer] = []
    originals: dict[int, Event] = {}

    async def open_one(
        *,
        max_events: int = 1000,
        max_bytes: int = 1_000_000,
        when_full: Literal["reject", "drop_oldest"] = "reject",
        dead_letters: DeadLettersSettings | None = None,
        telemetry: Telemetry | None = None,
    ) -> Buffer:
        settings = BufferSettings(max_events=max_events, max_bytes=max_bytes, when_full=when_full)
        options = Options(settings, dead_letters or DeadLettersSettings())
        telemetry = telemetry or request.getfixturevalue("telemetry")
        inner, database = await kind.open(options, telemetry, tmp_path)
        opened.append(cast("Buffer", Originals(inner, database, originals)))
        return opened[-1]

    yield open_one
    for buffer in opened:
        await buffer.close()
        await buffer.close()
        assert buffer.ledger().unaccounted == 0, "the ledger of every test balances after the close"


@pytest.fixture
async def buffer(open_buffer: OpenBuffer) -> Buffer:
    """A buffer with room for all that a test puts."""
    return await open_buffer()


def database_of(buffer: Buffer) -> CountingDatabase:
    """Return the database of a buffer of these tests."""
    database = cast("Originals", buffer).database
    if database is None:
        pytest.skip("it has no database")
    return database
