"""The duplicate_keys table: the apps' own keys of events, by the ids of the events. Every row has a checksum.

The events may be long delivered. A row that was altered is skipped: then a duplicate may be accepted, but no event is lost.
The functions with a transaction are jobs, or parts of jobs, of the database's thread.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final

from forwarder.database import events
from forwarder.database.connection import Transaction
from forwarder.event import DuplicateKey

COLUMNS: Final = "id, key, accepted_at, checksum, event"
_DIGEST_BYTES: Final = 16
_EVENT_BYTES: Final = 8
_CHECKED: Final = struct.Struct(f"<qd{_DIGEST_BYTES}s")


def insert(transaction: Transaction, keys: Sequence[DuplicateKey]) -> None:
    """Add keys, replacing those of the same events."""
    events.write_rows(transaction, "REPLACE INTO duplicate_keys", [_row(key) for key in keys])


def forget(transaction: Transaction, up_to_id: int) -> None:
    """Remove the keys of events up to an id."""
    transaction.connection.execute("DELETE FROM duplicate_keys WHERE id <= ?", (up_to_id,))


def load(transaction: Transaction) -> tuple[list[DuplicateKey], list[int]]:
    """Return all keys, in the order of their ids, and the ids of the altered rows."""
    found: list[DuplicateKey] = []
    altered: list[int] = []
    for row in transaction.connection.execute(f"SELECT {COLUMNS} FROM duplicate_keys ORDER BY id"):  # noqa: S608
        key = key_of(row)
        if key is None:
            altered.append(row[0])
        else:
            found.append(key)
    return found, altered


def remove(transaction: Transaction, ids: Sequence[int]) -> None:
    """Remove the keys of these events, which need not be there."""
    transaction.connection.executemany("DELETE FROM duplicate_keys WHERE id = ?", [(event_id,) for event_id in ids])


def key_of(row: Sequence[Any]) -> DuplicateKey | None:
    """Return the key of a row; None if the row was altered. Tables before version 5 have no column `event`."""
    event_id, digest, accepted_at, checksum, *later = row
    event = later[0] if later else None
    if not (isinstance(digest, bytes) and len(digest) == _DIGEST_BYTES and isinstance(accepted_at, float)):
        return None
    if not (event is None or (isinstance(event, bytes) and len(event) == _EVENT_BYTES)):
        return None
    if _checksum(event_id, digest, accepted_at, event) != checksum:
        return None
    return DuplicateKey(event_id, digest, accepted_at, None if event is None else int.from_bytes(event, "big"))


def _row(key: DuplicateKey) -> tuple[int, bytes, float, int, bytes | None]:
    event = None if key.event is None else key.event.to_bytes(_EVENT_BYTES, "big")
    checksum = _checksum(key.event_id, key.digest, key.accepted_at, event)
    return key.event_id, key.digest, key.accepted_at, checksum, event


def _checksum(event_id: int, digest: bytes, accepted_at: float, event: bytes | None) -> int:
    return zlib.crc32(event or b"", zlib.crc32(_CHECKED.pack(event_id, accepted_at, digest)))
