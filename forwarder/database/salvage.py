"""Salvaging: reading what can be read of a damaged file, and keeping the progress of that in the new file.

`DamagedFile` has a connection of its own, to a file that nobody writes to, and may be used on any thread. The other
functions are jobs, or parts of jobs, of the database's thread. They change the progress in the transactions that restore
what was read, so that a salvage which is interrupted goes on where it was.
"""

import sqlite3
import threading
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from forwarder.attribute import LearnedType, Place
from forwarder.database import attribute_types, dead_letters, duplicate_keys, events, ledger, marks, schema
from forwarder.database.connection import T, Transaction
from forwarder.database.marks import Mark
from forwarder.event import DeadLetter, DuplicateKey, Event
from forwarder.words import DEAD_REASONS

_MAX_ID: Final = (1 << 63) - 1
_MAX_BYTES_AT_ONCE: Final = 1024 * 1024
_ROWS_AT_ONCE: Final = 5000
_HAS_ERASED: Final = -1
"""In the place of an id to skip, as the table has no column for it."""
_FAILURES: Final = (sqlite3.Error, ValueError)
"""ValueError: SQLite's message quotes what cannot be decoded."""


@dataclass(frozen=True, slots=True)
class Salvage:
    """The progress of the salvage of one file."""

    file: str
    events_after: int = -1
    """The id up to which its events are restored."""
    letters_after: int = -1
    """The place up to which its dead letters are restored."""
    skip: frozenset[int] = frozenset()
    """The ids of events not to be restored, as they were in memory or are erased, and of dead letters that are erased."""
    has_erased: bool = False
    """Whether the file has something that is erased, so that it is not kept when it is salvaged."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a damaged file says of itself."""

    file: str
    counters: Mapping[str, int] | None
    """Its ledger; None if that cannot be read or believed."""
    salvages: Sequence[Salvage]
    """The salvages of earlier files that had not ended when it was quarantined."""


def look_at(directory: Path, name: str) -> Found:
    """Return what a damaged file says of itself."""
    file = DamagedFile(directory / name)
    try:
        return Found(name, file.counters(), file.salvages())
    finally:
        file.close()


def notes_in(directory: Path, name: str) -> tuple[dict[Place, LearnedType], dict[int, DuplicateKey]]:
    """Return the types of attributes and the keys that a damaged file has."""
    file = DamagedFile(directory / name)
    try:
        return file.types(), file.keys()
    finally:
        file.close()


def begin(
    transaction: Transaction,
    salvages: Sequence[Salvage],
    *,
    counters: Mapping[str, int] | None,
    kept: Sequence[Event] = (),
    marked: marks.Changes | None = None,
) -> None:
    """Begin salvages in a new file: write the counters, and the events and marks that are in memory."""
    if counters is not None:
        for name, number in counters.items():
            transaction.ledger[name] = number
        transaction.ledger["unsalvaged"] = max(0, counters.get("buffered", 0) - len(kept))
        for name in ("dead_letters", "dead_letters_bytes"):  # counted again as they are restored
            transaction.ledger[name] = 0
        for reason in DEAD_REASONS:
            transaction.ledger.pop(f"{dead_letters.HELD}{reason}", None)
    transaction.ledger.pop("notes_brought", None)
    events.insert(transaction, kept)
    marks.write(transaction, marked or {})
    for each in salvages:
        _write(transaction, each)


def pending(transaction: Transaction) -> list[Salvage]:
    """Return the salvages that have not ended."""
    return _read(transaction.connection)


def restore_events(transaction: Transaction, file: str, found: Sequence[Event], *, events_after: int) -> None:
    """Add events of the damaged file, which have new ids, and note the progress."""
    events.insert(transaction, found)
    expected = min(len(found), transaction.ledger.get("unsalvaged", 0))
    transaction.count("unsalvaged", -expected)
    # Those that the ledger does not know of are accepted only now.
    for name in ("received", "accepted", "buffered"):
        transaction.count(name, len(found) - expected)
    transaction.count("buffered_bytes", sum(len(event.body) for event in found[expected:]))
    _write(transaction, replace(_of(transaction, file), events_after=events_after))


def leave_out(transaction: Transaction, file: str, *, events: Mapping[int, int], letters: Collection[int]) -> int:
    """Note that events and dead letters of a damaged file are erased, and that the file is not to be kept.

    `events` are their sizes in bytes by their ids. Return how many of them count as dropped: not those that were restored
    since they were found, nor any that the ledger does not know of.
    """
    progress = _of(transaction, file)
    skip = progress.skip.union(events, letters)
    _write(transaction, replace(progress, skip=skip, has_erased=True))
    sizes = [size for event_id, size in events.items() if event_id > progress.events_after]
    counted = min(len(sizes), transaction.ledger.get("unsalvaged", 0))
    transaction.count("unsalvaged", -counted)
    transaction.count("buffered", -counted)
    transaction.count("buffered_bytes", -sum(sizes[:counted]))
    transaction.count("dropped.erased", counted)
    return counted


