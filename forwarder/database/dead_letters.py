"""The dead_letters table: events that are not sent again, with the reason, in the order in which they became that.

The transaction that adds to it keeps its bounds. The ledger counts what is held, as `dead_letters` and `dead_letters_bytes`,
so that nobody has to count rows. The functions are jobs, or parts of jobs, of the database's thread.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from forwarder.database import events
from forwarder.database.connection import Transaction
from forwarder.database.ledger import AlteredError
from forwarder.event import DeadLetter, DeadLetterPage, Event, LetterFilter
from forwarder.words import DEAD_REASONS, DeadReason

COLUMNS: Final = (
    "id, customer, name, body, accepted_at, reason, status, answer, attempts, first_attempt_at, last_attempt_at, "
    "checksum, kind"
)
_INSERT: Final = f"INSERT OR IGNORE INTO dead_letters ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_CHECKSUM: Final = 11
"""Its place in a row."""
HELD: Final = "dead_letters."
"""With a reason after it, the counter of those that are held with that reason."""
_REASONS: Final[Mapping[object, DeadReason]] = {reason.encode(): reason for reason in DEAD_REASONS}
"""By how they are stored."""
_EVICTED_AT_ONCE: Final = 100
_LOOKED_AT: Final = 5000
"""How many rows are looked at for one page."""
_MAX_PLACE: Final = 1 << 62
_SIZE: Final = "coalesce(length(body) + length(answer), 0)"


def insert(transaction: Transaction, letters: Sequence[DeadLetter], *, max_events: int, max_bytes: int) -> int:
    """Add dead letters, remove the oldest beyond the bounds, and return how many were removed."""
    if letters:
        _check_last_place(transaction)
    for letter in letters:
        added = transaction.connection.execute(_INSERT, _row(letter)).rowcount
        transaction.count("dead_letters", added)
        transaction.count(f"{HELD}{letter.reason}", added)
        transaction.count("dead_letters_bytes", added * letter.size_bytes)
    evicted = 0
    counters = transaction.ledger
    while counters.get("dead_letters", 0) > max_events or counters.get("dead_letters_bytes", 0) > max_bytes:
        oldest = transaction.connection.execute(
            f"SELECT place, {_SIZE}, reason FROM dead_letters ORDER BY place LIMIT ?",  # noqa: S608
            (_EVICTED_AT_ONCE,),
        ).fetchall()
        if not oldest:
            transaction.count("dead_letters", -counters.get("dead_letters", 0))
            transaction.count("dead_letters_bytes", -counters.get("dead_letters_bytes", 0))
            break
        for place, size, reason in oldest:
            if counters["dead_letters"] <= max_events and counters["dead_letters_bytes"] <= max_bytes:
                break
            deleted = transaction.connection.execute("DELETE FROM dead_letters WHERE place = ?", (place,)).rowcount
            if not deleted:
                raise AlteredError("a dead letter is gone")
            _count_removed(transaction, size, reason)
            evicted += 1
    return evicted


def _check_last_place(transaction: Transaction) -> None:
    """Raise AlteredError if hardly any higher place is left, which SQLite would report as a full disk."""
    places = transaction.connection.execute(
        "SELECT seq FROM sqlite_sequence WHERE name = 'dead_letters' UNION ALL SELECT max(place) FROM dead_letters"
    )
    for (place,) in places:
        if place is not None and (not isinstance(place, int) or place > _MAX_PLACE):
            raise AlteredError("the places of dead letters were altered")


def remove(transaction: Transaction, ids: Sequence[int]) -> list[int]:
    """Remove the dead letters with these ids, and return those ids that were there."""
    found: list[int] = []
    for letter_id in ids:
        row = transaction.connection.execute(
            f"SELECT {_SIZE}, reason FROM dead_letters WHERE id = ?",  # noqa: S608
            (letter_id,),
        ).fetchone()
        if row is not None:
            transaction.connection.execute("DELETE FROM dead_letters WHERE id = ?", (letter_id,))
            _count_removed(transaction, *row)
            found.append(letter_id)
    return found


def count_by_reason(transaction: Transaction) -> None:
    """Count the dead letters of each reason again if that does not add up, as in a file of an earlier version."""
    ledger = transaction.ledger
    if sum(ledger[f"{HELD}{reason}"] for reason in DEAD_REASONS) == ledger["dead_letters"]:
        return
    found = dict(transaction.connection.execute("SELECT reason, count(*) FROM dead_letters GROUP BY reason").fetchall())
    for reason in DEAD_REASONS:
        ledger[f"{HELD}{reason}"] = found.get(reason.encode(), 0)


def _count_removed(transaction: Transaction, size: int, reason: object) -> None:
    transaction.count("dead_letters", -1)
    transaction.count("dead_letters_bytes", -size)
    if (known := _REASONS.get(reason)) is not None:  # else the row was altered
        transaction.count(f"{HELD}{known}", -1)


def page(
    transaction: Transaction, *, after_place: int, only: LetterFilter, max_letters: int, max_bytes: int
) -> DeadLetterPage:
    """Read dead letters that are meant, leaving out those whose rows were altered.

    Read at least one if there is one among the next `_LOOKED_AT` rows.
    """
    looked_at = transaction.connection.execute(
        "SELECT max(place), count(*) FROM (SELECT place FROM dead_letters WHERE place > ? ORDER BY place LIMIT ?)",
        (after_place, _LOOKED_AT),
    )
    last_place, number = looked_at.fetchone()
    wanted = [
        (column, "=", None if value is None else value.encode(errors="surrogatepass"))
        for column, value in (("reason", only.reason), ("customer", only.customer), ("name", only.name))
    ]
    meant = [each for each in (*wanted, ("last_attempt_at", ">=", only.since)) if each[2] is not None]
    rows = transaction.connection.execute(
        f"SELECT place, {COLUMNS} FROM dead_letters WHERE place > ? AND place <= ? "  # noqa: S608
        f"{''.join(f'AND {column} {how} ? ' for column, how, _ in meant)}ORDER BY place",
        (after_place, last_place, *(value for _, _, value in meant)),
    )
    letters: list[DeadLetter] = []
    size = 0
    last = after_place
    for place, *row in rows:
        if len(letters) == max_letters or (letters and size >= max_bytes):
            return DeadLetterPage(letters, last)
        last = place
        letter = letter_of(row)
        if letter is not None:
            letters.append(letter)
            size += letter.size_bytes
    return DeadLetterPage(letters, last_place if number == _LOOKED_AT else None)


def find(transaction: Transaction, ids: Sequence[int], *, max_bytes: int) -> list[DeadLetter]:
    """Read those dead letters with these ids that are there and unaltered, in the order of the ids.

    Stop once what was read goes beyond `max_bytes`.
    """
    letters: list[DeadLetter] = []
    size = 0
    for letter_id in ids:
        if size > max_bytes:
            break
        statement = f"SELECT {COLUMNS} FROM dead_letters WHERE id = ?"  # noqa: S608
        row = transaction.connection.execute(statement, (letter_id,)).fetchone()
        letter = None if row is None else letter_of(row)
        if letter is not None:
            letters.append(letter)
            size += letter.event.size_bytes
    return letters


def _row(letter: DeadLetter) -> tuple[Any, ...]:
    event = letter.event
    values = (
        event.id,
        event.customer.encode(errors="surrogatepass"),
        event.name.encode(errors="surrogatepass"),
        event.body,
        event.accepted_at,
        letter.reason.encode(),
        letter.status,
        letter.answer,
        letter.attempts,
        letter.first_attempt_at,
        letter.last_attempt_at,
    )
    kind = None if event.kind == "event" else event.kind.encode()
    return (*values, _checksum(values if kind is None else (*values, kind)), kind)


def letter_of(row: Sequence[Any]) -> DeadLetter | None:
    """Return the dead letter of a row, or None if the row was altered. Tables before version 6 have no column `kind`."""
    values, checksum = row[:_CHECKSUM], row[_CHECKSUM]
    column = row[_CHECKSUM + 1] if len(row) > _CHECKSUM + 1 else None
    kind = events.kind_of(column)
    if kind is None or _checksum(values if column is None else (*values, column)) != checksum:
        return None
    event_id, customer, name, body, accepted_at, reason, status, answer, attempts, first, last = values
    customer, name = (text.decode(errors="surrogatepass") for text in (customer, name))
    event = Event(event_id, customer, name, body, accepted_at, kind)
    return DeadLetter(event, reason.decode(), status, answer, attempts, first, last)


def _checksum(values: Sequence[Any]) -> int:
    """Return a checksum over values of SQLite's types, their types and their lengths."""
    checksum = 0
    for value in values:
        match value:
            case bytes():
                checksum = zlib.crc32(value, zlib.crc32(b"b%d" % len(value), checksum))
            case int():
                checksum = zlib.crc32(b"i%d" % value, checksum)
            case float():
                checksum = zlib.crc32(b"f" + struct.pack("<d", value), checksum)
            case _:
                checksum = zlib.crc32(b"n", checksum)
    return checksum
