"""Erasing: one customer's rows are removed for good, and what deleted rows left behind in the file.

All of it is done in portions, so that other jobs have their turns. SQLite overwrites the rows that `Transaction.overwrite`
is for. But rows that were deleted before, or moved from page to page, have left copies: in pages that are free, in unused
parts of pages, and in the log. So the free pages are returned, every row that is there is written anew, and the log is
emptied. The functions are jobs of the database's thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from forwarder.database import dead_letters, events, marks
from forwarder.database.connection import Transaction, return_space
from forwarder.database.schema import PAGE_BYTES

Table = Literal["events", "dead_letters"]
TABLES: Final[tuple[Table, ...]] = ("events", "dead_letters")

_LOOKED_AT: Final = 2000
"""How many rows are looked at in one transaction."""
_WRITTEN_ROWS: Final = 1000
_WRITTEN_BYTES: Final = 256 * 1024
"""How many rows are written anew in one transaction: at least two, however large they are."""
_OVERLAP_BYTES: Final = 4 * PAGE_BYTES
"""How much of a portion is written once more with the next. SQLite joins and splits up to three pages at a time, so those at
a portion's end may keep copies of rows that were on them before.
"""
_LEAST_ROW_BYTES: Final = 50
_KEYS: Final[dict[Table, str]] = {"events": "id", "dead_letters": "place"}
_COLUMNS: Final[dict[Table, str]] = {
    "events": events.COLUMNS,
    "dead_letters": f"place, {dead_letters.COLUMNS}",
}
_BODY: Final[dict[Table, int]] = {"events": 3, "dead_letters": 4}
"""Where the body is in a row."""


@dataclass(frozen=True, slots=True)
class RowsFound:
    """Some rows of a customer."""

    rows: Sequence[tuple[int, int]]
    """The id and the size of each event, or the place and the id of each dead letter."""
    after: int | None
    """The key after which to go on; None at the end."""


def find_events(transaction: Transaction, *, customer: bytes, after_id: int, up_to: int) -> RowsFound:
    """Return the next events of a customer, up to an id."""
    statement = "SELECT id, length(body), customer = ? FROM events WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
    rows = transaction.connection.execute(statement, (customer, after_id, up_to, _LOOKED_AT)).fetchall()
    found = [(event_id, size or 0) for event_id, size, is_meant in rows if is_meant]
    return RowsFound(found, rows[-1][0] if len(rows) == _LOOKED_AT else None)


def remove_events(transaction: Transaction, found: Sequence[tuple[int, int]], *, count: events.RowCount) -> int:
    """Remove those events, given by id and size, that are still there, overwrite them, and return how many that were.

    The others were acked since they were found.
    """
    there = events.are_held(transaction, [event_id for event_id, _ in found])
    rows = [row for row in found if row[0] in there]
    transaction.overwrite()
    count.removing(transaction, rows)
    marks.write(transaction, {event_id: None for event_id, _ in rows})
    transaction.count("buffered", -len(rows))
    transaction.count("buffered_bytes", -sum(size for _, size in rows))
    transaction.count("dropped.erased", len(rows))
    return len(rows)


def find_letters(transaction: Transaction, *, customer: bytes, after_place: int, up_to: int) -> RowsFound:
    """Return the next dead letters of a customer whose ids are at most `up_to`."""
    statement = "SELECT place, id, customer = ? FROM dead_letters WHERE place > ? ORDER BY place LIMIT ?"
    rows = transaction.connection.execute(statement, (customer, after_place, _LOOKED_AT)).fetchall()
    found = [(place, letter_id) for place, letter_id, is_meant in rows if is_meant and letter_id <= up_to]
    return RowsFound(found, rows[-1][0] if len(rows) == _LOOKED_AT else None)


def purge(transaction: Transaction, ids: Sequence[int]) -> list[int]:
    """Remove the dead letters with these ids, overwrite them, and return the ids that were there."""
    transaction.overwrite()
    return dead_letters.remove(transaction, ids)


def return_all_space(transaction: Transaction) -> bool:
    """Return some free pages to the file system; return whether there may be more."""
    return return_space(transaction, whatever_it_is=True)


def write_anew(transaction: Transaction, *, table: Table, after: int) -> int | None:
    """Write the next rows of a table anew, so that the pages on which they were keep nothing else.

    Return the key after which to go on; None at the end.
    """
    if transaction.moved:
        raise transaction.moved
    key, columns, body = _KEYS[table], _COLUMNS[table], _BODY[table]
    rows: list[Sequence[Any]] = []
    size = 0
    for row in transaction.connection.execute(
        f"SELECT {columns} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT ?",  # noqa: S608
        (after, _WRITTEN_ROWS),
    ):
        rows.append(row)
        size += _length(row[body])
        if len(rows) > 1 and size >= _WRITTEN_BYTES:
            break
    if not rows:
        return None
    transaction.overwrite()
    transaction.connection.executemany(f"DELETE FROM {table} WHERE {key} = ?", [row[:1] for row in rows])  # noqa: S608
    events.write_rows(transaction, f"INSERT INTO {table} ({columns})", rows)
    if len(rows) < _WRITTEN_ROWS and size < _WRITTEN_BYTES:
        return None
    overlap, last = 0, len(rows) - 1
    while overlap < _OVERLAP_BYTES and last > 0:
        overlap += min(_length(rows[last][body]) + _LEAST_ROW_BYTES, PAGE_BYTES)
        last -= 1
    return int(rows[last][0])


def clear_log(transaction: Transaction) -> None:
    """Have the log emptied, or raise an error in place of the commit's result."""
    transaction.then_clear_log = True


def _length(value: object) -> int:
    return len(value) if isinstance(value, bytes) else 0
