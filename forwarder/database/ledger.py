"""The ledger table: counters by name, in one row with a checksum, so that a damaged ledger is not believed.

The names are those of the public ledger; a counter with a reason is named like `dropped.corrupt`. Besides them it holds
what must be known without counting rows: `buffered`, `buffered_bytes`, `unsalvaged` (how many of `buffered` are in damaged
files), `dead_letters`, `dead_letters_bytes` and `dead_letters.rejected` and so on (held now), `last_id` (the highest id ever
given), and `notes_brought`: 1 if the file has all that damaged files said of types and keys.
"""

import json
import sqlite3
import zlib
from collections.abc import Mapping


class Counters(dict[str, int]):
    """Counters by name; one that is not there is 0."""

    def __missing__(self, name: str) -> int:
        return 0


class AlteredError(sqlite3.DatabaseError):
    """What was read is not what was written."""


def load(connection: sqlite3.Connection) -> Counters:
    """Return the counters; none in a new file. Raise AlteredError if the row was altered, or is gone."""
    row = connection.execute("SELECT content, checksum FROM ledger").fetchone()
    if row is None:
        if connection.execute("SELECT 1 FROM events LIMIT 1").fetchone() is not None:
            raise AlteredError("there are events, but no ledger")
        return Counters()
    content, checksum = row
    if not isinstance(content, bytes) or zlib.crc32(content) != checksum:
        raise AlteredError("the ledger fails its checksum")
    return Counters(json.loads(content))


def store(connection: sqlite3.Connection, counters: Mapping[str, int]) -> None:
    """Write all counters."""
    content = json.dumps(counters).encode()
    connection.execute("REPLACE INTO ledger VALUES (1, ?, ?)", (content, zlib.crc32(content)))
