"""The marks table: the ids of events of which an attempt may be under way. Every row has a checksum.

A marked event is also in the events table, unless its row is lost. The functions with a transaction are jobs, or parts of
jobs, of the database's thread.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from forwarder.database import events
from forwarder.database.connection import Transaction
from forwarder.database.ledger import AlteredError
from forwarder.event import Event

COLUMNS: Final = "id, attempts, marked_at, checksum"
_NO_LIMIT_BYTES: Final = 1 << 62
"""No more events are marked than delivery takes at a time."""


@dataclass(frozen=True, slots=True)
class Mark:
    """An attempt that may be under way."""

    attempts: int
    """How many there were, including this one."""
    marked_at: float
    """Seconds since 1970."""


Changes = Mapping[int, Mark | None]
"""Marks by the ids of their events; None removes one."""


def write(transaction: Transaction, changes: Changes) -> None:
    """Set and remove marks. Those to remove need not be there."""
    rows = [_row(event_id, mark) for event_id, mark in changes.items() if mark is not None]
    events.write_rows(transaction, "REPLACE INTO marks", rows)
    for ids in events.portions([event_id for event_id, mark in changes.items() if mark is None]):
        transaction.connection.execute(f"DELETE FROM marks WHERE id IN ({events.repeated('?', len(ids))})", ids)  # noqa: S608


def find(transaction: Transaction) -> tuple[dict[int, Mark], list[Event]]:
    """Return all marks, by id, and those of their events that can be read. Raise AlteredError if a mark was altered."""
    found: dict[int, Mark] = {}
    for row in transaction.connection.execute(f"SELECT {COLUMNS} FROM marks ORDER BY id"):  # noqa: S608
        mark = mark_of(row)
        if mark is None:
            raise AlteredError("a mark was altered")
        found[row[0]] = mark
    return found, events.read_ids(transaction, list(found), max_bytes=_NO_LIMIT_BYTES).events


def mark_of(row: Sequence[Any]) -> Mark | None:
    """Return the mark of a row; None if the row was altered."""
    event_id, attempts, marked_at, checksum = row
    if not (isinstance(attempts, int) and isinstance(marked_at, float)):
        return None
    mark = Mark(attempts, marked_at)
    return mark if (event_id, attempts, marked_at, checksum) == _row(event_id, mark) else None


def _row(event_id: int, mark: Mark) -> tuple[int, int, float, int]:
    checksum = zlib.crc32(struct.pack("<qqd", event_id, mark.attempts, mark.marked_at))
    return event_id, mark.attempts, mark.marked_at, checksum
