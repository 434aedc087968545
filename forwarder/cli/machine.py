"""Checks of this machine: the disk of the buffer's directory, and how many files may be open.

The disk is tried with a file of its own, which is removed at once; nothing of the daemon's is opened or changed. A disk that
hangs ends a check at its deadline, and then keeps nobody: the work goes on in a thread that the process does not wait for.
Used by `diagnosis`.
"""

import errno
import os
import resource
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from forwarder.cli.checks import Checked, milliseconds
from forwarder.cli.streams import within
from forwarder.settings import Settings
from forwarder.text import printable

_SLOW_SECONDS: Final = 0.1
_WRITES: Final = 3
_WRITTEN: Final = b"\0" * 4096
_FILES: Final = ("buffer.db", "buffer.db-wal", "buffer.db-shm", "lock", "reserve")
_RESERVED_FILES: Final = 256
_ACCEPTED_AT_ONCE: Final = 128
_SHOWN_OF_STATUS: Final = frozenset({"State", "Uid", "Threads", "VmRSS", "VmSwap", "voluntary_ctxt_switches"})
_MAX_THREADS: Final = 100
_MANY: Final = 0.8
"""The share of the limit of open files that is a warning."""


class Disk(NamedTuple):
    """What was found of a directory and its disk."""

    directory: str
    exists: bool
    free_bytes: int
    free_files: int | None
    """None if the file system has no limit of files."""
    is_read_only: bool
    owner: int
    mode: int
    taken_bytes: int
    """What the buffer's files take already."""
    foreign: tuple[str, ...] = ()
    """Files of the buffer that belong to another user than the directory."""
    fsync_seconds: float | None = None
    """The longest of a few; None if nothing could be written."""
    error: int | None = None
    """The system's number for why nothing could be written."""


def check_disk(settings: Settings, *, seconds: float, daemon_runs: bool = False) -> Iterator[Checked]:
    """Try the disk of buffer.directory. If a daemon runs, it may write there, whatever this user may."""
    directory = settings.buffer.directory
    if settings.buffer.kind == "memory":
        yield Checked("disk", "skip", "buffer.kind is memory, so no disk is used")
        return
    name = printable(directory, 200)
    try:
        disk = within(seconds, partial(_look, Path(directory)), name="disk")
    except TimeoutError:
        text = f"the disk of {name} does not answer within {seconds:.3g} s"
        yield Checked(
            "disk", "fail", text, "look at the mount and the kernel's log (dmesg): the disk or its server hangs"
        )
        return
    except OSError as error:
        text = f"{name} cannot be looked at: {error.strerror}"
        if daemon_runs and error.errno == errno.EACCES:
            yield Checked("disk", "skip", f"{text}: this user ({_user(os.geteuid())}) may not, but a daemon runs")
            return
        yield Checked("disk", "fail", text, "correct buffer.directory, or run this as the daemon's user or root")
        return
    yield _access(disk, name, daemon_runs=daemon_runs)
    if disk.exists and not disk.is_read_only:
        yield _space(disk, name, settings)
    if disk.fsync_seconds is not None:
        yield _speed(disk, fsync=settings.buffer.fsync)


def _look(directory: Path) -> Disk:
    exists = directory.is_dir()
    place = directory
    if not exists:
        place = next(each for each in (directory, *directory.absolute().parents) if os.path.lexists(each))
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{printable(str(place), 200)} is not a directory")
    space, found = os.statvfs(place), place.stat()
    taken, foreign = 0, []
    for name in _FILES:
        with suppress(OSError):
            file = (directory / name).lstat()
            taken += file.st_size
            if file.st_uid != found.st_uid:
                foreign.append(name)
    disk = Disk(
        str(place),
        exists,
        space.f_bavail * space.f_frsize,
        space.f_favail if space.f_files else None,
        bool(space.f_flag & os.ST_RDONLY),
        found.st_uid,
        stat.S_IMODE(found.st_mode),
        taken,
        tuple(foreign),
    )
    try:
        return disk._replace(fsync_seconds=_write(place))
    except OSError as error:
        return disk._replace(error=error.errno or errno.EIO)


