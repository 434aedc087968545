"""How many events wait in buffer directories that this process does not use.

Nothing is changed or locked, as another process may use them; SQLite could not promise that. The number is the ledger's,
which is one row on one page: the newest committed one, from the write-ahead log or the file. Call it before this process
opens a database, because closing a file removes all locks that the process has on it. Blocking.
"""

import asyncio
import os
import sqlite3
import stat
import struct
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from forwarder.database import files, ledger, schema
from forwarder.database.directory import FILE_NAME
from forwarder.database.files import LOCK_NAME
from forwarder.database.schema import PAGE_BYTES
from forwarder.host.threads import NoThreadError, in_own_thread
from forwarder.settings import BufferSettings

_ANSWER_SECONDS: Final = 2.0
"""A file system that does not answer must not delay the start longer."""
_LOG_HEADER_BYTES: Final = 32
_FRAME_HEADER: Final = struct.Struct(">II8s")
"""The page's number; not 0 for the last frame of a transaction; the salts, which differ each time the log starts anew."""
_FRAME_BYTES: Final = 24 + PAGE_BYTES


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """Events that wait in a directory."""

    directory: Path
    events: int
    in_use: bool
    """Whether another process uses the directory, as far as the system says."""


def left_behind(settings: BufferSettings, *, state_directory: str) -> list[LeftBehind]:
    """Return where events wait that a process with these settings does not deliver.

    With a buffer in memory look into the directory of the settings; with one on disk into the default one and systemd's, and
    leave out what another process uses.
    """
    if settings.kind == "memory":
        found = [look_at(Path(settings.directory))]
    else:
        default = attrs.fields(BufferSettings).directory.default
        used = Path(settings.directory)
        others = {Path(each) for each in (state_directory, default) if each}
        found = [look_at(other) for other in others if not _is_same(other, used)]
    return [each for each in found if each is not None and (settings.kind == "memory" or not each.in_use)]


def look_at(directory: Path) -> LeftBehind | None:
    """Return what waits there; None if nothing does, or if it cannot be read."""
    with suppress(OSError, sqlite3.Error, ValueError, KeyError, StopIteration):
        if events := _events_in(directory / FILE_NAME):
            return LeftBehind(directory, events, _is_locked(directory / LOCK_NAME))
    return None


def _events_in(path: Path) -> int:
    with ExitStack() as opened:
        pages = _Pages(path, opened)
        first = pages.read(1)
        application, version = struct.unpack_from(">I", first, 68)[0], struct.unpack_from(">I", first, 60)[0]
        if application != schema.APPLICATION_ID or not 0 < version <= schema.VERSION:
            return 0
        root = next(table[3] for table in schema.tables(version) if table[:2] == (b"table", b"ledger"))
        page = pages.read(root)
    connection = schema.new_in_memory(version)
    try:
        image = bytearray(connection.serialize())
        image[(root - 1) * PAGE_BYTES : root * PAGE_BYTES] = page
        connection.deserialize(bytes(image))
        return ledger.load(connection)["buffered"]
    finally:
        connection.close()


class _Pages:
    """The committed pages of a file."""

    def __init__(self, path: Path, opened: ExitStack) -> None:
        self._file = _open(path, opened)
        self._in_log: dict[int, int] = {}
        """Where in the log the newest content of a page is."""
        with suppress(FileNotFoundError):
            self._log = _open(Path(f"{path}-wal"), opened)
            self._read_log()

    def read(self, number: int) -> bytes:
        """Return a page, given by its number from 1. Raise ValueError if it is not there."""
        if number in self._in_log:
            page = os.pread(self._log, PAGE_BYTES, self._in_log[number])
        else:
            page = os.pread(self._file, PAGE_BYTES, (number - 1) * PAGE_BYTES)
        if len(page) != PAGE_BYTES:
            raise ValueError("the file is too short")
        return page

    def _read_log(self) -> None:
        salts = os.pread(self._log, _LOG_HEADER_BYTES, 0)[16:24]
        uncommitted: dict[int, int] = {}
        at = _LOG_HEADER_BYTES
        while len(head := os.pread(self._log, _FRAME_HEADER.size, at)) == _FRAME_HEADER.size:
            number, ends, frame_salts = _FRAME_HEADER.unpack(head)
            if frame_salts != salts:
                return
            uncommitted[number] = at + 24
            if ends:
                self._in_log |= uncommitted
                uncommitted.clear()
            at += _FRAME_BYTES


async def look_elsewhere(settings: BufferSettings) -> list[LeftBehind]:
    """Return what `left_behind` finds; nothing if a file system does not answer in time."""
    state_directory = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    look = partial(left_behind, settings, state_directory=state_directory)
    with suppress(TimeoutError, NoThreadError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await in_own_thread(look, name="events elsewhere")
    return []


def _open(path: Path, opened: ExitStack) -> int:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("not a plain file")
    descriptor = os.open(path, os.O_RDONLY | files.OPEN_FLAGS)
    opened.callback(os.close, descriptor)
    return descriptor


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    return one == other


def _is_locked(path: Path) -> bool:
    """Return whether a process has the file locked, by /proc/locks, because to try would be to lock it."""
    try:
        found = path.stat()
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
    name = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(name in line.split() for line in locks.splitlines())
