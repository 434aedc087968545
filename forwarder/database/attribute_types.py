"""The attribute_types table: which type each attribute of each event name had first. Every row has a checksum.

Types are hints, so a row that was altered is skipped. The functions with a transaction are jobs, or parts of jobs, of the
database's thread.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from forwarder.attribute import LearnedType, Place, TypeChanges
from forwarder.database import events
from forwarder.database.connection import Transaction
from forwarder.words import ATTRIBUTE_TYPES, AttributeType

COLUMNS: Final = "name, attribute, type, first_seen, checksum, seen_again"
_TYPES: Final[Mapping[bytes, AttributeType]] = {each.encode(): each for each in ATTRIBUTE_TYPES}


def add(transaction: Transaction, types: TypeChanges) -> None:
    """Set types, except those that are set already."""
    _insert(transaction, "INSERT OR IGNORE", types)


def write(transaction: Transaction, changes: TypeChanges) -> None:
    """Set and forget types. Those to forget need not be there."""
    _insert(transaction, "REPLACE", changes)
    remove(transaction, [_utf8(place) for place, learned in changes.items() if learned is None])


def _insert(transaction: Transaction, verb: str, changes: TypeChanges) -> None:
    rows = [_row(place, learned) for place, learned in changes.items() if learned is not None]
    events.write_rows(transaction, f"{verb} INTO attribute_types", rows)


def load(transaction: Transaction) -> tuple[dict[Place, LearnedType], list[Sequence[Any]]]:
    """Return all types, in the order of names and attributes, and the places of altered rows for `remove`."""
    found: dict[Place, LearnedType] = {}
    altered: list[Sequence[Any]] = []
    for row in transaction.connection.execute(f"SELECT {COLUMNS} FROM attribute_types ORDER BY name, attribute"):  # noqa: S608
        good = type_of(row)
        if good is None:
            altered.append(row[:2])
        else:
            found[good[0]] = good[1]
    return found, altered


def remove(transaction: Transaction, places: Sequence[Sequence[Any]]) -> None:
    """Remove rows, given by their names and attributes as they are in the table. They need not be there."""
    transaction.connection.executemany("DELETE FROM attribute_types WHERE name = ? AND attribute = ?", places)


def type_of(row: Sequence[Any]) -> tuple[Place, LearnedType] | None:
    """Return what a row says; None if it was altered. Tables before version 5 have no column `seen_again`."""
    name, attribute, kind, first_seen, checksum, *later = row
    seen_again = later[0] if later else None
    if not (isinstance(name, bytes) and isinstance(attribute, bytes) and isinstance(first_seen, float)):
        return None
    if kind not in _TYPES or seen_again not in (None, 0, 1):
        return None
    if _checksum(name, attribute, kind, first_seen, seen_again) != checksum:
        return None
    place = name.decode(errors="surrogatepass"), attribute.decode(errors="surrogatepass")
    return place, LearnedType(_TYPES[kind], first_seen, bool(seen_again))


def _row(place: Place, learned: LearnedType) -> tuple[bytes, bytes, bytes, float, int, int]:
    name, attribute = _utf8(place)
    kind, seen_again = learned.type.encode(), int(learned.seen_again)
    checksum = _checksum(name, attribute, kind, learned.first_seen, seen_again)
    return name, attribute, kind, learned.first_seen, checksum, seen_again


def _utf8(place: Place) -> tuple[bytes, bytes]:
    name, attribute = place
    return name.encode(errors="surrogatepass"), attribute.encode(errors="surrogatepass")


def _checksum(name: bytes, attribute: bytes, kind: bytes, first_seen: float, seen_again: int | None) -> int:
    head = struct.pack("<dII", first_seen, len(name), len(attribute))
    tail = kind if seen_again is None else b"%b%d" % (kind, seen_again)
    return zlib.crc32(tail, zlib.crc32(attribute, zlib.crc32(name, zlib.crc32(head))))
