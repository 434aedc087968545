"""The directory of the database: made, locked for one process, and with space kept in reserve.

It is held open, so that locking and the reserve concern this directory, whatever its path leads to later. `moved` says
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
from forwarder.database.files import LOCK_NAME, Identity, Lock, LockTakenError, NoLocksError, UnfitFileError

RESERVE_BYTES: Final = 8 * 1024 * 1024
"""Removed when not even acks can be committed: as much as the file may have to grow by when the log is written into it."""
ROOM_BYTES: Final = 2 * 1024 * 1024
"""What must be free besides the reserve, before a disk that was full counts as having room again."""

FILE_NAME: Final = "buffer.db"
_RESERVE: Final = "reserve"
_ROOM: Final = "room"
_LEAST_BYTES: Final = 4096
"""One page. SQLite takes a file that is much smaller for a new one, and ignores its log."""
_MAX_PATH_BYTES: Final = 500
"""Of the file's path. SQLite takes at most 512, with the suffixes of its companions."""
_DAMAGED: Final = f"{FILE_NAME}.damaged-"
_SALVAGED: Final = f"{FILE_NAME}.salvaged-"
_COMPANIONS: Final = ("", "-wal", "-shm", "-journal")
_PART_BYTES: Final = 1024 * 1024
_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM})
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOCKING: Final = frozenset({15, 22, 2058, 2314, 3594, 3850})
"""SQLITE_PROTOCOL, NOLFS, IOERR_UNLOCK, IOERR_RDLOCK, IOERR_CHECKRESERVEDLOCK, IOERR_LOCK."""
_FIX: Final = "name a directory that this user may write to"
_OR_MEMORY: Final = 'or set buffer.kind = "memory"'


class DirectoryError(Exception):
    """The directory or what is in it cannot be used. The message says why, and the fix."""


class DirectoryInUseError(Exception):
    """Another process uses the directory, or its file. The message says which."""


