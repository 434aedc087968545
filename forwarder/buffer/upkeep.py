"""Looks after the disk buffer's file: is it in its place, how many rows has it, how much space can it return or take?

The count is what makes the ledger a proof: `buffered` is a number of its own in the ledger, and is compared here with the
rows themselves, a part at a time so that commits go on meanwhile.

The functions at the end and those of `sizes` say what the buffer takes of its disk at most. The README states these sums,
and tests hold the buffer to them. A damaged file that is being salvaged takes its room besides, and so does the one that was
salvaged last, which is kept.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from forwarder.buffer.commits import MAX_COMMIT_BYTES
from forwarder.buffer.salvaging import Salvaging
from forwarder.buffer.sizes import max_file_bytes, note_bytes
from forwarder.database import connection, events, ledger
from forwarder.database import dead_letters as letters
from forwarder.database.connection import (
    CHECKPOINT_PAGES,
    DamagedError,
    Database,
    Job,
    Look,
    MovedError,
    Transaction,
    UnavailableError,
)
from forwarder.database.schema import PAGE_BYTES
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings

COUNT_SECONDS: Final = 60.0
TIDY_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 10.0
"""How often the file is looked for while nothing happens to events. The database looks before it commits, too."""
_ROW_FACTOR: Final = 4
"""What a row may be larger than its body, where that is small."""
_ACKED_BYTES: Final = 4 * PAGE_BYTES
"""The pages that change when one event is removed."""
_DEAD_LETTER_BYTES: Final = 8 * 1024 * 1024
"""The bodies that may become dead letters at once: as much as delivery takes at a time."""


class Upkeep:
    """Counts and looks. `beyond_reach` gives how many events are buffered that no read will find.

    `write_tally` has the numbers of refused events and of duplicates committed. `moved` is called with the error again and
    again while the file is not in its place, so that nothing is put there.
    """

    def __init__(
        self,
        database: Database,
        *,
        salvaging: Salvaging,
        telemetry: Telemetry,
        count: events.RowCount,
        write_tally: Callable[[], None],
        beyond_reach: Callable[[], int],
        moved: Callable[[MovedError], None],
    ) -> None:
        self.counted = False
        """Whether the rows were counted since the start."""
        self._database = database
        self._salvaging = salvaging
        self._telemetry = telemetry
        self._count = count
        self._write_tally = write_tally
        self._beyond_reach = beyond_reach
        self._moved = moved
        self._is_away = False

    async def serve(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_counting(), name="buffer row count")
            tasks.create_task(self._salvaging.serve(), name="buffer salvage")
            tasks.create_task(self._keep_tidy(), name="buffer space")

    async def _keep_tidy(self) -> None:
        """Tidy every second while events come or leave, the file is not in its place, or there is space to return."""
        more = True
        while True:
            changed = self._telemetry.next_change()
            if not more and not (await asyncio.wait({changed}, timeout=QUIET_SECONDS))[0]:
                more = not await self.look()
                continue
            await asyncio.sleep(TIDY_SECONDS)
            changed = self._telemetry.next_change()
            self._write_tally()
            found = await self._look(then=connection.return_space)
            more = self._is_away or found.may_shrink or changed.done()

    async def look(self) -> bool:
        """Look whether the file is in its place, tell telemetry of changes, and return whether it is."""
        await self._look()
        return not self._is_away

    async def _look(self, *, then: Job[bool] | None = None) -> Look:
        found = await self._database.look(then=then)
        for name in found.recreated:
            self._telemetry.buffer_file_recreated(name)
        if found.moved is not None:
            self._telemetry.buffer_moved(found.moved, is_news=not self._is_away)
            self._moved(found.moved)
        elif self._is_away:
            self._telemetry.buffer_came_back()
        self._is_away = found.moved is not None
        return found

    async def _keep_counting(self) -> None:
        while True:
            times_restored = self._salvaging.times_restored
            try:
                await self._compare_rows(as_found=not self.counted)
                self.counted = True
                await asyncio.sleep(COUNT_SECONDS)
            except (UnavailableError, DamagedError) as error:
                self._telemetry.buffer_failed("count", error)
                await self._salvaging.pause(times_restored)

    async def _compare_rows(self, *, as_found: bool) -> None:
        """Compare the ledger with the rows. A difference at the start comes from the disk; a later one is a bug."""
        await self._database.run(self._count.start_again)
        missing: int | None = None
        while missing is None:
            missing = await self._database.run(partial(compare_rows, count=self._count, as_found=as_found))
        if missing and as_found:
            self._telemetry.rows_differ(missing)
            self._telemetry.events_dropped(max(0, missing), reason="corrupt")
        elif missing:
            self._telemetry.rows_miscounted(missing)
        elif self._beyond_reach() > 0:
            await self._database.run(look_through)


def look_through(transaction: Transaction) -> None:
    """Raise AlteredError if the file is damaged: rows are counted that were not found when their turn came."""
    if not connection.is_sound(transaction):
        raise ledger.AlteredError("rows cannot be reached")


def compare_rows(transaction: Transaction, *, count: events.RowCount, as_found: bool) -> int | None:
    """Count some more rows. Once all are counted, return how many more the ledger has; until then, None.

    Then the ledger takes over the number of rows. With `as_found` only the disk can have changed them: missing rows are
    counted as corrupt, and rows that the ledger does not know as accepted now. Otherwise the difference stays unaccounted.
    If the file is damaged, raise AlteredError instead.
    """
    found = count.step(transaction)
    if found is None:
        return None
    number, size = found
    unsalvaged = transaction.ledger.get("unsalvaged", 0)
    missing = transaction.ledger.get("buffered", 0) - unsalvaged - number
    if missing and not connection.is_sound(transaction):
        raise ledger.AlteredError("there are not as many rows as there should be")
    if missing and as_found:
        transaction.count("dropped.corrupt", max(0, missing))
        for name in ("received", "accepted"):
            transaction.count(name, max(0, -missing))
    transaction.count("buffered", -missing)
    if not unsalvaged:
        transaction.ledger["buffered_bytes"] = size
    letters.count_by_reason(transaction)
    return missing


def max_log_bytes(*, max_put_bytes: int, max_concurrency: int, max_keys: int = 0, max_types: int = 0) -> int:
    """Return what the write-ahead log may grow to: what it has when it is written back, and one transaction.

    `max_put_bytes` is the most that is put in one piece, `max_concurrency` the most attempts on the wire. Where the oldest
    events are dropped, those of one put come on top. Keys and types may all change at once.
    """
    transaction = (
        _ROW_FACTOR * max(MAX_COMMIT_BYTES, max_put_bytes) + 2 * max_concurrency * _ACKED_BYTES + _DEAD_LETTER_BYTES
    )
    return CHECKPOINT_PAGES * PAGE_BYTES + transaction + note_bytes(max_keys, max_types)


def reserve_bytes(*, max_put_bytes: int) -> int:
    """Return what is kept in reserve: as much as the file may have to grow by when the log is written into it."""
    return CHECKPOINT_PAGES * PAGE_BYTES + _ROW_FACTOR * max(MAX_COMMIT_BYTES, max_put_bytes)


def max_directory_bytes(
    settings: BufferSettings,
    dead_letters: DeadLettersSettings,
    *,
    max_put_bytes: int,
    max_concurrency: int,
    max_keys: int = 0,
    max_types: int = 0,
) -> int:
    """Return what all files together may grow to."""
    log_bytes = max_log_bytes(
        max_put_bytes=max_put_bytes, max_concurrency=max_concurrency, max_keys=max_keys, max_types=max_types
    )
    return (
        max_file_bytes(settings, dead_letters, max_keys=max_keys, max_types=max_types)
        + log_bytes
        + reserve_bytes(max_put_bytes=max_put_bytes)
    )
