"""Which files of the buffer's directory may be used: plain files of this user, and no symbolic links.

Otherwise another user who may write to the directory could make the daemon write into any file of its own user. Blocking;
used by this room alone.
"""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

OPEN_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Follow no link, and do not wait for what is no plain file."""

Identity = tuple[int, int]
"""Device and inode: two names with the same are one file."""

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
    for is_kind, what in _KINDS:
        if is_kind(found.st_mode):
            raise UnfitFileError(f"{path} {what}")
    user = os.geteuid()
    if found.st_uid != user and found.st_uid != _owner_of_new_files(path.parent, user):
        raise UnfitFileError(
            f"{path} belongs to another user (uid {found.st_uid}, and this process runs as uid {user}); run as that user, "
            f"or give all files in the directory to this one: chown {user}"
        )


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
