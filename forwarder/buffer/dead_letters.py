"""The dead letters of the buffers that keep them in a database. Used by those buffers."""

from collections.abc import Sequence
from functools import partial

from forwarder.buffer.base import MAX_PAGE_BYTES, BufferUnavailableError
from forwarder.database import dead_letters as stored
from forwarder.database.connection import DamagedError, Database, Job, T, UnavailableError
from forwarder.event import DeadLetter, DeadLetterPage
from forwarder.observing.telemetry import Telemetry
from forwarder.words import DeadReason


async def asked(database: Database, job: Job[T]) -> T:
    """Return what a job returns. Raise BufferUnavailableError if the disk fails or the file is damaged."""
    try:
        return await database.run(job)
    except (UnavailableError, DamagedError) as error:
        raise BufferUnavailableError(str(error)) from error


class DatabaseDeadLetters:
    """Dead letters in a table of a database. See DeadLetters."""

    def __init__(self, database: Database, *, telemetry: Telemetry) -> None:
        self._database = database
        self._telemetry = telemetry

    @property
    def events(self) -> int:
        """See DeadLetters."""
        return self._database.ledger["dead_letters"]

    @property
    def bytes(self) -> int:
        """See DeadLetters."""
        return self._database.ledger["dead_letters_bytes"]

    async def page(self, *, after_place: int, max_letters: int, reason: DeadReason | None = None) -> DeadLetterPage:
        """See DeadLetters."""
        bounded = partial(stored.page, max_letters=max_letters, max_bytes=MAX_PAGE_BYTES)
        return await asked(self._database, partial(bounded, after_place=after_place, reason=reason))

    async def find(self, ids: Sequence[int], *, max_bytes: int = MAX_PAGE_BYTES) -> list[DeadLetter]:
        """See DeadLetters."""
        return await asked(self._database, partial(stored.find, ids=ids, max_bytes=max_bytes))

    async def purge(self, ids: Sequence[int]) -> list[int]:
        """See DeadLetters."""
        purged = await asked(self._database, partial(stored.remove, ids=ids))
        self._telemetry.dead_letters_evicted(len(purged), reason="purged")
        return purged