def restore_letters(
    transaction: Transaction,
    file: str,
    found: Sequence[DeadLetter],
    *,
    letters_after: int,
    max_events: int,
    max_bytes: int,
) -> int:
    """Add dead letters of the damaged file, note the progress, and return how many were evicted."""
    _write(transaction, replace(_of(transaction, file), letters_after=letters_after))
    return dead_letters.insert(transaction, found, max_events=max_events, max_bytes=max_bytes)


def end(transaction: Transaction, file: str) -> int:
    """End the salvage of a file. After the last one, what was not read is lost: return how many events that are."""
    transaction.connection.execute("DELETE FROM salvages WHERE file = ?", (file.encode(),))
    lost = 0 if pending(transaction) else transaction.ledger.get("unsalvaged", 0)
    transaction.count("unsalvaged", -lost)
    transaction.count("buffered", -lost)
    transaction.count("dropped.corrupt", lost)
    return lost


def _of(transaction: Transaction, file: str) -> Salvage:
    for progress in pending(transaction):
        if progress.file == file:
            return progress
    raise ledger.AlteredError("the progress of a salvage is gone")


def _write(transaction: Transaction, progress: Salvage) -> None:
    skip = array("q", sorted(progress.skip | {_HAS_ERASED} if progress.has_erased else progress.skip)).tobytes()
    row = (progress.file.encode(), progress.events_after, progress.letters_after, skip)
    transaction.connection.execute("REPLACE INTO salvages VALUES (?, ?, ?, ?)", row)


