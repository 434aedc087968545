"""Whether a daemon could use `buffer.directory`, for `check-config`. Nothing is made or written, not even for a moment.

What only trying shows, such as a disk that fails, is left to the daemon. The words are those in which the daemon says it.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from forwarder.cli.needs import Finding, doubt, problem
from forwarder.cli.own_daemon import OwnDaemon, holder_of
from forwarder.database.directory import FILE_NAME, ROOM_BYTES, Directory
from forwarder.database.files import LOCK_NAME, UnfitFileError, check_kind

SETTING: Final = "buffer.directory"
_FILES: Final = (
    LOCK_NAME,
    "reserve",
    "room",
    FILE_NAME,
    *(f"{FILE_NAME}-{each}" for each in ("wal", "shm", "journal")),
)
_MAX_PATH_BYTES: Final = 500
_MIB: Final = 1024 * 1024
_WRITABLE: Final = os.W_OK | os.X_OK


def check_directory(path: Path, *, reserve_bytes: int, own: OwnDaemon | None) -> Iterator[Finding]:
    """Yield what is wrong with the directory of a buffer on disk, which the configuration's own daemon may be using."""
    directory = Directory(path)

    def unusable(why: OSError | str) -> Finding:
        return problem(SETTING, str(directory.unusable(why)).removeprefix(f"{SETTING}: "))

    try:
        place = _place_of(path)
    except OSError as error:
        yield unusable(error)
        return
    if place is None:
        yield unusable("it is a symbolic link to nothing")
    elif not place.is_dir():
        yield unusable("it is not a directory" if place == path else f"{place} is not a directory")
    elif not os.access(place, _WRITABLE, effective_ids=True):
        why = "nothing can be created in it" if place == path else f"it cannot be made in {place}"
        yield unusable(f"{why}: {_refusal(place)}")
    elif len(os.fsencode(path.resolve() / FILE_NAME)) > _MAX_PATH_BYTES:
        yield unusable("its path is too long for SQLite")
    else:
        yield from _check_room(place, path, reserve_bytes)
        if place == path:
            yield from _check_content(path, own)


def _place_of(path: Path) -> Path | None:
    """Return the directory itself, or the nearest of those above it that exists; None if it is a link to nothing."""
    for each in (path, *path.absolute().parents):
        try:
            each.stat()
        except FileNotFoundError:
            if each.is_symlink():
                return None
        except NotADirectoryError:
            continue  # what is above it is a file, and is found next
        else:
            return each
    return None


def _refusal(place: Path) -> str:
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return os.strerror(errno.EROFS)
    return os.strerror(errno.EACCES)


def _check_room(place: Path, path: Path, reserve_bytes: int) -> Iterator[Finding]:
    """The daemon starts on a full disk, to deliver what it has; but it accepts nothing until there is room."""
    found = os.statvfs(place)
    try:
        reserved = (path / "reserve").stat().st_blocks * 512
    except OSError:
        reserved = 0
    free, needed = found.f_bavail * found.f_frsize, max(0, reserve_bytes - reserved) + ROOM_BYTES
    if free < needed:
        yield doubt(
            SETTING,
            f"the disk of {place} has {free / _MIB:.1f} MiB free, and the daemon accepts no event with less than "
            f"{needed / _MIB:.1f} MiB; make room on it, or name another directory",
        )
    if found.f_files and not found.f_favail:
        yield doubt(SETTING, f"the disk of {place} has no room for another file (no inode); make room on it")


def _check_content(path: Path, own: OwnDaemon | None) -> Iterator[Finding]:
    holder = holder_of(path)
    if holder is not None and (own is None or holder.process is None or own.process != holder.process):
        yield problem(SETTING, Directory(path).in_use())
    elif holder is None:
        yield from _check_files(path)
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        yield doubt(SETTING, f"every user of this machine may write to {path}, and so remove or add files: chmod o-w")


def _check_files(path: Path) -> Iterator[Finding]:
    users = {os.geteuid(), path.stat().st_uid}  # some file systems show the same user for all files
    for name in _FILES:
        file = path / name
        try:
            found = file.lstat()
            check_kind(file, found)
        except FileNotFoundError:
            continue
        except UnfitFileError as error:
            yield problem(SETTING, str(error))
            continue
        except OSError as error:
            yield problem(SETTING, f"{file} cannot be looked at: {error.strerror}")
            continue
        if found.st_uid not in users:
            yield problem(
                SETTING,
                f"{file} belongs to another user (uid {found.st_uid}, and this process runs as uid {os.geteuid()}); run as "
                f"that user, or give all files in the directory to this one: chown {os.geteuid()}",
            )
        elif not os.access(file, os.R_OK | os.W_OK, effective_ids=True):
            yield problem(SETTING, f"{file} may not be written: {_refusal(path)}; make it writable for this user")