def _write(place: Path) -> float:
    """Write a few times into a new file, and return the longest time until the disk has it. Raise OSError."""
    path = place / f".diagnose-{os.getpid()}-{monotonic():.6f}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    longest = 0.0
    try:
        path.unlink()  # at once, as a process that does not wait for a disk that hangs could not do it later
        for _ in range(_WRITES):
            os.pwrite(file, _WRITTEN, 0)
            began = monotonic()
            os.fsync(file)
            longest = max(longest, monotonic() - began)
    finally:
        os.close(file)
    return longest


def _access(disk: Disk, name: str, *, daemon_runs: bool) -> Checked:
    facts = {
        "directory": name,
        "exists": disk.exists,
        "owner": disk.owner,
        "mode": f"{disk.mode:04o}",
        "read_only": disk.is_read_only,
        "writable": disk.error is None,
    }
    owner = f"owner {_user(disk.owner)}, mode {disk.mode:04o}"
    if disk.error is not None or disk.is_read_only:
        return _denied(disk, name, owner, daemon_runs=daemon_runs)._replace(facts=facts)
    if not disk.exists:
        text = f"{name} does not exist yet; `run` will make it in {disk.directory} ({owner})"
        return Checked("disk", "ok", text, facts=facts)
    if disk.foreign:
        text = f"in {name} ({owner}) {', '.join(disk.foreign)} belong to another user"
        fix = f"stop the daemon and give them to its user: chown {disk.owner} {shlex.quote(name)}/*"
        return Checked("disk", "warn", text, fix, facts)
    return Checked("disk", "ok", f"{name} can be written to ({owner})", facts=facts)


def _denied(disk: Disk, name: str, owner: str, *, daemon_runs: bool) -> Checked:
    """Return why nothing can be written."""
    me = os.geteuid()
    match disk.error:
        case errno.ENOSPC | errno.EDQUOT if disk.free_files == 0:
            text = f"the file system of {name} has no room for another file (inodes)"
            fix = "remove files there (see `df -i`)"
        case errno.ENOSPC | errno.EDQUOT:
            text = f"the disk of {name} is full"
            fix = "remove what does not belong there, or give the buffer a disk of its own"
        case errno.EACCES | errno.EPERM if daemon_runs:
            text = f"this user ({_user(me)}) may not write to {name} ({owner}), but a daemon runs"
            return Checked("disk", "skip", text)
        case errno.EACCES | errno.EPERM:
            text = f"this user ({_user(me)}) may not write to {disk.directory} ({owner})"
            fix = (
                f"run this as the daemon's user, for example sudo -u '#{disk.owner}', or give it the directory (chown)"
            )
        case None | errno.EROFS:
            text = f"the file system of {name} is read-only"
            fix = "mount it for writing, or look at the kernel's log (dmesg) for why it is"
        case number:
            text = f"{name} cannot be written to: {os.strerror(number)}"
            fix = "look at the disk and the kernel's log (dmesg)"
    return Checked("disk", "fail", text, fix)


def _space(disk: Disk, name: str, settings: Settings) -> Checked:
    from forwarder.buffer.sizes import max_file_bytes

    most = max_file_bytes(
        settings.buffer,
        settings.dead_letters,
        max_keys=settings.intake.duplicate_max_keys,
        max_types=settings.contract.max_attribute_types,
    )
    grows = max(0, most - disk.taken_bytes)
    facts = {
        "free_bytes": disk.free_bytes,
        "free_files": disk.free_files,
        "taken_bytes": disk.taken_bytes,
        "max_bytes": most,
    }
    text = f"{_size(disk.free_bytes)} free; the buffer has {_size(disk.taken_bytes)} and may grow by {_size(grows)}"
    if disk.free_files is not None and disk.free_files < 10:
        fix = f"remove files from the file system of {name} (see `df -i`)"
        return Checked("space", "warn", f"{text}; room for {disk.free_files} more files", fix, facts)
    if disk.free_bytes < grows:
        fix = "give it more room, or lower buffer.max_bytes, buffer.max_events and dead_letters.max_bytes"
        return Checked("space", "warn", f"{text}, so the disk may be full before the buffer is", fix, facts)
    return Checked("space", "ok", text, facts=facts)


