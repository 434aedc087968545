"""The tables, and how a file of an earlier version becomes one of this version.

The script of a version is never changed once released: a later version is one more script at the end.
"""

import sqlite3
from functools import cache
from typing import Any, Final

from forwarder.database.directory import DirectoryError
from forwarder.database.ledger import AlteredError

SQLITE_VERSION: Final = sqlite3.sqlite_version
APPLICATION_ID: Final = 0x67664C01  # a number of our own, so that the command `file` can say whose it is

SCRIPTS: Final = (
    # 1: events, in the order of acceptance, and the ledger.
    """
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        customer BLOB NOT NULL,
        name BLOB NOT NULL,
        body BLOB NOT NULL,
        accepted_at REAL NOT NULL,
        checksum INTEGER NOT NULL
    );
    CREATE TABLE ledger (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        content BLOB NOT NULL,
        checksum INTEGER NOT NULL
    );
    """,
    # 2: dead letters, in the order in which they became that, and the progress of salvages.
    """
    CREATE TABLE dead_letters (
        place INTEGER PRIMARY KEY AUTOINCREMENT,
        id INTEGER NOT NULL UNIQUE,
        customer BLOB NOT NULL,
        name BLOB NOT NULL,
        body BLOB NOT NULL,
        accepted_at REAL NOT NULL,
        reason BLOB NOT NULL,
        status INTEGER,
        answer BLOB NOT NULL,
        attempts INTEGER NOT NULL,
        first_attempt_at REAL NOT NULL,
        last_attempt_at REAL NOT NULL,
        checksum INTEGER NOT NULL
    );
    CREATE TABLE salvages (
        file BLOB PRIMARY KEY,
        events_after INTEGER NOT NULL,
        letters_after INTEGER NOT NULL,
        skip BLOB NOT NULL
    );
    """,
    # 3: events of which an attempt may be under way.
    """
    CREATE TABLE marks (
        id INTEGER PRIMARY KEY,
        attempts INTEGER NOT NULL,
        marked_at REAL NOT NULL,
        checksum INTEGER NOT NULL
    );
    """,
    # 4: what intake remembers: the types that attributes had first, and the apps' own keys of events.
    """
    CREATE TABLE attribute_types (
        name BLOB NOT NULL,
        attribute BLOB NOT NULL,
        type BLOB NOT NULL,
        first_seen REAL NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (name, attribute)
    ) WITHOUT ROWID;
    CREATE TABLE duplicate_keys (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        accepted_at REAL NOT NULL,
        checksum INTEGER NOT NULL
    );
    """,
    # 5: which event came with a key, and whether an attribute was seen more than once. NULL: written before, so unknown.
    """
    ALTER TABLE duplicate_keys ADD COLUMN event BLOB;
    ALTER TABLE attribute_types ADD COLUMN seen_again INTEGER;
    """,
    # 6: the kind of an event. NULL: a plain event.
    """
    ALTER TABLE events ADD COLUMN kind BLOB;
    ALTER TABLE dead_letters ADD COLUMN kind BLOB;
    """,
)

VERSION: Final = len(SCRIPTS)
_LIKELY_VERSIONS: Final = 256
"""No version will be as high. A file that says a higher one is damaged rather than newer."""

PAGE_BYTES: Final = 4096

Tables = list[tuple[Any, ...]]


def identify(connection: sqlite3.Connection, *, name: str) -> int:
    """Return the file's version, 0 if it is new. Change nothing.

    Raise DirectoryError if it is newer than this program, or another program's; AlteredError if it is not as written.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    found = _tables_in(connection)
    if application != APPLICATION_ID:
        if not found and not version:
            return 0
        if version_of(connection) is not None:
            raise AlteredError("the file's header was altered")
        raise DirectoryError(f"buffer.directory: {name} is a database of another program; name another directory")
    if VERSION < version < _LIKELY_VERSIONS:
        raise DirectoryError(
            f"buffer.directory: {name} was written by a newer growlytics-forwarder (its format is {version}, this "
            f"version knows {VERSION}); run that version, or name another directory"
        )
    if not 0 < version <= VERSION or found != tables(version):
        raise AlteredError("the file's header or its tables were altered")
    return int(version)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Migrate a file of this version to the newest one, in one transaction."""
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    _run_scripts(connection, version, VERSION)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def version_of(connection: sqlite3.Connection) -> int | None:
    """Return the version of the tables, whatever the header says; None if there is none, or they cannot be read."""
    try:
        found = _tables_in(connection)
    except sqlite3.Error:
        return None
    return next((version for version in range(1, VERSION + 1) if found == tables(version)), None)


@cache
def tables(version: int) -> Tables:
    """Return how a file of a version describes its tables, and where they begin."""
    with_tables = new_in_memory(version)
    try:
        return _tables_in(with_tables)
    finally:
        with_tables.close()


def new_in_memory(version: int = VERSION) -> sqlite3.Connection:
    """Return an empty database of a version, with the layout of a file."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.text_factory = bytes
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _run_scripts(connection, 0, version)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    return connection


def _run_scripts(connection: sqlite3.Connection, version: int, last: int) -> None:
    for script in SCRIPTS[version:last]:
        for statement in script.split(";"):
            connection.execute(statement)


def _tables_in(connection: sqlite3.Connection) -> Tables:
    statement = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master ORDER BY rowid"
    try:
        return connection.execute(statement).fetchall()
    except UnicodeDecodeError as error:  # SQLite's message quotes what it found
        raise AlteredError("the names of the tables were altered") from error
