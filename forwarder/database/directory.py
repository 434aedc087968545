"""The directory that the database lives in: made, locked for one process, and with space kept in reserve.

It is held open, so that locking and the reserve concern this directory, whatever its path leads to later. `moved` tells
whether the database's file, as SQLite opened it, is still in its place. Blocking; called on the database's thread.
"""

import errno
import os
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from forwarder.database import files
from forwarder.database.files import Identity, UnfitFileError
from forwarder.database.lock import Lock, LockTakenError, NoLocksError

RESERVE_BYTES: Final = 8 * 1024 * 1024
"""Given up when not even acks can be committed: as much as the file may have to grow by when the log is written into it."""
ROOM_BYTES: Final = 2 * 1024 * 1024
"""What must be free besides, before a disk that was full counts as having room again."""

FILE_NAME: Final = "buffer.db"
_RESERVE: Final = "reserve"
_ROOM: Final = "room"
_LEAST_BYTES: Final = 4096
"""One page; SQLite would take a file that is much smaller for a new one, and forget its log."""
_MAX_PATH_BYTES: Final = 500
"""Of the file's path; SQLite takes at most 512, with the ends of its companions' names."""
_DAMAGED: Final = f"{FILE_NAME}.damaged-"
_SALVAGED: Final = f"{FILE_NAME}.salvaged-"
_COMPANIONS: Final = ("", "-wal", "-shm", "-journal")
_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM})
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOCKING: Final = frozenset({15, 22, 2058, 2314, 3594, 3850})
"""SQLITE_PROTOCOL, NOLFS, IOERR_UNLOCK, IOERR_RDLOCK, IOERR_CHECKRESERVEDLOCK, IOERR_LOCK."""
_OR_MEMORY: Final = 'or set buffer.kind = "memory"'


class DirectoryError(Exception):
    """The directory or what is in it cannot be used; the message says why, and the fix."""


class DirectoryInUseError(Exception):
    """Another process has the directory, or its file; the message says which."""


class NoRoomError(DirectoryError):
    """The disk is full, so that the directory cannot be made now."""


