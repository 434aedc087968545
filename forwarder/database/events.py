"""The events table: written, read and counted. Every row has a checksum over all its columns.

The functions with a transaction are jobs, or parts of jobs, of the database's thread.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

from forwarder.database.connection import Transaction
from forwarder.database.ledger import AlteredError
from forwarder.event import Event
from forwarder.words import EVENT_KINDS, EventKind

_PLAIN_COLUMNS: Final = "id, customer, name, body, accepted_at, checksum"
COLUMNS: Final = f"{_PLAIN_COLUMNS}, kind"
_INSERT_ONE: Final = f"INSERT INTO events ({_PLAIN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608
_REMOVE_ONE: Final = "DELETE FROM events WHERE id = ?"
_AT_ONCE: Final = (128, 32, 8, 1)
"""How many rows one statement may have: few different statements, and few of them."""

_KINDS: Final[Mapping[object, EventKind]] = {kind.encode(): kind for kind in EVENT_KINDS if kind != "event"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Read:
    """What was read."""

    events: list[Event]
    unreadable: list[int]
    """The ids of rows that are gone, or not as they were written."""
    last_id: int
    """The id of the last row read; 0 if there was none."""
    looked_at: int
    """How many rows were read."""


def insert(transaction: Transaction, events: Sequence[Event]) -> None:
    """Add events."""
    plain: list[Sequence[Any]] = []
    others: list[Sequence[Any]] = []
    for event in events:
        customer, name = event.customer.encode(errors="surrogatepass"), event.name.encode(errors="surrogatepass")
        body, accepted_at = event.body, event.accepted_at
        checksum = _checksum(event.id, customer, name, body, accepted_at)
        if event.kind == "event":
            plain.append((event.id, customer, name, body, accepted_at, checksum))
        else:
            kind = event.kind.encode()
            others.append((event.id, customer, name, body, accepted_at, zlib.crc32(kind, checksum), kind))
    if len(plain) == 1:
        transaction.connection.execute(_INSERT_ONE, plain[0])
    elif plain:
        write_rows(transaction, f"INSERT INTO events ({_PLAIN_COLUMNS})", plain)
    if others:
        write_rows(transaction, f"INSERT INTO events ({COLUMNS})", others)


def write_rows(transaction: Transaction, into: str, rows: Sequence[Sequence[Any]]) -> None:
    """Write rows into a table. `into` is the beginning of the statement; all rows have as many columns."""
    for portion in portions(rows):
        values = repeated(f"({repeated('?', len(portion[0]))})", len(portion))
        transaction.connection.execute(f"{into} VALUES {values}", [value for row in portion for value in row])


def remove(transaction: Transaction, ids: Sequence[int]) -> int:
    """Remove events, and return how many were there."""
    removed = 0
    for portion in portions(ids):
        statement = f"DELETE FROM events WHERE id IN ({repeated('?', len(portion))})"  # noqa: S608
        removed += transaction.connection.execute(statement, portion).rowcount
    return removed


def read_after(transaction: Transaction, after_id: int, *, max_events: int, max_bytes: int) -> Read:
    """Read the next rows: at least one if there is one, and none once `max_bytes` are reached.

    Raise AlteredError if the rows are not in order: some might be missed, or read twice.
    """
    rows = transaction.connection.execute(
        f"SELECT {COLUMNS} FROM events WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
        (after_id, max_events),
    )

    def rising() -> Iterator[Sequence[Any]]:
        last = after_id
        for row in rows:
            if row[0] <= last:
                raise AlteredError("rows are not in order")
            last = row[0]
            yield row

    return _read(rising(), max_bytes=max_bytes)


def read_ids(transaction: Transaction, ids: Sequence[int], *, max_bytes: int) -> Read:
    """Read the events of these ids, in their order: at least one, and none once `max_bytes` are reached."""

    def rows() -> Iterator[Sequence[Any]]:
        for event_id in ids:
            statement = f"SELECT {COLUMNS} FROM events WHERE id = ?"  # noqa: S608
            row = transaction.connection.execute(statement, (event_id,)).fetchone()
            yield row or (event_id, None, None, None, None, None, None)

    return _read(rows(), max_bytes=max_bytes)


def first(transaction: Transaction) -> tuple[bool, float]:
    """Return whether there is an event, and when the first one was accepted."""
    row = transaction.connection.execute("SELECT accepted_at FROM events ORDER BY id LIMIT 1").fetchone()
    return row is not None, row[0] if row and isinstance(row[0], float) else 0.0


def is_held(transaction: Transaction, event_id: int) -> bool:
    """Return whether there is such an event."""
    return transaction.connection.execute("SELECT 1 FROM events WHERE id = ?", (event_id,)).fetchone() is not None


def are_held(transaction: Transaction, ids: Sequence[int]) -> set[int]:
    """Return those of these ids that events have."""
    found: set[int] = set()
    for portion in portions(ids):
        statement = f"SELECT id FROM events WHERE id IN ({repeated('?', len(portion))})"  # noqa: S608
        found.update(event_id for (event_id,) in transaction.connection.execute(statement, portion))
    return found


def event_of(row: Sequence[Any]) -> Event | None:
    """Return the event of a row; None if the row was altered. Tables before version 6 have no column `kind`."""
    event_id, customer, name, body, accepted_at, checksum, *later = row
    if not (isinstance(customer, bytes) and isinstance(name, bytes) and isinstance(body, bytes)):
        return None
    if not isinstance(accepted_at, float):
        return None
    found = _checksum(event_id, customer, name, body, accepted_at)
    kind = kind_of(later[0] if later else None)
    if kind is None or (found if kind == "event" else zlib.crc32(kind.encode(), found)) != checksum:
        return None
    return Event(event_id, _text(customer), _text(name), body, accepted_at, kind)


def kind_of(column: object) -> EventKind | None:
    """Return the kind that a column says; None if it was altered. NULL is a plain event."""
    return "event" if column is None else _KINDS.get(column)


class RowCount:
    """Counts the rows, a part at a time, while events come and go. Used on the database's thread alone."""

    def __init__(self, *, rows_at_once: int = 20_000) -> None:
        self._rows_at_once = rows_at_once
        self._up_to: int | None = None
        self._failed_before = 0
        self._counted = 0
        self._counted_bytes = 0

    def step(self, transaction: Transaction) -> tuple[int, int] | None:
        """Count some more; once all are counted, return the number of rows and of bytes of bodies, and start again."""
        if self._failed_before != transaction.failed_before:  # rows removed since may be there again
            self._failed_before = transaction.failed_before
            self._up_to = None
        after = -1 if self._up_to is None else self._up_to
        if self._up_to is None:
            self._counted = self._counted_bytes = 0
        number, size, last = transaction.connection.execute(
            "SELECT count(*), total(size), max(id) FROM "
            "(SELECT id, length(body) AS size FROM events WHERE id > ? ORDER BY id LIMIT ?)",
            (after, self._rows_at_once),
        ).fetchone()
        self._counted += number
        self._counted_bytes += int(size)
        if number < self._rows_at_once:
            self._up_to = None
            return self._counted, self._counted_bytes
        self._up_to = last
        return None

    def start_again(self, _: Transaction) -> None:
        """Count from the first row. A job, as the loop must not change what the database's thread is reading."""
        self._up_to = None

    def removing(self, transaction: Transaction, removals: Sequence[tuple[int, int]]) -> None:
        """Remove events, given as id and size, and keep the count right. Use this, not `remove`.

        Raise AlteredError if one of them is not there: the file is damaged, and the event might be delivered again.
        """
        if self._up_to is not None:
            counted = [removal for removal in removals if removal[0] <= self._up_to]
            self._counted -= len(counted)
            self._counted_bytes -= sum(size for _, size in counted)
        if len(removals) == 1:
            removed = transaction.connection.execute(_REMOVE_ONE, removals[0][:1]).rowcount
        else:
            removed = remove(transaction, [event_id for event_id, _ in removals])
        if removed != len(removals):
            raise AlteredError("events are gone")