def _read(connection: sqlite3.Connection) -> list[Salvage]:
    """Return the salvages that a file names. Raise AlteredError if one is not as it was written."""
    found = []
    for row in connection.execute("SELECT * FROM salvages ORDER BY file").fetchall():
        file, events_after, letters_after, skip = row
        ids = array("q")
        try:
            ids.frombytes(skip)
            skipped = frozenset(ids)
            has_erased = _HAS_ERASED in skipped
            found.append(
                Salvage(file.decode(), int(events_after), int(letters_after), skipped - {_HAS_ERASED}, has_erased)
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise ledger.AlteredError("the progress of a salvage was altered") from error
    return found


class DamagedFile:
    """A quarantined file. It skips what cannot be read, and changes nothing but a first page that cannot be read.

    That page is written again, because without it the file would be lost. All columns of a table are read, whatever they
    are: a file of an earlier version has fewer.
    """

    def __init__(self, path: Path) -> None:
        # A caller that is cancelled while it waits for a read closes the file, and the read goes on in its thread.
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        with suppress(sqlite3.Error):
            self._connection = self._connect(path)
        if not self._shows_tables() and (path.exists() or Path(f"{path}-wal").exists()):
            self._close()
            with suppress(sqlite3.Error, OSError):
                _write_first_page(path)
                self._connection = self._connect(path)

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._close()

    def counters(self) -> dict[str, int] | None:
        """Return its ledger; None if that cannot be read or believed."""
        with self._lock, suppress(*_FAILURES):
            if self._connection is not None:
                return ledger.load(self._connection) or None
        return None

    def salvages(self) -> list[Salvage]:
        """Return the salvages that had not ended when it was quarantined, as far as they can be read."""
        with self._lock, suppress(*_FAILURES):
            if self._connection is not None:
                return _read(self._connection)
        return []

    def events(self, after_id: int, *, max_rows: int) -> tuple[list[Event], int | None]:
        """Return some events after an id, in order, and the id after which to go on; None at the end."""
        found: dict[int, Event] = {}

        def add(row: Sequence[Any]) -> int | None:
            event = events.event_of(row)
            if event is None or event.id <= after_id or event.id in found:
                return None
            found[event.id] = event
            return event.id

        with self._lock:
            last = self._each("SELECT * FROM events", "id", after_id, max_rows, add)
        return [found[event_id] for event_id in sorted(found)], last

    def marks(self) -> dict[int, Mark]:
        """Return the good marks, by the ids of their events."""
        return self._all("marks", marks.mark_of)

    def types(self) -> dict[Place, LearnedType]:
        """Return the good types of attributes, from both ends up to what cannot be read."""
        found: dict[Place, LearnedType] = {}
        for order in ("name, attribute", "name DESC, attribute DESC"):
            statement = f"SELECT * FROM attribute_types ORDER BY {order}"  # noqa: S608
            with self._lock, suppress(*_FAILURES):
                for row in self._connection.execute(statement) if self._connection is not None else ():
                    if good := attribute_types.type_of(row):
                        found[good[0]] = good[1]
        return found

    def keys(self) -> dict[int, DuplicateKey]:
        """Return the apps' own keys that are good, by the ids that their events have in it."""
        return self._all("duplicate_keys", duplicate_keys.key_of)

    def letters(self, after_place: int, *, max_rows: int) -> tuple[list[DeadLetter], int | None]:
        """Return some dead letters after a place, and the place after which to go on; None at the end."""
        found: list[DeadLetter] = []
        last_place = after_place

        def add(row: Sequence[Any]) -> int | None:
            nonlocal last_place
            letter = dead_letters.letter_of(row[1:])
            if letter is None or row[0] <= last_place:
                return None
            found.append(letter)
            last_place = int(row[0])
            return last_place

        with self._lock:
            last = self._each("SELECT * FROM dead_letters", "place", after_place, max_rows, add)
        return found, last

    def _all(self, table: str, read: Callable[[Sequence[Any]], T | None]) -> dict[int, T]:
        """Return what is good in a table, by its ids; `read` gives what a row says, or None if it was altered."""
        found: dict[int, T] = {}

        def add(row: Sequence[Any]) -> int | None:
            value = read(row)
            if value is None or row[0] in found:
                return None
            found[row[0]] = value
            return int(row[0])

        after: int | None = -1
        while after is not None:
            with self._lock:
                after = self._each(f"SELECT * FROM {table}", "id", after, _ROWS_AT_ONCE, add)  # noqa: S608
        return found

    def _each(
        self, select: str, key: str, after: int, max_rows: int, add: Callable[[Sequence[Any]], int | None]
    ) -> int | None:
        """Offer rows with a key above `after` to `add`, which returns the key of a good row; return where to go on.

        The keys of bad rows are not believed: with them this might go round in circles, or leave much out. Go on behind the
        last good row; if there is none, behind half of the bad ones, or where rows can be read again.
        """
        last: int | None = None
        bad: list[int] = []
        try:
            for row in self._rows(select, key, after, max_rows):
                good = add(row)
                if good is not None:
                    last = good if last is None else max(last, good)
                elif row[0] > after:
                    bad.append(row[0])
        except _FAILURES:
            if last is None and not bad:
                return self._next_readable(select, key, after)
        return sorted(bad)[(len(bad) - 1) // 2] if last is None and bad else last

    def _rows(self, select: str, key: str, after: int, max_rows: int) -> Iterator[Sequence[Any]]:
        if self._connection is None:
            return
        size = 0
        for row in self._connection.execute(f"{select} WHERE {key} > ? ORDER BY {key} LIMIT ?", (after, max_rows)):
            yield row
            size += sum(len(value) for value in row if isinstance(value, bytes))
            if size > _MAX_BYTES_AT_ONCE:
                break

    def _next_readable(self, select: str, key: str, after: int) -> int | None:
        """Return the smallest place after `after` from which rows can be read, or None if there is none."""

        def readable(place: int) -> bool:
            try:
                for _ in self._rows(select, key, place, 1):
                    pass
            except _FAILURES:
                return False
            return True

        step = 1
        while not readable(min(after + step, _MAX_ID)):
            if after + step >= _MAX_ID:
                return None
            step *= 2
        low, high = after + step // 2, min(after + step, _MAX_ID)
        while high - low > 1:
            middle = (low + high) // 2
            if readable(middle):
                high = middle
            else:
                low = middle
        return high

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _shows_tables(self) -> bool:
        return self._connection is not None and schema.version_of(self._connection) is not None

    def _connect(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = bytes
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA cell_size_check = ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def _write_first_page(path: Path) -> None:
    """Write the first page of a file, which names the tables, and is the same in every file of this version."""
    empty = schema.new_in_memory()
    try:
        page = bytearray(empty.serialize()[: schema.PAGE_BYTES])
    finally:
        empty.close()
    with path.open("r+b" if path.exists() else "xb") as file:
        pages = max(1, file.seek(0, 2) // schema.PAGE_BYTES)
        page[18:20] = b"\2\2"  # that there may be a log
        page[28:32] = pages.to_bytes(4, "big")
        page[32:40] = bytes(8)  # that no pages are free: which are is not known, and need not be
        file.seek(0)
        file.write(page)
