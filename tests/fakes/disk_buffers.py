"""A disk buffer with its database in a real directory, kept going by its upkeep; and copies of it as a crash leaves it."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forwarder.buffer.base import NO_NOTES, Notes, Stored
from forwarder.buffer.disk import WINDOW_BYTES, DiskBuffer
from forwarder.buffer.fates import DeadLettered, HandedOver
from forwarder.database import events as rows
from forwarder.database.connection import DamagedError, Database
from forwarder.event import Event, EventIds, LaneOf, by_customer
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings, ReceiptsSettings
from tests.fakes.databases import inline_database

REJECTED = DeadLettered("rejected", 422, b'{"success":false}', attempts=1, first_attempt_at=1.0, last_attempt_at=1.0)
NOTHING_MORE_SECONDS = 0.005


@dataclass
class OpenDisk:
    """An open disk buffer, and what it is made of."""

    buffer: DiskBuffer
    database: Database
    telemetry: Telemetry
    ids: EventIds
    serving: asyncio.Task[None] | None = None

    async def put(self, events: Sequence[Event], notes: Notes = NO_NOTES) -> None:
        assert await self.buffer.put(events, intake="http", notes=notes) == Stored()

    async def take(self, max_events: int = 1000) -> list[Event]:
        return await self.buffer.take(max_events=max_events, max_bytes=1 << 30)

    async def take_all(self, *, seconds: float = 10.0) -> list[Event]:
        """Take until every event that counts as buffered is handed out, however long its salvage takes."""
        found: list[Event] = []
        deadline = time.monotonic() + seconds
        in_vain = 0
        while not self.quiet(len(found)):
            assert time.monotonic() < deadline, f"{len(found)} events came, and then none: {self.database.ledger}"
            try:
                async with asyncio.timeout(NOTHING_MORE_SECONDS):
                    found += await self.take()
            except TimeoutError:
                in_vain += 1
                await self.count_now_and_then(in_vain)
        return found

    async def count_now_and_then(self, times: int) -> None:
        """Have the rows counted again, as is done every minute, when this is called some more times."""
        if times % 100 == 0:
            with suppress(DamagedError):
                await self.buffer._upkeep._compare_rows(as_found=False)

    def quiet(self, taken: int) -> bool:
        """Whether all that is buffered is taken, nothing is to be salvaged, and the rows were counted."""
        directory = self.database.directory
        assert directory is not None
        assert self.serving is None or not self.serving.done(), f"the upkeep ended: {self.serving}"
        return (
            self.buffer.ledger().buffered == taken
            and not self.buffer._commits.restoring
            and not directory.damaged()
            and not self.database.ledger["unsalvaged"]
            and self.buffer._upkeep.counted
        )

    async def deliver(self, events: Sequence[Event]) -> None:
        await self.buffer.ack([(event, HandedOver()) for event in events])

    async def reject(self, events: Sequence[Event]) -> None:
        await self.buffer.ack([(event, REJECTED) for event in events])

    async def rows(self) -> int:
        """Count the events that are in the file."""
        read = await self.database.run(
            lambda transaction: rows.read_after(transaction, -1, max_events=1 << 30, max_bytes=1 << 40)
        )
        return len(read.events) + len(read.unreadable)


@asynccontextmanager
async def open_disk(
    directory: Path,
    *,
    settings: BufferSettings | None = None,
    dead_letters: DeadLettersSettings | None = None,
    window_bytes: int = WINDOW_BYTES,
    first_id: int = 1,
    inline: bool = True,
    of: type[Database] = Database,
    lane_of: LaneOf = by_customer,
    serve: bool = True,
    remembered: Callable[[], Notes] = lambda: NO_NOTES,
    **database_options: Any,
) -> AsyncIterator[OpenDisk]:
    """Open the buffer that is in a directory; at the end close it, as an orderly stop does."""
    database = inline_database(directory, of=of, **database_options) if inline else of(directory, **database_options)
    telemetry = Telemetry()
    ids = EventIds(first_id)
    buffer = DiskBuffer(
        settings or BufferSettings(),
        dead_letters=dead_letters or DeadLettersSettings(),
        database=database,
        telemetry=telemetry,
        receipts=Receipts(ReceiptsSettings(), clock=time.time),
        clock=asyncio.get_running_loop().time,
        next_id=ids.__next__,
        lane_of=lane_of,
        window_bytes=window_bytes,
        remembered=remembered,
    )
    serving: asyncio.Task[None] | None = None
    try:
        await buffer.open()
        ids.rise_above(buffer.last_id)
        if serve:
            serving = asyncio.create_task(buffer.serve(), name="buffer")
        yield OpenDisk(buffer, database, telemetry, ids, serving)
        assert serving is None or not serving.done(), f"the upkeep ended: {serving}"
    finally:
        if serving is not None:
            serving.cancel()
            await asyncio.wait({serving})
        await buffer.close()


def copy_of(directory: Path, to: Path) -> Path:
    """Return a copy of a buffer's directory, as it would be found if its process were killed now."""
    shutil.copytree(directory, to, ignore=shutil.ignore_patterns("reserve"))
    return to
