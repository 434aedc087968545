"""Dead letters: events that were given up, to be looked at, replayed or purged. They are written by the buffer's ack.

Bounded when they are written, oldest out first. Replaying is a way in, so it is in `intake`.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from forwarder.database import dead_letters as stored
from forwarder.database.connection import Database
from forwarder.event import DeadLetter, DeadLetterPage
from forwarder.observing.telemetry import Telemetry
from forwarder.words import DeadReason

MAX_LETTERS: Final = 1000
"""The most that are read or changed at once."""
_MAX_PAGE_BYTES: Final = 4 * 1024 * 1024


class DeadLetters:
    """The dead letters in a database. Its methods raise UnavailableError or DamagedError when the disk fails."""

    def __init__(self, database: Database, *, telemetry: Telemetry) -> None:
        self.changing = asyncio.Lock()
        """Held by who reads some in order to change them."""
        self._database = database
        self._telemetry = telemetry

    @property
    def events(self) -> int:
        """How many there are."""
        return self._database.ledger["dead_letters"]

    @property
    def bytes(self) -> int:
        """How much they count against `dead_letters.max_bytes`."""
        return self._database.ledger["dead_letters_bytes"]

    async def page(self, *, after_place: int, max_letters: int, reason: DeadReason | None = None) -> DeadLetterPage:
        """Read up to `max_letters`, 1 to `MAX_LETTERS`, oldest first; fewer, but at least one, if they are large."""
        return await self._database.run(
            partial(
                stored.page, after_place=after_place, reason=reason, max_letters=max_letters, max_bytes=_MAX_PAGE_BYTES
            )
        )

    async def find(self, ids: Sequence[int], *, max_bytes: int = _MAX_PAGE_BYTES) -> list[DeadLetter]:
        """Read those of these ids that there are; none after those that go beyond `max_bytes`."""
        return await self._database.run(partial(stored.find, ids=ids, max_bytes=max_bytes))

    async def purge(self, ids: Sequence[int]) -> list[int]:
        """Remove those of these ids that there are, for good, and return their ids."""
        async with self.changing:
            purged = await self._database.run(partial(stored.remove, ids=ids))
            self._telemetry.dead_letters_evicted(len(purged), reason="purged")
            return purged
