"""Which files of the buffer's directory may be used, and the lock on it.

Plain files of this user may be, and no symbolic links. Otherwise another user who may write to the directory could make the
daemon write into any file of its own user.

The lock is a file that one process at a time locks, and writes its id into. The kernel unlocks it when the process ends,
however that ends. Blocking; used by this room alone.
"""

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

OPEN_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Follow no link, and do not wait for what is no plain file."""

Identity = tuple[int, int]
"""Device and inode: two names with the same are one file."""

LOCK_NAME: Final = "lock"
_TRIES: Final = 4
_PAUSE_SECONDS: Final = 0.05
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

_KINDS: Final = (
    (stat.S_ISLNK, "is a symbolic link, which is not followed; remove it, or put the file itself in its place"),
    (stat.S_ISDIR, "is a directory; remove or rename it"),
    (stat.S_ISFIFO, "is a named pipe; remove it"),
    (stat.S_ISSOCK, "is a socket; remove it"),
    (stat.S_ISBLK, "is a device; remove it"),
    (stat.S_ISCHR, "is a device; remove it"),
)


class UnfitFileError(Exception):
    """What is in the place of a file must not be used. The message names it, and says the fix."""


def check(path: Path) -> None:
    """Raise UnfitFileError if what is there must not be used; nothing there is fine. Raise OSError."""
    with suppress(FileNotFoundError):
        judge(path, path.lstat())


def judge(path: Path, found: os.stat_result) -> None:
    """Raise UnfitFileError if a file found in this place must not be used."""
    check_kind(path, found)
    user = os.geteuid()
    if found.st_uid != user and found.st_uid != _owner_of_new_files(path.parent, user):
        raise UnfitFileError(
            f"{path} belongs to another user (uid {found.st_uid}, and this process runs as uid {user}); run as that user, "
            f"or give all files in the directory to this one: chown {user}"
        )


def check_kind(path: Path, found: os.stat_result) -> None:
    """Raise UnfitFileError if what was found in this place is no plain file."""
    for is_kind, what in _KINDS:
        if is_kind(found.st_mode):
            raise UnfitFileError(f"{path} {what}")


def identity_of(path: Path) -> Identity:
    """Return which file is there, without following a link. Raise OSError."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def are_there(found: Iterable[tuple[Path, Identity]]) -> bool:
    """Return whether all these files are where they were found."""
    try:
        for path, identity in found:
            here = path.lstat()
            if (here.st_dev, here.st_ino) != identity:
                return False
    except OSError:
        return False
    return True


def is_open_here(identity: Identity) -> bool:
    """Return whether this process has the file open; True if the system does not say."""
    try:
        names = list(Path("/proc/self/fd").iterdir())
    except OSError:
        return True
    for name in names:
        with suppress(OSError):  # the descriptor of the listing itself is closed
            found = os.fstat(int(name.name))
            if (found.st_dev, found.st_ino) == identity:
                return True
    return False


def _owner_of_new_files(directory: Path, user: int) -> int:
    """Return the owner of a file that this process makes there: some file systems (NFS, CIFS) say another user."""
    probe = directory / f".owner-{os.getpid()}"
    try:
        file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600)
    except OSError:
        return user
    try:
        return os.fstat(file).st_uid
    finally:
        os.close(file)
        probe.unlink()


class LockTakenError(Exception):
    """Another process has the lock."""


class NoLocksError(Exception):
    """The file system has no locks. The message is the system's."""


class Lock:
    """The lock in a directory. `pause` waits for so many seconds."""

    def __init__(self, directory: Path, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._path = directory / LOCK_NAME
        self._pause = pause
        self._file: int | None = None
        self.found: dict[Path, Identity] = {}
        """The locked file, if one is."""

    @property
    def is_taken(self) -> bool:
        """Whether this process has it."""
        return self._file is not None

    def take(self) -> None:
        """Take it. Raise LockTakenError, NoLocksError, UnfitFileError or OSError."""
        check(self._path)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600)
        try:
            opened = os.fstat(file)
            judge(self._path, opened)
            self._lock(file)
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

    def _lock(self, file: int) -> None:
        """Lock a file. Try it for a moment: so long `check-config` has the lock, to see whether anybody has it."""
        for _ in range(_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            self._pause(_PAUSE_SECONDS)
        raise LockTakenError

    def take_again(self) -> bool:
        """Take it again if its file was removed or replaced; return whether it was. Raise as `take` does.

        If another process has locked the new file, return False: SQLite's own lock on the database keeps that process out.
        """
        assert self._file is not None
        if are_there(self.found.items()):
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
            file = os.open(self._path, os.O_RDONLY | OPEN_FLAGS)
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
