"""The lock on the buffer's directory: a file that one process at a time locks, and writes its id into.

The kernel unlocks it when the process ends, however that ends. Blocking; used by `directory` alone.
"""

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from forwarder.database import files
from forwarder.database.files import Identity

LOCK_NAME: Final = "lock"
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class LockTakenError(Exception):
    """Another process has the lock."""


class NoLocksError(Exception):
    """The file system has no locks. The message is the system's."""


class Lock:
    """The lock in a directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_NAME
        self._file: int | None = None
        self.found: dict[Path, Identity] = {}
        """The locked file, if one is."""

    @property
    def is_taken(self) -> bool:
        """Whether this process has it."""
        return self._file is not None

    def take(self) -> None:
        """Take it. Raise LockTakenError, NoLocksError, UnfitFileError or OSError."""
        files.check(self._path)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | files.OPEN_FLAGS, 0o600)
        try:
            opened = os.fstat(file)
            files.judge(self._path, opened)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise LockTakenError from None
        except OSError as error:
            os.close(file)
            if error.errno in _NO_LOCKS:
                raise NoLocksError(error.strerror) from None
            raise
        except BaseException:
            os.close(file)
            raise
        self.release()
        self._file, self.found = file, {self._path: (opened.st_dev, opened.st_ino)}
        with suppress(OSError):  # on a full disk only the name of the holder is missing
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()} {socket.gethostname()}".encode(), 0)

    def take_again(self) -> bool:
        """Take it again if its file was removed or replaced; return whether it was. Raise as `take` does.

        If another process has locked the new file, return False: SQLite's own lock on the database keeps that process out.
        """
        assert self._file is not None
        if files.are_there(self.found.items()):
            return False
        try:
            self.take()
        except LockTakenError:
            return False
        return True

    def holder(self) -> str:
        """Return in words which process says that it has the lock."""
        words: list[str] = []
        with suppress(OSError):
            file = os.open(self._path, os.O_RDONLY | files.OPEN_FLAGS)
            try:
                words = os.pread(file, 300, 0).decode("utf-8", "replace").split()
            finally:
                os.close(file)
        if not words or not words[0].isdecimal():
            return "another process"
        if len(words) == 1 or words[1] == socket.gethostname():
            return f"process {words[0]}"
        return f"process {words[0]} on host {words[1]!r}, which is another machine or container"

    def release(self) -> None:
        """Unlock it. May be called again."""
        if self._file is not None:
            os.close(self._file)
            self._file, self.found = None, {}