class Directory:
    """`path` is made if it is not there. `reserve_bytes` are kept in reserve."""

    def __init__(self, path: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.path = path
        self._reserve_bytes = reserve_bytes
        self._opened: int | None = None
        self._lock = Lock(path)
        self._found: dict[Path, Identity] = {}
        """Which files the database has open."""

    @property
    def file(self) -> Path:
        """The database's file."""
        return self.path / FILE_NAME

    def open(self) -> None:
        """Make and lock it. Raises DirectoryError, DirectoryInUseError or NoRoomError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._opened = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock.take()
            self._check_files()
            self._finish_setting_aside()
        except LockTakenError:
            self.close()
            raise DirectoryInUseError(
                f"buffer.directory: {self.path} is in use by {self._lock.holder()}; stop it, or give each process a "
                "directory of its own"
            ) from None
        except NoLocksError as error:
            self.close()
            raise self._without_locks(str(error)) from None
        except FileExistsError:
            self.close()
            raise self._no_directory() from None
        except UnfitFileError as error:
            self.close()
            raise DirectoryError(f"buffer.directory: {error}") from None
        except OSError as error:
            self.close()
            raise self.unusable(error) from None

    def _no_directory(self) -> DirectoryError:
        try:
            self.path.stat()
        except FileNotFoundError:
            return self.unusable("it is a symbolic link to nothing")
        except OSError as error:
            return self.unusable(error)
        return self.unusable("it is not a directory")

    @property
    def is_open(self) -> bool:
        """Whether it is locked for this process."""
        return self._lock.is_taken

    def close(self) -> None:
        """Let others have it. May be called again."""
        self._lock.release()
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    def unusable(self, error: Exception | str) -> DirectoryError:
        """Return the error that says that the directory cannot be used, why, and the fix."""
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        fix = "name a directory that this user may write to"
        if isinstance(error, OSError):
            if error.errno in _NO_ROOM:
                return NoRoomError(f"buffer.directory: {self.path}: {why}")
            if error.errno in _NOT_ALLOWED and str(error.filename or self.path) != str(self.path):
                why = f"{why}: {error.filename}"
            if error.errno == errno.ENAMETOOLONG:
                fix = "name a directory with a shorter path"
        elif isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", None)
            if code in _LOCKING:
                return self._without_locks(why)
            if code == sqlite3.SQLITE_FULL:
                fix = "make room on its disk, 10 MiB at least, name another directory"
            elif len(os.fsencode(self.file.resolve())) > _MAX_PATH_BYTES:
                why, fix = f"its path is too long for SQLite ({why})", "name a directory with a shorter path"
            elif self.file.exists() and not _may_use(self.file):
                why = f"{why}: {self.file} may not be written to"
        return DirectoryError(f"buffer.directory: cannot use {self.path}: {why}; {fix}, {_OR_MEMORY}")

    @property
    def is_open_to_everybody(self) -> bool:
        """Whether every user of the machine may make files in it, also where each may only remove its own."""
        return bool(self.path.stat().st_mode & 0o002)

    # What became of it while it is in use

    def note_files(self) -> None:
        """Remember which files SQLite has open now: the file and its log. Raises UnfitFileError or OSError."""
        self._found = {self.file: files.identity_of(self.file)}
        with suppress(FileNotFoundError):
            self._found[self._log] = files.identity_of(self._log)
        if not files.is_open_here(self._found[self.file]):
            raise UnfitFileError(
                f"{self.file} was replaced while it was opened; let only this user write to its directory"
            )

    @property
    def is_intact(self) -> bool:
        """Whether the database's files and the lock are in their places, which nearly every look finds."""
        return files.are_there((*self._found.items(), *self._lock.found.items()))

    def moved(self) -> str | None:
        """Return what became of the database's file if it is not in its place any more."""
        if self.file not in self._found:
            return None
        try:
            if self._found[self.file] == files.identity_of(self.file):
                return None
        except FileNotFoundError:
            return f"{self.file} was removed or renamed, or its directory was"
        except OSError as error:
            return f"{self.file} cannot be found: {error.strerror}"
        return f"{self.file} is another file now"

    @property
    def has_lost_its_log(self) -> bool:
        """Whether the log that SQLite writes to is not in its place any more."""
        try:
            return self._log in self._found and self._found[self._log] != files.identity_of(self._log)
        except OSError:
            return True

    def disown_log(self) -> None:
        """Remove the log's name, or it would be applied to the other file that is in the database's place now."""
        if not self.has_lost_its_log and self.file.exists():
            self._log.unlink(missing_ok=True)

    def lock_again(self) -> bool:
        """Take the lock again if its file is gone; return whether that was so. Raises DirectoryError or OSError."""
        try:
            return self._lock.take_again()
        except NoLocksError as error:
            raise self._without_locks(str(error)) from None
        except UnfitFileError as error:
            raise DirectoryError(str(error)) from None

    def _without_locks(self, why: str) -> DirectoryError:
        return DirectoryError(
            f"buffer.directory: cannot use {self.path}: files on its file system cannot be locked ({why}), as on NFS "
            f"without a lock service; name a directory on a local disk, {_OR_MEMORY}"
        )

    def _check_files(self) -> None:
        """Check what is there of the files that are to be used. Raises UnfitFileError or OSError."""
        names = [_RESERVE, _ROOM, *(f"{FILE_NAME}{suffix}" for suffix in _COMPANIONS)]
        for path in (*(self.path / name for name in names), *self.path.glob(f"{FILE_NAME}.*-*")):
            if path.name in names or path.name.startswith((_DAMAGED, _SALVAGED)):
                files.check(path)

    # Space

    def reserve(self) -> None:
        """Take up the space in reserve, unless it is there. Raises OSError if there is no room for it."""
        if not self.has_reserve:
            self._allocate(_RESERVE, self._reserve_bytes)

    @property
    def has_room(self) -> bool:
        """Whether there is some room besides the reserve."""
        try:
            self._allocate(_ROOM, ROOM_BYTES)
            os.unlink(_ROOM, dir_fd=self._descriptor)
        except OSError:
            return False
        return True

    @property
    def has_reserve(self) -> bool:
        """Whether the space in reserve is taken up."""
        try:
            found = os.stat(_RESERVE, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return found.st_size >= self._reserve_bytes

    def give_up_reserve(self) -> bool:
        """Let the space in reserve be used; return whether there was any."""
        try:
            os.unlink(_RESERVE, dir_fd=self._descriptor)
        except OSError:
            return False
        return True

    @property
    def is_writable(self) -> bool:
        """Whether the database's file may be written to, as far as its permissions and its file system say."""
        return _may_use(self.path) and (not self.file.exists() or _may_use(self.file))

    @property
    def has_lost_its_file(self) -> bool:
        """Whether there was a file, of which next to nothing is left, or only its log.

        An empty file without a log is a new one: SQLite makes it so, and a process may be killed before it writes to it.
        """
        file, log = map(_size_of, (self.file, self._log))
        return file < _LEAST_BYTES and bool(file or log)

    @property
    def has_no_data(self) -> bool:
        """Whether there is nothing of a database in it, neither a file with more than its head nor a damaged one."""
        file, log = map(_size_of, (self.file, self._log))
        return file <= _LEAST_BYTES and not log and not self.has_lost_its_file and not self.damaged()

    def set_aside(self) -> str:
        """Rename the database's file, with its log, so that the name says that it is damaged; return the new name."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        name = f"{_DAMAGED}{stamp}"
        with suppress(FileNotFoundError):
            self.file.rename(self.path / name)
        self._set_aside_companions(name)
        self._found.clear()
        return name

    def damaged(self) -> list[str]:
        """Return the names of the files that were set aside and not yet salvaged, oldest first."""
        return sorted(path.name for path in self.path.glob(f"{_DAMAGED}*") if not path.name.endswith(_COMPANIONS[1:]))

    def mark_salvaged(self, name: str) -> None:
        """Rename a damaged file as done with, unless that was done. Only the newest of those is kept."""
        if not (self.path / name).exists():
            return
        for old in self.path.glob(f"{_SALVAGED}*"):
            old.unlink(missing_ok=True)
        for suffix in _COMPANIONS[1:]:
            (self.path / f"{name}{suffix}").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            (self.path / name).rename(self.path / name.replace(_DAMAGED, _SALVAGED))

    def _set_aside_companions(self, name: str) -> None:
        for suffix in _COMPANIONS[1:]:
            with suppress(FileNotFoundError):
                Path(f"{self.file}{suffix}").rename(self.path / f"{name}{suffix}")

    def _finish_setting_aside(self) -> None:
        """Rename the log of a file that was set aside, if the process was killed between the two."""
        damaged = [name for name in self.damaged() if not (self.path / f"{name}-wal").exists()]
        if damaged and not self.file.exists():
            self._set_aside_companions(damaged[-1])

    @property
    def _log(self) -> Path:
        return Path(f"{self.file}-wal")

    @property
    def _descriptor(self) -> int:
        if self._opened is None:
            raise OSError(errno.EBADF, "the directory is closed")
        return self._opened

    def _allocate(self, name: str, size: int) -> None:
        """Make a file that takes up so much of the disk. Raises OSError, and there is no file, if there is no room."""
        flags = os.O_WRONLY | os.O_CREAT | files.OPEN_FLAGS
        file = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        try:
            os.posix_fallocate(file, 0, size)
        except OSError:
            os.unlink(name, dir_fd=self._descriptor)
            raise
        finally:
            os.close(file)


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK, effective_ids=True)


def _size_of(path: Path) -> int:
    """Return how large a file is; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