def _read(rows: Iterable[Sequence[Any]], *, max_bytes: int) -> Read:
    events: list[Event] = []
    unreadable: list[int] = []
    size = last_id = 0
    for row in rows:
        event = event_of(row)
        last_id = row[0]
        if event is None:
            unreadable.append(last_id)
            continue
        events.append(event)
        size += len(event.body)
        if size >= max_bytes:
            break
    return Read(events, unreadable, last_id, len(events) + len(unreadable))


def _checksum(event_id: int, customer: bytes, name: bytes, body: bytes, accepted_at: float) -> int:
    head = struct.pack("<qdII", event_id, accepted_at, len(customer), len(name))
    return zlib.crc32(body, zlib.crc32(name, zlib.crc32(customer, zlib.crc32(head))))


def _text(utf8: bytes) -> str:
    return utf8.decode(errors="surrogatepass")


def portions(items: Sequence[T]) -> Sequence[Sequence[T]]:
    """Return the items in pieces of one statement each."""
    if len(items) == 1:
        return (items,)
    found: list[Sequence[T]] = []
    at = 0
    for number in _AT_ONCE:
        while len(items) - at >= number:
            found.append(items[at : at + number])
            at += number
    return found


@cache
def repeated(text: str, number: int) -> str:
    """Return the text of a statement for so many rows or values."""
    return ", ".join([text] * number)
