"""What the disk buffer's file may grow to.

Pure, and a module of its own because commands that look at the disk must start fast. See `upkeep` for the other files.
"""

from typing import Final

from forwarder.settings import BufferSettings, DeadLettersSettings

_EMPTINESS: Final = 3
"""SQLite lets a page become two thirds empty before it joins it with its neighbours."""
_ROW_BYTES: Final = 2048
"""For all of a row but its body, three times: customer and name take 660 bytes at most."""
_KEY_BYTES: Final = 190
"""For a row of duplicate_keys, which takes 56 bytes at most, three times, and what there is to a page besides."""
_TYPE_BYTES: Final = 1400
"""For a row of attribute_types, as above: 442 bytes at most, of which a name takes 147 and an attribute 256."""


def max_file_bytes(
    settings: BufferSettings, dead_letters: DeadLettersSettings, *, max_keys: int = 0, max_types: int = 0
) -> int:
    """Return what the database's file may grow to; SQLite is told.

    `max_keys` are the most keys of events and `max_types` the most types of attributes that intake remembers; names have at
    most 49 UTF-16 units then, and attributes 256 bytes of UTF-8.
    """
    max_events = settings.max_events + dead_letters.max_events
    rows = _EMPTINESS * (settings.max_bytes + dead_letters.max_bytes) + _ROW_BYTES * max_events
    return rows + note_bytes(max_keys, max_types)


def note_bytes(max_keys: int, max_types: int) -> int:
    """Return what all keys and types of attributes may take that intake remembers."""
    return _KEY_BYTES * max_keys + _TYPE_BYTES * max_types