class NoRoomError(DirectoryError):
    """The disk is too full to make the directory now."""


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
        """Make and lock it. Raise DirectoryError, DirectoryInUseError or NoRoomError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._opened = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock.take()
            self._check_files()
            self._finish_quarantine()
        except LockTakenError:
            self.close()
            raise DirectoryInUseError(f"buffer.directory: {self.in_use()}") from None
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

    def in_use(self) -> str:
        """Return who says that it uses the directory, and the fix."""
        return f"{self.path} is in use by {self._lock.holder()}; stop it, or give each process a directory of its own"

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
        """Unlock it. May be called again."""
        self._lock.release()
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    def unusable(self, error: Exception | str) -> DirectoryError:
        """Return the error that says why the directory cannot be used, and the fix."""
        why, fix = (isinstance(error, OSError) and error.strerror) or str(error), _FIX
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return NoRoomError(f"buffer.directory: {self.path}: {why}")
        if isinstance(error, (OSError, sqlite3.Error)) and (refused := self._refused()):
            why, fix = refused
        elif isinstance(error, OSError):
            if error.errno in _NOT_ALLOWED and str(error.filename or self.path) != str(self.path):
                why = f"{why}: {error.filename}"
            if error.errno == errno.ENAMETOOLONG:
                fix = "name a directory with a shorter path"
        elif isinstance(error, sqlite3.Error):
            if getattr(error, "sqlite_errorcode", None) in _LOCKING:
                return self._without_locks(why)
            why, fix = self._told_by_sqlite(error)
        return DirectoryError(f"buffer.directory: cannot use {self.path}: {why}; {fix}, {_OR_MEMORY}")

    def _told_by_sqlite(self, error: sqlite3.Error) -> tuple[str, str]:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return str(error), "make room on its disk, 10 MiB at least, name another directory"
        if len(os.fsencode(self.file.resolve())) > _MAX_PATH_BYTES:
            return f"its path is too long for SQLite ({error})", "name a directory with a shorter path"
        if self.is_full:
            return "its disk has no room for another file", "make room on it, name another directory"
        return str(error), _FIX

    def _refused(self) -> tuple[str, str] | None:
        """Return what may not be written in it, and the fix; None if everything may."""
        if not os.path.isdir(self.path):  # noqa: PTH112 - pathlib raises if the name is too long, or links go in a circle
            return None
        if error := _refusal(self.path):
            return f"nothing can be created in it: {_reason(error)}", _FIX
        for path in (self.path / LOCK_NAME, self.file, self._log):
            if error := _refusal(path):
                return (
                    f"{path} may not be written: {_reason(error)}",
                    "make it writable for this user, name another directory",
                )
        return None

    @property
    def is_open_to_everybody(self) -> bool:
        """Whether every user of the machine may make files in it, even if each may remove only its own."""
        return bool(self.path.stat().st_mode & 0o002)

    # Changes by others

    def note_files(self) -> None:
        """Remember which files SQLite has open now: the file and its log. Raise UnfitFileError or OSError."""
        self._found = {self.file: files.identity_of(self.file)}
        with suppress(FileNotFoundError):
            self._found[self._log] = files.identity_of(self._log)
        if not files.is_open_here(self._found[self.file]):
            raise UnfitFileError(
                f"{self.file} was replaced while it was opened; let only this user write to its directory"
            )

    @property
    def is_intact(self) -> bool:
        """Whether the database's files and the lock are in their places, as nearly always."""
        return files.are_there((*self._found.items(), *self._lock.found.items()))

    def moved(self) -> str | None:
        """Return what happened to the database's file; None if it is in its place."""
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
        """Remove the log's name. Otherwise SQLite would apply it to the other file that is in the database's place now."""
        if not self.has_lost_its_log and self.file.exists():
            self._log.unlink(missing_ok=True)

    def lock_again(self) -> bool:
        """Take the lock again if its file is gone; return whether it was. Raise DirectoryError or OSError."""
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
        """Check those files to be used that exist. Raise UnfitFileError or OSError."""
        names = [_RESERVE, _ROOM, *(f"{FILE_NAME}{suffix}" for suffix in _COMPANIONS)]
        for path in (*(self.path / name for name in names), *self.path.glob(f"{FILE_NAME}.*-*")):
            if path.name in names or path.name.startswith((_DAMAGED, _SALVAGED)):
                files.check(path)
        for path in (self.file, self._log):  # SQLite would report a lock that fails, or damage
            if error := _refusal(path):
                raise error

    # Space

    def reserve(self) -> None:
        """Make the reserve, unless it is there. Raise OSError if there is no room for it."""
        if not self.has_reserve:
            self._allocate(_RESERVE, self._reserve_bytes)

    @property
    def has_room(self) -> bool:
        """Whether the disk has some room besides the reserve."""
        try:
            self._allocate(_ROOM, ROOM_BYTES)
            os.unlink(_ROOM, dir_fd=self._descriptor)
        except OSError:
            return False
        return True

    @property
    def is_full(self) -> bool:
        """Whether the disk has no room for another file, however small."""
        try:
            self._allocate(_ROOM, 1)
            os.unlink(_ROOM, dir_fd=self._descriptor)
        except OSError as error:
            return error.errno in _NO_ROOM
        return False

    @property
    def has_reserve(self) -> bool:
        """Whether the reserve is there."""
        try:
            found = os.stat(_RESERVE, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return found.st_size >= self._reserve_bytes

    def free_reserve(self) -> bool:
        """Remove the reserve, so that its space can be used; return whether there was one."""
        try:
            os.unlink(_RESERVE, dir_fd=self._descriptor)
        except OSError:
            return False
        return True

    @property
    def is_writable(self) -> bool:
        """Whether permissions and file system allow writing to the database's file."""
        return all(_may_use(path) for path in (self.path, self.file, self._log) if path.exists())

    @property
    def has_lost_its_file(self) -> bool:
        """Whether a file was there, of which next to nothing is left, or only its log.

        An empty file without a log is new: SQLite makes it so, and a process may be killed before it writes to it.
        """
        file, log = map(_size_of, (self.file, self._log))
        return file < _LEAST_BYTES and bool(file or log)

    @property
    def has_no_data(self) -> bool:
        """Whether it holds no database: no damaged file, and none with more than its first page."""
        file, log = map(_size_of, (self.file, self._log))
        return file <= _LEAST_BYTES and not log and not self.has_lost_its_file and not self.damaged()

    def quarantine(self) -> str:
        """Rename the damaged file and its log, so that the name says that it is damaged; return the new name."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        name = f"{_DAMAGED}{stamp}"
        with suppress(FileNotFoundError):
            self.file.rename(self.path / name)
        self._quarantine_companions(name)
        self._found.clear()
        return name

    def damaged(self) -> list[str]:
        """Return the names of the quarantined files that are not yet salvaged, oldest first."""
        return sorted(path.name for path in self.path.glob(f"{_DAMAGED}*") if not path.name.endswith(_COMPANIONS[1:]))

    def mark_salvaged(self, name: str) -> None:
        """Rename a damaged file as salvaged, unless that was done. Only the newest of those is kept."""
        if not (self.path / name).exists():
            return
        for old in self.path.glob(f"{_SALVAGED}*"):
            old.unlink(missing_ok=True)
        for suffix in _COMPANIONS[1:]:
            (self.path / f"{name}{suffix}").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            (self.path / name).rename(self.path / name.replace(_DAMAGED, _SALVAGED))

    def remove_damaged(self, name: str) -> None:
        """Remove a damaged file that is salvaged, in place of keeping it, and the one that was kept before."""
        for path in self.path.glob(f"{_SALVAGED}*"):
            path.unlink(missing_ok=True)
        for suffix in reversed(_COMPANIONS):  # the file itself last: without it nobody looks for the others
            (self.path / f"{name}{suffix}").unlink(missing_ok=True)

    def salvaged(self) -> list[str]:
        """Return the names of the salvaged files that are kept."""
        return sorted(path.name for path in self.path.glob(f"{_SALVAGED}*"))

    def remove_salvaged(self, name: str) -> None:
        """Remove a salvaged file."""
        (self.path / name).unlink(missing_ok=True)

    def contains(self, name: str, content: bytes) -> bool:
        """Return whether a file, or one of its companions, contains these bytes anywhere."""
        return any(_contains(self.path / f"{name}{suffix}", content) for suffix in _COMPANIONS)

    def _quarantine_companions(self, name: str) -> None:
        for suffix in _COMPANIONS[1:]:
            with suppress(FileNotFoundError):
                Path(f"{self.file}{suffix}").rename(self.path / f"{name}{suffix}")

    def _finish_quarantine(self) -> None:
        """Rename the log of a quarantined file, if the process was killed before it was renamed."""
        damaged = [name for name in self.damaged() if not (self.path / f"{name}-wal").exists()]
        if damaged and not self.file.exists():
            self._quarantine_companions(damaged[-1])

    @property
    def _log(self) -> Path:
        return Path(f"{self.file}-wal")

    @property
    def _descriptor(self) -> int:
        if self._opened is None:
            raise OSError(errno.EBADF, "the directory is closed")
        return self._opened

    def _allocate(self, name: str, size: int) -> None:
        """Make a file that takes up so much of the disk. If there is no room, make none and raise OSError."""
        flags = os.O_WRONLY | os.O_CREAT | files.OPEN_FLAGS
        file = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        try:
            os.posix_fallocate(file, 0, size)
        except OSError:
            os.unlink(name, dir_fd=self._descriptor)
            raise
        finally:
            os.close(file)


def _contains(path: Path, content: bytes) -> bool:
    with suppress(FileNotFoundError), path.open("rb") as file:
        before = b""
        while part := file.read(_PART_BYTES):
            if content in before + part:
                return True
            before = part[-len(content) :]
    return False


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK, effective_ids=True)


def _refusal(path: Path) -> OSError | None:
    """Return why a file, or into a directory, may not be written; None if it may, or if it does not exist."""
    if _may_use(path) or not path.exists():
        return None
    try:
        if path.is_dir():
            probe = path / f".probe-{os.getpid()}"
            probe.mkdir()
            probe.rmdir()
        else:
            os.close(os.open(path, os.O_RDWR | files.OPEN_FLAGS))
    except OSError as error:
        return error
    return None


def _reason(error: OSError) -> str:
    return (
        f"{error.strerror} (it may be immutable, as lsattr shows)"
        if error.errno == errno.EPERM
        else f"{error.strerror}"
    )


def _size_of(path: Path) -> int:
    """Return the size of a file, in bytes; 0 if it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
