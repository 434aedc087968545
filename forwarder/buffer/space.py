"""What the disk buffer takes of its disk, at most: the README states these sums, and tests hold the buffer to them.

While a damaged file is salvaged it takes its room besides, and so does the one that was salvaged last, which is kept.
"""

from typing import Final

from forwarder.buffer.commits import MAX_COMMIT_BYTES
from forwarder.database.connection import CHECKPOINT_PAGES
from forwarder.database.schema import PAGE_BYTES
from forwarder.settings import BufferSettings, DeadLettersSettings

_EMPTINESS: Final = 3
"""SQLite lets a page become two thirds empty before it joins it with its neighbours."""
_ROW_BYTES: Final = 2048
"""For all of a row but its body, three times: customer and name take 660 bytes at most."""
_ROW_FACTOR: Final = 4
"""What a row may be larger than its body, where that is small."""
_KEY_BYTES: Final = 190
"""For a row of duplicate_keys, which takes 56 bytes at most, three times, and what there is to a page besides."""
_TYPE_BYTES: Final = 1400
"""For a row of attribute_types, as above: 442 bytes at most, of which a name takes 147 and an attribute 256."""
_ACKED_BYTES: Final = 4 * PAGE_BYTES
"""The pages that change when one event is removed."""
_GIVEN_UP_BYTES: Final = 8 * 1024 * 1024
"""The bodies that may become dead letters at once: as much as delivery takes at a time."""


def max_file_bytes(
    settings: BufferSettings, dead_letters: DeadLettersSettings, *, max_keys: int = 0, max_types: int = 0
) -> int:
    """Return what the database's file may grow to; SQLite is told.

    `max_keys` are the most keys of events and `max_types` the most types of attributes that intake remembers; names have at
    most 49 UTF-16 units then, and attributes 256 bytes of UTF-8.
    """
    max_events = settings.max_events + dead_letters.max_events
    rows = _EMPTINESS * (settings.max_bytes + dead_letters.max_bytes) + _ROW_BYTES * max_events
    return rows + _note_bytes(max_keys, max_types)


def max_log_bytes(*, max_put_bytes: int, max_concurrency: int, max_keys: int = 0, max_types: int = 0) -> int:
    """Return what the write-ahead log may grow to: what it has when it is written back, and one transaction.

    `max_put_bytes` is the most that is put in one piece, `max_concurrency` the most attempts on the wire. Where the oldest
    events are dropped, those of one put come on top. Keys and types may all change at once.
    """
    transaction = (
        _ROW_FACTOR * max(MAX_COMMIT_BYTES, max_put_bytes) + 2 * max_concurrency * _ACKED_BYTES + _GIVEN_UP_BYTES
    )
    return CHECKPOINT_PAGES * PAGE_BYTES + transaction + _note_bytes(max_keys, max_types)


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


def _note_bytes(max_keys: int, max_types: int) -> int:
    return _KEY_BYTES * max_keys + _TYPE_BYTES * max_types
