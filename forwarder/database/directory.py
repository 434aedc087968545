"""The directory that the database lives in: made, locked for one process, and with space kept in reserve.

Blocking; called on the database's thread.
"""

import fcntl
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

RESERVE_BYTES: Final = 8 * 1024 * 1024
"""Given up when not even acks can be committed: as much as the file may have to grow by when the log is written into it."""
ROOM_BYTES: Final = 2 * 1024 * 1024
"""What must be free besides, before a disk that was full counts as having room again."""

FILE_NAME: Final = "buffer.db"
_LEAST_BYTES: Final = 4096
"""One page; SQLite would take a file that is much smaller for a new one, and forget its log."""
_DAMAGED: Final = f"{FILE_NAME}.damaged-"
_SALVAGED: Final = f"{FILE_NAME}.salvaged-"
_COMPANIONS: Final = ("", "-wal", "-shm", "-journal")


class DirectoryError(Exception):
    """The directory or what is in it cannot be used; the message says why, and the mend."""


class DirectoryInUseError(Exception):
    """Another process has the directory; the message says which."""


class Directory:
    """`path` is made if it is not there. `reserve_bytes` are kept in reserve."""

    def __init__(self, path: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.path = path
        self._reserve_bytes = reserve_bytes
        self._lock: int | None = None

    @property
    def file(self) -> Path:
        """The database's file."""
        return self.path / FILE_NAME

    def open(self) -> None:
        """Make and lock it. Raises DirectoryError or DirectoryInUseError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise self.unusable("it is not a directory") from None
        except OSError as error:
            raise self.unusable(error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
            os.close(lock)
            who = f"process {holder}" if holder.isdecimal() else "another process"
            raise DirectoryInUseError(
                f"buffer.directory: {self.path} is in use by {who}; stop it, or give each process a directory of its own"
            ) from None
        except OSError as error:
            os.close(lock)
            raise self.unusable(error) from None
        self._lock = lock
        with suppress(OSError):  # a full disk: only the name of the holder would be missing
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        try:
            self._finish_setting_aside()
        except OSError as error:
            self.close()
            raise self.unusable(error) from None

    def close(self) -> None:
        """Let others have it. May be called again."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def unusable(self, error: Exception | str) -> DirectoryError:
        """Return the error that says that the directory cannot be used."""
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        return DirectoryError(
            f"buffer.directory: cannot use {self.path}: {why}; name a directory that this user may write to, "
            'or set buffer.kind = "memory"'
        )

    def reserve(self) -> None:
        """Take up the space in reserve, unless it is there. Raises OSError if there is no room for it."""
        if not self.has_reserve:
            _allocate(self._reserve, self._reserve_bytes)

    @property
    def has_room(self) -> bool:
        """Whether there is some room besides the reserve."""
        proof = self.path / "room"
        try:
            _allocate(proof, ROOM_BYTES)
            proof.unlink()
        except OSError:
            return False
        return True

    @property
    def has_reserve(self) -> bool:
        """Whether the space in reserve is taken up."""
        try:
            return self._reserve.stat().st_size >= self._reserve_bytes
        except OSError:
            return False

    def give_up_reserve(self) -> bool:
        """Let the space in reserve be used; return whether there was any."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True

    @property
    def is_writable(self) -> bool:
        """Whether the database's file may be written to, as far as its permissions and its file system say."""
        return os.access(self.path, os.W_OK) and (not self.file.exists() or os.access(self.file, os.W_OK))

    @property
    def has_lost_its_file(self) -> bool:
        """Whether there was a file, of which next to nothing is left, or only its log."""
        try:
            return self.file.stat().st_size < _LEAST_BYTES
        except FileNotFoundError:
            return self._log.exists()

    def set_aside(self) -> str:
        """Rename the database's file, with its log, so that the name says that it is damaged; return the new name."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        name = f"{_DAMAGED}{stamp}"
        with suppress(FileNotFoundError):
            self.file.rename(self.path / name)
        self._set_aside_companions(name)
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
    def _reserve(self) -> Path:
        return self.path / "reserve"


def _allocate(path: Path, size: int) -> None:
    """Make a file that takes up so much of the disk. Raises OSError, and there is no file, if there is no room for it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