def _speed(disk: Disk, *, fsync: bool) -> Checked:
    seconds = disk.fsync_seconds or 0.0
    text = f"the disk has 4 KiB for good after {milliseconds(seconds)} (the longest of {_WRITES})"
    facts = {"seconds": round(seconds, 5), "buffer.fsync": fsync}
    if seconds > _SLOW_SECONDS:
        waits = (
            "each commit, and so each post, waits for that, as buffer.fsync is true" if fsync else "commits may stall"
        )
        return Checked("fsync", "warn", f"{text}; {waits}", "use a faster disk for buffer.directory", facts)
    return Checked("fsync", "ok", text, facts=facts)


def check_descriptors(settings: Settings, daemons: Mapping[str, Any] | None) -> Checked:
    """Check how many files may be open: `daemons` are what the running daemon says of its own, None if it does not."""
    if daemons is not None:
        return _open_files(daemons.get("open"), daemons.get("soft_limit"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    intake = settings.intake
    listeners = sum(each is not None for each in (intake.http, intake.unix_socket, intake.lines_socket))
    wanted = (
        _RESERVED_FILES + settings.delivery.max_concurrency + listeners * (_ACCEPTED_AT_ONCE + intake.max_connections)
    )
    facts = {"of": "this command", "soft_limit": _limit(soft), "hard_limit": _limit(hard), "wanted": wanted}
    if hard != resource.RLIM_INFINITY and hard < wanted:
        text = f"here the limit of open files is {hard:,}, and all connections together may need {wanted:,}"
        fix = "raise it (LimitNOFILE= in systemd, ulimit -n), or lower intake.max_connections; else fewer are accepted"
        return Checked("descriptors", "warn", text, fix, facts)
    shown = "none" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    return Checked("descriptors", "ok", f"here the limit of open files is {shown}, enough for {wanted:,}", facts=facts)


def _open_files(opened: object, limit: object) -> Checked:
    facts = {"of": "the daemon", "open": opened, "soft_limit": limit}
    if not isinstance(opened, int) or not isinstance(limit, int):
        return Checked("descriptors", "ok", "the daemon has no limit of open files, or does not say", facts=facts)
    text = f"the daemon has {opened:,} of {limit:,} files open"
    if opened >= _MANY * limit:
        fix = "raise the limit (LimitNOFILE= in systemd, ulimit -n), or look for an app that leaves connections open"
        return Checked("descriptors", "warn" if opened < limit else "fail", text, fix, facts)
    return Checked("descriptors", "ok", text, facts=facts)


def lock_holder(directory: str) -> int | None:
    """Return the process that uses a buffer's directory, by /proc/locks; None if no process does, or nobody says."""
    with suppress(OSError, ValueError):
        found = (Path(directory) / "lock").stat()
        name = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if name in words:
                return int(words[words.index(name) - 1])
    return None


def process_state(process: int) -> dict[str, object]:
    """Return what the kernel shows of a process that does not answer; nothing if it shows nothing.

    Its command line and environment are left out, as they may hold secrets.
    """
    facts: dict[str, object] = {}
    place = Path(f"/proc/{process}")
    with suppress(OSError):
        for line in (place / "status").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name in _SHOWN_OF_STATUS:
                facts[name.lower()] = printable(value.strip())
    with suppress(OSError):
        facts["descriptors"] = sum(1 for _ in (place / "fd").iterdir())
    with suppress(OSError):
        facts["threads_wait_in"] = [
            f"{printable((thread / 'comm').read_text(errors='replace').strip())}: "
            f"{printable((thread / 'wchan').read_text(errors='replace').strip() or '?')}"
            for thread, _ in zip((place / "task").iterdir(), range(_MAX_THREADS), strict=False)
        ]
    return facts


def _user(number: int) -> str:
    import pwd

    with suppress(KeyError, OSError):
        return f"{printable(pwd.getpwuid(number).pw_name)} (uid {number})"
    return f"uid {number}"


def _size(size_bytes: int) -> str:
    for unit, unit_bytes in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {unit}"
    return f"{size_bytes / 1024:.0f} KiB"


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value
